"""Retrieval sets and TREC runs on disk: queries, corpus, relevance judgements, rankings.

Read here: TalentCLEF 2025 Task A folders, Avature job-title-similarity folders, BEIR folders, three loose files (which
is how a cross-lingual set is given), TREC qrels and TREC runs. All of them follow the same rules, and whatever a rule
changed is counted in a `Counts` that travels with the data:

- Files are UTF-8. A byte-order mark, Windows line ends and blank lines are dropped. Any other encoding is an error.
- Cells are separated by tabs and taken as they stand: quotes are part of a title. A line of qrels or of a run without a
  tab is split at white space, as trec_eval does. Space around an id is dropped.
- A first line whose first cell is a column name (`q_id`, `c_id`, `query-id`, ...) is a header, and so is one of titles whose
  second cell is `jobtitle`, `title` or `text`.
- The same id with the same title again is merged; with another title it is an error. The same holds for judgements. A
  document that a run names twice for one query is an error.
- A judgement above 0 is relevant, everything else is not (sentence-transformers' evaluator and trec_eval's `map` know
  no grades).
- Judgements of unknown queries are dropped. Judgements of unknown documents stay: no ranking can reach those documents,
  and they count against recall, as they do in both evaluators.
- Queries without a relevant document stay in the set and are left out of the averages.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jobonnx.errors import JobonnxError

RUN_HEADER = "q_id Q0 doc_id rank score tag"
"""The header line that TalentCLEF 2025 asks for (and 2026 forbids)."""

_ID_COLUMNS = frozenset(
    {"id", "_id", "qid", "q_id", "query_id", "query-id", "query", "cid", "c_id", "corpus_id", "corpus-id"}
    | {"did", "docid", "doc_id", "document_id"}
)
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")  # float() also takes Python's 1_0 and other digits
_TITLE_COLUMNS = frozenset({"jobtitle", "title", "text"})


def _count(meaning: str) -> int:
    count: int = field(default=0, metadata={"meaning": meaning})
    return count


@dataclass(frozen=True)
class Counts:
    """How often each rule for imperfect input was applied; all zero for clean files without headers."""

    byte_order_marks: int = _count("byte-order marks dropped")
    windows_line_ends: int = _count("files with Windows line ends, dropped")
    blank_lines: int = _count("blank lines skipped")
    headers: int = _count("first lines taken for headers")
    repeated_titles: int = _count("repeated lines of one id and title, merged")
    empty_titles: int = _count("empty titles, kept")
    repeated_judgements: int = _count("repeated judgements, merged")
    unknown_queries: int = _count("judgements of unknown queries, dropped")
    unknown_documents: int = _count("judgements of unknown documents, kept: relevant ones count against recall")
    queries_without_relevant: int = _count("queries without a relevant document, left out of the averages")
    unjudged_run_queries: int = _count("queries of the run without a relevant document in the qrels, left out")
    queries_missing_from_run: int = _count("judged queries missing from the run, scored 0")

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def as_dict(self) -> dict[str, int]:
        """The counts that are not zero, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name)}

    def phrases(self) -> list[str]:
        """One phrase for each count that is not zero, for people."""
        return [f"{f.metadata['meaning']}: {getattr(self, f.name):,}" for f in fields(self) if getattr(self, f.name)]


@dataclass(frozen=True)
class Titles:
    """Titles by id, in the order of the file."""

    texts: dict[str, str]
    counts: Counts


@dataclass(frozen=True)
class Qrels:
    """Judgements: query id -> document id -> relevance; above 0 is relevant."""

    relevance: dict[str, dict[str, int]]
    counts: Counts


@dataclass(frozen=True)
class Run:
    """Rankings: query id -> document id -> score, higher is better. As in trec_eval, the rank column is ignored."""

    scores: dict[str, dict[str, float]]
    counts: Counts


@dataclass(frozen=True)
class Dataset:
    """One retrieval set.

    Attributes:
        name: The label of its column in tables.
        queries: Title by query id, in the order of the file; some may lack a relevant document.
        corpus: Title by document id, in the order of the file.
        qrels: Query id -> document id -> relevance. Every query is in `queries`; a document may be missing from
            `corpus`.
        counts: What the rules for imperfect input changed.
    """

    name: str
    queries: dict[str, str]
    corpus: dict[str, str]
    qrels: dict[str, dict[str, int]]
    counts: Counts


