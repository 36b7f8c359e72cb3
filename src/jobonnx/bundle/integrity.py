"""Whether a bundle's files are those that were exported: sizes, hashes, and what a graph may read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from jobonnx.errors import JobonnxError
from jobonnx.files import cache_folder, sha256
from jobonnx.strict_json import read_json, write_json

_ALWAYS_HASHED = 1 << 20  # bytes; larger files are hashed on first load, then known by size, mtime and inode
_AGAIN = "export or download it again"


@dataclass(frozen=True)
class FileEntry:
    """What the manifest says about a file."""

    size: int  # bytes
    sha256: str  # 64 hex digits

    def __post_init__(self) -> None:
        if self.size < 0 or len(self.sha256) != 64:
            raise ValueError(f"size {self.size} and sha256 {self.sha256[:80]!r} describe no file")


def describe_file(path: Path) -> FileEntry:
    """Size and SHA-256 of a file."""
    return FileEntry(path.stat().st_size, sha256(path))


def with_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """Add the SHA-256 of all the rest of a manifest's content, by which a later change of any value is noticed."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    canonical = json.dumps(rest, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return {**rest, "sha256": hashlib.sha256(canonical).hexdigest()}


def is_inside(name: str) -> bool:
    """Tell whether a listed path stays inside its folder, read by the rules of POSIX and of Windows."""
    paths = (PurePosixPath(name), PureWindowsPath(name))
    return bool(name) and "\0" not in name and not any(p.is_absolute() or p.drive or ".." in p.parts for p in paths)


def check_files(folder: Path, files: Mapping[str, FileEntry], manifest: Path, verify: bool) -> None:
    """Check files of a bundle.

    Small files are hashed each time. Large ones are hashed on first load, and known by size, mtime and inode after that.

    Args:
        folder: the bundle's folder.
        files: path below the folder -> what the manifest says.
        manifest: the manifest; another export in the same place starts afresh.
        verify: hash large files too, whatever is known of them.

    Raises:
        JobonnxError: a file is missing or altered.
    """
    stamps_file = _stamps_file(folder, manifest)
    known = {} if stamps_file is None else _read_stamps(stamps_file)
    stamps: dict[str, list[int]] = {}
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            raise JobonnxError(f"{path} is missing from the bundle; {_AGAIN}")
        stat = path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        trusted = not verify and stat.st_size > _ALWAYS_HASHED and known.get(name) == stamp
        if stat.st_size != entry.size or not (trusted or sha256(path) == entry.sha256):
            raise JobonnxError(f"{path} is not the file that was exported (size or sha256 differs); {_AGAIN}")
        if stat.st_size > _ALWAYS_HASHED:
            stamps[name] = stamp
    stamps = {**known, **stamps}  # of other variants' files too, which this call may not have looked at
    if stamps_file is not None and stamps != known:
        with suppress(OSError, JobonnxError):  # a read-only home costs the next load a hash, nothing else
            stamps_file.parent.mkdir(parents=True, exist_ok=True)
            write_json(stamps_file, stamps)


def check_data_file(graph: Path, data: Path | None) -> None:
    """Refuse a graph that reads another data file than the manifest names for it; nobody would have hashed that.

    In a serialised graph the name follows the key "location". Other spellings of the same are refused, as onnx writes none.

    Args:
        graph: an ONNX file.
        data: its data file, in the same folder; None if all tensors are inside.

    Raises:
        JobonnxError: a tensor names another file.
    """
    content = graph.read_bytes()
    named = content.count(b"location")
    name = b"" if data is None else data.name.encode()
    expected = b"\n\x08location\x12" + bytes([len(name)]) + name  # a StringStringEntryProto: key, then value
    if named and (data is None or content.count(expected) != named):
        raise JobonnxError(f"{graph} reads a data file that the manifest does not name for it; {_AGAIN}")


def _stamps_file(folder: Path, manifest: Path) -> Path | None:
    """Where the stamps of a bundle are kept; None for a user without a home."""
    try:
        key = f"{folder.resolve()}\n{sha256(manifest)}"
        return cache_folder() / "verified" / f"{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()}.json"
    except RuntimeError:
        return None


def _read_stamps(path: Path) -> dict[str, list[int]]:
    try:
        return read_json(path, dict[str, list[int]], "remove it")
    except JobonnxError:  # not there yet, or broken: the files are hashed again
        return {}
