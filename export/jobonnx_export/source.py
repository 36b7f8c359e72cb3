"""Where a checkpoint comes from: a folder, or the Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jobonnx.bundle.hub import UNREACHABLE, hub_call
from jobonnx.errors import JobonnxError

DEFAULT = "pj-mathematician/JobBGE-m3"
_SETTINGS = ["*.json", "*/config.json", "README.md", *(f"{name}*" for name in ("LICENSE", "LICENCE", "NOTICE"))]
_WEIGHTS = ["model*.safetensors", "0_*/model*.safetensors"]  # a "*" of the Hub's patterns takes slashes too
_OLDER_WEIGHTS = [f"{folder}pytorch_model{part}.bin" for folder in ("", "0_*/") for part in ("", "-*")]  # whole, and in shards
_UNWANTED = ["onnx/*"]


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

    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    what = f"{source} at revision {revision}" if revision else source
    try:
        wanted = {"allow_patterns": [*_SETTINGS, *_WEIGHTS], "ignore_patterns": _UNWANTED}
        # Resolves the revision once, remembers what it stood for, and takes the cached copy where the Hub cannot be reached.
        local = Path(hub_call(what, snapshot_download, source, revision=revision, **wanted))
        if not any(local.rglob("model*.safetensors")):
            # By the commit, so that a push in between cannot mix two revisions.
            hub_call(what, snapshot_download, source, revision=local.name, allow_patterns=_OLDER_WEIGHTS)
    except LocalEntryNotFoundError:
        raise JobonnxError(UNREACHABLE.format(what)) from None
    return Source(local, source, local.name)
