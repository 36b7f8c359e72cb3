"""The judgement of a finished model: ratios of the forms of writing, and the table for the card."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from helpers.training import lexicon_rows, source_options, written_groups
from jobonnx.arrays import Floats
from jobonnx_train import judge, runs
from jobonnx_train.model import save_half
from jobonnx_train.tasks import Retrieval


class Words:
    """Knows words by their exact letters, so that it loses a title in capitals and finds one with an addition."""

    def __init__(self, *, lower: bool = False) -> None:
        self.lower = lower

    def encode(self, texts: list[str], /) -> Floats:
        vectors = np.full((len(texts), 1024), 1e-3, np.float32)
        for row, text in enumerate(texts):
            for word in (text.lower() if self.lower else text).split():
                vectors[row, zlib.crc32(word.encode()) % 1024] += 1
        return vectors


TASK = Retrieval(
    {"q0": "köchin", "q1": "Maler/Malerin"},
    {
        f"d{index}": text
        for index, text in enumerate(
            ("köchin köchin", "Maler/Malerin Maler/Malerin", *(f"{letter} {letter}" for letter in "abcdefghijklmnopqrstuvwxyz"))
        )
    },
    {"q0": {"d0"}, "q1": {"d1"}},
)


def test_a_model_that_minds_capitals_is_found_out() -> None:
    minds, blind = (judge.form_scores(Words(lower=lower), TASK, "de", 1) for lower in (False, True))
    assert minds["capitals"] < 0.9
    assert blind["capitals"] == pytest.approx(1)
    assert blind["marked"] == pytest.approx(1)
    assert blind["accents"] < 1  # one query of two has one
    assert blind["noise"] < 1
    assert judge.form_scores(Words(), TASK, "de", 1) == minds  # seeded


def test_a_form_that_no_title_has_is_left_out() -> None:
    task = Retrieval({"q": "Weber"}, {"d0": "Weber bau", "d1": "Maler"}, {"q": {"d0"}})
    assert {"gendered", "accents"} & set(judge.form_scores(Words(), task, "de", 1)) == set()


@pytest.mark.slow
def test_the_command_judges_two_checkpoints(
    sources: Path, tiny: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runs, "read_lexicon", lexicon_rows)
    monkeypatch.setattr(runs, "read_written", written_groups)
    save_half(tiny, tmp_path / "checkpoint")
    beside = ["--beside", str(tmp_path / "checkpoint"), "--beside-prompt", "query: "]
    judge.main([str(tmp_path / "checkpoint"), *beside, "--output", str(tmp_path / "scores.json"), *source_options(sources)])
    scores = json.loads((tmp_path / "scores.json").read_text("utf-8"))
    assert set(scores) == {"tfidf", "model", "beside"}
    assert scores["model"]["full_de capitals"] == pytest.approx(1)  # the tokenizer folds them
    lines = capsys.readouterr().out.splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table[0].split("|")) == 15
    assert {line.split("|")[1].strip() for line in table} >= {"en", "zh", "et", "ko"}
