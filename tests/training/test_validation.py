"""Validation: the two scores, and titles that are encoded once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobonnx.arrays import Floats
from jobonnx_train.tasks import Retrieval
from jobonnx_train.validation import CachingEncoder, Validation, score

VECTORS = {"cook": (1.0, 0.0), "chef": (0.8, 0.6), "king": (0.6, 0.8), "queen": (0.0, 1.0)}  # alike in this order


class Model:
    """Looks vectors up, and keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: list[str], **_: Any) -> Floats:
        self.asked += texts
        return np.array([VECTORS[text] for text in texts], np.float32)


TASK = Retrieval({"q": "cook"}, {"a": "chef", "b": "king", "c": "queen"}, {"q": {"b", "c"}})


def test_a_task_within_a_language_is_scored_by_map_and_one_across_by_recall() -> None:
    assert score(Model(), "full_en", TASK) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert score(Model(), "mix_de", TASK) == 1
    many = Retrieval({"q": "cook"}, {f"d{index:02}": "chef" for index in range(20)}, {"q": {"d00"}})
    assert score(Model(), "mix_de", many) == 0  # ties are ranked by id, descending: rank 20


def test_each_title_is_encoded_once() -> None:
    model = Model()
    encoder = CachingEncoder(model)
    np.testing.assert_array_equal(encoder.encode(["cook", "chef", "cook"]), Model().encode(["cook", "chef", "cook"]))
    encoder.encode(["king", "cook"])
    assert model.asked == ["cook", "chef", "king"]


def test_every_validation_adds_a_row_to_the_table(tmp_path: Path) -> None:
    validation = Validation({"full_en": TASK, "mix_de": TASK, "empty": Retrieval({}, {}, {})}, tmp_path / "scores.jsonl")
    scores = [validation(Model(), epoch=0.5, steps=step) for step in (1, 2)]
    rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text("utf-8").splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert scores[1] == {name: rows[1][name] for name in ("full_en", "mix_de")}
