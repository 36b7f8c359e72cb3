"""The scorecard's three forms."""

import json

import numpy as np
import pytest
from rich.console import Console

from jobonnx.evaluation.formats import Counts
from jobonnx.evaluation.metrics import Evaluation
from jobonnx.evaluation.scorecard import as_json, as_markdown, as_tables, scorecard


def evaluation(name, *values):
    per_query = {"cosine_ndcg@20": np.array(values), "cosine_map@500": np.array(values) / 2}
    return Evaluation(name, tuple(f"q{i}" for i in range(len(values))), per_query, Counts())


@pytest.fixture
def card():
    return scorecard(
        {
            "fp32": {"de": evaluation("de", 0.5, 1.0), "a|b": evaluation("a|b", 0.25, 0.25)},
            "int8": {"de": evaluation("de", 0.25, 1.0), "a|b": evaluation("a|b", 0.25, 0.25)},
        }
    )


def test_json_has_means_and_differences(card):
    data = json.loads(json.dumps(as_json(card), allow_nan=False))
    assert data["reference"] == "fp32"
    assert data["variants"]["fp32"]["de"] == {
        "queries": 2,
        "metrics": {"cosine_ndcg@20": 0.75, "cosine_map@500": 0.375},
    }
    assert data["variants"]["int8"]["de"]["difference"]["cosine_ndcg@20"] == {"mean": -0.125, "low": -0.25, "high": 0.0}
    assert data["variants"]["int8"]["a|b"]["difference"]["cosine_map@500"] == {"mean": 0, "low": 0, "high": 0}


def test_markdown_has_a_block_a_variant(card):
    markdown = as_markdown(card)
    assert markdown.startswith("#### fp32\n\n| Metric | de | a\\|b |\n|:---|---:|---:|\n| cosine_ndcg@20 | 0.7500 | 0.2500 |\n")
    assert "| cosine_ndcg@20 | 0.6250 -0.1250 [-0.2500 +0.0000] | 0.2500 +0.0000 [+0.0000 +0.0000] |" in markdown
    assert "Differences are to fp32" in markdown


def test_without_the_reference_there_are_no_differences():
    card = scorecard({"int8": {"de": evaluation("de", 0.5)}})
    assert "difference" not in as_json(card)["variants"]["int8"]["de"]
    assert "Differences" not in as_markdown(card)


def test_tables_fit_the_width():
    names = [f"set{i}" for i in range(7)]
    variants = {variant: {name: evaluation(name, 0.5, 1.0) for name in names} for variant in ("fp32", "[int8]")}
    card = scorecard(variants)
    tables = as_tables(card, 100)
    assert [len(table.columns) - 1 for table in tables] == [3, 3, 1, 3, 3, 1]
    console = Console(width=100)
    with console.capture() as capture:
        for table in tables:
            console.print(table)
    text = capture.get()
    assert max(map(len, text.splitlines())) <= 100
    assert "0.7500 +0.0000" in text
    assert "[+0.0000 +0.0000]" in text
    assert "[int8]" in text
