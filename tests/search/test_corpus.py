"""A corpus in the user's cache: encoded once, found again, never wrong, never in the way."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from jobonnx.arrays import Floats, unit
from jobonnx.search import corpus
from jobonnx.search.corpus import cached_index
from jobonnx.search.index import Index

TITLES = [f"title {i}" for i in range(40)]


class Counting:
    """An encoder that counts what it is given."""

    dimension = 8

    def __init__(self, fingerprint: str = "a") -> None:
        self.fingerprint = fingerprint
        self.encoded: list[str] = []

    def encode(self, sentences: list[str], *, prompt: str = "", normalize_embeddings: bool) -> Floats:
        assert normalize_embeddings
        self.prompt = prompt
        self.encoded += sentences
        seeds = (abs(hash((self.fingerprint, text))) % 2**32 for text in sentences)
        return unit(np.stack([np.random.default_rng(seed).standard_normal(8) for seed in seeds]).astype(np.float32))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "jobonnx" / "corpora"


def found(titles: list[str], encoder: Counting) -> list[str]:
    index = cached_index(titles, encoder)
    assert index is not None
    with index:
        return list(index)


def test_a_corpus_is_encoded_once(home: Path) -> None:
    encoder = Counting()
    assert found(TITLES, encoder) == found(TITLES, encoder) == TITLES
    assert encoder.encoded == TITLES
    assert len(os.listdir(home)) == 1


def test_another_prompt_is_another_corpus(home: Path) -> None:
    """Also where prompt and first title are the same characters in a row."""
    for number, (prompt, titles) in enumerate([("", TITLES), ("passage: ", TITLES), ("title 0\n", TITLES[1:])], 1):
        encoder = Counting()
        for _ in range(2):
            index = cached_index(titles, encoder, prompt)
            assert index is not None
            with index:
                assert (index.prompt, list(index)) == (prompt, titles)
        assert (encoder.prompt, encoder.encoded) == (prompt, titles)
        assert len(os.listdir(home)) == number


def test_another_encoder_order_or_title_is_another_corpus(home: Path) -> None:
    found(TITLES, Counting())
    for titles, encoder in ((TITLES, Counting("b")), (TITLES[::-1], Counting()), ([*TITLES, "TITLE 1"], Counting())):
        assert found(titles, encoder) == titles
        assert encoder.encoded == titles
    assert len(os.listdir(home)) == 4


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "another"])
def test_a_damaged_corpus_is_made_again(damage: str, home: Path) -> None:
    found(TITLES, Counting())
    (folder,) = home.iterdir()
    (vectors,) = folder.glob("*.vectors")
    content = vectors.read_bytes()
    if damage == "cut":
        vectors.write_bytes(content[:-4])
    elif damage == "flipped":
        vectors.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif damage == "gone":
        vectors.unlink()
    else:
        (folder / "index.sqlite").write_bytes(b"not a database")
    again = Counting()
    assert found(TITLES, again) == TITLES
    assert again.encoded == TITLES
    found(TITLES, again)
    assert again.encoded == TITLES


def test_the_cache_keeps_the_last_used_few(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "_KEPT", 2)
    first, second, third = (Counting(name) for name in "abc")
    for age, encoder in enumerate((first, second)):
        found(TITLES, encoder)
        for folder in home.iterdir():
            if folder.stat().st_mtime > 10**9:
                os.utime(folder, (age, age))
    found(TITLES, first)  # used again, so the second one goes
    found(TITLES, third)
    for encoder, times in ((first, 1), (third, 1), (second, 2)):
        found(TITLES, encoder)
        assert len(encoder.encoded) == times * len(TITLES)


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cached_index(TITLES, Counting()) is None


def test_a_user_without_a_home_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert cached_index(TITLES, Counting()) is None


def test_a_failure_while_encoding_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object, **options: object) -> Floats:
        raise KeyboardInterrupt

    encoder = Counting()
    monkeypatch.setattr(encoder, "encode", fails)
    with pytest.raises(KeyboardInterrupt):
        cached_index(TITLES, encoder)
    assert not home.exists() or os.listdir(home) == []


@pytest.mark.parametrize("place", ["file", "dangling link", "loop", "empty folder", "another index", "more titles"])
def test_what_stands_in_the_place_of_a_corpus_is_made_again(place: str, home: Path) -> None:
    found(TITLES, Counting())
    (folder,) = home.iterdir()
    if place == "more titles":
        with Index.open(folder) as index:
            index.add(["x"], Counting().encode(["x"], normalize_embeddings=True), fingerprint="a")
    else:
        shutil.rmtree(folder)
    if place == "file":
        folder.write_bytes(b"x")
    elif place == "dangling link":
        folder.symlink_to("nowhere")
    elif place == "loop":
        folder.symlink_to(folder)
    elif place == "empty folder":
        folder.mkdir()
    elif place == "another index":
        Index.create(folder, "b", 8).close()
    again = Counting()
    assert found(TITLES, again) == TITLES
    assert again.encoded == TITLES
    assert len(os.listdir(home)) == 1


def test_titles_with_line_ends_are_another_corpus() -> None:
    assert found(["a\nb"], Counting()) == ["a\nb"]
    assert found(["a", "b"], Counting()) == ["a", "b"]
