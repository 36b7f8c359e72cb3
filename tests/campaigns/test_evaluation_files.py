"""Judgements and runs, well formed and not: each query's values are trec_eval's within 1e-9, or the file is refused."""

from __future__ import annotations

import io
import math
import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from campaigns import campaign
from jobonnx.errors import JobonnxError
from jobonnx.evaluation.evaluate import evaluate_run
from jobonnx.evaluation.trec import read_qrels, read_run

pytestmark = pytest.mark.medium

CUTOFFS = (1, 3, 5, 10, 100, 1000)
_PARAMETERS = ",".join(map(str, CUTOFFS))
MEASURES = {f"{name}.{_PARAMETERS}" for name in ("success", "P", "recall", "ndcg_cut")} | {"map", "recip_rank", "ndcg"}
OURS = {
    f"{theirs}_{cutoff}": f"{name}@{cutoff}"
    for theirs, name in {"success": "accuracy", "P": "precision", "recall": "recall", "ndcg_cut": "ndcg"}.items()
    for cutoff in CUTOFFS
} | {name: name for name in ("map", "recip_rank", "ndcg")}

IDS = [*(f"d{number}" for number in range(60)), "É", "職", "a-B", "A_b", "10", "9", "#1", "'x'", "d\u3000x", "d\xa0y", "0", "-1"]
SEPARATORS = (" ", "\t", "  ", " \t", "\t\t", "\v", "\f")
ODD_SCORES = (
    "nan",
    "NaN",
    "-nan",
    "1e400",
    "-1e400",
    "1_0",
    "0x1p3",
    "",
    ".",
    "1e",
    "١",
    "1,5",
    "--1",
    "inf inf",
    "1e-400",
    "infinit",
)
ODD_GRADES = ("1.0", "x", "", "1e1", "9" * 10, "1_0", "--1", "٣", "0x1", "nan", "1 2")


@dataclass
class Files:
    """The lines of a run and its judgements, and whether something in them may be refused."""

    run: list[str] = field(default_factory=list)
    qrels: list[str] = field(default_factory=list)
    refusable: bool = False


def joined(chances: random.Random, cells: tuple[str, ...], separators: tuple[str, ...]) -> str:
    line = cells[0]
    for cell in cells[1:]:
        line += chances.choice(separators) + cell
    return chances.choice(("", "", "", " ", "\t")) * (separators != ("\t",)) + line + chances.choice(("", "", "", " ", "\t "))


def any_files(chances: random.Random) -> Files:
    """Make well-formed files full of ties: few scores, many grades, documents ranked or not and judged or not."""
    files = Files()
    levels = [chances.gauss(0, 1) for _ in range(chances.choice((1, 2, 5, 1000)))]
    levels += chances.choice(
        ([], [], [math.inf, -math.inf], [1e300, 1e301, -1e300, 1e-310], [0.0, -0.0], [0.5 + 1e-10, 0.5, 0.5 - 1e-10])
    )
    grades = chances.choice(((0, 1), (0, 1, 1, 1), (-2, -1, 0, 1, 2, 3), (0, 5, 10, 100), (1,)))
    separators = chances.choice(((" ",), ("\t",), SEPARATORS))
    queries = [f"q{number}" for number in range(chances.choice((1, 2, 5, 20)))]
    for query in queries:
        for rank, document in enumerate(chances.sample(IDS, chances.choice((0, 1, 5, len(IDS)))), start=1):
            score = chances.choice(levels)
            shown = chances.choice((repr(score), repr(score), f"{score:+.3e}", str(score).upper()))
            files.run.append(joined(chances, (query, "Q0", document, str(rank), shown, "tag"), separators))
        for document in chances.sample(IDS, chances.choice((0, 1, 5, len(IDS)))):
            grade = chances.choice(grades)
            shown = chances.choice((str(grade), str(grade), f"{grade:+d}", f"{grade:03d}"))
            files.qrels.append(joined(chances, (query, "0", document, shown), separators))
    if chances.random() < 0.3:
        chances.shuffle(files.run)
        chances.shuffle(files.qrels)
    return files


def spoilt(chances: random.Random, files: Files) -> None:
    """Spoil a line or more of one of the files."""
    files.refusable = True
    for _ in range(chances.choice((1, 1, 1, 3))):
        lines, odd = chances.choice(((files.run, ODD_SCORES), (files.qrels, ODD_GRADES)))
        if lines and chances.random() < 0.5:
            place = chances.randrange(len(lines))
            lines[place] = spoilt_line(chances, lines[place].split(), odd)
        else:
            spoilt_file(chances, lines)


