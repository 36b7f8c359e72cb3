"""Files: written whole or not at all, never over an input, and hashed."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from jobonnx import signals
from jobonnx.errors import JobonnxError, reason

FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)  # no space: the disk's, within the limit on a file's size, the quota's
_STREAMS = ("/dev/std", "/dev/fd", "/dev/tty")  # devices whose reading comes to an end
_serial = itertools.count()


@contextmanager
def replaced(path: Path, inputs: Iterable[Path] = ()) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of `path` when it is complete, and vanishes otherwise.

    A symbolic link stays, and what it points to is replaced. Nothing can take the place of what is no regular file (a FIFO,
    /dev/stdout), so that is written directly.

    Args:
        path: the output.
        inputs: the files that the output is made from; none of them may be the output.

    Raises:
        JobonnxError: on entry, if `path` is a folder, one of `inputs`, or cannot be written; later, if writing fails.
    """
    refuse_inputs(path, inputs)
    try:
        if path.is_dir():
            raise JobonnxError(f"{path} could not be written (it is a folder); name a file")
        if path.exists() and not path.is_file():
            with open(path, "wb") as file:
                yield file
            return
        target = Path(os.path.realpath(path))
        _lexists(target)
        beside = _beside(target)
        try:
            with open(beside, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            signals.check()
            os.replace(beside, target)
        finally:
            with signals.held(), suppress(OSError):
                beside.unlink()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path, among others
        if isinstance(error, ValueError) and "null" not in str(error):
            raise
        raise _unwritable(path, error) from None


@contextmanager
def new_folder(path: Path, inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """Make a folder that becomes `path` if all goes well, and vanishes if anything does not.

    Missing parents are made, and removed again on failure.

    Args:
        path: the folder to make; nothing of that name may exist, a dangling link neither.
        inputs: files and folders that it is made from; it may not lie inside any of them.

    Yields:
        The folder in the making, beside `path`.

    Raises:
        JobonnxError: on entry, if `path` exists or cannot be made; later, if the disk refuses.
    """
    refuse_inputs(path, inputs)
    try:
        if _lexists(path):
            raise JobonnxError(f"{path} exists already; remove it or name another folder")
        made = [parent for parent in path.absolute().parents if not parent.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = _beside(path)
        try:
            _lexists(path)  # again: a name that is too long is known where its parent exists
            folder.mkdir(0o700)
        except OSError:
            _remove_empty(made)
            raise
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from None
    try:
        yield folder
        signals.check()
        folder.chmod(0o777 & ~_umask())
        os.rename(folder, path)
    except OSError as error:
        signals.check()
        raise _unwritable(path, error) from None
    except Exception:
        signals.check()  # C code under way may raise something of its own in place of the interrupt
        raise
    finally:
        with signals.held():
            shutil.rmtree(folder, ignore_errors=True)
            _remove_empty(made)


def refuse_inputs(output: Path, inputs: Iterable[Path]) -> None:
    """Refuse an output that is one of its inputs: it would be lost.

    Raises:
        JobonnxError: `output` and an input are the same file or folder.
    """
    for source in inputs:
        with suppress(OSError, ValueError):  # what does not exist is not the same
            if stat.S_ISREG(os.stat(output).st_mode) and os.path.samefile(output, source):
                raise JobonnxError(f"{output} is the input {source} too and would be lost; write to another file")


def optional(path: Path) -> bool:
    """Tell whether an optional file is there. Only a name that does not exist at all means absent.

    Raises:
        JobonnxError: something of that name exists that cannot be read as a file: a dangling link, as in a Hub cache that lost a
            file, a loop of links, or a folder.
    """
    if not os.path.lexists(path):
        return False
    if not path.is_file():
        what = "a link to nothing" if path.is_symlink() else "no file"
        raise JobonnxError(f"{path} is {what}; mend it, or remove it if it is not needed")
    return True


def sha256(path: Path) -> str:
    """Hash a file: 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """Where jobonnx keeps what it can make again; RuntimeError for a user without a home, as in some containers."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jobonnx"


def read_content(path: Path, fix: str = "") -> bytes:
    """Read a file that a user names, pipes and streams too.

    Args:
        path: the file.
        fix: what ends the sentence of an error, if anything does.

    Raises:
        JobonnxError: it cannot be read, or is a device such as /dev/zero, which would be read until memory is full.
    """
    try:
        if path.is_char_device() and not path.samefile(os.devnull) and not str(path).startswith(_STREAMS):
            raise JobonnxError(f"{path} is a device, which may have no end; name a file")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise unreadable(path, error, fix) from None


def read_lines(path: Path) -> list[str]:
    """Read a file of one title per line, as `split_lines` does.

    Raises:
        JobonnxError: it cannot be read, or is not UTF-8.
    """
    return split_lines(read_content(path), str(path))


def split_lines(content: bytes, name: str) -> list[str]:
    """Split text of one title per line. A byte-order mark and Windows line ends are not part of a title.

    Only a line feed ends a line: titles may hold other separators of Unicode. An empty line is an empty title.

    Raises:
        JobonnxError: a line is not UTF-8.
    """
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    titles = []
    for number, line in enumerate(lines, 1):
        try:
            titles.append(line.removesuffix(b"\r").decode())
        except UnicodeDecodeError:
            raise JobonnxError(f"{name}, line {number} is not UTF-8; convert the file, for instance with iconv") from None
    return titles


def _beside(target: Path) -> Path:
    """Return a name for `target` in the making, in the same folder and never used twice."""
    return target.with_name(f".{target.name[:60]}.{os.getpid()}-{next(_serial)}.partial")


def _remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, inner ones first, up to one that is not empty: it holds the new folder, or something of somebody else's."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _lexists(path: Path) -> bool:
    """Tell whether a name exists, as os.path.lexists; OSError for one that cannot be, such as one that is too long."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _unwritable(path: Path, error: Exception) -> JobonnxError:
    if isinstance(error, OSError):
        fix = "free some space" if error.errno in FULL else "mend that"
        return JobonnxError(f"{path} could not be written ({error.strerror or error}); {fix} or name another place")
    return JobonnxError(f"{str(path)[:100]!r} could not be written ({reason(error)}); name another place")


def unreadable(path: Path, error: Exception, fix: str = "") -> JobonnxError:
    """Make the error of a file that cannot be read. A name that no file can have is shown escaped."""
    why = error.strerror if isinstance(error, OSError) and error.strerror else reason(error)
    name = repr(str(path)) if isinstance(error, ValueError) or "\0" in str(path) else str(path)
    return JobonnxError(f"{name} cannot be read ({why}){fix}")
