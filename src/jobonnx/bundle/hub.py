"""Repositories of the Hugging Face Hub: cached, pinned to a commit, offline mode respected."""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobonnx.errors import JobonnxError

UNREACHABLE = "{}: the Hub cannot be reached (or HF_HUB_OFFLINE or local_files_only is set) and no copy is cached; go online once"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class HubAccess:
    """How to get at repositories, as sentence-transformers' users say it."""

    cache_folder: str | None = None  # None for huggingface_hub's own
    token: bool | str | None = None  # None for the one of whoever is logged in
    local_files_only: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of `snapshot_download`."""
        return {"cache_dir": self.cache_folder, "token": self.token, "local_files_only": self.local_files_only}


DEFAULT_ACCESS = HubAccess()


def download(
    repository: str,
    revision: str | None,
    must_hold: str,
    otherwise: str,
    needed: Callable[[Path], Iterable[str]],
    access: HubAccess = DEFAULT_ACCESS,
) -> Path:
    """Download files of a repository, or find them in the cache; return its folder.

    Args:
        repository: Hub id.
        revision: branch, tag or commit; None for the default branch.
        must_hold: a small file that tells whether it is what is wanted.
        otherwise: what the error says if it does not hold that file.
        needed: is given the folder with that file, and says which others are needed.
        access: cache folder, token, and whether to stay offline.

    Raises:
        JobonnxError: it does not hold `must_hold`, does not exist, or cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    what = f"{repository} at revision {revision}" if revision else repository
    try:
        # Not hf_hub_download, which tries a dead network for 20 seconds before it looks into the cache. config.json is what a
        # checkpoint has: newer versions warn where no file is found.
        small = [must_hold, "config.json"]
        folder = Path(hub_call(what, snapshot_download, repository, revision=revision, allow_patterns=small, **access.options))
        if not (folder / must_hold).is_file():
            raise JobonnxError(f"{what} {otherwise}")
        # That file's commit pins the rest: a push in between cannot mix two revisions.
        names = list(needed(folder))
        patterns = [glob.escape(name) for name in names]
        hub_call(what, snapshot_download, repository, revision=folder.name, allow_patterns=patterns, **access.options)
    except LocalEntryNotFoundError:
        raise JobonnxError(UNREACHABLE.format(what)) from None
    if missing := [name for name in names if not (folder / name).is_file()]:  # a cache without network may hold another variant
        raise JobonnxError(
            f"{what}: {missing[0]} is not in the cache, and the Hub cannot be reached (or HF_HUB_OFFLINE is set) or lacks it; "
            "go online once"
        )
    return folder


def hub_call(what: str, call: Any, *arguments: Any, **options: Any) -> Any:
    """Call a huggingface_hub function and turn its failures into one sentence, all but LocalEntryNotFoundError: nothing cached."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # The base of its errors is that of the HTTP library underneath: requests, httpx or httpx2, as huggingface_hub goes along.
    network: Any = (OSError, *HfHubHTTPError.__bases__)
    try:
        with _silent_in_a_pipe():
            return call(*arguments, **options)
    except LocalEntryNotFoundError:
        raise
    except GatedRepoError:
        raise JobonnxError(f"{what} is gated; accept its terms on the Hub and log in with: hf auth login") from None
    except RevisionNotFoundError:
        raise JobonnxError(f"{what}: no such revision on the Hub; name a branch, a tag or a full commit") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise JobonnxError(f"{what}: no such folder here and no such repository on the Hub; check the name") from None
    except network as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise JobonnxError(f"{what} could not be downloaded ({reason}); check the network and try again") from None


@contextmanager
def _silent_in_a_pipe() -> Iterator[None]:
    """huggingface_hub draws its progress bars even where nobody watches."""
    from huggingface_hub import utils

    bars: Any = utils
    if sys.stderr.isatty() or bars.are_progress_bars_disabled():
        yield
        return
    bars.disable_progress_bars()
    try:
        yield
    finally:
        bars.enable_progress_bars()
