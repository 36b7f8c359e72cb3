"""The command line. Every command imports what it needs when it runs; errors are one line on stderr."""

from __future__ import annotations

import codecs
import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click

from jobonnx.cli.bench import bench
from jobonnx.cli.evaluate import encoder_options, evaluate, load, rank
from jobonnx.errors import JobonnxError
from jobonnx.text.tokenizer import without_lone_surrogates

if TYPE_CHECKING:
    from jobonnx.bundle.manifest import Bundle


class _Commands(click.Group):
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
        yield
    except click.UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # since click 8.2: no error, but the help itself
            raise
        where = error.ctx.command_path if error.ctx is not None else "jobonnx"
        raise _Misuse(f"{' '.join(error.format_message().split())} See {where} --help") from None
    except (JobonnxError, ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise  # click ends quietly when the reader has gone
        raise click.ClickException(" ".join(str(error).split())) from None


@click.group("jobonnx", cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="jobonnx")
def main() -> None:
    """Job titles to vectors: sentence-transformers checkpoints in ONNX, without PyTorch."""
    # A pipe on Windows has a code page, which cannot write most titles. What is UTF-8 already keeps its treatment of errors.
    if isinstance(sys.stdout, io.TextIOWrapper) and codecs.lookup(sys.stdout.encoding).name != "utf-8":
        sys.stdout.reconfigure(encoding="utf-8")


_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@main.command()
@click.argument("source", default="pj-mathematician/JobBGE-m3")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="BUNDLE", help="Folder to make.")
@click.option("--variant", "variants", multiple=True, metavar="NAME", help="fp32, fp16, int8, int8-static; all if left out.")
@click.option("--revision", metavar="REV", help="Hub branch, tag or commit.")
@click.option("--pooling", type=click.Choice(["cls", "mean"]), help="For a folder that does not say; mean if left out.")
@click.option("--allow-degraded", is_flag=True, help="Keep variants that miss their tolerance, marked.")
@_json_option
def export(
    source: str,
    output: Path,
    variants: tuple[str, ...],
    revision: str | None,
    pooling: str | None,
    allow_degraded: bool,
    as_json: bool,
) -> None:
    """Export a checkpoint (SOURCE: a folder or a Hub id) to a bundle, and measure every graph against PyTorch.

    Exits with status 1 if a variant missed its tolerance; the others are kept.
    """
    try:
        from jobonnx_export.pipeline import VARIANTS
        from jobonnx_export.pipeline import export as run

        with _steps() as report:
            bundle = run(
                source,
                output,
                tuple(dict.fromkeys(variants)) or VARIANTS,
                revision=revision,
                pooling=pooling,
                allow_degraded=allow_degraded,
                progress=report,
            )
    except ModuleNotFoundError as error:  # at any step: most are imported where they are used
        raise JobonnxError(
            f'exporting needs {error.name}; run: pip install "jobonnx[cpu,export]" (any build of torch will do)'
        ) from None
    if as_json:
        click.echo((output / "manifest.json").read_text(encoding="utf-8"))
    else:
        _print_bundle(bundle)
    if bundle.rejected:
        sys.exit(1)


@main.command()
@click.argument("bundle", required=False)
@encoder_options
@_json_option
def info(bundle: str | None, model: str | None, as_json: bool, **options: Any) -> None:
    """Show what a bundle holds, and what it runs on here."""
    from dataclasses import asdict

    from jobonnx.bundle.manifest import Bundle
    from jobonnx.runtime.session import available, available_threads

    opened = Bundle.open(bundle or model, revision=options["revision"])
    variant = options["variant"] or opened.default_variant
    here: dict[str, Any] = {"available_threads": available_threads(), "available_providers": available(), "variant": variant}
    try:
        encoder = load(bundle or model, **options)
    except JobonnxError as error:
        if options["variant"] or options["provider"] != "auto":
            raise
        here["error"] = str(error)  # a bundle for another machine can be looked at all the same
        running = f"{variant} does not run: {error}"
    else:
        here |= {
            "fingerprint": encoder.fingerprint,
            "provider": encoder.provider,
            "nodes": encoder.session.nodes,
            "threads": encoder.session.threads,
            "tuning": asdict(encoder.tuning),
        }
        nodes = ", ".join(f"{count} {name}" for name, count in encoder.session.nodes.items())
        t = encoder.tuning
        running = (
            f"{variant} on {encoder.provider}, {t.threads} threads, streams: {t.streams}, {t.token_budget} tokens a batch"
            f"{', CUDA graphs' if t.cuda_graph else ''}; nodes: {nodes}\nfingerprint {encoder.fingerprint}"
        )
    if as_json:
        click.echo(json.dumps(_facts(opened) | here, indent=1, ensure_ascii=False))
        return
    _print_bundle(opened)
    click.echo(f"\nproviders here: {', '.join(here['available_providers'])}\nhere: {running}")


