"""Where a checkpoint comes from: a folder, or the Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jobonnx.errors import JobonnxError
from jobonnx.hub import hub_call

DEFAULT = "pj-mathematician/JobBGE-m3"
_WANTED = ["*.json", "*/config.json", "*.safetensors", "pytorch_model.bin", "0_*/*"]
_UNWANTED = ["onnx/*", "openvino/*"]


@dataclass(frozen=True)
class Source:
    """A checkpoint on this disk, and what to call it."""

    folder: Path
    name: str  # Hub id or folder name; never a path
    revision: str | None  # commit of the Hub repository, None for a folder


def locate(source: str, revision: str | None) -> Source:
    """Find a folder, or download (or find in the cache) a Hub repository's checkpoint files.

    Raises:
        JobonnxError: no such folder or repository, unknown revision, or the Hub cannot be reached.
    """
    folder = Path(source)
    if folder.is_dir():
        if revision is not None:
            raise JobonnxError(f"{source} is a folder, which has no revision {revision!r}; leave --revision away")
        return Source(folder, folder.resolve().name, None)
    if folder.exists() or source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise JobonnxError(f"{source}: no such folder; give a checkpoint folder or a Hub id such as {DEFAULT}")

    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    what = f"{source} at revision {revision}" if revision else source
    try:
        # The commit first, so that a push during the download cannot mix two revisions.
        files = hub_call(what, HfApi().model_info, source, revision=revision)
        has_safetensors = any(entry.rfilename.endswith(".safetensors") for entry in files.siblings or [])
        unwanted = [*_UNWANTED, *(["*.bin"] if has_safetensors else [])]
        local = hub_call(what, snapshot_download, source, revision=files.sha, allow_patterns=_WANTED, ignore_patterns=unwanted)
        return Source(Path(local), source, files.sha)
    except (OfflineModeIsEnabled, JobonnxError) as error:
        cached = _cached(source, revision)
        if cached is None:
            if isinstance(error, OfflineModeIsEnabled):
                raise JobonnxError(f"{what}: the Hub is off (HF_HUB_OFFLINE) and no copy is cached; go online once") from None
            raise
        return cached
    except LocalEntryNotFoundError:
        raise JobonnxError(f"{what}: the Hub cannot be reached and no copy is cached; check the network") from None


def _cached(source: str, revision: str | None) -> Source | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(source, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError):
        return None
    return Source(folder, source, folder.name)
