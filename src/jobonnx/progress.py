"""Long work: its progress, on a terminal only (a bar over a number of items, or steps with their time), and how it is stopped."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Progress = Callable[[str], None]  # is told each step as it begins
_LONG = 1000  # items that are worth a bar where nobody said whether to show one
_log = logging.getLogger("jobonnx")
_stop: ContextVar[threading.Event | None] = ContextVar("jobonnx.stop", default=None)


@contextmanager
def stoppable() -> Iterator[threading.Event]:
    """Give an event that ends the work begun within, in this thread or in one that got its context, at its next step."""
    stop = threading.Event()
    token = _stop.set(stop)
    try:
        yield stop
    finally:
        _stop.reset(token)


def _stoppable(advance: Callable[[int], object]) -> Callable[[int], None]:
    stop = _stop.get()

    def step(items: int) -> None:
        if stop is not None and stop.is_set():
            from asyncio import CancelledError  # takes a tenth as long to import as all of a short command

            raise CancelledError  # nobody waits for the result any more
        advance(items)

    return step


@contextmanager
def bar(total: int, unit: str, show: bool | None = None) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr, and give the function that advances it by a number of items; it raises once the work is stopped.

    Args:
        total: items in all.
        unit: what they are, such as "titles".
        show: True shows it, False does not, None shows it for long work; nothing is ever shown where stderr is no terminal.
    """
    if not (show or (show is None and total >= _LONG)) or not _on_terminal():
        yield _stoppable(lambda items: None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    with Progress(unit, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as shown:
        task = shown.add_task("", total=total)
        yield _stoppable(lambda items: shown.advance(task, items))


@contextmanager
def shares() -> Iterator[Callable[[float, str], None]]:
    """Show a bar with the time left on stderr, and give the function that is told the share that is done and a text beside.

    For work whose items nobody has counted; the share is from 0 to 1. Nothing is shown where stderr is no terminal.
    """
    if not _on_terminal():
        yield lambda share, text: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"), TimeRemainingColumn()
    # Shares come in bursts, one for each batch: the speed of the last minutes says more than that of the last seconds.
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=300) as shown:
        task = shown.add_task("", total=1.0)
        yield lambda share, text: shown.update(task, completed=share, description=text)


@contextmanager
def steps() -> Iterator[Progress]:
    """Show steps with a spinner and their time on stderr, and give the function that begins the next one.

    Where stderr is no terminal each step is one line of the log, so that a long export in a pipe says what it is doing.
    """
    if not _on_terminal():
        yield lambda step: _log.info("%s", step)
        return
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    with Bars(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=Console(stderr=True)) as shown:

        def begin(step: str) -> None:
            for task in shown.tasks:
                shown.update(task.id, total=1, completed=1)
            shown.add_task(step, total=None)

        yield begin
        for task in shown.tasks:
            shown.update(task.id, total=1, completed=1)


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()
