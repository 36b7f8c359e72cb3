"""`jobonnx embed`: a column of titles, of any length, to Parquet files with vectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobonnx.cli.options import FILE, encoder_options, load
from jobonnx.progress import shares
from jobonnx.strict_json import json_text

if TYPE_CHECKING:
    from jobonnx.bulk.compute import Compute
    from jobonnx.bulk.pipeline import Standing


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "-o", "--output", type=FILE, required=True, metavar="FOLDER", help="Where the parts go: a new folder, or a stopped job's."
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
@click.option("--prompt-name", metavar="NAME", help="Put this prompt of the model before every title.")
@encoder_options
def embed(
    inputs: tuple[str, ...],
    output: Path,
    column: str,
    id_column: str | None,
    dtype: str,
    on_bad_row: str,
    workers: int,
    address: str | None,
    gpus: float,
    cache: Path | None,
    prompt_name: str | None,
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
    from jobonnx.prompts import choose_prompt

    if gpus and address is None:
        raise click.UsageError("--gpus is what each actor of --ray asks for; give an address, or choose a GPU with --provider")
    files = tuple(find_tables(inputs))
    encoder = load(model, **options)
    embedder = Embedder(encoder, dtype)
    prompt = choose_prompt(encoder.bundle.model, prompt_name, None)
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

    with shares() as show:

        def tell(standing: Standing) -> None:
            fresh, seconds = standing.fresh, max(standing.seconds, 1e-9)
            show(
                standing.share,
                f"{standing.counts.read:,} rows, {fresh.read / seconds:,.0f} rows/s, {fresh.computed / seconds:,.0f} titles/s",
            )

        report = run(job, output, maker, start, cache=cache, show=tell)
    click.echo(json_text(report), nl=False)
