"""Retrieval sets on disk: queries, corpus and relevance judgements.

Read here: TalentCLEF 2025 Task A folders and their sample, Avature's job-title-similarity and MELO folders, BEIR folders, and three
loose files, which is how a cross-lingual set is given. Whatever a rule for imperfect input changed is counted in a `Counts` that
travels with the data:

- Titles stand behind an id and a tab and are taken as they are: quotes are part of a title. Space around an id is dropped.
- The same id with the same title again is merged; with another title it is an error.
- Judgements of unknown queries are dropped. Judgements of unknown documents stay: no ranking can reach those documents, and they
  count against recall, as they do in trec_eval and in sentence-transformers' evaluator.
- Queries without a relevant document stay in the set and are left out of the averages.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

from jobonnx.errors import JobonnxError
from jobonnx.evaluation.lines import Counts, fault, numbered_lines, rows_of_titles, shortened
from jobonnx.evaluation.trec import read_qrels
from jobonnx.strict_json import parse_json


@dataclass(frozen=True)
class Titles:
    """Titles by id, in the order of the file."""

    texts: dict[str, str]
    counts: Counts


@dataclass(frozen=True)
class Dataset:
    """One retrieval set.

    Attributes:
        name: the label of its column in tables.
        queries: title by query id, in the order of the file; some may lack a relevant document.
        corpus: title by document id, in the order of the file.
        qrels: query id -> document id -> grade, above 0 is relevant. Every query is in `queries`; a document may be missing from
            `corpus`.
        counts: what the rules for imperfect input changed.
    """

    name: str
    queries: dict[str, str]
    corpus: dict[str, str]
    qrels: dict[str, dict[str, int]]
    counts: Counts


@dataclass(frozen=True)
class _Layout:
    """Which file of a folder is what: for each role the names it goes by."""

    name: str
    queries: tuple[str, ...]
    corpus: tuple[str, ...]
    qrels: tuple[str, ...]


_LAYOUTS = (
    _Layout(
        "TalentCLEF, Avature or MELO",
        queries=("queries", "queries.tsv"),
        corpus=("corpus_elements", "corpus_element", "corpus_elements.tsv", "corpus_element.tsv", "corpus_documents.tsv"),
        qrels=("qrels.tsv", "qrels", "q_rels.tsv", "q_rels", "annotations.tsv"),
    ),
    _Layout("BEIR", queries=("queries.jsonl",), corpus=("corpus.jsonl",), qrels=("qrels/test.tsv",)),
)
_THREE_FILES = f"pass the three files themselves, as QUERIES{os.pathsep}CORPUS{os.pathsep}QRELS"


class _BeirEntry(TypedDict):
    _id: str
    text: str
    title: NotRequired[str]


def read_folder(folder: str | os.PathLike[str], name: str | None = None) -> Dataset:
    """Read a TalentCLEF, Avature, MELO or BEIR folder; the names of its files tell which it is.

    Args:
        folder: the folder that holds the files themselves, `validation/english` for instance.
        name: the set's label; the folder's name by default.

    Raises:
        JobonnxError: no known layout, a file of the layout is missing or there under two names, or a file breaks a rule of this
            module.
    """
    folder = Path(folder)
    for layout in _LAYOUTS:
        corpus = _only_file(folder, layout.corpus)
        if corpus is None:
            continue
        queries, qrels = _only_file(folder, layout.queries), _only_file(folder, layout.qrels)
        if queries is None or qrels is None:
            missing = layout.queries if queries is None else layout.qrels
            raise JobonnxError(f"{corpus} has no {' or '.join(missing)} beside it ({layout.name}); add it, or {_THREE_FILES}")
        return read_files(queries, corpus, qrels, name or folder.resolve().name)
    known = "; ".join(
        f"{layout.name}: {' or '.join(layout.queries)}, {' or '.join(layout.corpus)}, {' or '.join(layout.qrels)}"
        for layout in _LAYOUTS
    )
    raise JobonnxError(f"{_shown(folder)} holds no known set ({known}); name the folder of the corpus file, or {_THREE_FILES}")


def read_files(
    queries: str | os.PathLike[str],
    corpus: str | os.PathLike[str],
    qrels: str | os.PathLike[str],
    name: str | None = None,
) -> Dataset:
    """Read a set from three files, which need not come from one folder: queries in one language, corpus in another.

    Args:
        queries: id, tab and title per line, or BEIR's `.jsonl`.
        corpus: likewise.
        qrels: `query iteration document relevance` (TREC) or `query document relevance` (BEIR).
        name: the set's label; by default the folders of the queries and of the corpus, as in `english-spanish`.

    Raises:
        JobonnxError: a file breaks a rule of this module, or no query has a relevant document in the corpus.
    """
    asked, titles, judged = read_titles(queries), read_titles(corpus), read_qrels(qrels)
    known = {query: documents for query, documents in judged.relevance.items() if query in asked.texts}
    relevant = relevant_documents(known)
    if not any(document in titles.texts for documents in relevant.values() for document in documents):
        raise JobonnxError(
            f"{qrels} judges no document of {corpus} relevant to a query of {queries}; check that the three files belong together"
        )
    found = Counts(
        unknown_queries=sum(len(documents) for query, documents in judged.relevance.items() if query not in known),
        unknown_documents=sum(document not in titles.texts for documents in known.values() for document in documents),
        queries_without_relevant=len(asked.texts) - len(relevant),
    )
    folders = Path(queries).resolve().parent.name, Path(corpus).resolve().parent.name
    return Dataset(
        name=name or "-".join(folders),
        queries=asked.texts,
        corpus=titles.texts,
        qrels=known,
        counts=asked.counts + titles.counts + judged.counts + found,
    )


def read_titles(path: str | os.PathLike[str]) -> Titles:
    """Read titles by id: two tab-separated columns, or BEIR's `.jsonl`, where a `title` goes before the `text`.

    Raises:
        JobonnxError: the file is missing, empty or not UTF-8, has a line of another form, or gives one id two titles.
    """
    path, counts = Path(path), Counts()
    rows = _json_titles(path, counts) if path.suffix == ".jsonl" else _tabbed_titles(path, counts)
    texts: dict[str, str] = {}
    for number, identifier, text in rows:
        if not identifier:
            raise fault(path, number, "the id is empty; give the title an id or remove the line")
        if identifier not in texts:
            texts[identifier] = text
            counts["empty_titles"] += not text
        elif texts[identifier] == text:
            counts["repeated_titles"] += 1
        else:
            was = f"{shortened(text)} here and {shortened(texts[identifier])} further up"
            raise fault(path, number, f"id {shortened(identifier)} is {was}; give each title an id of its own")
    if not texts:
        raise JobonnxError(f"{path} holds no titles; give it at least one line with an id and a title")
    return Titles(texts, +counts)


def relevant_documents(qrels: Mapping[str, Mapping[str, int]]) -> dict[str, set[str]]:
    """Keep the ids judged above 0, for the queries that have any: what all evaluators average over."""
    found = {query: {document for document, grade in documents.items() if grade > 0} for query, documents in qrels.items()}
    return {query: documents for query, documents in found.items() if documents}


def _only_file(folder: Path, names: tuple[str, ...]) -> Path | None:
    try:
        found = [name for name in names if (folder / name).is_file()]
    except ValueError:  # a NUL in the path
        found = []
    if len(found) > 1:
        raise JobonnxError(f"{folder} has both {found[0]} and {found[1]}, of which a set has one; remove or rename the other")
    return folder / found[0] if found else None


def _shown(path: Path) -> str:
    return repr(str(path)) if "\0" in str(path) else str(path)


def _tabbed_titles(path: Path, counts: Counts) -> Iterator[tuple[int, str, str]]:
    for number, cells in rows_of_titles(path, counts):
        if len(cells) != 2:
            columns = f"{len(cells)} column{'s' * (len(cells) != 1)}"
            line = shortened("\t".join(cells))
            raise fault(path, number, f"{columns} in {line} where an id, a tab and a title are due")
        yield number, cells[0].strip(), cells[1]


def _json_titles(path: Path, counts: Counts) -> Iterator[tuple[int, str, str]]:
    for number, line in numbered_lines(path, counts):
        entry = parse_json(line, _BeirEntry, f"{path}, line {number}", 'give it one object with the strings "_id" and "text"')
        # Title, space, text: how BEIR and sentence-transformers' examples build a document.
        yield number, entry["_id"].strip(), f"{entry.get('title', '')} {entry['text']}".strip()
