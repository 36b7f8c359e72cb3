"""What several commands share: the options that choose an encoder, and how one is loaded."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from jobonnx import Encoder

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
top_k_option = click.option(
    "-k", "--top-k", type=click.IntRange(min=1, max=1_000_000), default=10, show_default=True, help="Titles per query."
)
FILE = click.Path(path_type=Path)
_variant = click.option("--variant", metavar="NAME", help="fp32, fp16, int8, ...; the bundle's default if left out.")


class _Model(click.types.StringParamType):
    """A bundle's folder or Hub id: anything but an empty word, which an unset variable of a shell leaves behind."""

    name = "bundle"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not str(value).strip():
            self.fail("the name is empty; give a bundle's folder or Hub id, or leave it out for the small model", param, ctx)
        return str(value)


MODEL = _Model()
model_option = click.option(
    "-m",
    "--model",
    type=MODEL,
    metavar="BUNDLE",
    help="Bundle folder or Hub id; by default the small model that comes along.",
)


def encoder_options(command: Any, variant: Any = _variant) -> Any:
    """Add the options of a command that loads an encoder; all but the model are `load`'s."""
    return model_option(run_options(command, variant))


def run_options(command: Any, variant: Any = _variant) -> Any:
    """Return the same without the model, for a command whose only argument is the bundle."""
    for option in (
        click.option("--force", is_flag=True, help="Run fp16 on a CPU, where it is slower than fp32."),
        click.option("--threads", type=click.IntRange(1, 1024), help="Threads; as many as quota and cores allow if left out."),
        click.option("--provider", default="auto", show_default=True, metavar="NAME", help="auto, or one that `jobonnx info` has."),
        variant,
        click.option("--revision", metavar="REV", help="Hub branch, tag or commit."),
    ):
        command = option(command)
    return command


def load(bundle: str | None, note: bool = True, **options: Any) -> Encoder:
    """Load an encoder; what has to be said about it goes to stderr.

    Args:
        bundle: folder or Hub id; None for the small model.
        note: whether to say the bundle's own note.
        options: `Encoder`'s.
    """
    from jobonnx import Encoder

    encoder = Encoder(bundle, **options)
    if context := click.get_current_context(silent=True):
        context.obj = encoder  # until the program ends: to free it first takes as long as to load it
    if note and encoder.bundle.model.note:
        click.echo(f"note: {encoder.bundle.model.note}", err=True)
    if encoder.graph.degraded:
        click.echo(f"note: {encoder.variant} missed its parity tolerance at export and was kept with --allow-degraded", err=True)
    return encoder


def print_table(table: Any) -> None:
    """Print a rich table on stdout: as wide as the terminal, and wide enough for whole words in a file or a CI log."""
    if sys.stdout is None:  # closed: nobody wants it
        return
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 200).print(table)


@contextmanager
def log_to_stderr() -> Iterator[None]:
    """Print what the library logs on stderr, one line each: warnings as notes, steps as they are."""
    logger = logging.getLogger("jobonnx")
    handler = _Lines()
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        mark = "note: " if record.levelno >= logging.WARNING else ""
        click.echo(f"{mark}{record.getMessage()}", err=True)
