"""`jobonnx embed`: a column of titles, of any length, to Parquet files with vectors."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobonnx.cli.options import FILE, encoder_options, load
from jobonnx.cli.prompts import prompt_for, prompt_options, take_prompts
from jobonnx.errors import JobonnxError
from jobonnx.progress import shares
from jobonnx.strict_json import json_text

if TYPE_CHECKING:
    from jobonnx.bulk.compute import Compute
    from jobonnx.bulk.pipeline import Standing


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "-o", "--output", required=True, metavar="FOLDER", help="Where the parts go: a new folder on this machine, or a stopped job's."
)
@click.option("--column", required=True, metavar="NAME", help="Column of the titles.")
@click.option("--id-column", metavar="NAME", help="Column of the ids; the numbers of the rows, from 0, if left out.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "int8", "binary"]),
    default="float32",
    show_default=True,
    help="Of the vectors.",
)
@click.option(
    "--on-bad-row",
    type=click.Choice(["skip", "null", "error"]),
    default="error",
    show_default=True,
    help="A row whose title is null, no text, or longer than 64 KiB: leave it out, write it without a vector, or stop.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    help="Processes that compute, each with its own threads.",
)
@click.option("--ray", "address", metavar="ADDRESS", help="Compute on this Ray cluster, with --workers actors; auto finds one.")
@click.option("--gpus", type=click.FloatRange(min=0), default=0.0, show_default=True, help="That each actor of --ray asks for.")
@click.option("--cache", type=FILE, metavar="FILE", help="Take vectors of earlier jobs from this file, and add new ones to it.")
@prompt_options("document")
@encoder_options
def embed(
    inputs: tuple[str, ...],
    output: str,
    column: str,
    id_column: str | None,
    dtype: str,
    on_bad_row: str,
    workers: int,
    address: str | None,
    gpus: float,
    cache: Path | None,
    model: str | None,
    **options: Any,
) -> None:
    """Turn a column of titles into Parquet files with vectors.

    INPUT is a Parquet, CSV, TSV or JSON-lines file, plain or in .gz or .zst, a folder of them, or a pattern in quotes; here, or on
    a file system that pyarrow reaches (s3://, gs://). Each title is computed once. A job that was stopped at any moment goes on
    where it stopped when the same command is given again. The report goes to stdout, as JSON.
    """
    from jobonnx.bulk.compute import Embedder, Here, Workers
    from jobonnx.bulk.job import Job
    from jobonnx.bulk.pipeline import Maker
    from jobonnx.bulk.pipeline import embed as run
    from jobonnx.data.tables import find_tables

    if gpus and address is None:
        raise click.UsageError("--gpus is what each actor of --ray asks for; give an address, or choose a GPU with --provider")
    if "://" in output:
        raise JobonnxError(f"{output} is an address; name a folder on this machine, and copy it there when it is finished")
    files = tuple(find_tables(inputs))
    prompts = take_prompts(options)
    encoder = load(model, **options)
    embedder = Embedder(encoder, dtype)
    prompt = prompt_for(encoder, "document", prompts)
    job = Job(files, column, id_column, on_bad_row, prompt)
    maker = Maker(encoder.fingerprint, encoder.bundle.model.source, encoder.variant, embedder.layout)

    def start() -> Compute:
        if address is not None:
            from jobonnx.bulk.ray import Cluster

            encoder.close()
            chosen = {**options, "bundle": model, "threads": options["threads"] or 1}
            return Cluster(address, workers, chosen, embedder.layout, gpus)
        if workers == 1:
            return Here(embedder)
        encoder.close()
        threads = max(1, encoder.settings.threads // workers)
        return Workers(workers, {**options, "bundle": model, "provider": encoder.provider, "threads": threads}, dtype)

    with shares() as show, redirect_stdout(sys.stderr):  # stdout is the report's alone; Ray prints there that an actor has died

        def tell(standing: Standing) -> None:
            fresh, seconds = standing.fresh, max(standing.seconds, 1e-9)
            show(
                standing.share,
                f"{standing.counts.read:,} rows, {fresh.read / seconds:,.0f} rows/s, {fresh.computed / seconds:,.0f} titles/s",
            )

        report = run(job, Path(output), maker, start, cache=cache, show=tell)
    click.echo(json_text(report), nl=False)