@main.command()
@click.argument("bundle", required=False)
@_json_option
def verify(bundle: str | None, as_json: bool) -> None:
    """Hash every file of a BUNDLE and measure every graph again on this machine, without torch.

    Exits with status 1 if a graph misses its tolerance here.
    """
    from jobonnx.bundle.manifest import Bundle
    from jobonnx.parity.verify import verify as run

    results = run(Bundle.open(bundle, verify=True))
    if as_json:
        rows = [
            {"variant": r.variant, "target": r.target, "provider": r.provider, "parity": r.parity.as_dict(), "missed": r.missed}
            for r in results
        ]
        click.echo(json.dumps(rows, indent=1))
    else:
        _print_parity([(r.variant, r.target, f"on {r.provider}", r.parity.as_dict(), list(r.missed)) for r in results])
    if any(r.missed for r in results):
        sys.exit(1)


@main.command()
@click.argument("bundle")
@click.option("--variant", "variants", multiple=True, metavar="NAME", help="All that run here if left out. May be repeated.")
@_json_option
def tune(bundle: str, variants: tuple[str, ...], as_json: bool) -> None:
    """Measure how a BUNDLE runs fastest on this machine (about a minute a variant), and keep it beside the bundle.

    Provider, token budget, streams, spinning and CUDA graphs; provider "auto" uses what was found. It never changes the vectors.
    """
    import random
    from dataclasses import asdict

    from jobonnx.bundle.manifest import Bundle
    from jobonnx.data.titles import read_titles
    from jobonnx.runtime.tuning import runners
    from jobonnx.runtime.tuning import tune as run

    opened = Bundle.open(bundle)
    here = [variant for variant in opened.variants if runners(opened, variant)]
    titles = read_titles()
    random.Random(0).shuffle(titles)
    with _steps() as report:
        found = {variant: run(opened, variant, titles, report) for variant in variants or here}
    if as_json:
        rows = {v: {"tuning": asdict(best), "trials": [asdict(t) for t in trials]} for v, (best, trials) in found.items()}
        click.echo(json.dumps(rows, indent=1))
        return
    _print_tuning([(v, t.what, asdict(t.tuning), t.ratio, t.tuning == best) for v, (best, ts) in found.items() for t in ts])


@main.command()
@click.argument("texts", nargs=-1, metavar="[TITLE]...")
@click.option("--file", "path", type=click.Path(path_type=Path), help="Read titles from this file, one a line.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write .npy or .jsonl; JSON lines on stdout if left out.")
@click.option("--prompt-name", metavar="NAME", help="Put this prompt of the model before every title.")
@click.option("--truncate-dim", type=int, metavar="N", help="Keep the first N components.")
@click.option("--truncation", type=click.Choice(["right", "left", "error"]), default="right", show_default=True)
@encoder_options
def encode(
    texts: tuple[str, ...],
    path: Path | None,
    output: Path | None,
    prompt_name: str | None,
    truncate_dim: int | None,
    truncation: str,
    model: str | None,
    **options: Any,
) -> None:
    """Encode titles: the arguments, a file or stdin, one title a line."""
    if output is not None and output.suffix not in (".npy", ".jsonl"):
        raise click.UsageError(f"{output}: the name has to end in .npy or .jsonl")
    from jobonnx.evaluation.formats import replaced

    titles = _read_titles(texts, path)
    encoder = load(model, truncate_dim=truncate_dim, truncation=truncation, **options)
    if output is None:
        for line in _json_lines(titles, encoder.encode(titles, prompt_name=prompt_name)):
            click.echo(line)
        return
    with replaced(output) as file:  # before the work: a target that cannot be written is known at once
        vectors = encoder.encode(titles, prompt_name=prompt_name)
        if output.suffix == ".npy":
            import numpy as np

            # Only its write: numpy hands a real file to the C library, which asks for a position that a FIFO has not.
            np.save(SimpleNamespace(write=file.write), vectors)
        else:
            file.writelines(line.encode() + b"\n" for line in _json_lines(titles, vectors))


@main.command()
@click.argument("queries", nargs=-1, required=True, metavar="QUERY...")
@click.option("--corpus", type=click.Path(path_type=Path), help="Titles to rank, one a line; the package's own list by default.")
@click.option("-k", "--top", type=click.IntRange(min=1), default=10, show_default=True, help="Titles to show.")
@encoder_options
@_json_option
def match(queries: tuple[str, ...], corpus: Path | None, top: int, model: str | None, as_json: bool, **options: Any) -> None:
    """Rank a list of job titles by their similarity to each QUERY."""
    from jobonnx.data.titles import read_titles
    from jobonnx.search.topk import top_k

    queries = tuple(map(without_lone_surrogates, queries))
    encoder = load(model, **options)
    titles = [t for t in dict.fromkeys(_read_file(corpus)) if t.strip()] if corpus is not None else read_titles()
    if not titles:
        raise JobonnxError(f"{corpus} holds no titles; give it one a line")
    # One call, so that a query that stands in the corpus is computed once.
    vectors = encoder.encode([*queries, *titles], normalize_embeddings=True)
    scores, places = top_k(vectors[: len(queries)], vectors[len(queries) :], top)
    found = [[(float(s), titles[i]) for s, i in zip(*row, strict=True)] for row in zip(scores, places, strict=True)]
    if as_json:
        for query, ranked in zip(queries, found, strict=True):
            matches = [{"title": title, "score": score} for score, title in ranked]
            click.echo(json.dumps({"query": query, "matches": matches}, ensure_ascii=False))
        return
    for query, ranked in zip(queries, found, strict=True):
        click.secho(query, bold=True)
        for score, title in ranked:
            click.echo(f"  {score:.3f}  {title}")


