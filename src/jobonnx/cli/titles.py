"""`jobonnx encode` and `jobonnx match`: titles to vectors, and titles ranked."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

from jobonnx.cli.input import column_option
from jobonnx.cli.input import read_titles as read_column
from jobonnx.cli.options import FILE, encoder_options, json_option, load, top_k_option
from jobonnx.cli.prompts import prompt_for, prompt_options, take_prompts
from jobonnx.errors import JobonnxError
from jobonnx.files import replaced, split_lines
from jobonnx.text.surrogates import without_lone_surrogates

_WORTH_KEEPING = 1000  # titles of a corpus; a smaller one is encoded in less time than it takes to look it up


@click.command()
@click.argument("texts", nargs=-1, metavar="[TITLE]...")
@click.option("--file", "path", type=FILE, help="Read titles from this file: one per line, or a table's --column.")
@column_option
@click.option("-o", "--output", type=FILE, help="Write .npy or .jsonl; JSON lines on stdout if left out.")
@click.option("--prompt-name", metavar="NAME", help="Put this prompt of the model before every title.")
@click.option("--truncate-dim", type=click.IntRange(min=1), metavar="N", help="Keep the first N components.")
@click.option("--truncation", type=click.Choice(["right", "left", "error"]), default="right", show_default=True)
@encoder_options
def encode(
    texts: tuple[str, ...],
    path: Path | None,
    column: str | None,
    output: Path | None,
    prompt_name: str | None,
    truncate_dim: int | None,
    truncation: str,
    model: str | None,
    **options: Any,
) -> None:
    """Encode titles: the arguments, a file or stdin, one title per line."""
    if output is not None and output.suffix not in (".npy", ".jsonl"):
        raise click.UsageError(f"{output}: the name has to end in .npy or .jsonl")
    titles = _read_titles(texts, path, column)
    encoder = load(model, truncate_dim=truncate_dim, truncation=truncation, **options)
    if output is None:
        for line in _json_lines(titles, encoder.encode(titles, prompt_name=prompt_name)):
            click.echo(line)
        return
    with replaced(output, [] if path is None else [path]) as file:  # before the work: what cannot be written is known at once
        vectors = encoder.encode(titles, prompt_name=prompt_name)
        if output.suffix == ".npy":
            import numpy as np

            # Only its write: numpy hands a real file to the C library, which asks for a position that a FIFO has not.
            np.save(SimpleNamespace(write=file.write), vectors)
        else:
            file.writelines(line.encode() + b"\n" for line in _json_lines(titles, vectors))


@click.command()
@click.argument("queries", nargs=-1, required=True, metavar="QUERY...")
@click.option(
    "--corpus", type=FILE, help="Titles to rank: one per line, or a table's --column; by default the list that comes with jobonnx."
)
@column_option
@click.option("--no-cache", is_flag=True, help="Encode the corpus anew, and keep nothing of it.")
@prompt_options("query", "document")
@top_k_option
@encoder_options
@json_option
def match(
    queries: tuple[str, ...],
    corpus: Path | None,
    column: str | None,
    no_cache: bool,
    top_k: int,
    model: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Rank a list of job titles by their similarity to each QUERY.

    The vectors of a large corpus are kept in your cache, so that only the first call has to encode it.
    """
    from jobonnx.data.titles import read_titles
    from jobonnx.search.corpus import cached_index, nearest_titles

    if column is not None and corpus is None:
        raise click.UsageError("--column names a column of a --corpus; give one")
    queries = tuple(map(without_lone_surrogates, queries))
    prompts = take_prompts(options)
    encoder = load(model, **options)
    before_query, before_title = (prompt_for(encoder, side, prompts) for side in ("query", "document"))
    titles = read_titles() if corpus is None else [t for t in dict.fromkeys(read_column(corpus, column)) if t.strip()]
    if not titles:
        raise JobonnxError(f"{corpus} holds no titles; give it one per line")
    index = None if no_cache or len(titles) < _WORTH_KEEPING else cached_index(titles, encoder, before_title)
    vectors = encoder.encode(list(queries), prompt=before_query, normalize_embeddings=True)
    if index is None:
        found = nearest_titles(vectors, titles, encoder.encode(titles, prompt=before_title, normalize_embeddings=True), top_k)
    else:
        with index:
            found = index.search(vectors, top_k, fingerprint=encoder.fingerprint)
    for query, ranked in zip(queries, found, strict=True):
        if as_json:
            listed = [{"title": match.title, "score": match.score} for match in ranked]
            click.echo(json.dumps({"query": query, "matches": listed}, ensure_ascii=False))
            continue
        click.secho(query, bold=True)
        for match in ranked:
            click.echo(f"  {match.score:.3f}  {match.title}")


def _read_titles(texts: tuple[str, ...], path: Path | None, column: str | None) -> list[str]:
    if texts and path is not None:
        raise click.UsageError("give titles as arguments or in a --file, not both")
    if column is not None and path is None:
        raise click.UsageError("--column names a column of a --file; give one")
    if texts:
        return [without_lone_surrogates(text) for text in texts]  # what was not UTF-8, so that it can be printed
    if path is not None:
        return read_column(path, column)
    if sys.stdin is None:  # encode <&-
        raise JobonnxError("stdin is closed; give titles as arguments, in a --file or on stdin")
    return split_lines(sys.stdin.buffer.read(), "stdin")


def _json_lines(titles: list[str], vectors: Any) -> Iterator[str]:
    for title, vector in zip(titles, vectors, strict=True):
        yield json.dumps({"text": title, "vector": vector.tolist()}, ensure_ascii=False)
