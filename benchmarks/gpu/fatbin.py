"""Blank the machine code of GPUs that are not there: a CUDA library holds every kernel once for each kind of GPU.

The section `.nv_fatbin` is a row of containers. A container is a header of 16 bytes (magic number, version, header size, size of
what follows) and entries. An entry is a header, which names the compute capability at byte 28, and machine code. This was read off
onnxruntime-gpu 1.31.1; an H100 has run a library that was blanked so. The driver takes the entry that suits the GPU and needs no
other. Nothing moves, so no address changes, and zeros compress to nothing.
"""

from __future__ import annotations

import struct
from collections import Counter

_CONTAINER = struct.Struct("<IHHQ")  # magic number, version, header size, size of the entries
_ENTRY = struct.Struct("<HHIQ")  # kind, version, header size, size of the code
_MAGIC = 0xBA55ED50
_CAPABILITY_AT = 28
_ALIGNMENT = 8  # of containers
_SECTION = ".nv_fatbin"


def blank_other_gpus(library: bytearray, capability: int) -> Counter[int]:
    """Put zeros in place of the code for other GPUs, in place.

    A container without code for this GPU stays whole: its kernels may run in another way, or never.

    Args:
        library: an ELF file of 64 bits.
        capability: the GPU's compute capability, 90 for 9.0 (H100, H200).

    Returns:
        Bytes of code by compute capability, before.

    Raises:
        ValueError: the file is no such library, or it holds no code for this GPU.
    """
    sizes: Counter[int] = Counter()
    place, end = _section(library, _SECTION)
    while place + _CONTAINER.size <= end:
        magic, _, header, size = _CONTAINER.unpack_from(library, place)
        if magic != _MAGIC:
            place += _ALIGNMENT
            continue
        entries = list(_entries(library, place + header, place + header + size))
        sizes.update({kind: sum(stop - start for other, start, stop in entries if other == kind) for kind, _, _ in entries})
        if any(kind == capability for kind, _, _ in entries):
            for kind, start, stop in entries:
                if kind != capability:
                    library[start:stop] = bytes(stop - start)
        place += header + size
    if capability not in sizes:
        raise ValueError(
            f"there is no code for compute capability {capability} (there is for {', '.join(map(str, sorted(sizes)))})"
        )
    return sizes


def _entries(library: bytearray, place: int, end: int) -> list[tuple[int, int, int]]:
    """Compute capability, first byte and end of the code of each entry of a container."""
    found = []
    while place < end:
        _, _, header, size = _ENTRY.unpack_from(library, place)
        (capability,) = struct.unpack_from("<I", library, place + _CAPABILITY_AT)
        start, place = place + header, place + header + size
        if header < _CAPABILITY_AT or place > end:
            raise ValueError(f"the entry before byte {place} of {_SECTION} is broken")
        found.append((capability, start, place))
    return found


def _section(library: bytearray, wanted: str) -> tuple[int, int]:
    """First byte and end of a section of an ELF file."""
    if library[:5] != b"\x7fELF\x02":
        raise ValueError("it is no ELF file of 64 bits")
    (table,) = struct.unpack_from("<Q", library, 0x28)
    size, count, names = struct.unpack_from("<HHH", library, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", library, table + i * size) for i in range(count)]
    strings = headers[names][4]
    for name, _, _, _, offset, length in headers:
        start = strings + name
        if library[start : library.index(b"\0", start)].decode() == wanted:
            return offset, offset + length
    raise ValueError(f"it has no section {wanted}")