main.add_command(bench)
main.add_command(evaluate)
main.add_command(rank)


def _read_titles(texts: tuple[str, ...], path: Path | None) -> list[str]:
    if texts and path is not None:
        raise click.UsageError("give titles as arguments or in a --file, not both")
    if texts:
        return [without_lone_surrogates(text) for text in texts]  # what was not UTF-8, so that it can be printed
    if path is not None:
        return _read_file(path)
    if sys.stdin is None:  # encode <&-
        raise JobonnxError("stdin is closed; give titles as arguments, in a --file or on stdin")
    return _lines(sys.stdin.buffer.read(), "stdin")


def _read_file(path: Path) -> list[str]:
    try:
        return _lines(path.read_bytes(), str(path))
    except OSError as error:
        raise JobonnxError(f"{path} cannot be read ({error.strerror})") from None


def _lines(content: bytes, name: str) -> list[str]:
    """One title a line; a byte-order mark and Windows line ends are no part of a title, an empty line is an empty title."""
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    titles = []
    for number, line in enumerate(lines, 1):
        try:
            titles.append(line.removesuffix(b"\r").decode())
        except UnicodeDecodeError:
            raise JobonnxError(f"{name}, line {number} is not UTF-8; convert the file, for instance with iconv") from None
    return titles


def _json_lines(titles: list[str], vectors: Any) -> Iterator[str]:
    for title, vector in zip(titles, vectors, strict=True):
        yield json.dumps({"text": title, "vector": vector.tolist()}, ensure_ascii=False)


@contextmanager
def _steps() -> Iterator[Any]:
    """Report steps with a spinner and their time, on a terminal only."""
    if not sys.stderr.isatty():
        yield lambda step: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=Console(stderr=True)) as progress:

        def report(step: str) -> None:
            for task in progress.tasks:
                progress.update(task.id, total=1, completed=1)
            progress.add_task(step, total=None)

        yield report
        for task in progress.tasks:
            progress.update(task.id, total=1, completed=1)


def _facts(bundle: Bundle) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "bundle": str(bundle.folder),
        "model": asdict(bundle.model),
        "default_variant": bundle.default_variant,
        "graphs": [asdict(graph) for graph in bundle.graphs],
        "rejected": list(bundle.rejected),
        "tools": bundle.tools,
        "bytes": sum(entry["size"] for entry in bundle.files.values()),
    }


def _print_bundle(bundle: Bundle) -> None:
    m = bundle.model
    revision = f" at {m.revision}" if m.revision else ""
    click.secho(f"{bundle.folder}", bold=True)
    click.echo(f"{m.source}{revision}: {m.dimension} dimensions, {m.pooling} pooling, at most {m.max_tokens} tokens")
    click.echo(f"default variant: {bundle.default_variant}")
    rows: list[tuple[str, str, str, dict[str, Any], list[str]]]
    rows = [(g.variant, g.target, "degraded" if g.degraded else "", g.parity, []) for g in bundle.graphs]
    rows += [(r["variant"], r["target"], "left out", r["parity"], r["missed"]) for r in bundle.rejected]
    _print_parity(rows)


def _print_parity(rows: list[tuple[str, str, str, dict[str, Any], list[str]]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("variant", "target", "", "min cosine", "mean centred", "max |d|", "top-10 kept", "missed", box=None)
    for variant, target, remark, p, missed in rows:
        formats = {"min_cosine": ".6f", "mean_centred": ".6f", "max_abs": ".1e", "top10_overlap": ".3f"}
        figures = ("NaN" if p[name] is None else format(p[name], spec) for name, spec in formats.items())
        table.add_row(variant, target, remark, *figures, "; ".join(missed))
    # Wide enough for whole words where nobody set a width, as in a file or a CI log.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _print_tuning(rows: list[tuple[str, str, dict[str, Any], float, bool]]) -> None:
    from rich.console import Console
    from rich.table import Table

    names = list(rows[0][2])
    table = Table("variant", "by the time of", *(name.replace("_", " ") for name in names), "time over the default's", "", box=None)
    for variant, what, tuning, ratio, chosen in rows:
        table.add_row(variant, what, *(str(tuning[name]) for name in names), f"{ratio:.2f}", "kept" if chosen else "")
    Console(width=None if sys.stdout.isatty() else 200).print(table)
