"""Bundles from the Hugging Face Hub: cached, pinned to a commit, offline mode respected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobonnx.errors import JobonnxError

UNREACHABLE = "{}: the Hub cannot be reached (or HF_HUB_OFFLINE is set) and no copy is cached; go online once"


def download_bundle(repository: str, revision: str | None = None) -> Path:
    """Download a repository that holds a bundle, or find it in the cache; return its folder.

    Raises:
        JobonnxError: it holds no bundle, does not exist, or cannot be reached.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    from jobonnx.bundle import MANIFEST

    with_revision = f"{repository} at revision {revision}" if revision else repository
    try:
        manifest = hub_call(with_revision, hf_hub_download, repository, MANIFEST, revision=revision)
    except (EntryNotFoundError, LocalEntryNotFoundError) as error:
        if isinstance(error, LocalEntryNotFoundError):
            raise JobonnxError(UNREACHABLE.format(with_revision)) from None
        raise JobonnxError(
            f"{with_revision} holds a checkpoint, not a bundle; export it first: jobonnx export {repository} -o BUNDLE"
        ) from None
    # The manifest's commit pins the rest: a push in between cannot mix two exports.
    commit = Path(manifest).parent.name
    folder = hub_call(with_revision, snapshot_download, repository, revision=commit)
    return Path(folder)


def hub_call(what: str, call: Any, *arguments: Any, **options: Any) -> Any:
    """Call a huggingface_hub function and turn its failures into one sentence. Missing files are left to the caller."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return call(*arguments, **options)
    except (EntryNotFoundError, LocalEntryNotFoundError):
        raise
    except GatedRepoError:
        raise JobonnxError(f"{what} is gated; accept its terms on the Hub and log in with: hf auth login") from None
    except RevisionNotFoundError:
        raise JobonnxError(f"{what}: no such revision on the Hub; name a branch, a tag or a full commit") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise JobonnxError(f"{what}: no such folder here and no such repository on the Hub; check the name") from None
    except (HfHubHTTPError, OSError, *_httpx_errors()) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise JobonnxError(f"{what} could not be downloaded ({reason}); check the network and try again") from None


def _httpx_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub 1.x lets through when the network fails; before, it was requests, whose errors are OSErrors."""
    try:
        import httpx
    except ModuleNotFoundError:
        return ()
    return (httpx.HTTPError,)
