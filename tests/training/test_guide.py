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
from jobonnx_train import guide
from jobonnx_train.guide import GuidedLoss, GuideTable
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


def test_guide_vectors_that_could_not_be_written_leave_the_old_ones(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ones:
        def encode(self, texts: list[str], **_: Any) -> Floats:
            return np.ones((len(texts), guide.DIMENSIONS), np.float32)

    cache = tmp_path / "guide.npz"
    np.savez(cache, texts=np.array(["before"]), vectors=np.ones((1, guide.DIMENSIONS), np.float16))
    before = cache.read_bytes()
    monkeypatch.setattr(guide, "load_guide", Ones)

    def torn(file: Any, **_: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", torn)
        with pytest.raises(KeyboardInterrupt):
            guide.guide_vectors(corpus, cache)
    assert cache.read_bytes() == before
    guide.guide_vectors(corpus, cache)
    assert list(tmp_path.iterdir()) == [cache]
    with np.load(cache) as stored:
        assert len(stored["texts"]) > 100
