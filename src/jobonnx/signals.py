"""Signals that stop a command: the first one raises `Stopped`, and everything half-made is cleaned up on the way out."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from jobonnx.errors import Stopped

_NUMBERS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has no SIGHUP
_received: int | None = None
_held = 0


def install() -> None:
    """Let SIGINT, SIGTERM and SIGHUP raise `Stopped`; a signal that the caller ignores (nohup) stays ignored.

    For programs: the command line does it in its first line. Only the main thread may.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _NUMBERS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _stop)


def ignore() -> None:
    """Let nothing interrupt the end of the process."""
    for number in _NUMBERS:
        signal.signal(number, signal.SIG_IGN)


def check() -> None:
    """Raise `Stopped` if a signal came whose exception other code has swallowed, as C code under way does."""
    if _received is not None and not _held:
        raise Stopped(_received)


@contextmanager
def held() -> Iterator[None]:
    """Hold signals back: a second Ctrl-C must not stop a clean-up."""
    global _held
    _held += 1
    try:
        yield
    finally:
        _held -= 1


def _stop(number: int, frame: FrameType | None) -> None:
    global _received
    _received = number
    if not _held:
        raise Stopped(number)
