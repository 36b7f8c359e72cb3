"""Checkpoints from a folder or from the Hub, the latter against a local server that speaks its endpoints."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from helpers.hub_server import CLI, CLOSED, Hub
from jobonnx.errors import JobonnxError
from jobonnx_export.source import DEFAULT, locate

pytestmark = pytest.mark.medium

NAME = "somebody/model"
LOCATE = """
import sys, json
from jobonnx_export.source import locate
found = locate(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
files = sorted(path.relative_to(found.folder).as_posix() for path in found.folder.rglob("*") if path.is_file())
print(json.dumps({"name": found.name, "revision": found.revision, "files": files}))
"""
SETTINGS = {name: name.encode() for name in ("config.json", "modules.json", "tokenizer.json", "1_Pooling/config.json")}
CHECKPOINT = SETTINGS | {"model.safetensors": b"tensors"}
UNUSED = {"onnx/model.onnx": b"graph", "onnx/config.json": b"{}", "pytorch_model.bin": b"the same again"}


def test_folder_is_named_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    found = locate(str(tmp_path / "model" / "."), None)
    assert (found.name, found.revision) == ("model", None)


def test_folder_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(JobonnxError, match="leave --revision away"):
        locate(str(tmp_path), "v1")


@pytest.mark.parametrize("source", ["./not/here", "/not/here", "not-here", "a/b/c", "~/model"])
def test_path_that_is_not_there_never_reaches_the_hub(source: str) -> None:
    with pytest.raises(JobonnxError, match="no such folder; give a checkpoint folder or a Hub id"):
        locate(source, None)


def test_file_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()
    with pytest.raises(JobonnxError, match="no such folder"):
        locate(str(tmp_path / "model.bin"), None)


@pytest.mark.parametrize("asked", [None, "v1", "commit"])
def test_revision_is_resolved_to_the_commit(hub: Hub, asked: str | None) -> None:
    old = hub.push(NAME, CHECKPOINT, branch="v1")
    new = hub.push(NAME, CHECKPOINT | {"model.safetensors": b"others"})
    found = _located(hub.run(LOCATE, NAME, *([] if asked is None else [old if asked == "commit" else asked])))
    assert found == {"name": NAME, "revision": new if asked is None else old, "files": sorted(CHECKPOINT)}


def test_only_what_is_needed_is_downloaded(hub: Hub) -> None:
    needed = CHECKPOINT | {"README.md": b"card", "LICENSE": b"terms"}  # both go into the bundle
    hub.push(NAME, needed | UNUSED)
    assert _located(hub.run(LOCATE, NAME))["files"] == sorted(needed)
    assert sorted(hub.downloads) == sorted(needed)


@pytest.mark.parametrize("folder", ["", "0_Transformer/"])
def test_weights_in_a_bin_file_are_downloaded_where_there_are_no_others(hub: Hub, folder: str) -> None:
    """Other safetensors, such as a head's, are not the encoder's weights."""
    files = SETTINGS | {f"{folder}pytorch_model.bin": b"tensors", "2_Dense/model.safetensors": b"a head"}
    hub.push(NAME, files)
    assert f"{folder}pytorch_model.bin" in _located(hub.run(LOCATE, NAME))["files"]


def test_shards_of_a_bin_file_are_downloaded_and_no_other_bin_files(hub: Hub) -> None:
    shards = {f"pytorch_model-0000{i}-of-00002.bin": b"tensors" for i in (1, 2)} | {"pytorch_model.bin.index.json": b"{}"}
    hub.push(NAME, SETTINGS | shards | {"pytorch_model.fp16.bin": b"halves"})
    assert _located(hub.run(LOCATE, NAME))["files"] == sorted(SETTINGS | shards)


def test_push_during_the_download_mixes_nothing(hub: Hub) -> None:
    commit = hub.push(NAME, SETTINGS | {"pytorch_model.bin": b"tensors"})

    def push_once(name: str) -> None:
        hub.on_download = lambda name: None
        hub.push(NAME, SETTINGS | {"pytorch_model.bin": b"others"})

    hub.on_download = push_once
    found = _located(hub.run(LOCATE, NAME))
    assert found["revision"] == commit != hub.repositories[NAME].names["main"]
    assert "pytorch_model.bin" in found["files"]


def test_default_is_the_models_own_repository(hub: Hub, tmp_path: Path) -> None:
    """`jobonnx export` without a SOURCE asks for it, and gives up on the first thing that is missing."""
    hub.push(DEFAULT, {"modules.json": b"not json"})
    done = hub.process("-c", CLI, "export", "-o", str(tmp_path / "out"))
    assert DEFAULT == "pj-mathematician/JobBGE-m3"
    assert hub.downloads == ["modules.json"]
    assert done.returncode == 1
    step, sentence = done.stderr.splitlines()
    assert step == f"checking {DEFAULT}"
    assert "modules.json is not valid JSON" in sentence
    assert not (tmp_path / "out").exists()


def test_unknown_revision(hub: Hub) -> None:
    hub.push(NAME, CHECKPOINT)
    assert f"{NAME} at revision v9: no such revision" in _sentence(hub.run(LOCATE, NAME, "v9"))


def test_unknown_repository(hub: Hub) -> None:
    assert f"{NAME}: no such folder here and no such repository" in _sentence(hub.run(LOCATE, NAME))


def test_gated(hub: Hub) -> None:
    hub.push(NAME, CHECKPOINT)
    hub.repositories[NAME].gated = True
    assert "gated" in _sentence(hub.run(LOCATE, NAME))


@pytest.mark.parametrize("how", ["offline", "no network"])
@pytest.mark.parametrize("asked", [None, "v1", "commit"])
def test_cached_copy_serves_without_the_hub(hub: Hub, how: str, asked: str | None) -> None:
    commit = hub.push(NAME, CHECKPOINT, branch="main" if asked is None else "v1")
    arguments = [NAME] if asked is None else [NAME, commit if asked == "commit" else asked]
    first = _located(hub.run(LOCATE, *arguments))
    again = hub.run(LOCATE, *arguments, offline=True) if how == "offline" else hub.run(LOCATE, *arguments, endpoint=CLOSED)
    assert _located(again) == first


@pytest.mark.parametrize("how", ["offline", "no network"])
def test_nothing_cached_and_no_hub(hub: Hub, how: str) -> None:
    done = hub.run(LOCATE, NAME, offline=True) if how == "offline" else hub.run(LOCATE, NAME, endpoint=CLOSED)
    assert "no copy is cached" in _sentence(done)


def test_other_revision_than_the_cached_one_is_not_passed_off(hub: Hub) -> None:
    hub.push(NAME, CHECKPOINT)
    hub.run(LOCATE, NAME)
    assert "at revision v1" in _sentence(hub.run(LOCATE, NAME, "v1", offline=True))


def _located(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _sentence(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.stderr
