"""Qrels and runs: what is read, what is refused, and what is written."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from jobonnx.errors import JobonnxError
from jobonnx.evaluation.lines import Counts
from jobonnx.evaluation.trec import Ranking, read_qrels, read_run, write_run


def file(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        "1 0 7 1\n1 0 8 0\n",
        "1\t0\t7\t1\n1\t0\t8\t0\n",
        "1 0\t7 1\n1\t0 8\t0\n",
        "1 0\t7\t1\n1\t0 \t8\t0 \n",
        " 1  0 \t 7\t \t1\t\n1\v0\f8 0\t\n",
        "1 7 1\n1\t8\t0\n",
    ],
)
def test_qrels_are_split_at_any_white_space(tmp_path: Path, text: str) -> None:
    assert read_qrels(file(tmp_path / "qrels", text)).relevance == {"1": {"7": 1, "8": 0}}


def test_runs_are_split_at_any_white_space(tmp_path: Path) -> None:
    run = read_run(file(tmp_path / "run", "q Q0\td1 1\t0.5 me\r\nq\tQ0\td2\t2\t.25\tme\n"))
    assert (run.scores, run.counts) == ({"q": {"d1": 0.5, "d2": 0.25}}, Counts(windows_line_ends=1))


def test_white_space_beyond_ascii_is_part_of_an_id(tmp_path: Path) -> None:
    # Avature's Japanese judgements have titles with an ideographic space for ids.
    for separator in "\t ":
        text = separator.join(("職\u3000務", "0", "d\u00a01\u2028", "1")) + "\n"
        assert read_qrels(file(tmp_path / "qrels", text)).relevance == {"職\u3000務": {"d\u00a01\u2028": 1}}


def test_repeated_judgements_are_merged_and_counted(tmp_path: Path) -> None:
    qrels = read_qrels(file(tmp_path / "qrels", "1 0 7 1\n1 0 7 1\n"))
    assert (qrels.relevance, qrels.counts) == ({"1": {"7": 1}}, Counts(repeated_judgements=1))


def test_grades_are_kept_and_counted(tmp_path: Path) -> None:
    qrels = read_qrels(file(tmp_path / "qrels", "1 0 7 3\n1 0 8 +1\n1 0 9 -2\n1 0 5 999999999\n"))
    assert (qrels.relevance, qrels.counts) == ({"1": {"7": 3, "8": 1, "9": -2, "5": 999_999_999}}, Counts(graded_judgements=2))


def test_first_judgement_of_a_document_named_text_is_no_header(tmp_path: Path) -> None:
    assert read_qrels(file(tmp_path / "qrels", "1 text 1\n")).relevance == {"1": {"text": 1}}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ("holds no judgements",)),
        ("1 0 7 1\n1 7\n", ("line 2", "2 columns", "['1', '7']")),
        ("1\t0\t7\t1\t0\n", ("line 1", "5 columns")),
        ("1\t0\t\t1\n", ("line 1", "empty cell")),
        ("1\t0\t7\t\n", ("line 1", "empty cell")),
        ("\t0\t7\t1\n", ("line 1", "empty cell")),
        ("1 0 7 1\n1 0 1\n", ("line 2", "3 columns", "4 in the lines before")),
        ("1 0 7 high\n", ("line 1", "'high'", "whole number")),
        ("1 0 7 1.0\n", ("line 1", "'1.0'")),
        ("1 0 7 ٣\n", ("line 1", "'٣'")),
        ("1 0 7 1_0\n", ("line 1", "'1_0'")),
        ("1 0 7 1\n1 0 7 0\n", ("line 2", "0 here and 1", "'7'", "'1'")),
        pytest.param("1 0 7 1\n1 0 8 " + "1" * 5000 + "\n", ("line 2", "more than 9 digits"), id="digits"),
        pytest.param("1 0 7 -" + "1" * 5000 + "\n", ("line 1", "more than 9 digits"), id="negative digits"),
        pytest.param(" ".join("x" * 100_000) + "\n", ("line 1", "100000 columns"), id="columns"),
    ],
)
def test_bad_qrels(tmp_path: Path, text: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(JobonnxError) as caught:
        read_qrels(file(tmp_path / "qrels.tsv", text))
    message = str(caught.value)
    assert all(part in message for part in (str(tmp_path / "qrels.tsv"), *parts)), message
    assert len(message) < 400


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ("holds no rankings",)),
        ("q_id Q0 doc_id rank score tag\n", ("holds no rankings",)),
        ("1 Q0 7 1 0.5\n", ("line 1", "5 columns")),
        ("1\tQ0\t\t1\t0.5\tme\n", ("line 1", "5 columns")),
        ("q 1\tQ0\td1\t1\t0.5\tme\n", ("line 1", "7 columns")),
        ("1 Q0 7 1 best me\n", ("line 1", "'best'", "no number")),
        *(
            (f"1 Q0 7 1 {score} me\n", ("line 1", f"'{score}'"))
            for score in ("nan", "-NaN", "nan(1)", "1e999", "1_0", "٣", "0x1", ".")
        ),
        ("1 Q0 7 1 0.5 me\n1 Q0 7 2 0.4 me\n", ("line 2", "'7'", "twice", "'1'")),
        pytest.param("1 Q0 7 1 " + "1" * 5000 + " me\n", ("line 1", "beyond the largest"), id="digits"),
    ],
)
def test_bad_runs(tmp_path: Path, text: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(JobonnxError) as caught:
        read_run(file(tmp_path / "run.trec", text))
    message = str(caught.value)
    assert all(part in message for part in (str(tmp_path / "run.trec"), *parts)), message
    assert len(message) < 400


def test_scores_of_every_form_are_read(tmp_path: Path) -> None:
    texts = ["1", "-1", "+.5", "2.", "0.25", "1e-9", "-1.5E+3", "0." + "1" * 5000]
    lines = "".join(f"q Q0 d{i} 1 {text} me\n" for i, text in enumerate(texts))
    assert list(read_run(file(tmp_path / "run.trec", lines)).scores["q"].values()) == [1, -1, 0.5, 2, 0.25, 1e-9, -1500, 1 / 9]


def test_infinite_scores_are_read_and_counted(tmp_path: Path) -> None:
    texts = ["inf", "Infinity", "+INF", "0", "-inf", "-Infinity"]
    lines = "".join(f"q Q0 d{i} 1 {text} me\n" for i, text in enumerate(texts))
    run = read_run(file(tmp_path / "run.trec", lines))
    assert list(run.scores["q"].values()) == [math.inf] * 3 + [0] + [-math.inf] * 2
    assert run.counts == Counts(infinite_scores=5)


@pytest.mark.parametrize("header", [True, False])
def test_run_round_trip(tmp_path: Path, header: bool) -> None:
    scores = np.array([0.6910377144813538, 0.1, -0.0, -0.25, 1e-9], np.float32)
    scores[::-1].sort()
    rankings = [Ranking("q1", ["ce1", "ce4", "職", "d", "e"], scores), Ranking("q2", ["ce1"], scores[:1])]
    path = tmp_path / "run.trec"
    assert write_run(path, iter(rankings), tag="team_system", header=header) == 6
    lines = path.read_bytes().decode().split("\n")
    assert lines[0] == ("q_id Q0 doc_id rank score tag" if header else "q1 Q0 ce1 1 0.6910377 team_system")
    assert lines[-1] == ""
    assert all(len(line.split(" ")) == 6 for line in lines[:-1])
    run = read_run(path)
    assert run.counts == Counts(headers=int(header))
    assert [np.float32(score) for score in run.scores["q1"].values()] == scores.tolist()
    assert list(run.scores["q1"]) == ["ce1", "ce4", "職", "d", "e"]


@pytest.mark.parametrize(
    ("ranking", "tag", "named", "why"),
    [
        (Ranking("q 1", ["d"], np.ones(1)), "me", "query id 'q 1'", "white space"),
        (Ranking("q", ["d\u00a01"], np.ones(1)), "me", "document id", "white space"),
        (Ranking("q", [""], np.ones(1)), "me", "document id ''", "white space"),
        (Ranking("q", ["d"], np.ones(1)), "team A", "tag 'team A'", "white space"),
        (Ranking("q", ["d"], np.ones(1)), "caf\udce9", r"tag 'caf\udce9'", "UTF-8"),
        (Ranking("q", ["\ud800"], np.ones(1)), "me", r"document id '\ud800'", "UTF-8"),
    ],
)
def test_ids_that_a_run_cannot_hold(tmp_path: Path, ranking: Ranking, tag: str, named: str, why: str) -> None:
    path = file(tmp_path / "run.trec", "before")
    with pytest.raises(JobonnxError, match=why) as caught:
        write_run(path, [ranking], tag=tag)
    assert named in str(caught.value)
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["run.trec"]


def test_interrupted_run_leaves_nothing_behind(tmp_path: Path) -> None:
    def rankings() -> Iterator[Ranking]:
        yield Ranking("q", ["d"], np.ones(1))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_run(tmp_path / "run.trec", rankings())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["absent/run.trec", "a\0b"])
def test_run_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(JobonnxError, match="could not be written"):
        write_run(tmp_path / name, [])


def never() -> Iterator[Ranking]:
    raise AssertionError("the work has begun")
    yield


def test_run_at_a_folder_is_refused_before_the_first_ranking(tmp_path: Path) -> None:
    with pytest.raises(JobonnxError, match="it is a folder"):
        write_run(tmp_path, never())


def test_run_at_one_of_its_inputs_is_refused_before_the_first_ranking(tmp_path: Path) -> None:
    queries, link = file(tmp_path / "queries", "q1\tcook\n"), tmp_path / "link"
    link.symlink_to(queries)
    for output in (queries, link):
        with pytest.raises(JobonnxError, match="is the input"):
            write_run(output, never(), inputs=[tmp_path / "corpus", queries])
    assert queries.read_text() == "q1\tcook\n"


@pytest.mark.parametrize("there", [True, False])
def test_run_at_a_symbolic_link_goes_to_its_target(tmp_path: Path, there: bool) -> None:
    target, link = tmp_path / "elsewhere" / "run.trec", tmp_path / "link.trec"
    target.parent.mkdir()
    if there:
        target.write_text("before")
    link.symlink_to(target)
    write_run(link, [Ranking("q", ["d"], np.ones(1))])
    assert link.is_symlink()
    assert target.read_text() == "q Q0 d 1 1.0 jobonnx\n"
    assert os.listdir(target.parent) == ["run.trec"]


def test_run_into_a_fifo_is_read_at_its_other_end(tmp_path: Path) -> None:
    fifo = tmp_path / "run.trec"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    write_run(fifo, [Ranking("q", ["d"], np.ones(1))])
    assert os.read(reader, 1000) == b"q Q0 d 1 1.0 jobonnx\n"
    os.close(reader)
    assert fifo.is_fifo()