def spoilt_line(chances: random.Random, cells: list[str], odd: tuple[str, ...]) -> str:
    match chances.randrange(4):
        case 0 if cells:
            cells[-2 if len(cells) > 4 else -1] = chances.choice(odd)
        case 1 if cells:
            del cells[chances.randrange(len(cells))]
        case 2:
            cells.insert(chances.randrange(len(cells) + 1), chances.choice(("x", "1", "Q0")))
        case 3:
            cells[:1] = [chances.choice(("\ufeffq0", "q\0", "q\u2028", "q" * 5000, "\ud800"))]
    return chances.choice((" ", "\t")).join(cells)


def spoilt_file(chances: random.Random, lines: list[str]) -> None:
    place = chances.randrange(len(lines) + 1)
    cells = chances.choice(lines).split() if lines else ["q0", "0", "d0", "1"]
    match chances.randrange(5):
        case 0:  # a line again
            lines.insert(place, " ".join(cells))
        case 1 if cells:  # the same pair, judged or scored otherwise
            cells[-2 if len(cells) > 4 else -1] = "7"
            lines.insert(place, " ".join(cells))
        case 2:
            lines.insert(0, chances.choice(("q_id Q0 doc_id rank score tag", "query-id\tcorpus-id\tscore", "# a comment", "{}")))
        case 3:
            lines.insert(place, chances.choice(("", " ", "\t", "\u3000")))
        case 4:
            lines[:] = [f"{line}\r" for line in lines]


def parsed(read: Any, parse: Any, path: Path, lines: list[str], form: int) -> Any:
    """Read a file; None if it is refused. What pytrec_eval's parser makes of it has to be the same."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="surrogatepass", newline="")
    try:
        ours = read(path)
    except JobonnxError as error:
        message = str(error)
        assert message.startswith(str(path)), message
        assert "\n" not in message
        assert len(message) < 600, message
        return None
    # Its parser takes neither a header nor a line twice, and splits at white space beyond ASCII.
    rows = [line.strip(" \t\r\v\f") for line in "\n".join(lines).removeprefix("\ufeff").split("\n")]
    rows = list(
        dict.fromkeys(
            " ".join(row.replace("\t", " ").replace("\v", " ").replace("\f", " ").split(" ")) for row in rows if row.strip()
        )
    )
    if all(row.isascii() and len(row.split()) == form for row in rows) and not rows[0].startswith(("q_id", "query-id")):
        if form == 4:
            rows = list({(row.split()[0], row.split()[2]): row for row in rows}.values())
        theirs = parse(io.StringIO("\n".join(rows)))
        assert (ours.scores if form == 6 else ours.relevance) == theirs
    return ours


def trial(pytrec_eval: Any, chances: random.Random) -> None:
    files = any_files(chances)
    if chances.random() < 0.5:
        spoilt(chances, files)
    with tempfile.TemporaryDirectory() as folder:
        run = parsed(read_run, pytrec_eval.parse_run, Path(folder) / "run", files.run, 6)
        qrels = parsed(read_qrels, pytrec_eval.parse_qrel, Path(folder) / "qrels", files.qrels, 4)
    assert files.refusable or run is not None or not files.run, "a well-formed run was refused"
    assert files.refusable or qrels is not None or not files.qrels, "well-formed judgements were refused"
    if run is None or qrels is None:
        return
    judged = {query for query, documents in qrels.relevance.items() if any(grade > 0 for grade in documents.values())}
    if not judged & run.scores.keys():
        with pytest.raises(JobonnxError, match=r"^[^\n]+$"):
            evaluate_run(run, qrels, cutoffs=CUTOFFS)
        return
    evaluation = evaluate_run(run, qrels, cutoffs=CUTOFFS)
    assert set(evaluation.query_ids) == judged
    # The others are left out of the averages; pytrec_eval-terrier 0.5.11 crashed on a file where some had negative grades only.
    relevance = {query: qrels.relevance[query] for query in judged}
    theirs = pytrec_eval.RelevanceEvaluator(relevance, MEASURES).evaluate(run.scores)
    for place, query in enumerate(evaluation.query_ids):
        for name, ours in OURS.items():
            expected = theirs[query][name] if query in run.scores else 0.0  # as by trec_eval -c
            value = float(evaluation.per_query[ours][place])
            assert abs(value - expected) <= 1e-9, f"{ours} of {query} is {value} and {name} {expected}"


@pytest.fixture(scope="module")
def pytrec_eval() -> Any:
    return pytest.importorskip("pytrec_eval", reason="pytrec_eval is not installed: pip install pytrec_eval-terrier")


def test_some_evaluation_files(pytrec_eval: Any) -> None:
    campaign.run("evaluation files", lambda chances: trial(pytrec_eval, chances), trials=100)


@pytest.mark.campaign
def test_evaluation_files(pytrec_eval: Any) -> None:
    campaign.run("evaluation files", lambda chances: trial(pytrec_eval, chances))
