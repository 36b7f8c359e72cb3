"""The texts a graph is judged by, and the titles int8 is calibrated on."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from jobonnx.data.titles import read_lexicon
from jobonnx.parity.measure import RANKED_TEXTS
from jobonnx.text.tokenizer import Tokenizer
from jobonnx_export.texts import calibration_sha256, calibration_titles, parity_texts, reference_texts

SPECIAL = -5  # texts of 64, 256, 512 and 513 tokens, and an empty one


@pytest.fixture(scope="module")
def tokenizer_json(checkpoint: Path) -> Path:
    return checkpoint / "tokenizer.json"


@pytest.fixture(scope="module")
def texts(tokenizer_json: Path) -> list[str]:
    return parity_texts(Tokenizer(tokenizer_json, 512))


@pytest.mark.parametrize("language", ["en", "de", "es", "zh", "ja"])
def test_at_least_a_hundred_titles_of_each_language(texts: list[str], language: str) -> None:
    if language == "ja":
        known = set((files("jobonnx_export") / "data" / "titles_ja.txt").read_text(encoding="utf-8").split("\n"))
    else:
        known = {title for row in read_lexicon() for title in row[language]}
    assert len(known.intersection(texts)) >= 100


def test_texts_of_every_length_one_past_the_limit_and_an_empty_one(tokenizer_json: Path, texts: list[str]) -> None:
    lengths = [len(row) for row in Tokenizer(tokenizer_json, 1 << 20).encode(texts)]
    assert {64, 256, 512, 513} <= set(lengths)
    assert texts.count("") == 1


@pytest.mark.parametrize("limit", [40, 96, 256])
def test_short_limit_is_reached_and_passed_by_one(tokenizer_json: Path, limit: int) -> None:
    texts = parity_texts(Tokenizer(tokenizer_json, limit))
    lengths = [len(row) for row in Tokenizer(tokenizer_json, 1 << 20).encode(texts)]
    assert {limit, limit + 1} <= set(lengths)
    assert max(lengths) == limit + 1


def test_bundle_carries_every_language_and_all_the_special_texts(texts: list[str]) -> None:
    places = reference_texts(texts)
    carried = {texts[i] for i in places}
    assert len(places) == len(set(places)) < len(texts) / 2
    assert all(len(carried.intersection(texts[start : start + 120])) == 20 for start in range(0, 600, 120))
    assert carried.issuperset(texts[SPECIAL:])
    assert not carried.intersection(texts[600:SPECIAL])


def test_ranking_is_judged_among_two_thousand_titles(texts: list[str]) -> None:
    titles = texts[:SPECIAL]
    assert len(set(titles)) == len(titles) >= RANKED_TEXTS


def test_calibration_and_parity_share_no_title(texts: list[str]) -> None:
    titles = calibration_titles()
    assert len(titles) == len(set(titles)) >= 700
    assert not set(titles).intersection(texts)


def test_sets_stay_apart_however_often_a_title_stands_in_the_lexicon(monkeypatch: pytest.MonkeyPatch, tokenizer_json: Path) -> None:
    rows = [{language: [f"{language}{i % 300}"] for language in ("en", "de", "es", "zh")} for i in range(4000)]
    monkeypatch.setattr("jobonnx_export.texts.read_lexicon", lambda: rows)
    assert not set(calibration_titles()).intersection(parity_texts(Tokenizer(tokenizer_json, 64)))


PROMPTS = ["query: ", "passage: ", ""]


def test_prompts_stand_before_titles_in_turn_those_that_a_bundle_carries_too(tokenizer_json: Path, texts: list[str]) -> None:
    prompted = parity_texts(Tokenizer(tokenizer_json, 512), PROMPTS)
    carried = reference_texts(prompted)
    for places in (range(600), carried[:100]):
        counts = [sum(prompted[i] == prompt + texts[i] for i in places) for prompt in PROMPTS]
        assert sum(counts) == len(places)
        assert max(counts) - min(counts) <= 1
    assert prompted[SPECIAL:] == texts[SPECIAL:]


@pytest.mark.parametrize("prompts", [[], [""], ["", ""]])
def test_without_prompts_nothing_changes(tokenizer_json: Path, texts: list[str], prompts: list[str]) -> None:
    assert parity_texts(Tokenizer(tokenizer_json, 512), prompts) == texts
    assert calibration_titles(prompts) == calibration_titles()
    assert calibration_sha256(prompts) == calibration_sha256()


def test_calibration_has_the_prompts_too_and_its_name_says_so(texts: list[str]) -> None:
    plain, prompted = calibration_titles(), calibration_titles(PROMPTS)
    assert {text.removesuffix(title) for text, title in zip(prompted, plain, strict=True)} == {"", "query: ", "passage: "}
    assert calibration_sha256(PROMPTS) != calibration_sha256()
