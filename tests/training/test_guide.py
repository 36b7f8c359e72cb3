"""The guide: the loss that looks its vectors up, and the file that keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.losses import GISTEmbedLoss

from jobonnx.arrays import Floats
from jobonnx_train.guide import GuidedLoss, GuideTable, Teacher, guide_vectors
from jobonnx_train.readers import Group
from jobonnx_train.split import Corpus


def features(tokenizer: Any, titles: list[str]) -> dict[str, torch.Tensor]:
    inputs = dict(tokenizer(titles, padding=True, return_tensors="pt"))
    return inputs | {"text_id": torch.tensor([int(title.split()[0]) for title in titles])}


@pytest.mark.medium
def test_loss_is_gist_with_the_guides_vectors_looked_up(tiny: SentenceTransformer) -> None:
    torch.manual_seed(2)
    table = torch.nn.functional.normalize(torch.randn(80, 16))
    looked_up = GuideTable(table, tiny.tokenizer, 32)
    sides = [[f"{index} ship" for index in range(20)], [f"{index + 20} baker" for index in range(20)]]
    arguments: dict[str, Any] = {"temperature": 0.05, "margin_strategy": "absolute", "margin": 0.0}

    def value(loss: Any) -> float:
        return float(loss([features(tiny.tokenizer, titles) for titles in sides], None).item())

    looked = value(GISTEmbedLoss(tiny, looked_up, **arguments))
    assert value(GuidedLoss(tiny, looked_up, **arguments)) == pytest.approx(looked, rel=1e-4)
    assert value(GuidedLoss(tiny, looked_up, **arguments, distil=1.0)) > looked
    nothing = GuideTable(torch.zeros(80, 16), tiny.tokenizer, 32)
    in_batch = value(GISTEmbedLoss(tiny, nothing, **arguments))
    assert value(GuidedLoss(tiny, nothing, **arguments, distil=1.0)) == pytest.approx(in_batch, rel=1e-4)
    assert in_batch > looked  # nothing is masked


class Letters:
    """A teacher whose vectors tell a title's first letter."""

    def encode(self, texts: list[str], **_: Any) -> Floats:
        return np.eye(26, dtype=np.float32)[[ord(text[0].lower()) % 26 for text in texts]]


def test_vectors_that_could_not_be_written_leave_the_old_ones(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "letters.npz"
    np.savez(cache, texts=np.array(["before"]), vectors=np.ones((1, 26), np.float16))
    before = cache.read_bytes()
    teachers = [Teacher("letters", Letters, ("en",))]

    def torn(file: Any, **_: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", torn)
        with pytest.raises(KeyboardInterrupt):
            guide_vectors(corpus, teachers, tmp_path)
    assert cache.read_bytes() == before
    guide_vectors(corpus, teachers, tmp_path)
    assert list(tmp_path.iterdir()) == [cache]
    with np.load(cache) as stored:
        assert len(stored["texts"]) > 100


def test_a_language_that_a_teacher_does_not_read_gets_the_occupations_english_vector(tmp_path: Path) -> None:
    train = [
        Group("uri/0", "esco", "", {"en": ["baker", "bread maker"], "et": ["pagar"], "de": ["Koch"]}),
        Group("csco:1", "csco", "", {"zh": ["焊工"]}),
    ]
    vectors, ids = guide_vectors(Corpus(train, [], frozenset()), [Teacher("letters", Letters, ("en", "de"))], tmp_path)
    assert vectors.dtype == torch.float16
    found = {text: vectors[row].float() for text, row in ids.items()}
    torch.testing.assert_close(found["pagar"], found["baker"], atol=1e-3, rtol=0)
    assert found["Koch"].argmax() == ord("k") % 26
    assert not found["焊工"].any()  # it masks nothing and teaches nothing
    assert not vectors[0].any()


def test_two_teachers_agree_by_their_weights(tmp_path: Path) -> None:
    class Last:
        def encode(self, texts: list[str], **_: Any) -> Floats:
            return np.eye(26, dtype=np.float32)[[ord(text[-1].lower()) % 26 for text in texts]]

    train = [Group("uri/0", "esco", "", {"en": ["ab", "ac", "xc"]})]
    teachers = [Teacher("first", Letters, ("en",), 0.75), Teacher("last", Last, ("en",), 0.25)]
    vectors, ids = guide_vectors(Corpus(train, [], frozenset()), teachers, tmp_path)
    similarity = vectors.float() @ vectors.float().T
    assert similarity[ids["ab"], ids["ac"]] == pytest.approx(0.75, abs=1e-3)
    assert similarity[ids["ac"], ids["xc"]] == pytest.approx(0.25, abs=1e-3)


def test_a_centred_teacher_sees_each_language_from_its_own_middle(tmp_path: Path) -> None:
    """Far apart as two languages may lie: within each, titles are compared by what is their own."""
    places = {"red": [8, 0, -3], "green": [8, 0, -3], "blue": [8, 0, 3], "grey": [8, 0, 3], "orange": [6, 6, 1]}
    places |= {"rouge": [0, 8, -3], "vert": [0, 8, -3], "bleu": [0, 8, 3], "gris": [0, 8, 3]}
    asked: list[str] = []

    class Placed:
        def encode(self, texts: list[str], **_: Any) -> Floats:
            asked.extend(texts)
            vectors = np.array([places[text] for text in texts], dtype=np.float32)
            unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            return unit

    train = [Group("uri/0", "esco", "", {"en": ["red", "green", "orange"], "fr": ["rouge", "vert", "orange"]})]
    train += [Group("uri/1", "esco", "", {"en": ["blue", "grey"], "fr": ["bleu", "gris"]})]
    both = [Teacher("placed", Placed, languages, centred=True) for languages in (("en",), ("en", "fr"))]
    vectors, ids = guide_vectors(Corpus(train, [], frozenset()), both[1:], tmp_path)
    similarity = vectors.float() @ vectors.float().T
    assert similarity[ids["red"], ids["blue"]] < 0 > similarity[ids["rouge"], ids["bleu"]]
    assert torch.isfinite(vectors).all()
    assert sorted(asked) == sorted(places)
    # A second teacher of that name asks the model for nothing again; to the first one, "bleu" is its occupation's English titles.
    vectors, ids = guide_vectors(Corpus(train, [], frozenset()), both, tmp_path)
    assert sorted(asked) == sorted(places)
    first = vectors[:, :3].float()
    torch.testing.assert_close(first[ids["bleu"]], first[ids["gris"]], atol=1e-3, rtol=0)
    torch.testing.assert_close(first[ids["bleu"]], (first[ids["blue"]] + first[ids["grey"]]) / 2, atol=1e-3, rtol=0)


def test_without_teachers_the_guide_knows_nothing(corpus: Corpus, tmp_path: Path) -> None:
    vectors, ids = guide_vectors(corpus, [Teacher("missing", lambda: None, ("en",))], tmp_path)
    assert len(vectors) == len(ids) + 1
    assert not vectors.any()