class Ranking(NamedTuple):
    """One query's documents, best first: ids [k] and scores float [k], any unit, not increasing."""

    query_id: str
    document_ids: Sequence[str]
    scores: NDArray[np.floating[Any]]


@dataclass(frozen=True)
class _Layout:
    """Which file of a folder is what: for each role the names it goes by."""

    name: str
    queries: tuple[str, ...]
    corpus: tuple[str, ...]
    qrels: tuple[str, ...]


_LAYOUTS = (
    _Layout(
        "TalentCLEF",
        queries=("queries", "queries.tsv"),
        corpus=("corpus_elements", "corpus_element", "corpus_elements.tsv", "corpus_element.tsv"),
        qrels=("qrels.tsv", "qrels"),
    ),
    _Layout("Avature", queries=("queries.tsv",), corpus=("corpus_documents.tsv",), qrels=("annotations.tsv",)),
    _Layout("BEIR", queries=("queries.jsonl",), corpus=("corpus.jsonl",), qrels=("qrels/test.tsv",)),
)


def read_folder(folder: str | os.PathLike[str], name: str | None = None) -> Dataset:
    """Reads a TalentCLEF, Avature or BEIR folder; the corpus file tells which it is.

    Args:
        folder: The folder that holds the files themselves, `validation/english` say.
        name: The set's label; the folder's name by default.

    Raises:
        JobonnxError: No known layout, a file of the layout is missing or there under two names, or a file breaks a rule of this
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
            raise JobonnxError(f"{corpus} has no {' or '.join(missing)} beside it; a {layout.name} set needs both.")
        return read_files(queries, corpus, qrels, name or folder.resolve().name)
    known = ", ".join(f"{' or '.join(layout.corpus)} ({layout.name})" for layout in _LAYOUTS)
    raise JobonnxError(f"{folder} is no folder with one of {known}; name the folder that holds the corpus file itself.")


def read_files(
    queries: str | os.PathLike[str],
    corpus: str | os.PathLike[str],
    qrels: str | os.PathLike[str],
    name: str | None = None,
) -> Dataset:
    """Reads a set from three files, which need not come from one folder: queries in one language, corpus in another.

    Args:
        queries: Tab-separated id and title, or BEIR's `.jsonl`.
        corpus: Likewise.
        qrels: `query iteration document relevance` (TREC) or `query document relevance` (BEIR).
        name: The set's label; by default the folders of the queries and of the corpus, as in `english-spanish`.

    Raises:
        JobonnxError: A file breaks a rule of this module, or no query has a relevant document in the corpus.
    """
    asked, titles, judged = read_titles(queries), read_titles(corpus), read_qrels(qrels)
    known = {query: documents for query, documents in judged.relevance.items() if query in asked.texts}
    relevant = relevant_documents(known)
    if not any(document in titles.texts for documents in relevant.values() for document in documents):
        raise JobonnxError(
            f"{qrels} judges no document of {corpus} relevant to a query of {queries}; check that the three files belong together."
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
    """Reads titles by id: two tab-separated columns, or BEIR's `.jsonl`, where a `title` goes before the `text`.

    Raises:
        JobonnxError: The file is missing, empty or not UTF-8, has a line of another form, or gives one id two titles.
    """
    path, tally = Path(path), Counter[str]()
    rows = _json_titles(path, tally) if path.suffix == ".jsonl" else _tabbed_titles(path, tally)
    texts: dict[str, str] = {}
    for number, identifier, text in rows:
        if not identifier:
            raise _fault(path, number, "the id is empty; give the title an id or remove the line")
        if identifier not in texts:
            texts[identifier] = text
            tally["empty_titles"] += not text
        elif texts[identifier] == text:
            tally["repeated_titles"] += 1
        else:
            was = f"{texts[identifier]!r} further up"
            raise _fault(path, number, f"id {identifier!r} is {text!r} here and {was}; give each title its own id")
    if not texts:
        raise JobonnxError(f"{path} holds no titles; it needs at least one line with an id and a title.")
    return Titles(texts, Counts(**tally))


def read_qrels(path: str | os.PathLike[str]) -> Qrels:
    """Reads judgements: `query iteration document relevance` (TREC) or `query document relevance` (BEIR).

    Raises:
        JobonnxError: The file is missing, empty or not UTF-8, has a line of another form, or judges one pair twice and
            differently.
    """
    path, tally = Path(path), Counter[str]()
    relevance: dict[str, dict[str, int]] = {}
    lines = 0
    for number, cells in _rows(path, tally, split_at_spaces=True):
        if len(cells) not in (3, 4):
            due = "query, iteration, document and relevance"
            raise _fault(path, number, f"{len(cells)} columns in {_shortened(cells)} where {due} are due")
        query, document, grade = cells[0], cells[-2], cells[-1]
        if not re.fullmatch(r"[+-]?[0-9]+", grade):
            raise _fault(path, number, f"relevance {grade!r} is no whole number; write 1 for relevant and 0 for not")
        documents = relevance.setdefault(query, {})
        if documents.setdefault(document, int(grade)) != int(grade):
            grades = f"{grade} here and {documents[document]} further up"
            raise _fault(path, number, f"document {document!r} is judged {grades} for query {query!r}; keep one line")
        lines += 1
    if not relevance:
        raise JobonnxError(f"{path} holds no judgements; it needs lines of query, iteration, document and relevance.")
    tally["repeated_judgements"] = lines - sum(map(len, relevance.values()))
    return Qrels(relevance, Counts(**tally))


def read_run(path: str | os.PathLike[str]) -> Run:
    """Reads a TREC run, `query Q0 document rank score tag`, with or without TalentCLEF's header line.

    Raises:
        JobonnxError: The file is missing, empty or not UTF-8, has a line of another form, a score that is no finite
            number, or a document twice for one query.
    """
    path, tally = Path(path), Counter[str]()
    scores: dict[str, dict[str, float]] = {}
    for number, cells in _rows(path, tally, split_at_spaces=True):
        if len(cells) != 6:
            raise _fault(path, number, f"{len(cells)} columns in {_shortened(cells)} where {RUN_HEADER} are due")
        query, _, document, _, text, _ = cells
        score = float(text) if _NUMBER.fullmatch(text) else float("nan")
        if not np.isfinite(score):
            raise _fault(path, number, f"score {text!r} is no finite number; write one like 0.6910")
        documents = scores.setdefault(query, {})
        if document in documents:
            raise _fault(path, number, f"document {document!r} comes twice for query {query!r}; keep one line")
        documents[document] = score
    if not scores:
        raise JobonnxError(f"{path} holds no rankings; it needs lines of {RUN_HEADER}.")
    return Run(scores, Counts(**tally))


@contextmanager
def replaced(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` when it is complete, and vanishes otherwise.

    A symbolic link stays and what it points to is replaced. Nothing can take the place of what is no regular file (a FIFO,
    /dev/stdout), so that is written to as it stands.

    Raises:
        JobonnxError: `path` is a folder, which is known on entry, or cannot be written.
    """
    if path.is_dir():
        raise JobonnxError(f"{path} could not be written (it is a folder); name a file.")
    try:
        if path.exists() and not path.is_file():
            with open(path, "wb") as file:
                yield file
            return
        target = Path(os.path.realpath(path))
        beside = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            with open(beside, "wb") as file:
                yield file
            os.replace(beside, target)
        finally:
            with suppress(OSError):
                beside.unlink()
    except OSError as error:
        raise JobonnxError(f"{path} could not be written ({error.strerror or error}).") from None


