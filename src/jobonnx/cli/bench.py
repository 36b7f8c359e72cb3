"""`jobonnx bench`."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobonnx.cli.options import FILE, json_option, model_option
from jobonnx.errors import JobonnxError

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.command()
@model_option
@click.option(
    "--provider", "providers", multiple=True, metavar="NAME", help="As `jobonnx info` has them; all if left out. May be repeated."
)
@click.option("--variant", "variants", multiple=True, metavar="NAME", help="fp32, int8, ...; all if left out. May be repeated.")
@click.option(
    "--workload",
    type=FILE,
    metavar="FILE",
    help="One title per line, at least 1,000 distinct ones (200 with --quick); built-in titles if left out.",
)
@click.option("--quick", is_flag=True, help="A first look: fewer titles, and three rounds.")
@click.option("-o", "--output", type=FILE, metavar="FOLDER", help="Folder to make.")
@click.option("--compare", nargs=2, type=FILE, metavar="A B", help="Compare two report.json; measure nothing.")
@json_option
def bench(
    model: str | None,
    providers: tuple[str, ...],
    variants: tuple[str, ...],
    workload: Path | None,
    quick: bool,
    output: Path | None,
    compare: tuple[Path, Path] | None,
    as_json: bool,
) -> None:
    """Measure every variant of a bundle on every provider here, and write report.json, report.md and report.html.

    Each variant on each provider runs in a process of its own, in turn, round by round. With --compare, show what changed between
    two reports and which changes are more than noise; --json prints that as JSON.
    """
    if compare:
        if model or providers or variants or workload or quick or output:
            raise click.UsageError("--compare reads two reports: leave out everything but --json")
        _compare(*compare, as_json)
        return
    if as_json:
        raise click.UsageError("--json goes with --compare; a report's JSON is in its folder")
    if output is None:
        raise click.UsageError("name a folder for the report: -o report")
    _measure(model, variants, providers, workload, quick, output)


def _measure(
    model: str | None, variants: Sequence[str], providers: Sequence[str], workload: Path | None, quick: bool, output: Path
) -> None:
    from jobonnx.files import new_folder
    from jobonnx.progress import steps
    from jobonnx_bench.bundle import FULL, QUICK, measure, select_systems
    from jobonnx_bench.render.folder import HTML, write_report

    missing = [name for name in ("matplotlib", "onnx") if find_spec(name) is None]
    if missing:
        raise JobonnxError(f'the report needs {" and ".join(missing)}; run: pip install "jobonnx[bench]"')
    with new_folder(output) as folder:
        systems = select_systems(model, variants, providers)
        # Silent in a pipe: the report says all that a log would.
        with steps() if sys.stderr and sys.stderr.isatty() else nullcontext(lambda step: None) as progress:
            report = measure(model, systems, _titles(workload), QUICK if quick else FULL, progress)
        write_report(report, folder)
    click.echo(f"{output / HTML}")


def _titles(path: Path | None) -> list[str]:
    from jobonnx.data.titles import read_titles
    from jobonnx.files import read_lines

    return read_titles() if path is None else read_lines(path)


def _compare(before: Path, after: Path, as_json: bool) -> None:
    from dataclasses import asdict

    from jobonnx.strict_json import json_text
    from jobonnx_bench.compare import compare
    from jobonnx_bench.render.markdown import comparison_text
    from jobonnx_bench.report import read_report

    found = compare(read_report(before), read_report(after))
    click.echo(json_text(asdict(found)) if as_json else comparison_text(found), nl=False)
