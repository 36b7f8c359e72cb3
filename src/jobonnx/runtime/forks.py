"""Threads do not survive `fork`: what to do in the child with what the parent had opened.

A session whose threads are gone may wait for them for ever, in its destructor too: replacing an inherited encoder by a new one
hung. So a child never destroys an inherited session, and opens it again when it is first used. The memory of the parent's stays
mapped, and shared as long as nobody writes to it.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

Item = TypeVar("Item")
Result = TypeVar("Result")


class Inherited(Protocol):
    """What has threads, or a library's."""

    def leave_behind(self) -> None:
        """Forget the parent's threads without touching them; called in the child, right after `fork`."""


_opened: WeakSet[Any] = WeakSet()


def watch(opened: Inherited) -> None:
    """Have an object told in a child that it was inherited."""
    _opened.add(opened)


def keep_for_ever(thing: object) -> None:
    """Never destroy an object, not at the interpreter's end either."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


class StreamPool:
    """Threads for batches side by side, which are started again in a child."""

    def __init__(self, streams: int) -> None:
        self._streams = streams
        self._start()
        watch(self)

    def map(self, function: Callable[[Item], Result], items: list[Item]) -> Iterator[Result]:
        """Give the results in order; what has not begun is dropped once nobody asks for them any more."""
        return self._threads.map(function, items)

    def shutdown(self) -> None:
        """End the threads, once what they do is done."""
        self._threads.shutdown()

    def leave_behind(self) -> None:
        """Start other threads; the inherited ones are only names."""
        keep_for_ever(self._threads)
        self._start()

    def _start(self) -> None:
        self._threads = ThreadPoolExecutor(self._streams, "jobonnx-stream")


def _in_the_child() -> None:
    if "tokenizers" in sys.modules:
        # Its threads are gone too. It sees that by itself, but not where the user asked for parallelism by this variable: then
        # it would wait for them for ever.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    for opened in list(_opened):
        opened.leave_behind()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_in_the_child)
