"""`jobonnx index`: a list of titles on disk with their vectors, searched without encoding it again."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobonnx.cli.input import Table, read_table
from jobonnx.cli.options import FILE, encoder_options, json_option, load, top_k_option
from jobonnx.cli.prompts import prompt_for, prompt_options, take_prompts
from jobonnx.errors import JobonnxError
from jobonnx.files import split_lines
from jobonnx.text.surrogates import without_lone_surrogates

if TYPE_CHECKING:
    from jobonnx import Encoder
    from jobonnx.search.index import Index

_BLOCK = 4096  # titles encoded and added at once: what a kill can lose, and the memory that vectors take


def _titles_options(command: Any) -> Any:
    """Add the options of a command that takes titles from arguments, a file or stdin."""
    for option in (
        click.option("--id-column", metavar="NAME", help="Column of the ids, in a .tsv or .csv file."),
        click.option("--column", metavar="NAME", help="Column of the titles, in a .tsv or .csv file."),
        click.option(
            "--file", "path", type=FILE, help="Read titles from this file: one per line, or a .tsv or .csv file's column."
        ),
    ):
        command = option(command)
    return command


@click.group()
def index() -> None:
    """Keep titles with their vectors and ids in a folder, and search it."""


@index.command()
@click.argument("folder", type=FILE, metavar="INDEX")
@click.argument("titles", nargs=-1, metavar="[TITLE]...")
@click.option("--from", "source", type=FILE, metavar="OUTPUT", help="Take titles, vectors and ids from what `jobonnx embed` made.")
@_titles_options
@prompt_options("document")
@encoder_options
def create(
    folder: Path,
    titles: tuple[str, ...],
    source: Path | None,
    path: Path | None,
    column: str | None,
    id_column: str | None,
    model: str | None,
    **options: Any,
) -> None:
    """Make an index of titles: the arguments, a file or stdin, one title per line."""
    from jobonnx.search.index import Index

    if source is not None:
        if titles or path is not None or column or id_column or model:
            raise click.UsageError("--from OUTPUT has titles, ids and vectors; give no titles, file, column or model beside it")
        _create_from(folder, source)
        return
    table = _read(titles, path, column, id_column)
    prompts = take_prompts(options)
    encoder = load(model, **options)
    with Index.create(folder, encoder.fingerprint, encoder.dimension, prompt_for(encoder, "document", prompts)) as made:
        _add(made, table, encoder)


@index.command()
@click.argument("folder", type=FILE, metavar="INDEX")
@click.argument("titles", nargs=-1, metavar="[TITLE]...")
@_titles_options
@prompt_options("document")
@encoder_options
def add(
    folder: Path,
    titles: tuple[str, ...],
    path: Path | None,
    column: str | None,
    id_column: str | None,
    model: str | None,
    **options: Any,
) -> None:
    """Add titles to an INDEX: the arguments, a file or stdin, one title per line.

    A title that is there already gets the ids that it comes with. After a kill, the same command adds what is missing. Titles are
    encoded with the prompt that the index was made with.
    """
    table = _read(titles, path, column, id_column)
    prompts = take_prompts(options)
    opened, encoder = _open(folder, model, options)
    with opened:
        if "document" in prompts and (asked := prompt_for(encoder, "document", prompts)) != opened.prompt:
            raise JobonnxError(
                f"{folder} holds vectors of titles behind the prompt {opened.prompt!r}, not {asked!r}; leave the prompt out, "
                "or make a new index"
            )
        _add(opened, table, encoder)


@index.command()
@click.argument("folder", type=FILE, metavar="INDEX")
@click.argument("values", nargs=-1, metavar="[TITLE]...")
@click.option("--file", "path", type=FILE, help="Read titles from this file: one per line, or a .tsv or .csv file's column.")
@click.option("--column", metavar="NAME", help="Column of the titles, in a .tsv or .csv file.")
@click.option("--by-id", is_flag=True, help="Take ids in place of titles; a title goes with its last id.")
def remove(folder: Path, values: tuple[str, ...], path: Path | None, column: str | None, by_id: bool) -> None:
    """Remove titles from an INDEX: the arguments, a file or stdin, one title per line."""
    from jobonnx.search.index import Index

    unwanted = _read(values, path, column, None).titles
    with Index.open(folder) as opened:
        count = opened.remove(ids=unwanted) if by_id else opened.remove(unwanted)
        click.echo(f"{folder}: {count:,} titles removed, {len(opened):,} left", err=True)


@index.command()
@click.argument("folder", type=FILE, metavar="INDEX")
@click.argument("queries", nargs=-1, required=True, metavar="QUERY...")
@top_k_option
@prompt_options("query")
@encoder_options
@json_option
def search(folder: Path, queries: tuple[str, ...], top_k: int, model: str | None, as_json: bool, **options: Any) -> None:
    """Find the titles of an INDEX that are nearest to each QUERY, with their ids."""
    prompts = take_prompts(options)
    opened, encoder = _open(folder, model, options)
    queries = tuple(map(without_lone_surrogates, queries))
    with opened:
        vectors = encoder.encode(list(queries), prompt=prompt_for(encoder, "query", prompts), normalize_embeddings=True)
        found = opened.search(vectors, top_k, fingerprint=encoder.fingerprint)
    for query, matches in zip(queries, found, strict=True):
        if as_json:
            listed = [{"title": match.title, "score": match.score, "ids": list(match.ids)} for match in matches]
            click.echo(json.dumps({"query": query, "matches": listed}))
            continue
        click.secho(query, bold=True)
        for match in matches:
            click.echo(without_lone_surrogates("  ".join([f"  {match.score:.3f}", match.title, " ".join(match.ids)]).rstrip()))


def _open(folder: Path, model: str | None, options: dict[str, Any]) -> tuple[Index, Encoder]:
    """Open an index, and load the encoder that made its vectors.

    Raises:
        JobonnxError: the encoder is another one.
    """
    from jobonnx.search.index import Index

    opened = Index.open(folder)  # before the encoder, which takes longer to load
    encoder = load(model, **options)
    if encoder.fingerprint != opened.fingerprint:
        raise JobonnxError(
            f"{folder} was made with the encoder {opened.fingerprint}, and {model or 'the small model'} in {encoder.variant} is "
            f"{encoder.fingerprint}; name the bundle and variant that made it with --model and --variant, or make a new index"
        )
    return opened, encoder


def _add(opened: Index, table: Table, encoder: Encoder) -> None:
    """Encode titles and add them, block by block; what the index has already is not encoded again."""
    from jobonnx.progress import bar

    before = len(opened)
    titles, ids = table.titles, table.ids
    if ids is None:
        known = set(opened)
        missing = [place for place, title in enumerate(titles) if title not in known]
    else:
        has = opened.ids
        missing = [place for place, (title, name) in enumerate(zip(titles, ids, strict=True)) if name not in has.get(title, ())]
    with bar(len(missing), "titles") as advance:
        for first in range(0, len(missing), _BLOCK):
            places = missing[first : first + _BLOCK]
            some = [titles[place] for place in places]
            vectors = encoder.encode(some, prompt=opened.prompt, normalize_embeddings=True, show_progress_bar=False)
            some_ids = None if ids is None else [ids[place] for place in places]
            opened.add(some, vectors, fingerprint=encoder.fingerprint, prompt=opened.prompt, ids=some_ids)
            advance(len(places))
    click.echo(f"{opened.path}: {len(opened) - before:,} titles added, {len(opened):,} in all", err=True)


def _create_from(folder: Path, source: Path) -> None:
    """Make an index of a finished output of `jobonnx embed`, part by part."""
    from jobonnx.arrays import unit
    from jobonnx.bulk.output import Output
    from jobonnx.progress import bar
    from jobonnx.search.index import Index

    output = Output.open(source)
    output.check_floats()
    with (
        Index.create(folder, output.fingerprint, output.dimension, output.prompt) as made,
        bar(output.parts, "parts", True) as advance,
    ):
        for ids, titles, vectors in output.read():
            named = [place for place, title in enumerate(titles) if title.strip()]
            some_ids, some = [ids[place] for place in named], [titles[place] for place in named]
            made.add(some, unit(vectors[named]), fingerprint=output.fingerprint, prompt=output.prompt, ids=some_ids)
            advance(1)
        click.echo(f"{folder}: {len(made):,} titles added", err=True)


def _read(titles: Sequence[str], path: Path | None, column: str | None, id_column: str | None) -> Table:
    """Read titles from arguments, a file or stdin, without blank ones."""
    if titles and path is not None:
        raise click.UsageError("give titles as arguments or in a --file, not both")
    if path is None and (column or id_column):
        raise click.UsageError("--column and --id-column name columns of a --file; give one")
    if path is not None:
        table = read_table(path, column, id_column)
    elif titles:
        table = Table([without_lone_surrogates(title) for title in titles])
    elif sys.stdin is None:  # jobonnx index add titles <&-
        raise JobonnxError("stdin is closed; give titles as arguments, in a --file or on stdin")
    else:
        table = Table(split_lines(sys.stdin.buffer.read(), "stdin"))
    kept = [place for place, title in enumerate(table.titles) if title.strip()]
    if blank := len(table.titles) - len(kept):
        click.echo(f"{path or 'the input'}: {blank:,} blank titles left out", err=True)
    if not kept:
        raise JobonnxError(f"{path or 'the input'} holds no titles; give one per line")
    return Table([table.titles[place] for place in kept], None if table.ids is None else [table.ids[place] for place in kept])
