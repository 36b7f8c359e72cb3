"""Faults in what a process asks of the disk: by Python's own calls, and by SQLite's, which has a hook for such tests.

`intercept` runs a function before and after every call that changes a file, and in the middle of every write. SQLite's `fsync` has
no hook; a kill before or after it leaves what a kill beside the neighbouring call leaves.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import errno
import os
import pathlib
from collections.abc import Callable
from typing import Any

_POINTER = ctypes.c_void_p


class _Vfs(ctypes.Structure):
    """`sqlite3_vfs` of sqlite3.h, to version 3."""

    _fields_ = (
        ("version", ctypes.c_int),
        ("file_size", ctypes.c_int),
        ("most_path", ctypes.c_int),
        *((f"pointer_{number}", _POINTER) for number in range(3)),
        *((f"method_{number}", _POINTER) for number in range(13)),
        ("set_system_call", _POINTER),
        ("get_system_call", _POINTER),
        ("next_system_call", _POINTER),
    )


_kept: list[Any] = []  # SQLite holds their addresses for as long as the process runs


def _set_system_call(name: bytes, wrap: Callable[[Any], Any], prototype: Any) -> bool:
    """Replace one of SQLite's system calls by `wrap` of itself; False if this SQLite does not use it."""
    library = ctypes.CDLL(_sqlite3.__file__)
    library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
    vfs = library.sqlite3_vfs_find(None)
    get = ctypes.CFUNCTYPE(_POINTER, _POINTER, ctypes.c_char_p)(vfs.contents.get_system_call)
    set_ = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, ctypes.c_char_p, _POINTER)(vfs.contents.set_system_call)
    address = get(vfs, name)
    if not address:
        return False
    replacement = prototype(wrap(prototype(address)))
    _kept.append(replacement)
    assert set_(vfs, name, ctypes.cast(replacement, _POINTER)) == 0
    return True


def intercept(step: Callable[[], bool]) -> None:
    """From now on, call `step` at every change of a file; where it returns True, that change is refused as on a full disk."""
    _intercept_sqlite(step)
    _intercept_python(step)


def _intercept_sqlite(step: Callable[[], bool]) -> None:
    size = ctypes.c_size_t
    write = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_int, _POINTER, size, use_errno=True)
    pwrite = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_int, _POINTER, size, ctypes.c_longlong, use_errno=True)
    truncate = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_longlong, use_errno=True)
    unlink = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, use_errno=True)

    def torn(call: Any) -> Any:
        def wrapped(file: int, data: int, count: int, *offset: int) -> int:
            if step():
                return _no_space()
            half = count // 2
            if call(file, data, half, *offset) == half:
                if step():
                    return _no_space()
                call(file, data + half, count - half, *(place + half for place in offset))
            return count

        return wrapped

    def around(call: Any) -> Any:
        def wrapped(*arguments: Any) -> int:
            if step():
                return _no_space()
            result: int = call(*arguments)
            step()
            return result

        return wrapped

    written = [_set_system_call(name, torn, pwrite) for name in (b"pwrite", b"pwrite64")]
    written.append(_set_system_call(b"write", torn, write))
    assert any(written)
    assert _set_system_call(b"unlink", around, unlink)
    assert _set_system_call(b"ftruncate", around, truncate)


def _no_space() -> int:
    """Fail as a system call does on a full disk."""
    ctypes.set_errno(errno.ENOSPC)
    return -1


def _intercept_python(step: Callable[[], bool]) -> None:
    def around(call: Any) -> Any:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if step():
                raise _full()
            result = call(*arguments, **options)
            step()
            return result

        return wrapped

    opened: Any = pathlib.Path.open

    def opening(path: pathlib.Path, mode: str = "r", **options: Any) -> Any:
        file = opened(path, mode, **options)
        return file if mode in ("r", "rb") else _Torn(file, step)

    setattr(pathlib.Path, "open", opening)  # noqa: B010 - mypy refuses to assign to a method
    setattr(pathlib.Path, "unlink", around(pathlib.Path.unlink))  # noqa: B010
    os.fsync = around(os.fsync)
    os.replace = around(os.replace)
    os.truncate = around(os.truncate)


def _full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _Torn:
    """A file that calls `step` before and in the middle of each write."""

    def __init__(self, file: Any, step: Callable[[], bool]) -> None:
        self._file = file
        self._step = step

    def __enter__(self) -> _Torn:
        return self

    def __exit__(self, *args: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: Any) -> None:
        content = bytes(data)
        half = len(content) // 2
        for part in (content[:half], content[half:]):
            if self._step():
                raise _full()
            self._file.write(part)
            self._file.flush()


def refuse_folder_syncs() -> None:
    """From SQLite's next change of a folder on, the disk confirms no change of any folder."""
    prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int))

    def refuse(file: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def wrap(call: Any) -> Any:
        def wrapped(path: bytes, file: Any) -> int:
            setattr(os, "fsync", refuse)  # noqa: B010
            reading, file[0] = os.pipe()  # which cannot be forced to any disk
            os.close(reading)
            return 0

        return wrapped

    assert _set_system_call(b"openDirectory", wrap, prototype)
