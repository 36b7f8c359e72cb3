"""TREC files: relevance judgements (qrels) and rankings (runs).

- Columns are separated by spaces and tabs in any mixture, as for trec_eval. Lines are read as `jobonnx.evaluation.lines` says.
- A judgement above 0 is relevant, everything else is not. The same judgement again is merged; another one for the same pair is an
  error. So is a document that a run names twice for one query.
- A score may be infinite, as in published runs that end with -inf. NaN has no place in an order and is refused.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jobonnx.errors import JobonnxError
from jobonnx.evaluation.lines import Counts, fault, rows_of_ids, shortened
from jobonnx.files import replaced

RUN_HEADER = "q_id Q0 doc_id rank score tag"
"""The header line that TalentCLEF 2025's submission page asks for. No scoring script reads a run that has it."""

_QRELS_FORM = "query, iteration, document and relevance"
_MOST_DIGITS = 9
"""Digits of a grade: it fits the 32-bit integer of most tools."""

_GRADE = re.compile(r"[+-]?[0-9]+")
_SCORE = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")  # float() also takes Python's 1_0 and other digits
_INFINITE = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)


@dataclass(frozen=True)
class Qrels:
    """Judgements: query id -> document id -> grade; above 0 is relevant."""

    relevance: dict[str, dict[str, int]]
    counts: Counts


@dataclass(frozen=True)
class Run:
    """Rankings: query id -> document id -> score, higher is better. As in trec_eval, the rank column is ignored."""

    scores: dict[str, dict[str, float]]
    counts: Counts


class Ranking(NamedTuple):
    """One query's documents, best first: ids [k] and scores float [k], any unit, not increasing."""

    query_id: str
    document_ids: Sequence[str]
    scores: np.ndarray[Any, np.dtype[np.floating[Any]]]


def read_qrels(path: str | os.PathLike[str]) -> Qrels:
    """Read judgements: `query iteration document relevance` (TREC) or `query document relevance` (BEIR).

    Raises:
        JobonnxError: the file is missing, empty or not UTF-8, has a line of another form, or judges one pair twice and
            differently.
    """
    path, counts = Path(path), Counts()
    relevance: dict[str, dict[str, int]] = {}
    lines = 0
    for number, cells in rows_of_ids(path, (3, 4), _QRELS_FORM, counts):
        query, document, grade = cells[0], cells[-2], _grade(path, number, cells[-1])
        documents = relevance.setdefault(query, {})
        if documents.setdefault(document, grade) != grade:
            grades = f"{grade} here and {documents[document]} further up"
            what = f"document {shortened(document)} is judged {grades} for query {shortened(query)}; keep one line"
            raise fault(path, number, what)
        lines += 1
    if not relevance:
        raise JobonnxError(f"{path} holds no judgements; give it lines of {_QRELS_FORM}")
    counts["repeated_judgements"] = lines - sum(map(len, relevance.values()))
    counts["graded_judgements"] = sum(grade > 1 for documents in relevance.values() for grade in documents.values())
    return Qrels(relevance, +counts)


def read_run(path: str | os.PathLike[str]) -> Run:
    """Read a TREC run, `query Q0 document rank score tag`, with or without TalentCLEF's header line.

    Raises:
        JobonnxError: the file is missing, empty or not UTF-8, has a line of another form, a score that is no number, or a
            document twice for one query.
    """
    path, counts = Path(path), Counts()
    scores: dict[str, dict[str, float]] = {}
    for number, cells in rows_of_ids(path, (6,), RUN_HEADER, counts):
        query, _, document, _, text, _ = cells
        score = _score(path, number, text)
        counts["infinite_scores"] += math.isinf(score)
        documents = scores.setdefault(query, {})
        if document in documents:
            what = f"document {shortened(document)} comes twice for query {shortened(query)}; keep one line"
            raise fault(path, number, what)
        documents[document] = score
    if not scores:
        raise JobonnxError(f"{path} holds no rankings; give it lines of {RUN_HEADER}")
    return Run(scores, +counts)


def write_run(
    path: str | os.PathLike[str],
    rankings: Iterable[Ranking],
    *,
    tag: str = "jobonnx",
    header: bool = False,
    inputs: Iterable[Path] = (),
) -> int:
    """Write a TREC run: one line `query Q0 document rank score tag` per document, ranks from 1.

    The file appears complete or not at all. Scores have the digits it takes to read the same float32 back.

    Args:
        path: the run; what is there is replaced.
        rankings: one per query; taken one by one, so a generator keeps memory bounded.
        tag: the run's name, without white space.
        header: whether TalentCLEF 2025's header line comes first; TREC's own format has none.
        inputs: the files that the run is made from; `path` may not be one of them.

    Returns:
        The number of lines written, without the header.

    Raises:
        JobonnxError: the tag or an id cannot stand in a run: it is empty, or has white space or half of a surrogate pair in it.
            Or the file cannot be written, which is known before the first ranking is taken where it is a folder or an input.
    """
    _one_word(tag, "tag")
    lines = 0
    with replaced(Path(path), inputs) as file:
        if header:
            file.write(f"{RUN_HEADER}\n".encode())
        for query, documents, scores in rankings:
            _one_word(query, "query id")
            for rank, (document, score) in enumerate(zip(documents, scores, strict=True), start=1):
                file.write(f"{query} Q0 {_one_word(document, 'document id')} {rank} {score!s} {tag}\n".encode())
            lines += len(documents)
    return lines


def _grade(path: Path, line: int, text: str) -> int:
    if not _GRADE.fullmatch(text):
        raise fault(path, line, f"relevance {shortened(text)} is no whole number; write 1 for relevant and 0 for not")
    if len(text.lstrip("+-")) > _MOST_DIGITS:
        raise fault(path, line, f"relevance {shortened(text)} has more than {_MOST_DIGITS} digits; write a smaller grade")
    return int(text)


def _score(path: Path, line: int, text: str) -> float:
    infinite = _INFINITE.fullmatch(text)
    score = float(text) if infinite or _SCORE.fullmatch(text) else math.nan
    if math.isnan(score):
        raise fault(path, line, f"score {shortened(text)} is no number; write one like 0.6910, inf or -inf")
    if math.isinf(score) and not infinite:
        raise fault(path, line, f"score {shortened(text)} is beyond the largest finite number; write a smaller one, inf or -inf")
    return score


def _one_word(value: str, what: str) -> str:
    if value.split() != [value]:
        raise JobonnxError(f"{what} {value!r} is empty or has white space in it, which no TREC run can hold; rename it")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise JobonnxError(f"{what} {value!r} is not UTF-8, which a run has to be; rename it") from None
    return value
