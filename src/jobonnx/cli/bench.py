"""`jobonnx bench`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import click

from jobonnx.errors import JobonnxError


@click.command()
@click.option("-m", "--model", metavar="BUNDLE", help="Bundle folder or Hub id; the bundled small model by default.")
@click.option("--provider", "providers", multiple=True, metavar="NAME", help="cpu, cuda, ...; all if left out. May be repeated.")
@click.option("--variant", "variants", multiple=True, metavar="NAME", help="fp32, int8, ...; all if left out. May be repeated.")
@click.option(
    "--workload",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Titles, one a line, 1,000 distinct ones at least, with --quick 200; the package's own by default.",
)
@click.option("--quick", is_flag=True, help="A first look: fewer titles and three rounds.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FOLDER", help="Folder to make.")
@click.option(
    "--compare", nargs=2, type=click.Path(path_type=Path), metavar="A B", help="Compare two report.json; measure nothing."
)
@click.option("--json", "as_json", is_flag=True, help="With --compare: print JSON.")
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
    two reports and which changes are more than noise.
    """
    if compare:
        if model or providers or variants or workload or quick or output:
            raise click.UsageError("--compare reads two reports: leave out everything but --json.")
        _compare(*compare, as_json)
        return
    if as_json:
        raise click.UsageError("--json goes with --compare; a report's JSON is in its folder.")
    if output is None:
        raise click.UsageError("name a folder for the report: -o report")
    _measure(model, providers, variants, workload, quick, output)


def _measure(
    model: str | None, providers: tuple[str, ...], variants: tuple[str, ...], workload: Path | None, quick: bool, output: Path
) -> None:
    from jobonnx_bench.bundle import FULL, QUICK, grid, measure
    from jobonnx_bench.render.folder import HTML, check_free, write_folder

    missing = [name for name in ("matplotlib", "onnx") if find_spec(name) is None]
    if missing:
        raise JobonnxError(f'the report needs {" and ".join(missing)}; run: pip install "jobonnx[bench]"')
    check_free(output)
    systems = grid(model, variants, providers)
    report = measure(model, systems, _titles(workload), QUICK if quick else FULL, _say)
    write_folder(report, output)
    click.echo(f"{output / HTML}")


def _say(line: str) -> None:
    """Progress, on a terminal only."""
    if sys.stderr.isatty():
        click.echo(line, err=True)


def _titles(path: Path | None) -> list[str]:
    if path is None:
        from jobonnx.data.titles import read_titles

        return read_titles()
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise JobonnxError(f"{path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise JobonnxError(f"{path} is not UTF-8; convert the file, for instance with iconv") from None


def _compare(before: Path, after: Path, as_json: bool) -> None:
    from jobonnx_bench.compare import difference
    from jobonnx_bench.render.markdown import difference_markdown
    from jobonnx_bench.result import Report

    found = difference(Report.read(before), Report.read(after))
    if as_json:
        click.echo(json.dumps(asdict(found), indent=1, ensure_ascii=False))
        return
    click.echo(difference_markdown(found), nl=False)
