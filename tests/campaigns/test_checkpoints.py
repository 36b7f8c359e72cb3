"""Checkpoints that are incomplete, broken or forged: refused in one sentence, or read as what they say."""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from campaigns import campaign
from campaigns.mutations import NO_JSON, spoil_bytes, spoil_json, stand_in
from campaigns.test_bundles import rewrite, sentence
from helpers.checkpoints import make_checkpoint
from jobonnx import Bundle
from jobonnx_export.checkpoint import Checkpoint, open_checkpoint
from jobonnx_export.pipeline import export

pytestmark = pytest.mark.medium

#: What decides a vector is read from these; the others are not read, or only copied.
READ = ("config.json", "modules.json", "1_Pooling/config.json", "sentence_bert_config.json", "config_sentence_transformers.json")
NEEDED = ("config.json", "1_Pooling/config.json", "tokenizer.json", "model.safetensors")
SETTINGS = (*READ, "tokenizer_config.json", "tokenizer.json")


@pytest.fixture(scope="module", params=["safetensors", "bin"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in each format of weights."""
    folder = make_checkpoint(tmp_path_factory.mktemp("campaign") / "tiny", prompts={"query": "query: "}, num_hidden_layers=1)
    if request.param == "bin":
        import torch
        from safetensors.torch import load_file

        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    return folder


def described(checkpoint: Checkpoint) -> dict[str, Any]:
    """All that a checkpoint says of itself, but for its place and its tensors."""
    c = checkpoint
    return asdict(c.architecture) | {
        "pooling": c.pooling,
        "normalize": c.normalize,
        "max_tokens": c.max_tokens,
        "prompts": c.prompts,
        "default_prompt_name": c.default_prompt_name,
    }


def spoil(source: Path, folder: Path, chances: random.Random) -> tuple[str, str]:
    """Spoil one file of a copy; return its name, and how."""
    weights = next(name for name in ("model.safetensors", "pytorch_model.bin") if (source / name).exists())
    match chances.randrange(6):
        case 0:
            name = chances.choice((*SETTINGS, weights, "1_Pooling"))
            return name, stand_in(chances, folder / name)
        case 1 | 2 | 3:
            name = chances.choice((*READ, *READ, "tokenizer_config.json"))
            content = spoil_json(chances, json.loads((source / name).read_text()))
            rewrite(folder / name, json.dumps(content).encode("utf-8", "surrogatepass"))
            return name, "values"
        case 4:
            name = chances.choice(READ)
            old = (source / name).read_bytes()
            new = chances.choice(NO_JSON).encode() if chances.random() < 0.5 else spoil_bytes(chances, old)
            rewrite(folder / name, new)
            return name, "bytes"
        case _:
            rewrite(folder / weights, spoil_bytes(chances, (source / weights).read_bytes()))
            return weights, "weights"


def attack(source: Path, intact: dict[str, Any], hashed: str, chances: random.Random) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "tiny"
        shutil.copytree(source, folder, copy_function=os.link)
        name, way = spoil(source, folder, chances)
        try:
            checkpoint = open_checkpoint(folder)
            found = described(checkpoint)
            sha256 = checkpoint.tensors_sha256() if way == "weights" or chances.random() < 0.1 else hashed
        except Exception as error:
            sentence(error)
            return
        json.dumps(found, allow_nan=False).encode()  # it goes into a manifest
        assert 3 <= found["max_tokens"] <= checkpoint.architecture.longest
        what = f"{name}, {way}"
        if name in (*READ, "1_Pooling") and way in ("dangling link", "loop", "folder", "pipe", "link to a folder", "empty file"):
            assert name == "1_Pooling", f"read past {what}"
        if name in NEEDED:
            assert way != "nothing", f"read without {name}"
        if name not in READ:
            assert found == intact or name in ("tokenizer_config.json", "modules.json"), f"other settings after: {what}"
        assert len(sha256) == 64
        a = checkpoint.architecture
        if way != "weights" and a.heads == intact["heads"] and a.epsilon == intact["epsilon"] and a.pad_id == intact["pad_id"]:
            assert sha256 == hashed, f"other tensors after: {what}"


def run(source: Path, trials: int | None = None) -> None:
    checkpoint = open_checkpoint(source)
    intact, hashed = described(checkpoint), checkpoint.tensors_sha256()
    name = f"broken checkpoints ({'safetensors' if (source / 'model.safetensors').exists() else 'bin'})"
    campaign.run(name, lambda chances: attack(source, intact, hashed, chances), trials=trials)


def test_some_broken_checkpoints(source: Path) -> None:
    run(source, trials=150)


@pytest.mark.campaign
def test_broken_checkpoints(source: Path) -> None:
    run(source)


def export_attack(source: Path, chances: random.Random) -> None:
    """Export all the way: a bundle that opens, or one sentence and nothing left."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "tiny"
        shutil.copytree(source, folder, copy_function=os.link)
        what: object
        if chances.random() < 0.4:  # its settings
            path = folder / "tokenizer.json"
            parsed = json.loads(path.read_text(encoding="utf-8"))
            vocabulary = parsed["model"].pop("vocab")
            parsed = spoil_json(chances, parsed)
            if isinstance(parsed, dict) and isinstance(parsed.get("model"), dict):
                parsed["model"].setdefault("vocab", vocabulary)
            rewrite(path, json.dumps(parsed).encode("utf-8", "surrogatepass"))
            what = "tokenizer.json, values"
        else:
            what = spoil(source, folder, chances)
        output = Path(temporary) / "out"
        try:
            export(str(folder), output, ("int8",))
        except Exception as error:
            sentence(error)
            assert sorted(os.listdir(temporary)) == ["tiny"], f"left behind after {what}: {os.listdir(temporary)}"
        else:
            Bundle.open(output, verify=True)


@pytest.mark.campaign
def test_exports_of_broken_checkpoints(source: Path) -> None:
    name = f"exports of broken checkpoints ({'safetensors' if (source / 'model.safetensors').exists() else 'bin'})"
    campaign.run(name, lambda chances: export_attack(source, chances))
