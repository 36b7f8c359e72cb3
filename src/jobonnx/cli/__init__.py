"""The command line: one file per group of commands, and the program's first and last lines."""

import gc
import os
import sys

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
            if not (isinstance(end, SystemExit) and not end.code):
                signals.check()  # native code under way may raise something of its own in place of the interrupt
            signals.ignore()  # the work is done: Python's own end would give them back their defaults
            gc.freeze()  # and would look twice through all objects for what nobody needs
            raise
    except (Stopped, KeyboardInterrupt) as stop:
        signals.ignore()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (AttributeError, OSError, ValueError):  # closed, or nobody reads any more
                continue
        os._exit(128 + (stop.number if isinstance(stop, Stopped) else 2))
