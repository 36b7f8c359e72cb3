"""The model: its forward pass without padding, its start, and the checkpoint that the package's model was exported from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from sentence_transformers import SentenceTransformer

from helpers.checkpoints import SMALL
from helpers.training import TINY
from jobonnx.errors import JobonnxError
from jobonnx_train.model import build, carry_over, cls_states, save_half, start_as_mean
from jobonnx_train.split import Corpus
from jobonnx_train.tokenizer import train_tokenizer


def test_unpadded_forward_is_the_models_own(tiny: SentenceTransformer) -> None:
    titles = ["ship baker", "面包师", "oficial weaver de glass", ""]
    inputs = tiny.tokenizer(titles, padding=True, return_tensors="pt")
    encoder = tiny[0].auto_model.eval()
    with torch.no_grad():
        expected = encoder(**inputs).last_hidden_state[:, 0]
        got = cls_states(encoder, inputs["input_ids"], inputs["attention_mask"])
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_model_starts_as_a_bag_of_subwords(tiny: SentenceTransformer) -> None:
    start_as_mean(tiny)
    vectors = tiny.encode(["ship baker assistant", "assistant ship baker", "court weaver"])
    assert vectors[0] @ vectors[1] > 0.9
    assert vectors[0] @ vectors[2] < vectors[0] @ vectors[1]


def test_a_model_of_another_vocabulary_begins_where_the_first_one_is(
    tiny: SentenceTransformer, corpus: Corpus, tmp_path: Path
) -> None:
    start_as_mean(tiny)
    with torch.no_grad():
        for parameter in tiny.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)  # trained, as it were
    train_tokenizer(corpus.texts(), tmp_path / "larger", 215, 32)
    other = build(tmp_path / "other", tmp_path / "larger", TINY, 32)
    carry_over(other, tiny)
    for name, value in tiny[0].auto_model.state_dict().items():
        if "word_embeddings" not in name:
            torch.testing.assert_close(other[0].auto_model.state_dict()[name], value)
    titles = ["ship baker", "court weaver", "Maler bank", "bakeret ship"]
    alike = (tiny.encode(titles) * other.encode(titles)).sum(1)
    assert alike.min() > 0.8
    ours, theirs = (model.tokenizer.get_vocab() for model in (other, tiny))
    rows, before = (model[0].auto_model.embeddings.word_embeddings.weight for model in (other, tiny))
    for piece in ("<s>", "<mask>", "</s>", "▁baker"):
        torch.testing.assert_close(rows[ours[piece]], before[theirs[piece]])


def test_a_start_of_another_size_is_refused(tiny: SentenceTransformer, tokenizer_folder: Path, tmp_path: Path) -> None:
    other = build(tmp_path / "other", tokenizer_folder, {**TINY, "num_hidden_layers": 2}, 32)
    with pytest.raises(JobonnxError, match="the start has num_hidden_layers 3 where the recipe has 2"):
        carry_over(other, tiny)


def test_a_checkpoint_that_could_not_be_written_leaves_nothing(
    tiny: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(folder: str, **_: object) -> None:
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    target = tmp_path / "out" / "checkpoint"
    with monkeypatch.context() as patched:
        patched.setattr(tiny, "save_pretrained", torn)
        with pytest.raises(KeyboardInterrupt):
            save_half(tiny, target)
    assert not target.parent.exists()
    save_half(tiny, target)
    assert (target / "model.safetensors").exists()
    with pytest.raises(JobonnxError, match="exists already"):
        save_half(tiny, target)


def test_checkpoint_is_small_and_complete() -> None:
    weights = SMALL / "model.safetensors"
    assert weights.stat().st_size <= 24_000_000
    with safe_open(weights, "pt") as tensors:
        assert {tensors.get_tensor(name).dtype for name in tensors.keys()} == {torch.float16}  # noqa: SIM118
    for name in ("modules.json", "config.json", "tokenizer.json", "sentence_bert_config.json", "1_Pooling/config.json"):
        assert (SMALL / name).exists(), name