def write_run(path: str | os.PathLike[str], rankings: Iterable[Ranking], *, tag: str = "jobonnx", header: bool = False) -> int:
    """Writes a TREC run, one `query Q0 document rank score tag` line a document, ranks from 1.

    The file appears whole or not at all, as `replaced` says. Scores have the digits it takes to read the same float32 back.

    Args:
        path: The run; what is there is replaced.
        rankings: One a query; taken one by one, so a generator keeps memory bounded.
        tag: The run's name, without white space.
        header: Whether TalentCLEF 2025's header line comes first; TREC's own format has none.

    Returns:
        The number of lines written, without the header.

    Raises:
        JobonnxError: The tag or an id is empty or has white space in it, which the format cannot hold; or the file
            cannot be written, a folder before the first ranking is taken.
    """
    _one_word(tag, "tag")
    lines = 0
    with replaced(Path(path)) as file:
        if header:
            file.write(f"{RUN_HEADER}\n".encode())
        for query, documents, scores in rankings:
            _one_word(query, "query id")
            for rank, (document, score) in enumerate(zip(documents, scores, strict=True), start=1):
                file.write(f"{query} Q0 {_one_word(document, 'document id')} {rank} {score!s} {tag}\n".encode())
            lines += len(documents)
    return lines


def relevant_documents(qrels: Mapping[str, Mapping[str, int]]) -> dict[str, set[str]]:
    """Query id -> ids judged above 0, for the queries that have any: what both evaluators average over."""
    found = {query: {document for document, rel in documents.items() if rel > 0} for query, documents in qrels.items()}
    return {query: documents for query, documents in found.items() if documents}


