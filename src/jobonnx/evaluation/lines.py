"""Text files of evaluation sets, line by line, and what was repaired in them.

- Files are UTF-8. A byte-order mark, Windows line ends and blank lines are dropped. Any other encoding is an error.
- A first line whose first cell is a column name (`q_id`, `c_id`, `query-id`, ...) is a header. So is one of titles whose second
  cell is `jobtitle`, `title` or `text`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from jobonnx.errors import JobonnxError
from jobonnx.files import read_content, split_lines

Counts = Counter[str]
"""How often each rule for imperfect input was applied: a key of `NOTES` -> times."""

NOTES = {
    "byte_order_marks": "byte-order marks dropped",
    "windows_line_ends": "files with Windows line ends, dropped",
    "blank_lines": "blank lines skipped",
    "headers": "first lines taken for headers",
    "repeated_titles": "repeated lines of one id and title, merged",
    "empty_titles": "empty titles, kept",
    "repeated_judgements": "repeated judgements, merged",
    "unknown_queries": "judgements of unknown queries, dropped",
    "unknown_documents": "judgements of unknown documents, kept: relevant ones count against recall",
    "queries_without_relevant": "queries without a relevant document, left out of the averages",
    "unjudged_run_queries": "queries of the run without a relevant document in the qrels, left out",
    "queries_missing_from_run": "judged queries missing from the run, scored 0",
    "graded_judgements": "judgements above 1, which weigh more in nDCG alone (as 1 with --ties sentence-transformers)",
    "infinite_scores": "infinite scores, ranked first or last",
}
"""What each count means, for people."""

_ID_COLUMNS = frozenset(
    {"id", "_id", "qid", "q_id", "query_id", "query-id", "query", "cid", "c_id", "corpus_id", "corpus-id"}
    | {"did", "docid", "doc_id", "document_id"}
)
_TITLE_COLUMNS = frozenset({"jobtitle", "title", "text"})

_WHITE_SPACE = " \t\r\v\f"
"""C's isspace, less the line end."""

_SEPARATORS = re.compile(f"[{_WHITE_SPACE}]+")


def phrases(counts: Counts) -> list[str]:
    """Describe each count that is not zero, for people, in the order of `NOTES`."""
    return [f"{meaning}: {counts[name]:,}" for name, meaning in NOTES.items() if counts[name]]


def numbered_lines(path: Path, counts: Counts) -> Iterator[tuple[int, str]]:
    """Read a file's lines that are not blank, with their numbers from 1.

    Args:
        path: the file.
        counts: is added to.

    Raises:
        JobonnxError: the file cannot be read, or is not UTF-8.
    """
    content = read_content(path, "; name another file")
    counts["byte_order_marks"] += content.startswith(b"\xef\xbb\xbf")
    counts["windows_line_ends"] += b"\r\n" in content
    for number, line in enumerate(split_lines(content, str(path)), start=1):
        if line.strip():
            yield number, line
        else:
            counts["blank_lines"] += 1


def rows_of_titles(path: Path, counts: Counts) -> Iterator[tuple[int, list[str]]]:
    """Read the cells of a file of titles, split at tabs, without its header; arguments as `numbered_lines`."""
    return _without_header(((number, line.split("\t")) for number, line in numbered_lines(path, counts)), counts, of_titles=True)


def rows_of_ids(path: Path, columns: Collection[int], form: str, counts: Counts) -> Iterator[tuple[int, list[str]]]:
    """Read the cells of qrels or a run without its header.

    Lines are split at spaces and tabs in any mixture, as trec_eval does. White space beyond ASCII is part of an id: Avature's
    Japanese ids are titles, and hold the ideographic space.

    Args:
        path: the file.
        columns: the numbers of columns that are allowed; all lines have to have one number of them.
        form: the columns by name, for errors.
        counts: is added to.

    Raises:
        JobonnxError: the file cannot be read, a line has another number of columns, or a cell between tabs is empty.
    """
    due = 0
    cells = ((number, _cells(path, number, line)) for number, line in numbered_lines(path, counts))
    for number, row in _without_header(cells, counts, of_titles=False):
        if len(row) not in columns:
            raise fault(path, number, f"{len(row)} columns in {shortened(row)} where {form} are due")
        due = due or len(row)
        if len(row) != due:
            raise fault(path, number, f"{len(row)} columns in {shortened(row)}, and {due} in the lines before; give all one form")
        yield number, row


def fault(path: Path, line: int, what: str) -> JobonnxError:
    """Make the error about one line of a file."""
    return JobonnxError(f"{path}, line {line}: {what}")


def shortened(value: object) -> str:
    """Show a value in at most 80 characters, as Python writes it."""
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def _cells(path: Path, number: int, line: str) -> list[str]:
    cells = _SEPARATORS.split(line.strip(_WHITE_SPACE))
    if len(cells) == 3 and line.count("\t") == 3:  # `1 <tab> 0 <tab> <tab> 1` would be a judgement of document 0
        raise fault(path, number, f"an empty cell in {shortened(line)}; fill it or remove the line")
    return cells


def _without_header(rows: Iterable[tuple[int, list[str]]], counts: Counts, *, of_titles: bool) -> Iterator[tuple[int, list[str]]]:
    first = True
    for number, cells in rows:
        if first and _is_header(cells, of_titles=of_titles):
            counts["headers"] += 1
        else:
            yield number, cells
        first = False


def _is_header(cells: list[str], *, of_titles: bool) -> bool:
    names = [cell.strip().lower() for cell in cells[:2]]
    return len(names) == 2 and (names[0] in _ID_COLUMNS or (of_titles and names[1] in _TITLE_COLUMNS))
