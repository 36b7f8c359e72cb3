"""`jobonnx evaluate` and `jobonnx rank`, and how they and the other commands ask for an encoder."""

import json
import os
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from jobonnx.errors import JobonnxError, ProviderUnavailableError

if TYPE_CHECKING:
    from jobonnx import Encoder
    from jobonnx.evaluation.formats import Counts, Dataset
    from jobonnx.evaluation.metrics import Evaluation
    from jobonnx.evaluation.scorecard import Scorecard

_one_variant = click.option("--variant", metavar="NAME", help="fp32, fp16, int8, ...; the bundle's default if left out.")
_several_variants = click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="NAME",
    help="Variant to score, once or more, or 'all' that this machine can run; the bundle's default if left out. "
    "fp32 is scored too, to compare with, if the bundle has it.",
)


def encoder_options(command: Any, variant: Any = _one_variant) -> Any:
    """The options of a command that loads an encoder; all but the model are `load`'s."""
    for option in (
        click.option("--force", is_flag=True, help="Allow fp16 on a CPU."),
        click.option("--threads", type=click.IntRange(min=1), help="Threads; as many as quota and cores allow if left out."),
        click.option("--provider", default="auto", show_default=True, metavar="NAME", help="auto, cpu, openvino, cuda, ..."),
        variant,
        click.option("--revision", metavar="REV", help="Hub branch, tag or commit."),
        click.option("-m", "--model", metavar="BUNDLE", help="Bundle folder or Hub id; the bundled small model by default."),
    ):
        command = option(command)
    return command


def load(bundle: str | None, note: bool = True, **options: Any) -> "Encoder":
    """An encoder, with what has to be said of it on stderr; `note` says whether the bundle's own is."""
    from jobonnx import Encoder

    with warnings.catch_warnings(record=True, action="always") as said:
        encoder = Encoder(bundle, **options)
    for warning in said:
        click.echo(f"note: {warning.message}", err=True)
    if note and encoder.bundle.model.note:
        click.echo(f"note: {encoder.bundle.model.note}", err=True)
    if encoder.graph.degraded:
        click.echo(f"note: {encoder.variant} missed its parity tolerance at export and was kept with --allow-degraded", err=True)
    return encoder


@click.command()
@click.argument("datasets", nargs=-1, metavar="DATASET...")
@partial(encoder_options, variant=_several_variants)
@click.option("--run", type=click.Path(path_type=Path), help="Score this TREC run instead of a model; needs --qrels.")
@click.option("--qrels", type=click.Path(path_type=Path), help="The judgements for --run.")
@click.option("--json", "style", flag_value="json", help="Print JSON.")
@click.option("--markdown", "style", flag_value="markdown", help="Print Markdown for a model card.")
def evaluate(
    datasets: tuple[str, ...],
    model: str | None,
    variants: tuple[str, ...],
    run: Path | None,
    qrels: Path | None,
    style: str | None,
    **options: Any,
) -> None:
    """Score variants of a bundle on retrieval sets, or score a TREC run.

    A DATASET is a TalentCLEF, Avature or BEIR folder, or three files joined as a path list, queries:corpus:qrels (with
    ; on Windows), which is how a cross-lingual set is given. NAME=DATASET names its column.
    """
    from jobonnx.evaluation.scorecard import as_json, scorecard

    if run is not None:
        source = click.get_current_context().get_parameter_source
        if datasets or model or variants or any(source(name) is not ParameterSource.DEFAULT for name in options):
            raise click.UsageError("--run scores a file: leave out datasets and the options of a model.")
        if qrels is None:
            raise click.UsageError("--run needs --qrels, the judgements to score it by.")
        evaluation = _evaluate_run(run, qrels)
        card = scorecard({run.name: {evaluation.name: evaluation}})
        about: dict[str, Any] = {"run": str(run), "qrels": str(qrels), "counts": evaluation.counts.as_dict()}
    else:
        if qrels is not None:
            raise click.UsageError("--qrels goes with --run; a dataset brings its own.")
        if not datasets:
            raise click.UsageError("name at least one dataset, or a run with --run and --qrels.")
        sets = _read_datasets(datasets)
        evaluations, models = _evaluate_variants(model, variants, options, sets)
        card = scorecard(evaluations)
        about = models | {"datasets": {dataset.name: _described(dataset) for dataset in sets}}
    if style == "json":
        click.echo(json.dumps(about | as_json(card), indent=2, allow_nan=False))
    else:
        _print_card(card, style)