def _only_file(folder: Path, names: tuple[str, ...]) -> Path | None:
    found = [name for name in names if (folder / name).is_file()]
    if len(found) > 1:
        raise JobonnxError(f"{folder} has both {found[0]} and {found[1]}, of which a set has one; remove or rename the other.")
    return folder / found[0] if found else None


def _one_word(value: str, what: str) -> str:
    if value.split() != [value]:
        raise JobonnxError(f"{what} {value!r} is empty or has white space in it, which no TREC run can hold; rename it.")
    return value


def _fault(path: Path, line: int, what: str) -> JobonnxError:
    return JobonnxError(f"{path}, line {line}: {what}.")


def _lines(path: Path, tally: Counter[str]) -> Iterator[tuple[int, str]]:
    """Line numbers from 1 and the lines that are not blank."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise JobonnxError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        number = raw.count(b"\n", 0, error.start) + 1
        raise _fault(path, number, f"byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8") from error
    if text.startswith("\ufeff"):
        tally["byte_order_marks"] += 1
        text = text[1:]
    tally["windows_line_ends"] += "\r\n" in text
    # Not splitlines(): a title may hold U+2028 or U+0085, which end no line here.
    lines = text.removesuffix("\n").split("\n")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, line.removesuffix("\r")
        else:
            tally["blank_lines"] += 1


def _rows(path: Path, tally: Counter[str], *, split_at_spaces: bool) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and cells without the header; where a line may be split at white space, cells are stripped."""
    first = True
    for number, line in _lines(path, tally):
        cells = line.split("\t") if "\t" in line or not split_at_spaces else line.split()
        if split_at_spaces:
            cells = [cell.strip() for cell in cells]
        if first and _is_header(cells, of_titles=not split_at_spaces):
            tally["headers"] += 1
        elif split_at_spaces and not all(cells):
            raise _fault(path, number, f"an empty cell in {_shortened(line)}; fill it or remove the line")
        else:
            yield number, cells
        first = False


def _is_header(cells: list[str], *, of_titles: bool) -> bool:
    names = [cell.strip().lower() for cell in cells[:2]]
    return len(names) == 2 and (names[0] in _ID_COLUMNS or (of_titles and names[1] in _TITLE_COLUMNS))


def _tabbed_titles(path: Path, tally: Counter[str]) -> Iterator[tuple[int, str, str]]:
    for number, cells in _rows(path, tally, split_at_spaces=False):
        if len(cells) != 2:
            line = "\t".join(cells)
            columns = f"{len(cells)} column{'s' * (len(cells) != 1)}"
            raise _fault(path, number, f"{columns} in {_shortened(line)} where an id, a tab and a title are due")
        yield number, cells[0].strip(), cells[1]


def _json_titles(path: Path, tally: Counter[str]) -> Iterator[tuple[int, str, str]]:
    for number, line in _lines(path, tally):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            entry = None
        if not (isinstance(entry, dict) and isinstance(entry.get("_id"), str) and isinstance(entry.get("text"), str)):
            raise _fault(path, number, f'{_shortened(line)} is no JSON object with the strings "_id" and "text"')
        # Title, space, text: how BEIR and sentence-transformers' examples build a document.
        yield number, entry["_id"].strip(), f"{entry.get('title') or ''} {entry['text']}".strip()


def _shortened(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
