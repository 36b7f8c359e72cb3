"""Bundles from the Hub, against a local server that speaks its endpoints."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from helpers.hub_server import CLI, CLOSED, Hub, read_files
from jobonnx import Encoder
from jobonnx.bundle.integrity import with_checksum

pytestmark = pytest.mark.medium

NAME = "somebody/bundle"
ENCODE = """
import sys, json
from jobonnx import Encoder
encoder = Encoder(sys.argv[1], variant="int8", provider="cpu", revision=sys.argv[2] if len(sys.argv) > 2 else None)
print(json.dumps({"folder": str(encoder.bundle.folder), "vector": encoder.encode("Koch").tolist()}))
"""


def test_bundle_loads_from_the_cache_the_hub_library_makes(hub: Hub, bundle: Path) -> None:
    """With ONNX Runtime's own check of external data in force: the cache holds symlinks into a folder of blobs."""
    commit = hub.push(NAME, bundle)
    done = hub.run(ENCODE, NAME)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert Path(found["folder"]).name == commit
    assert Path(found["folder"], "manifest.json").is_symlink(), "the cache has changed: this test proves nothing any more"
    np.testing.assert_array_equal(np.float32(found["vector"]), Encoder(bundle, variant="int8", provider="cpu").encode("Koch"))


@pytest.mark.parametrize("how", ["offline", "no network"])
def test_second_load_needs_no_hub(hub: Hub, bundle: Path, how: str) -> None:
    hub.push(NAME, bundle)
    first = hub.run(ENCODE, NAME)
    hub.downloads.clear()
    again = hub.run(ENCODE, NAME, offline=True) if how == "offline" else hub.run(ENCODE, NAME, endpoint=CLOSED)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == json.loads(first.stdout)
    assert hub.downloads == []


def test_what_the_variant_needs_is_downloaded_once(hub: Hub, bundle: Path) -> None:
    """And nothing else: int8 is .8 GB of JobBGE-m3's 7."""
    hub.push(NAME, bundle)
    hub.run(ENCODE, NAME)
    files = read_files(bundle)
    needed = {name for name in files if not name.startswith(("engine/", "onnx/", "README"))}
    needed |= {"engine/int8-cpu.onnx", "engine/int8.data"}
    assert {files[name] for name in hub.downloads} == {files[name] for name in needed}  # files of one content come once
    assert set(hub.downloads) <= needed
    hub.downloads.clear()
    assert hub.run(ENCODE, NAME).returncode == 0
    assert hub.downloads == []


def test_another_variant_comes_later_and_is_missed_without_network(hub: Hub, bundle: Path) -> None:
    hub.push(NAME, bundle)
    hub.run(ENCODE, NAME)
    other = ENCODE.replace("int8", "fp32")
    message = _sentence(*_status(hub.run(other, NAME, offline=True)))
    assert re.search(r"engine/fp32\S+ is not in the cache, and the Hub cannot be reached", message)
    hub.downloads.clear()
    done = hub.run(other, NAME)
    assert done.returncode == 0, done.stderr
    assert set(hub.downloads) == {"engine/fp32-cpu.onnx", "engine/fp32-standard.onnx", "engine/fp32.data"}


def test_names_in_a_manifest_are_no_patterns(hub: Hub, bundle: Path) -> None:
    files = read_files(bundle)
    manifest = json.loads(files["manifest.json"])
    manifest["files"]["*"] = {"size": 1, "sha256": "0" * 64}
    files["manifest.json"] = json.dumps(with_checksum(manifest)).encode()
    hub.push(NAME, files)
    assert "* is not in the cache" in _fails(hub, NAME)
    assert "onnx/model.onnx" not in hub.downloads


def test_push_during_the_download_mixes_nothing(hub: Hub, bundle: Path) -> None:
    commit = hub.push(NAME, bundle)
    torn = dict.fromkeys(read_files(bundle), b"of another export")

    def push_once(name: str) -> None:
        hub.on_download = lambda name: None
        hub.push(NAME, torn)

    hub.on_download = push_once
    done = hub.run(ENCODE, NAME)
    assert done.returncode == 0, done.stderr
    assert Path(json.loads(done.stdout)["folder"]).name == commit
    assert hub.repositories[NAME].names["main"] != commit


@pytest.mark.parametrize("by", ["commit", "branch"])
def test_revision_picks_the_commit(hub: Hub, bundle: Path, by: str) -> None:
    commit = hub.push(NAME, bundle, branch="v1")
    hub.push(NAME, {"README.md": b"nothing here any more"})
    done = hub.run(ENCODE, NAME, commit if by == "commit" else "v1")
    assert done.returncode == 0, done.stderr
    assert Path(json.loads(done.stdout)["folder"]).name == commit


def test_altered_file_in_the_repository_does_not_load(hub: Hub, bundle: Path) -> None:
    files = read_files(bundle)
    files["tokenizer.json"] += b" "
    hub.push(NAME, files)
    assert "tokenizer.json is not the file that was exported" in _fails(hub, NAME)


def test_plain_checkpoint_names_the_export_command(hub: Hub) -> None:
    hub.push("somebody/checkpoint", {"config.json": b"{}", "model.safetensors": b"gigabytes"})
    assert "jobonnx export somebody/checkpoint -o BUNDLE" in _fails(hub, "somebody/checkpoint")
    assert hub.downloads == ["config.json"], "no gigabytes for a sentence"


def test_gated(hub: Hub) -> None:
    hub.push("somebody/gated", {"manifest.json": b"{}"})
    hub.repositories["somebody/gated"].gated = True
    assert "gated" in _fails(hub, "somebody/gated")


def test_unknown_repository(hub: Hub) -> None:
    assert "no such repository" in _fails(hub, "somebody/nothing")


def test_unknown_revision(hub: Hub, bundle: Path) -> None:
    hub.push(NAME, bundle)
    message = _fails(hub, NAME, "v9")
    assert "v9" in message
    assert "no such revision" in message


@pytest.mark.parametrize("how", ["offline", "no network"])
def test_nothing_cached_and_no_hub(hub: Hub, how: str) -> None:
    done = hub.run(ENCODE, NAME, offline=True) if how == "offline" else hub.run(ENCODE, NAME, endpoint=CLOSED)
    assert "no copy is cached" in _sentence(done.returncode, done.stderr)


def test_command_line_says_it_in_one_line(hub: Hub) -> None:
    done = hub.process("-c", CLI, "encode", "-m", "somebody/nothing", "Koch")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: somebody/nothing: no such folder here")
    assert done.stderr.count("\n") == 1


def _fails(hub: Hub, *arguments: str) -> str:
    return _sentence(*_status(hub.run(ENCODE, *arguments)))


def _status(done: subprocess.CompletedProcess[str]) -> tuple[int, str]:
    return done.returncode, done.stderr


def _sentence(status: int, stderr: str) -> str:
    assert status == 1
    assert len(stderr.strip().splitlines()) == 1, stderr
    return stderr