@click.command()
@click.argument("queries", type=click.Path(path_type=Path))
@click.argument("corpus", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The TREC run to write.")
@encoder_options
@click.option("-k", "--depth", type=click.IntRange(min=1), default=1000, show_default=True, help="Documents a query, at most.")
@click.option("--tag", default="jobonnx", show_default=True, help="The run's tag, such as teamA_systemA.")
@click.option("--header/--no-header", default=False, help="Begin with the header line that TalentCLEF 2025 asks for.")
def rank(
    queries: Path,
    corpus: Path,
    output: Path,
    model: str | None,
    depth: int,
    tag: str,
    header: bool,
    **options: Any,
) -> None:
    """Rank the titles of CORPUS for each title of QUERIES and write a TREC run.

    Both files hold an id, a tab and a title a line, or are BEIR's .jsonl.
    """
    from jobonnx.evaluation.formats import read_titles, write_run
    from jobonnx.evaluation.metrics import rank as ranked

    asked, titles = read_titles(queries), read_titles(corpus)
    _print_counts(str(queries), asked.counts)
    _print_counts(str(corpus), titles.counts)
    encoder = load(model, **options)
    lines = write_run(output, ranked(encoder, asked.texts, titles.texts, depth), tag=tag, header=header)
    click.echo(f"{output}: {lines:,} lines, {len(asked.texts):,} queries, variant {encoder.variant}", err=True)


def _read_datasets(arguments: tuple[str, ...]) -> "list[Dataset]":
    sets: dict[str, Dataset] = {}
    for argument in arguments:
        dataset = _read_dataset(argument)
        if dataset.name in sets:
            raise JobonnxError(f"two datasets are named {dataset.name!r}; name one, as in other={argument}.")
        sets[dataset.name] = dataset
        judged = len(dataset.queries) - dataset.counts.queries_without_relevant
        click.echo(f"{dataset.name}: {judged:,} queries, {len(dataset.corpus):,} titles", err=True)
        _print_counts(dataset.name, dataset.counts)
    return list(sets.values())


def _read_dataset(argument: str) -> "Dataset":
    """A folder or three files, as `evaluate` describes; a path that exists is taken as it stands."""
    from jobonnx.evaluation.formats import read_files, read_folder

    name, path = None, argument
    if "=" in argument and not Path(argument).exists():
        name, path = argument.split("=", 1)
    parts = path.split(os.pathsep)
    if Path(path).exists() or len(parts) == 1:
        return read_folder(path, name or None)
    if len(parts) != 3:
        form = os.pathsep.join(("queries", "corpus", "qrels"))
        raise JobonnxError(f"{path} is neither a folder nor three files; give the three as {form}.")
    queries, corpus, qrels = parts
    return read_files(queries, corpus, qrels, name or None)


def _evaluate_variants(
    model: str | None, variants: tuple[str, ...], options: dict[str, Any], sets: "list[Dataset]"
) -> "tuple[dict[str, dict[str, Evaluation]], dict[str, dict[str, str]]]":
    """Evaluations by variant and dataset name, the reference first; and what was run: fingerprints, variants skipped."""
    from rich.console import Console

    from jobonnx import Bundle
    from jobonnx.evaluation.metrics import evaluate as evaluated
    from jobonnx.evaluation.scorecard import REFERENCE

    bundle = Bundle.open(model, revision=options["revision"])
    named = [variant for variant in variants if variant != "all"]
    for variant in named:
        if variant not in bundle.variants:
            raise JobonnxError(f"the bundle has no variant {variant!r}; choose among {', '.join(bundle.variants)} or all.")
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
        for dataset in sets:
            # Silent where stderr is no terminal.
            with console.status(f"{variant} on {dataset.name}: {len(dataset.corpus):,} titles"):
                evaluations[variant][dataset.name] = evaluated(encoder, dataset)
    if evaluations and REFERENCE not in evaluations:
        why = "was skipped" if reference else "is not in the bundle"
        click.echo(f"{REFERENCE}, which the others are compared with, {why}: no differences are shown", err=True)
    if not evaluations:
        raise JobonnxError("this machine can run no variant of the bundle; the reasons are above.")
    return evaluations, {"fingerprints": fingerprints, "skipped": skipped}


def _evaluate_run(run: Path, qrels: Path) -> "Evaluation":
    from jobonnx.evaluation.formats import read_qrels, read_run
    from jobonnx.evaluation.metrics import evaluate_run

    evaluation = evaluate_run(read_run(run), read_qrels(qrels), name=qrels.name)
    _print_counts(str(run), evaluation.counts)
    return evaluation


def _described(dataset: "Dataset") -> dict[str, Any]:
    counts = dataset.counts.as_dict()
    return {"queries": len(dataset.queries), "documents": len(dataset.corpus), "counts": counts}


def _print_counts(name: str, counts: "Counts") -> None:
    for phrase in counts.phrases():
        click.echo(f"{name}, {phrase}", err=True)


def _print_card(card: "Scorecard", style: str | None) -> None:
    from rich.console import Console

    from jobonnx.evaluation.scorecard import as_markdown, as_tables

    if style == "markdown":
        click.echo(as_markdown(card), nl=False)
        return
    # A pipe has no width: there a table is as wide as its datasets make it.
    console = Console() if sys.stdout.isatty() else Console(width=100_000)
    for table in as_tables(card, console.width):
        console.print(table)
