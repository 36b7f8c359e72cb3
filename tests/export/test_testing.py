"""Synthetic checkpoints: the same bytes each time, outliers where asked for, and a sentence that says what was made."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jobonnx.errors import JobonnxError
from jobonnx_export.checkpoint import open_checkpoint
from jobonnx_export.testing import synthetic_checkpoint


def test_same_seed_gives_the_same_bytes_and_another_one_others(checkpoint: Path, tmp_path: Path) -> None:
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        synthetic_checkpoint(checkpoint, tmp_path / name, seed=seed)
    first, again, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "again", "other"))
    assert first == again != other


def test_outliers_are_three_channels_of_every_layer_norm_but_the_last(checkpoint: Path, tmp_path: Path) -> None:
    synthetic_checkpoint(checkpoint, tmp_path / "outliers", outliers=15.0)
    tensor = open_checkpoint(tmp_path / "outliers").tensor
    norms = [f"encoder.layer.{i}.{part}LayerNorm" for i in range(3) for part in ("attention.output.", "output.")]
    *early, last = ["embeddings.LayerNorm", *norms]
    for name in early:
        bias = tensor(f"{name}.bias")
        np.testing.assert_allclose(sorted(bias[bias != 0]), [-9, 6, 15], rtol=1e-6)
        assert (tensor(f"{name}.weight")[bias != 0] < 0.1).all()
    assert not tensor(f"{last}.bias").any()


def test_changes_reach_the_configuration_and_the_tensors(checkpoint: Path, tmp_path: Path) -> None:
    made = synthetic_checkpoint(checkpoint, tmp_path / "small", changes={"num_hidden_layers": 1})
    assert made == open_checkpoint(tmp_path / "small").architecture
    assert made.layers == 1


def test_source_that_is_no_xlm_r_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(JobonnxError, match="model_type 'bert' is not supported"):
        synthetic_checkpoint(checkpoint, tmp_path / "bert", changes={"model_type": "bert"})
    assert list(tmp_path.iterdir()) == []


def test_the_program_says_what_it_made(checkpoint: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    config = json.loads((checkpoint / "config.json").read_text()) | {"vocab_size": 10, "num_hidden_layers": 1}
    (source / "config.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "jobonnx_export.testing", str(source), str(tmp_path / "made"), "--outliers", "5"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    weights = 10 * 128 + 258 * 128 + 128 + 4 * (128 * 128 + 128) + 2 * 128 * 512 + 512 + 128 + 6 * 128
    said = f"made: {weights:,} random weights, depth 1, hidden size 128, outlier channels of offset 5"
    assert done.stdout.strip() == f"{tmp_path}/{said}"
