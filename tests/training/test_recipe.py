"""The recipe against the card, field by field, and the changes that `--set` makes."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.checkpoints import SHARED, needs
from jobonnx_train import cli
from jobonnx_train.recipe import adjusted, card_recipe, changed, small_recipe
from jobonnx_train.trainer import training_arguments

CARD = SHARED / "jobbge-m3" / "CARD.md"
needs_card = needs("the model card of JobBGE-m3", CARD)


@pytest.fixture
def card_text() -> str:
    return CARD.read_text(encoding="utf-8")


def literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


@pytest.fixture
def dry_run(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    cli.main(["--dry-run"])
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)["card"]
    return printed


@needs_card
def test_dry_run_prints_every_hyperparameter_of_the_card(card_text: str, dry_run: dict[str, Any]) -> None:
    table = card_text[card_text.index("Click to expand") : card_text.index("Training Logs")]
    rows = re.findall(r"^\s*•\s+(\w+):[ \t]?(.*)$", table, re.MULTILINE)
    expected = {name: literal(value.strip()) for name, value in rows}
    assert len(expected) == 114
    assert dry_run["arguments"] == expected


@needs_card
def test_dry_run_prints_the_cards_model_loss_and_guide(card_text: str, dry_run: dict[str, Any]) -> None:
    assert f"Base model: {dry_run['base']}" in card_text
    assert f"Maximum Sequence Length: {dry_run['max_seq_length']} tokens" in card_text
    assert f"Output Dimensionality: {dry_run['dimensions']} dimensions" in card_text
    assert f"Similarity Function: {dry_run['similarity'].title()} Similarity" in card_text
    architecture = card_text[card_text.index("Full Model Architecture") : card_text.index("Usage\n\nDirect")]
    assert dry_run["pooling"] == "cls"
    assert "'pooling_mode_cls_token': True" in architecture
    assert ("Normalize()" in architecture) is dry_run["normalize"]

    losses = re.findall(r"Loss: (\w+) with these parameters:\s*\{(.*?)\n\s*\), (.*?)\}", card_text, re.DOTALL)
    assert len(losses) == len(dry_run["datasets"])
    for name, guide, arguments in losses:
        assert name == dry_run["loss"]
        assert ast.literal_eval("{" + arguments + "}") == dry_run["loss_arguments"]
        assert f"Transformer model: {dry_run['guide']['architecture']}" in guide
        assert f"'max_seq_length': {dry_run['guide']['max_seq_length']}," in guide
        assert f"'word_embedding_dimension': {dry_run['guide']['dimensions']}," in guide
        assert f"'pooling_mode_{dry_run['guide']['pooling']}_tokens': True" in guide
        assert ("Normalize()" in guide) is dry_run["guide"]["normalize"]


@needs_card
def test_dry_run_prints_the_cards_datasets_and_logging(card_text: str, dry_run: dict[str, Any]) -> None:
    found = re.findall(r"Dataset: (\w+)\n\s*• Size: ([\d,]+) training samples\n\s*• Columns: (\w+) and (\w+)", card_text)
    assert {name: int(size.replace(",", "")) for name, size, *_ in found} == dry_run["datasets"]
    assert all([first, second] == dry_run["columns"] for _, _, first, second in found)
    log = card_text[card_text.index("Epoch Step Training Loss") : card_text.index("Framework Versions")].splitlines()
    rows = [line.split() for line in log if re.match(r"\d+\.\d+ \d+ ", line)]
    steps = [int(row[1]) for row in rows][1:]
    scored = [int(row[1]) for row in rows if row[3] != "-"]
    assert set(np.diff(steps)) == {dry_run["logged"]["loss_every"]}
    assert set(np.diff(scored)) == {dry_run["logged"]["evaluation_every"]}


def test_the_cards_recipe_reaches_the_trainer_unchanged(tmp_path: Path) -> None:
    recipe = card_recipe()
    arguments = training_arguments(recipe, tmp_path)
    here = {"output_dir", "local_rank", "debug", "fsdp", "accelerator_config", "fsdp_config"}  # parsed by the trainer
    if not torch.cuda.is_available():
        here |= {"fp16", "bf16", "use_cpu", "dataloader_pin_memory"}
    for field in fields(arguments):
        if field.name in recipe.arguments and field.name not in here:
            value = getattr(arguments, field.name)
            value = getattr(value, "value", value)
            expected = recipe.arguments[field.name]
            if field.name in ("lr_scheduler_kwargs", "prompts", "include_num_input_tokens_seen", "warmup_steps"):
                assert (value or None) in (expected or None, "no"), field.name
            else:
                assert value == expected, field.name


def test_a_recipe_is_changed_only_where_asked() -> None:
    recipe = adjusted(small_recipe(), ["arguments.max_steps=3", "distil=0.5"])
    assert recipe.arguments["max_steps"] == 3
    assert changed(recipe) == changed(small_recipe()) | {
        "arguments": changed(small_recipe())["arguments"] | {"max_steps": 3},
        "distil": 0.5,
    }


@pytest.mark.parametrize(
    ("change", "message"), [("nothing=1", "write SECTION.NAME=JSON"), ("distil", "write SECTION"), ("distil=half", "is not JSON")]
)
def test_a_change_that_says_nothing_is_refused(change: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^--set {change}: .*{message}"):
        adjusted(small_recipe(), [change])
