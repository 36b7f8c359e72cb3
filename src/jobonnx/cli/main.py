"""The command line's group. Every command imports what it needs when it runs; errors are one line on stderr."""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

from jobonnx import signals
from jobonnx.cli.options import log_to_stderr
from jobonnx.errors import JobonnxError

_COMMANDS = {  # command -> its module beside this one
    "bench": "bench",
    "embed": "embed",
    "encode": "titles",
    "evaluate": "evaluate",
    "export": "bundle",
    "index": "index",
    "info": "bundle",
    "match": "titles",
    "rank": "evaluate",
    "serve": "serve",
    "tune": "bundle",
    "verify": "bundle",
}


class _Commands(click.Group):
    """The commands, each imported when it is asked for: all of them together take longer than `match` has to spare."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"jobonnx.cli.{_COMMANDS[cmd_name]}"), cmd_name)
        return command

    def make_context(self, *arguments: Any, **extra: Any) -> click.Context:
        with _one_line():
            return super().make_context(*arguments, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _one_line():
            return super().invoke(ctx)


class _Misuse(click.ClickException):
    exit_code = 2


@contextmanager
def _one_line() -> Iterator[None]:
    """Turn what a user can mend into one line; a wrong call, which click spreads over four, too."""
    try:
        with _interrupts_first():
            yield
    except click.UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # since click 8.2: no error, but the help itself
            raise
        where = error.ctx.command_path if error.ctx is not None else "jobonnx"
        said = " ".join(error.format_message().split()).rstrip(".")
        raise _Misuse(f"{said}. See {where} --help") from None
    except MemoryError:
        raise click.ClickException("out of memory; free some memory, or give fewer titles at once") from None
    except (JobonnxError, ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise  # click ends quietly when the reader has gone
        raise click.ClickException(" ".join(str(error).split())) from None


@contextmanager
def _interrupts_first() -> Iterator[None]:
    """Let a signal go before the error that native code under way, an import say, raised in place of its exception."""
    try:
        yield
    except Exception:
        signals.check()
        raise


@click.group("jobonnx", cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="jobonnx")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Job titles to vectors: sentence-transformers checkpoints in ONNX, without PyTorch."""
    # A pipe on Windows has a code page, which cannot write most titles. What is UTF-8 already keeps its treatment of errors.
    if isinstance(sys.stdout, io.TextIOWrapper) and codecs.lookup(sys.stdout.encoding).name != "utf-8":
        sys.stdout.reconfigure(encoding="utf-8")
    ctx.with_resource(log_to_stderr())
