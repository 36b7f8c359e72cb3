"""The command line: one file per group of commands, and the program's first and last lines."""

import atexit
import gc
import os
import sys
import threading

from jobonnx import signals
from jobonnx.errors import Stopped


def main() -> None:
    """Run the program `jobonnx`.

    A signal ends it with status 128 + its number, as a shell expects (SIGINT 130, SIGTERM 143, SIGHUP 129), without a traceback;
    `os._exit`, because exit handlers of other libraries may print one.
    """
    try:
        signals.install()
        from jobonnx.cli.main import main as commands

        try:
            commands(prog_name="jobonnx")
        except BaseException as end:
            done = isinstance(end, SystemExit) and not end.code
            if not done:
                signals.check()  # native code under way may raise something of its own in place of the interrupt
            signals.ignore()  # the work is done: Python's own end would give them back their defaults
            gc.freeze()  # and would look twice through all objects for what nobody needs
            if done and threading.active_count() == 1:
                _leave()
            raise
    except (Stopped, KeyboardInterrupt) as stop:
        signals.ignore()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (AttributeError, OSError, ValueError):  # closed, or nobody reads any more
                continue
        os._exit(128 + (stop.number if isinstance(stop, Stopped) else 2))


def _leave() -> None:
    """End the process with status 0, unless its last lines cannot be written, which Python's own end reports.

    Python would give everything back object by object, which takes as long for a tokenizer's pieces as to load them. mypy ends so
    too, and multiprocessing's children, after the same call for the exit handlers.
    """
    atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):
        return
    os._exit(0)
