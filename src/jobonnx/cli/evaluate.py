"""`jobonnx evaluate` and `jobonnx rank`: retrieval sets, TREC runs and what they score."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from jobonnx.cli.options import FILE, encoder_options, load
from jobonnx.cli.prompts import prompt_options, take_prompts, with_prompt
from jobonnx.errors import JobonnxError, ProviderUnavailableError

if TYPE_CHECKING:
    from jobonnx.evaluation.evaluate import Evaluation
    from jobonnx.evaluation.formats import Dataset
    from jobonnx.evaluation.lines import Counts
    from jobonnx.evaluation.scorecard import Scorecard

_TIES = ("trec", "sentence-transformers", "ranx")
_several_variants = click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="NAME",
    help="Variant to score, once or more, or 'all' that this machine can run; the bundle's default if left out. "
    "fp32 is scored too, to compare with, if the bundle has it.",
)


def _ranks(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not re.fullmatch(r" *0*[1-9][0-9]{0,6} *(, *0*[1-9][0-9]{0,6} *)*", value):
        raise click.BadParameter(f"{value[:40]!r} is no list of ranks; write them as in 1,5,10")
    return tuple(sorted({int(part) for part in value.split(",")}))


@click.command()
@click.argument("datasets", nargs=-1, metavar="DATASET...")
@partial(encoder_options, variant=_several_variants)
@prompt_options("query", "document")
@click.option("--run", type=FILE, help="Score this TREC run instead of a model; needs --qrels.")
@click.option("--compare", nargs=2, type=FILE, metavar="A B", help="Score two TREC runs; differences are B less A. Needs --qrels.")
@click.option("--qrels", type=FILE, help="The judgements for --run or --compare.")
@click.option(
    "--ties",
    type=click.Choice(_TIES),
    default="trec",
    show_default=True,
    help="How documents of one score are ordered: as by trec_eval, as by sentence-transformers' evaluator (model cards; needs "
    "PyTorch), or as by ranx (TalentCLEF's scoring script).",
)
@click.option("--cutoffs", metavar="RANKS", callback=_ranks, help="Ranks to cut at, as in 1,5,10; the model card's if left out.")
@click.option("--per-query", type=FILE, help="Write the metrics of every query here: JSON lines if .jsonl, else tab-separated.")
@click.option("--json", "style", flag_value="json", help="Print JSON.")
@click.option("--markdown", "style", flag_value="markdown", help="Print Markdown for a model card.")
def evaluate(
    datasets: tuple[str, ...],
    model: str | None,
    variants: tuple[str, ...],
    run: Path | None,
    compare: tuple[Path, Path] | None,
    qrels: Path | None,
    ties: Any,
    cutoffs: tuple[int, ...] | None,
    per_query: Path | None,
    style: str | None,
    **options: Any,
) -> None:
    """Score variants of a bundle on retrieval sets, or score TREC runs.

    A DATASET is a TalentCLEF, Avature, MELO or BEIR folder, or three files joined as a path list, queries:corpus:qrels (with
    ; on Windows), which is how a cross-lingual set is given. NAME=DATASET names its column.

    Documents of one score tie. Where the order of ties moves a metric, its range over all orders is shown too.
    """
    from jobonnx.evaluation.scorecard import as_json, scorecard, write_per_query
    from jobonnx.files import refuse_inputs

    how = {"ties": ties, "cutoffs": cutoffs}
    runs = compare or ((run,) if run is not None else ())
    _check_usage(runs, run is not None and compare is not None, qrels, datasets, bool(model or variants), options)
    prompts = take_prompts(options)
    inputs = [*runs, qrels] if qrels is not None else list(_files(datasets))
    if per_query is not None:
        refuse_inputs(per_query, inputs)
    if qrels is not None:
        card, about = _score_runs(runs, qrels, how)
    else:
        sets = _read_datasets(datasets)
        evaluations, models = _evaluate_variants(model, variants, options, prompts, sets, how)
        card = scorecard(evaluations, ties=ties)
        about = models | {"datasets": {dataset.name: _described(dataset) for dataset in sets}}
    if style == "json":
        click.echo(json.dumps(about | as_json(card), indent=2, allow_nan=False))
    else:
        _print_card(card, style)
    if per_query is not None:
        lines = write_per_query(card, per_query, inputs)
        click.echo(f"{per_query}: {lines:,} lines", err=True)


@click.command()
@click.argument("queries", type=FILE)
@click.argument("corpus", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="The TREC run to write.")
@encoder_options
@prompt_options("query", "document")
@click.option("-k", "--top-k", type=click.IntRange(min=1), default=1000, show_default=True, help="Documents per query, at most.")
@click.option("--tag", default="jobonnx", show_default=True, help="The run's tag, such as teamA_systemA.")
@click.option(
    "--header/--no-header",
    default=False,
    help="Begin with a header line. TalentCLEF 2025's submission page asks for it, and its scoring script fails on it.",
)
def rank(
    queries: Path,
    corpus: Path,
    output: Path,
    model: str | None,
    top_k: int,
    tag: str,
    header: bool,
    **options: Any,
) -> None:
    """Write a TREC run: the titles of CORPUS, ranked for each title of QUERIES.

    Both files hold an id, a tab and a title per line, or are BEIR's .jsonl. `jobonnx evaluate --run` scores the run.
    """
    from jobonnx.evaluation.formats import read_titles
    from jobonnx.evaluation.ranking import rank as ranked
    from jobonnx.evaluation.trec import write_run
    from jobonnx.files import refuse_inputs

    refuse_inputs(output, (queries, corpus))
    asked, titles = read_titles(queries), read_titles(corpus)
    _print_counts(str(queries), asked.counts)
    _print_counts(str(corpus), titles.counts)
    if top_k < len(titles.texts):
        left_out = f"{len(titles.texts) - top_k:,} of {len(titles.texts):,} documents"
        effect = f"MAP and nDCG without a cutoff, and with one above {top_k}, come out too low"
        click.echo(f"note: --top-k {top_k} leaves out {left_out}: {effect}; --top-k {len(titles.texts)} keeps all", err=True)
    prompts = take_prompts(options)
    encoder = load(model, **options)
    for_queries, for_documents = (with_prompt(encoder, side, prompts) for side in ("query", "document"))
    rankings = ranked(for_queries, asked.texts, titles.texts, top_k, for_documents)
    lines = write_run(output, rankings, tag=tag, header=header, inputs=(queries, corpus))
    click.echo(f"{output}: {lines:,} lines, {len(asked.texts):,} queries, variant {encoder.variant}", err=True)


def _check_usage(
    runs: Sequence[Path], both: bool, qrels: Path | None, datasets: tuple[str, ...], chosen: bool, options: dict[str, Any]
) -> None:
    """Refuse combinations of options that mean nothing."""
    if runs:
        option = "--run" if len(runs) == 1 else "--compare"
        source = click.get_current_context().get_parameter_source
        if both:
            raise click.UsageError("--run and --compare exclude each other.")
        if datasets or chosen or any(source(name) is not ParameterSource.DEFAULT for name in options):
            raise click.UsageError(f"{option} scores files: leave out datasets and the options of a model.")
        if qrels is None:
            raise click.UsageError(f"{option} needs --qrels, the judgements to score by.")
    elif qrels is not None:
        raise click.UsageError("--qrels goes with --run or --compare; a dataset brings its own.")
    elif not datasets:
        raise click.UsageError("name at least one dataset, or a run with --run and --qrels.")


def _score_runs(runs: Sequence[Path], qrels: Path, how: dict[str, Any]) -> tuple[Scorecard, dict[str, Any]]:
    """Score one run, or two that are compared, the second with the first; and say what was scored."""
    from jobonnx.evaluation.evaluate import evaluate_run
    from jobonnx.evaluation.scorecard import scorecard
    from jobonnx.evaluation.trec import read_qrels, read_run

    judged = read_qrels(qrels)
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run) for run in runs]
    if len(set(names)) < len(names):
        raise JobonnxError(f"{runs[0]} is given twice; name two runs to compare")
    evaluations = {}
    for name, run in zip(names, runs, strict=True):
        evaluation = evaluate_run(read_run(run), judged, name=qrels.name, **how)
        _print_counts(str(run), evaluation.counts)
        evaluations[name] = {evaluation.name: evaluation}
    card = scorecard(evaluations, reference=names[0] if len(names) == 2 else "", ties=how["ties"])
    if len(runs) == 1:
        return card, {"run": str(runs[0]), "qrels": str(qrels), "counts": dict(evaluations[names[0]][qrels.name].counts)}
    counts = {name: dict(found[qrels.name].counts) for name, found in evaluations.items()}
    return card, {"runs": [str(run) for run in runs], "qrels": str(qrels), "counts": counts}


def _read_datasets(arguments: tuple[str, ...]) -> list[Dataset]:
    sets: dict[str, Dataset] = {}
    for argument in arguments:
        dataset = _read_dataset(argument)
        if dataset.name in sets:
            raise JobonnxError(f"two datasets are named {dataset.name!r}; name one, as in other={argument}")
        sets[dataset.name] = dataset
        judged = len(dataset.queries) - dataset.counts["queries_without_relevant"]
        click.echo(f"{dataset.name}: {judged:,} queries, {len(dataset.corpus):,} titles", err=True)
        _print_counts(dataset.name, dataset.counts)
    return list(sets.values())


def _read_dataset(argument: str) -> Dataset:
    """Read a folder or three files, as `evaluate` describes."""
    from jobonnx.evaluation.formats import read_files, read_folder

    name, path = _name_and_path(argument)
    parts = path.split(os.pathsep)
    if Path(path).exists() or len(parts) == 1:
        return read_folder(path, name)
    if len(parts) != 3:
        form = os.pathsep.join(("queries", "corpus", "qrels"))
        raise JobonnxError(f"{path} is neither a folder nor three files; give the three as {form}")
    queries, corpus, qrels = parts
    return read_files(queries, corpus, qrels, name)


def _name_and_path(argument: str) -> tuple[str | None, str]:
    """Split NAME=DATASET; a path that exists is taken as it stands."""
    if "=" in argument and not Path(argument).exists():
        name, path = argument.split("=", 1)
        return name or None, path
    return None, argument


def _files(datasets: tuple[str, ...]) -> Iterator[Path]:
    """Give the files of datasets, none of which may be overwritten."""
    for argument in datasets:
        _, path = _name_and_path(argument)
        if Path(path).is_dir():
            yield from (file for file in Path(path).rglob("*") if file.is_file())
        else:
            yield from map(Path, path.split(os.pathsep))


def _evaluate_variants(
    model: str | None,
    variants: tuple[str, ...],
    options: dict[str, Any],
    prompts: dict[str, dict[str, str]],
    sets: list[Dataset],
    how: dict[str, Any],
) -> tuple[dict[str, dict[str, Evaluation]], dict[str, Any]]:
    """Give evaluations by variant and dataset name, the reference first; and what was run: fingerprints, variants skipped."""
    from rich.console import Console

    from jobonnx import Bundle
    from jobonnx.bundle.manifest import DEFAULT
    from jobonnx.evaluation.evaluate import evaluate as evaluated
    from jobonnx.evaluation.scorecard import REFERENCE

    named = [variant for variant in variants if variant != "all"]
    bundle = Bundle.open(model, revision=options["revision"], variant=named[0] if named else DEFAULT)  # `load` checks the others
    for variant in named:
        if variant not in bundle.variants:
            raise JobonnxError(f"the bundle has no variant {variant!r}; choose among {', '.join(bundle.variants)} or all")
    if not variants:
        named = [bundle.default_variant]
    chosen = bundle.variants if "all" in variants else named
    reference = [REFERENCE] if REFERENCE in bundle.variants else []
    evaluations: dict[str, dict[str, Evaluation]] = {}
    fingerprints: dict[str, str] = {}
    skipped: dict[str, str] = {}
    console = Console(stderr=True)
    for variant in dict.fromkeys([*reference, *chosen]):
        try:
            encoder = load(model, note=not evaluations, variant=variant, **options)
        except ProviderUnavailableError as error:
            # A bundle may hold a variant for hardware that is not here: fp16 on a CPU, say. What was asked for by name must run.
            if variant in named:
                raise
            skipped[variant] = str(error)
            click.echo(f"{variant} skipped: {error}", err=True)
            continue
        fingerprints[variant] = encoder.fingerprint
        evaluations[variant] = {}
        for_queries, for_documents = (with_prompt(encoder, side, prompts) for side in ("query", "document"))
        for dataset in sets:
            # Silent where stderr is no terminal.
            with console.status(f"{variant} on {dataset.name}: {len(dataset.corpus):,} titles"):
                evaluations[variant][dataset.name] = evaluated(for_queries, dataset, documents=for_documents, **how)
    if REFERENCE not in evaluations and (reference or len(evaluations) > 1):
        why = "was skipped" if reference else "is not in the bundle"
        click.echo(f"{REFERENCE}, which the others are compared with, {why}: no differences are shown", err=True)
    if not evaluations:
        raise JobonnxError("this machine can run no variant of the bundle; the reasons are above")
    return evaluations, {"fingerprints": fingerprints, "skipped": skipped, "prompts": prompts}


def _described(dataset: Dataset) -> dict[str, Any]:
    return {"queries": len(dataset.queries), "documents": len(dataset.corpus), "counts": dict(dataset.counts)}


def _print_counts(name: str, counts: Counts) -> None:
    from jobonnx.evaluation.lines import phrases

    for phrase in phrases(counts):
        click.echo(f"{name}, {phrase}", err=True)


def _print_card(card: Scorecard, style: str | None) -> None:
    from rich.console import Console

    from jobonnx.evaluation.scorecard import as_markdown, as_tables

    if style == "markdown":
        click.echo(as_markdown(card), nl=False)
        return
    # A pipe has no width: there a table is as wide as its datasets make it.
    console = Console() if sys.stdout.isatty() else Console(width=100_000)
    for table in as_tables(card, console.width):
        console.print(table)
