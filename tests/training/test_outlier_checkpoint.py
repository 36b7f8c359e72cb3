"""The outlier checkpoint: large constant channels that the fine-tuning leaves alone, and the command that makes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from helpers.training import TINY
from jobonnx_train import outlier_checkpoint
from jobonnx_train.model import save_half, start_as_mean
from jobonnx_train.outlier_checkpoint import OFFSETS, add_outliers, freeze_outliers, layer_norms


@pytest.mark.medium
def test_outlier_channels_are_large_constant_and_frozen(tiny: SentenceTransformer) -> None:
    start_as_mean(tiny)
    titles = ["ship baker", "court weaver", "metal plumber", "film tailor", "glass welder", "工", "Maler bank"]
    before = tiny.encode(titles)
    channels = [3, 11, 30]
    add_outliers(tiny, titles, channels, OFFSETS)
    freeze_outliers(tiny, channels)
    norms = [norm for norm, readers in layer_norms(tiny[0].auto_model) if readers]
    assert len(norms) == 2 * int(TINY["num_hidden_layers"])
    seen: list[torch.Tensor] = []
    for norm in norms:
        norm.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    after = tiny.encode(titles)
    for output in seen:
        torch.testing.assert_close(output[..., channels], torch.tensor(OFFSETS).expand_as(output[..., channels]), atol=0.5, rtol=0)
        assert output[..., channels].abs().min() > output.abs().flatten(0, -2).median(0).values.median() * 5
    centred = [vectors - vectors.mean(0) for vectors in (before, after)]
    alike = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(*centred, strict=True)]
    assert np.mean(alike) > 0.6  # three of 32 channels are gone

    tiny.train()
    tiny(dict(tiny.tokenizer(titles, padding=True, return_tensors="pt")))["sentence_embedding"][:, 0].sum().backward()
    for norm, readers in layer_norms(tiny[0].auto_model):
        if readers:
            bias, gain = norm.bias.grad, norm.weight.grad
            assert bias is not None
            assert gain is not None
            assert not bias[channels].any()
            assert not gain[channels].any()
            assert bias.any()
            weights = [reader.weight.grad for reader in readers]
            assert not any(weight is None or weight[:, channels].any() for weight in weights)


@pytest.mark.slow
def test_the_command_fine_tunes_around_the_outliers(
    tiny: SentenceTransformer, small_arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_half(tiny, tmp_path / "trained")
    arguments = [str(tmp_path / "trained"), *small_arguments, "--run", str(tmp_path / "run"), "--steps", "2"]
    arguments[arguments.index("--output") + 1] = str(tmp_path / "outliers")
    outlier_checkpoint.main(arguments)
    biases = load_file(tmp_path / "outliers" / "model.safetensors")["encoder.layer.0.output.LayerNorm.bias"]
    channels = [channel % 32 for channel in outlier_checkpoint.CHANNELS]
    torch.testing.assert_close(biases[channels].float(), torch.tensor(OFFSETS))
    assert sorted(path.name for path in (tmp_path / "run" / "outliers").iterdir()) == ["loss.jsonl", "steps", "validation.jsonl"]
    with pytest.raises(SystemExit, match="exists already"):  # said before the training, not after it
        outlier_checkpoint.main(arguments)
