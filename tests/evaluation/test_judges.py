"""Runs with ties, grades and infinite scores, and malformed files, as trec_eval (through pytrec_eval) and ranx judge them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.retrieval import NAMES
from jobonnx.errors import JobonnxError
from jobonnx.evaluation.evaluate import evaluate_run
from jobonnx.evaluation.lines import Counts
from jobonnx.evaluation.trec import Qrels, Run, read_qrels, read_run

# ranx hashes ids to 64 bits and casts them.
pytestmark = [pytest.mark.medium, pytest.mark.filterwarnings("ignore:unsafe cast")]

CUTOFFS = (1, 5, 10, 20, 100, 500)
Scores = dict[str, dict[str, float]]
Grades = dict[str, dict[str, int]]


@pytest.fixture(scope="module")
def pytrec_eval() -> Any:
    return pytest.importorskip("pytrec_eval", reason="pytrec_eval is not installed: pip install pytrec_eval-terrier")


@pytest.fixture(scope="module")
def ranx() -> Any:
    return pytest.importorskip("ranx", reason="ranx is not installed: pip install ranx")


def judged_run(seed: int, *, most_grade: int = 1, levels: int = 6, infinite: bool = True) -> tuple[Scores, Grades]:
    """Make a run full of ties in an order of lines of its own, and judgements of documents that were ranked and that were not.

    Args:
        seed: of the random numbers.
        most_grade: the largest grade.
        levels: how many scores there are.
        infinite: whether some of them are infinite.
    """
    rng = np.random.default_rng(seed)
    documents = [f"d{i}" for i in range(int(rng.integers(20, 700)))] + ["É", "職", "a-B", "A_b", "10", "9"]
    values = [*rng.normal(size=levels).tolist(), *([-np.inf, np.inf] if infinite else [])]
    scores: Scores = {}
    grades: Grades = {}
    for query in (f"q{i}" for i in range(int(rng.integers(1, 25)))):
        ranked = rng.permutation(documents)[: rng.integers(1, len(documents) + 1)].tolist()
        scores[query] = dict(zip(ranked, rng.choice(values, len(ranked)).tolist(), strict=True))
        judged = rng.permutation(documents)[: rng.integers(1, 60)].tolist()
        grades[query] = {d: int(grade) for d, grade in zip(judged, rng.integers(-1, most_grade + 1, len(judged)), strict=True)}
        grades[query] |= {"nowhere": 1}
    return scores, grades


def by_trec_eval(pytrec_eval: Any, scores: Scores, grades: Grades) -> dict[str, float]:
    """Score as `trec_eval -c`, under our names."""
    cut = ",".join(map(str, CUTOFFS))
    measures = {f"{m}.{cut}" for m in ("success", "P", "recall", "ndcg_cut")} | {"map", "recip_rank", "ndcg"}
    found = pytrec_eval.RelevanceEvaluator(grades, measures).evaluate(scores)
    names = {"success": "accuracy", "P": "precision", "recall": "recall", "ndcg_cut": "ndcg"}
    ours = {f"{theirs}_{k}": f"{name}@{k}" for theirs, name in names.items() for k in CUTOFFS}
    ours |= {name: name for name in ("map", "recip_rank", "ndcg")}
    return {name: float(np.mean([values[theirs] for values in found.values()])) for theirs, name in ours.items()}


@pytest.mark.parametrize("most_grade", [1, 5])
@pytest.mark.parametrize("seed", range(12))
def test_tied_and_graded_runs_score_as_by_trec_eval(pytrec_eval: Any, seed: int, most_grade: int) -> None:
    scores, grades = judged_run(seed, most_grade=most_grade)
    expected = by_trec_eval(pytrec_eval, scores, grades)
    evaluation = evaluate_run(Run(scores, Counts()), Qrels(grades, Counts()), cutoffs=CUTOFFS)
    assert {name: evaluation.means[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert any(evaluation.ties.values())
    for name, value in expected.items():
        low, high = evaluation.bounds[name]
        assert low - 1e-12 <= value <= high + 1e-12


def test_scores_that_differ_beyond_float32_tie_as_by_trec_eval(pytrec_eval: Any) -> None:
    rng = np.random.default_rng(1)
    scores = {"q": {f"d{i}": 0.5 + float(rng.integers(0, 99)) * 1e-10 for i in range(200)} | {"x": 1e300, "y": 1e301, "z": 1e-300}}
    grades = {"q": {f"d{i}": int(rng.integers(0, 4)) for i in range(200)} | {"x": 1, "y": 0, "z": 3}}
    means = evaluate_run(Run(scores, Counts()), Qrels(grades, Counts()), cutoffs=CUTOFFS).means
    expected = by_trec_eval(pytrec_eval, scores, grades)
    assert {name: means[name] for name in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("most_grade", [1, 5])
@pytest.mark.parametrize("seed", range(6))
def test_tied_and_graded_runs_score_as_by_ranx(ranx: Any, seed: int, most_grade: int) -> None:
    scores, grades = judged_run(seed, most_grade=most_grade)
    # ranx has no negative grades: it takes them for gains.
    grades = {query: {d: max(grade, 0) for d, grade in judged.items()} for query, judged in grades.items()}
    expected = by_ranx(ranx, scores, grades)
    evaluation = evaluate_run(Run(scores, Counts()), Qrels(grades, Counts()), ties="ranx", cutoffs=(5, 10, 100))
    assert {name: evaluation.means[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    trec = evaluate_run(Run(scores, Counts()), Qrels(grades, Counts()), cutoffs=(5, 10, 100)).means
    assert trec != evaluation.means


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_file_scores_as_by_talentclefs_script(ranx: Any, tmp_path: Path) -> None:
    # The steps of TalentCLEF's 2025 script: pandas splits at white space, ranx takes the rows grouped by query, and six metrics.
    pandas = pytest.importorskip("pandas", reason="pandas is not installed: pip install pandas")
    scores, grades = judged_run(3)
    grades = {query: {d: max(grade, 0) for d, grade in judged.items()} for query, judged in grades.items()}
    lines = [f"{q} Q0 {d} {i} {score!r} me" for q, ranked in scores.items() for i, (d, score) in enumerate(ranked.items(), start=1)]
    (tmp_path / "run").write_text("\n".join(lines), encoding="utf-8")
    judgements = [f"{q}\t0\t{d}\t{grade}" for q, judged in grades.items() for d, grade in judged.items()]
    (tmp_path / "qrels").write_text("\n".join(judgements), encoding="utf-8")

    def table(name: str, columns: list[str]) -> Any:
        types = {"q_id": object, "doc_id": object}
        return pandas.read_csv(tmp_path / name, sep=r"\s+", header=None, names=columns, dtype=types)

    qrels = ranx.Qrels.from_df(table("qrels", ["q_id", "iter", "doc_id", "rel"]), score_col="rel")
    run = ranx.Run.from_df(table("run", ["q_id", "Q0", "doc_id", "rank", "score", "tag"]))
    found = ranx.evaluate(qrels, run, ["map", "mrr", "ndcg", "precision@5", "precision@10", "precision@100"])

    means = evaluate_run(read_run(tmp_path / "run"), read_qrels(tmp_path / "qrels"), ties="ranx").means
    expected = {"recip_rank" if name == "mrr" else name: float(value) for name, value in found.items()}
    assert {name: means[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert {*NAMES} < {*means}


def by_ranx(ranx: Any, scores: Scores, grades: Grades) -> dict[str, float]:
    """Score as ranx, under our names."""
    names = {f"{name}@{k}": f"{name}@{k}" for name in ("precision", "recall", "ndcg") for k in (5, 10, 100)}
    names |= {f"hit_rate@{k}": f"accuracy@{k}" for k in (5, 10, 100)} | {f"mrr@{k}": f"mrr@{k}" for k in (5, 10, 100)}
    names |= {"map": "map", "mrr": "recip_rank", "ndcg": "ndcg"}
    found = ranx.evaluate(ranx.Qrels(grades), ranx.Run(scores), list(names))
    return {names[theirs]: float(value) for theirs, value in found.items()}


# Malformed files: what pytrec_eval reads, we read alike; what it cannot read, we refuse in one sentence.

TOKENS = ["q1", "q2", "0", "1", "2", "-1", "d1", "d2", "Q0", "0.5", "1e3", "-inf", "inf", "x", "9" * 30, "+1", "1.5", "."]


def malformed(seed: int, columns: int) -> Iterator[str]:
    """Make lines of `columns` tokens more or less, between spaces and tabs in any mixture."""
    rng = np.random.default_rng(seed)
    for _ in range(rng.integers(1, 6)):
        count = columns if rng.random() < 0.8 else int(rng.integers(1, 9))
        well = {4: ["q1", "0", f"d{rng.integers(9)}", str(rng.integers(-1, 4))]}
        well[6] = ["q1", "Q0", f"d{rng.integers(9)}", "1", repr(float(rng.integers(4)) / 2), "me"]
        line = list(well[columns]) if rng.random() < 0.8 else rng.choice(TOKENS, count).tolist()
        if rng.random() < 0.1:
            line[int(rng.integers(len(line)))] = str(rng.choice(TOKENS))
        yield "".join(token + str(rng.choice([" ", "\t", " \t", "  "])) for token in line).rstrip() + "\n"


@pytest.mark.parametrize("columns", [4, 6])
def test_malformed_files_are_read_as_by_pytrec_eval_or_refused(pytrec_eval: Any, tmp_path: Path, columns: int) -> None:
    read, refusals = 0, []
    parse = pytrec_eval.parse_qrel if columns == 4 else pytrec_eval.parse_run
    for seed in range(1500):
        text = "".join(malformed(seed, columns))
        (tmp_path / "file").write_text(text)
        try:
            ours: Any = read_qrels(tmp_path / "file").relevance if columns == 4 else read_run(tmp_path / "file").scores
        except JobonnxError as error:
            refusals.append(str(error))
            continue
        rows = [line.split() for line in text.splitlines()]
        if len(rows[0]) == 3:  # BEIR's form, which pytrec_eval does not have
            continue
        # The same judgement again is merged here and refused there.
        lines = {(row[0], row[2]): " ".join(row) for row in rows}.values()
        assert ours == parse(io.StringIO("\n".join(lines))), text
        read += 1
    assert read > 100
    assert len(refusals) > 100
    assert all(message.startswith(str(tmp_path / "file")) for message in refusals)
