"""Files to pieces of a limited size and back, for a machine that reaches no package registry. Standard library alone."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import Mapping
from pathlib import Path

_LIST = "pieces.json"
_PIECE = "piece-{:02}"
_FILTERS = [  # most is machine code, and repeats lie far apart: 58.7 MiB, where preset 6 alone gives 60.9; takes 3 GB of memory
    {"id": lzma.FILTER_X86},
    {"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 2**28},
]


class TooLargeError(Exception):
    """The plan exceeds the size and number of pieces that it was given; the message says by how much."""


def pack(files: Mapping[str, bytes | Path], folder: Path, piece_mib: float, pieces: int) -> list[Path]:
    """Compress files together and cut the result into pieces, each in a folder of its own, so that each can be sent alone.

    Args:
        files: content, or where it lies, by the name to unpack it under.
        folder: gets a folder for each piece; those of an earlier call are removed.
        piece_mib: most MiB of one piece.
        pieces: most pieces.

    Returns:
        The folders, in order.

    Raises:
        TooLargeError: it does not fit; nothing is written then.
    """
    packed = io.BytesIO()
    with lzma.open(packed, "wb", filters=_FILTERS) as stream, tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            if isinstance(content, Path):
                archive.add(content, name)
            else:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    content = packed.getvalue()
    step = int(piece_mib * 2**20)
    parts = [content[start : start + step] for start in range(0, len(content), step)]
    if len(parts) > pieces:
        mib = len(content) / 2**20
        raise TooLargeError(f"{mib:.1f} MiB do not fit into {pieces} pieces of {piece_mib:g} MiB; {len(parts)} would hold them")
    for old in folder.glob(_PIECE.format(0)[:-2] + "*"):
        for path in old.iterdir():
            path.unlink()
        old.rmdir()
    found = []
    for number, part in enumerate(parts):
        place = folder / _PIECE.format(number)
        place.mkdir(parents=True)
        (place / "content").write_bytes(part)
        plan = {"pieces": len(parts), "number": number, "sha256": hashlib.sha256(part).hexdigest()}
        (place / _LIST).write_text(json.dumps(plan))
        found.append(place)
    return found


def missing(folder: Path) -> list[int]:
    """Numbers of the pieces that are not there or not whole; of at least piece 0, if there is none at all."""
    plans = [json.loads(path.read_text()) for path in sorted(folder.glob(f"piece-*/{_LIST}"))]
    whole = {plan["number"] for plan in plans if _sha256(folder / _PIECE.format(plan["number"]) / "content") == plan["sha256"]}
    return [number for number in range(max((plan["pieces"] for plan in plans), default=1)) if number not in whole]


def unpack(folder: Path, output: Path) -> None:
    """Put the pieces together and unpack them.

    Raises:
        ValueError: pieces are missing or damaged; the message names them.
    """
    if lost := missing(folder):
        raise ValueError(f"{folder}: pieces {', '.join(map(str, lost))} are missing or damaged; send them again")
    content = b"".join(path.read_bytes() for path in sorted(folder.glob("piece-*/content")))
    output.mkdir(parents=True, exist_ok=True)
    with lzma.open(io.BytesIO(content)) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        archive.extractall(output, filter="data")


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
