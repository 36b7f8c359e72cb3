"""The scorecard's forms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from jobonnx.errors import JobonnxError
from jobonnx.evaluation.evaluate import Evaluation
from jobonnx.evaluation.lines import Counts
from jobonnx.evaluation.scorecard import Scorecard, as_json, as_markdown, as_tables, scorecard, write_per_query


def evaluation(name: str, *values: float, tied: int = 0, spread: float = 0.0, queries: tuple[str, ...] | None = None) -> Evaluation:
    per_query = {"cosine_ndcg@20": np.array(values), "cosine_map@500": np.array(values) / 2}
    means = {metric: float(column.mean()) for metric, column in per_query.items()}
    bounds = {metric: (mean - spread * (metric == "cosine_ndcg@20"), mean) for metric, mean in means.items()}
    ids = queries or tuple(f"q{i}" for i in range(len(values)))
    return Evaluation(name, ids, per_query, Counts(), bounds, {1: 0, 20: tied})


@pytest.fixture
def card() -> Scorecard:
    return scorecard(
        {
            "fp32": {"de": evaluation("de", 0.5, 1.0), "a|b": evaluation("a|b", 0.25, 0.25)},
            "int8": {"de": evaluation("de", 0.25, 1.0), "a|b": evaluation("a|b", 0.25, 0.25, tied=2, spread=0.125)},
        }
    )


def test_json_has_means_differences_and_ties(card: Scorecard) -> None:
    data = json.loads(json.dumps(as_json(card), allow_nan=False))
    assert data["reference"] == "fp32"
    assert data["ties"]["rule"] == "trec"
    assert data["variants"]["fp32"]["de"] == {
        "queries": 2,
        "metrics": {"cosine_ndcg@20": 0.75, "cosine_map@500": 0.375},
        "ties": {
            "queries_tied_at": {"1": 0, "20": 0},
            "ranges": {"cosine_ndcg@20": [0.75, 0.75], "cosine_map@500": [0.375, 0.375]},
        },
    }
    assert data["variants"]["int8"]["a|b"]["ties"]["queries_tied_at"] == {"1": 0, "20": 2}
    assert data["variants"]["int8"]["a|b"]["ties"]["ranges"]["cosine_ndcg@20"] == [0.125, 0.25]
    assert data["variants"]["int8"]["de"]["difference"]["cosine_ndcg@20"] == {"mean": -0.125, "low": -0.25, "high": 0.0}
    assert data["variants"]["int8"]["a|b"]["difference"]["cosine_map@500"] == {"mean": 0, "low": 0, "high": 0}


def test_markdown_has_a_table_per_system_and_one_of_ties_where_they_matter(card: Scorecard) -> None:
    markdown = as_markdown(card)
    assert markdown.startswith(
        "#### fp32\n\n| Metric | de | a\\|b |\n| --- | ---: | ---: |\n| cosine_ndcg@20 | 0.7500 | 0.2500 |\n"
    )
    assert "| cosine_ndcg@20 | 0.6250 -0.1250 [-0.2500 +0.0000] | 0.2500 +0.0000 [+0.0000 +0.0000] |" in markdown
    assert "Differences are to fp32" in markdown
    assert markdown.count("Ties (trec)") == 1
    rows = "| queries tied at 20 | 0 | 2 |\n| cosine_ndcg@20 | 0.6250 | 0.1250 to 0.2500 |\n"
    assert f"| Ties (trec) | de | a\\|b |\n| --- | ---: | ---: |\n{rows}" in markdown


def test_without_the_reference_there_are_no_differences() -> None:
    card = scorecard({"int8": {"de": evaluation("de", 0.5)}})
    assert card.reference is None
    assert "difference" not in as_json(card)["variants"]["int8"]["de"]
    assert "Differences" not in as_markdown(card)


def test_any_system_can_be_the_reference() -> None:
    card = scorecard({"a.trec": {"de": evaluation("de", 0.5)}, "b.trec": {"de": evaluation("de", 0.75)}}, reference="a.trec")
    assert card.differences["b.trec"]["de"]["cosine_ndcg@20"].mean == 0.25
    assert "Differences are to a.trec" in as_markdown(card)


def test_tables_fit_the_width() -> None:
    names = [f"set{i}" for i in range(7)]
    variants = {variant: {name: evaluation(name, 0.5, 1.0, tied=1, spread=0.5) for name in names} for variant in ("fp32", "[int8]")}
    card = scorecard(variants)
    tables = as_tables(card, 100)
    assert [len(table.columns) - 1 for table in tables] == [3, 3, 3, 3, 1, 1] * 2
    console = Console(width=100)
    with console.capture() as capture:
        for table in tables:
            console.print(table)
    text = capture.get()
    assert max(map(len, text.splitlines())) <= 100
    assert "0.7500 +0.0000" in text
    assert "[+0.0000 +0.0000]" in text
    assert "[int8], ties ordered otherwise" in text
    assert "0.2500 to 0.7500" in text


def test_names_that_are_not_utf8_can_be_printed() -> None:
    card = scorecard({"caf\udce9": {"\udce9": evaluation("x", 0.5, tied=1, spread=0.25)}})
    as_markdown(card).encode()
    console = Console(width=100)
    with console.capture() as capture:
        for table in as_tables(card, 100):
            console.print(table)
    capture.get().encode()


def test_metrics_per_query_as_tab_separated_values(card: Scorecard, tmp_path: Path) -> None:
    assert write_per_query(card, tmp_path / "q.tsv") == 8
    header, *rows = [line.split("\t") for line in (tmp_path / "q.tsv").read_text().splitlines()]
    assert header == ["system", "dataset", "query", "cosine_ndcg@20", "cosine_map@500"]
    assert rows[0] == ["fp32", "de", "q0", "0.5", "0.25"]
    assert rows[-1] == ["int8", "a|b", "q1", "0.25", "0.125"]


def test_metrics_per_query_as_json_lines(card: Scorecard, tmp_path: Path) -> None:
    assert write_per_query(card, tmp_path / "q.jsonl") == 8
    lines = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    assert lines[4] == {
        "system": "int8",
        "dataset": "de",
        "query": "q0",
        "metrics": {"cosine_ndcg@20": 0.25, "cosine_map@500": 0.125},
    }


def test_id_that_a_table_cannot_hold(tmp_path: Path) -> None:
    card = scorecard({"fp32": {"de": evaluation("de", 0.5, queries=("a\tb",))}})
    with pytest.raises(JobonnxError, match=r"has a tab or line end in it; write a \.jsonl file"):
        write_per_query(card, tmp_path / "q.tsv")
    assert list(tmp_path.iterdir()) == []
    assert write_per_query(card, tmp_path / "q.jsonl") == 1


def test_metrics_per_query_do_not_replace_an_input(card: Scorecard, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("before")
    with pytest.raises(JobonnxError, match="is the input"):
        write_per_query(card, tmp_path / "run", inputs=[tmp_path / "run"])
