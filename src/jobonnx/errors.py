"""What jobonnx raises for what a user can mend, and how failures of other people's native code become that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_MOST = 2000  # characters of a message


class JobonnxError(Exception):
    """A sentence for the user: it names the file, the value and the fix.

    The command line prints it on one line of stderr and exits with status 1. Misuse of the Python interface (a wrong type, say)
    raises `TypeError` or `ValueError` instead, as everywhere in Python.

    A file's name or content in the sentence may hold line ends, escapes for a terminal or half a surrogate pair: what cannot be
    printed is shown as Python escapes it, and of a name without an end the beginning and the end.
    """

    def __init__(self, message: str) -> None:
        shown = message if len(message) <= _MOST else f"{message[: _MOST // 2]} ... {message[-_MOST // 2 :]}"
        super().__init__(shown if shown.isprintable() else "".join(map(_printable, shown)))


class ProviderUnavailableError(JobonnxError):
    """Nothing is wrong with the bundle: this machine lacks the provider that a variant needs, or the one asked for."""


class Stopped(BaseException):
    """A signal asked the process to stop. Not an `Exception`: nothing but the command line's last line may catch it."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}")
        self.number = number


@contextmanager
def native(what: str, fix: str) -> Iterator[None]:
    """Call other people's native code: whatever comes out of it becomes a `JobonnxError` of one sentence.

    A panic in Rust reaches Python as a `BaseException`, a C++ assertion as a plain `Exception`, and running out of memory as
    `MemoryError`. An abort of the whole process, or the kernel's out-of-memory killer, cannot be caught by anyone.

    Args:
        what: the file or the step that failed, such as "tokenizer.json is not a tokenizer".
        fix: what the user should do.

    Raises:
        JobonnxError: "{what} ({the reason, on one line, at most 300 characters}); {fix}".
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, Stopped, JobonnxError):
        raise
    except MemoryError:
        raise JobonnxError(f"{what} (out of memory); free some memory, or give fewer or shorter texts at once") from None
    except BaseException as error:  # what native libraries throw has no common base below this one
        raise JobonnxError(f"{what} ({reason(error)}); {fix}") from None


def _printable(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode()


def reason(error: BaseException) -> str:
    """Return an exception's message on one line, at most 300 characters; its type's name where it has none."""
    return " ".join(str(error).split())[:300] or type(error).__name__
