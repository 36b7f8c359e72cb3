"""Faults that were found by attacks on the command line, each as it was found: a real process, one line, the right status."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobonnx.bundle.integrity import with_checksum
from jobonnx.bundle.manifest import MANIFEST, Bundle

PROGRAM = [sys.executable, "-c", "from jobonnx.cli import main; main()"]


def run(*words: str, redirect: str = "", cwd: Path | None = None) -> tuple[int, list[str]]:
    """Status, and the lines on stderr without those that Rust prints about a panic."""
    command = ["bash", "-c", f'"$@" {redirect}', "bash", *PROGRAM, *words]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=cwd, check=False)
    return done.returncode, [line for line in done.stderr.splitlines() if not line.startswith("note: ")]


def forged(folder: Path, name: str, content: bytes) -> Path:
    """The small model with another file in it, listed with its new hash."""
    made = shutil.copytree(Bundle.open().folder, folder / "forged")
    (made / name).write_bytes(content)
    manifest: Any = json.loads((made / MANIFEST).read_text(encoding="utf-8"))
    manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (made / MANIFEST).write_text(json.dumps(with_checksum(manifest)))
    return made


@pytest.mark.medium
@pytest.mark.parametrize("output", ["t.jsonl", "./t.jsonl", "link.jsonl"])
def test_encode_does_not_write_over_its_input(tmp_path: Path, output: str) -> None:
    content = '{"title": "cook"}\n'
    (tmp_path / "t.jsonl").write_text(content)
    (tmp_path / "link.jsonl").symlink_to("t.jsonl")
    status, said = run("encode", "--file", "t.jsonl", "--column", "title", "-o", output, cwd=tmp_path)
    assert (status, len(said)) == (1, 1)
    assert "is the input t.jsonl too and would be lost" in said[0]
    assert (tmp_path / "t.jsonl").read_text() == content


@pytest.mark.parametrize("name", ["", " "])
@pytest.mark.parametrize("command", [("info",), ("verify",), ("encode", "cook", "-m"), ("match", "cook", "-m")], ids=" ".join)
def test_an_empty_name_never_means_the_small_model(command: tuple[str, ...], name: str) -> None:
    status, said = run(*command, name)
    assert (status, len(said)) == (2, 1)
    assert "the name is empty" in said[0]


def test_info_with_a_closed_output_says_nothing() -> None:
    assert run("info", redirect=">&-") == (0, [])


def test_a_graph_that_does_not_load_is_one_line_without_colours(tmp_path: Path) -> None:
    name = "engine/int8.data"
    bundle = forged(tmp_path, name, (Bundle.open().folder / name).read_bytes()[:1000])
    status, said = run("encode", "cook", "-m", str(bundle))
    assert (status, len(said)) == (1, 1)
    assert "does not load on provider 'cpu'" in said[0]
    assert "\x1b" not in said[0]


@pytest.mark.medium
@pytest.mark.parametrize("part", ["post_processor", "normalizer", "unk_id"])
def test_a_tokenizer_that_panics_is_one_line_after_those_that_rust_prints(tmp_path: Path, part: str) -> None:
    parsed: Any = json.loads((Bundle.open().folder / "tokenizer.json").read_text(encoding="utf-8"))
    if part == "post_processor":
        parsed["post_processor"]["special_tokens"] = {}
    elif part == "normalizer":
        parsed["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    else:
        parsed["model"]["unk_id"] = None
    bundle = forged(tmp_path, "tokenizer.json", json.dumps(parsed).encode())
    status, said = run("encode", "護士", "\U0010ffff", "-m", str(bundle))
    assert status == 1
    assert "Traceback" not in "".join(said)
    assert [line for line in said if line.startswith("Error: ")] == said[-1:]
    assert "tokenizer.json" in said[-1]


@pytest.mark.medium
@pytest.mark.parametrize("content", ["[" * 100_000, "null", "5", "[1, 2]", '["a", "b"]'])
def test_reference_texts_that_are_none_are_one_line(tmp_path: Path, content: str) -> None:
    status, said = run("verify", str(forged(tmp_path, "reference.json", content.encode())))
    assert (status, len(said)) == (1, 1)
    assert "reference." in said[0]


def test_deep_json_is_one_line_in_every_file_that_a_user_gives(tmp_path: Path) -> None:
    deep = tmp_path / "deep.jsonl"
    deep.write_text("[" * 100_000 + "\n")
    shutil.copytree(Bundle.open().folder, tmp_path / "bundle")
    (tmp_path / "bundle" / MANIFEST).write_text("[" * 100_000)
    (tmp_path / "queries.tsv").write_text("q1\tcook\n")
    for command in (
        ("info", str(tmp_path / "bundle")),
        ("rank", str(tmp_path / "queries.tsv"), str(deep), "-o", str(tmp_path / "run")),
        ("bench", "--compare", str(deep), str(deep)),
    ):
        status, said = run(*command)
        assert (status, len(said)) == (1, 1), said
        assert "deep" in said[0] or "manifest.json" in said[0]
    assert "run" not in os.listdir(tmp_path)


@pytest.mark.parametrize("threads", ["0", "1.5", "nan", "20000", "999999999"])
def test_threads_that_no_machine_has_are_refused_at_once(threads: str) -> None:
    status, said = run("encode", "cook", "--threads", threads)
    assert (status, len(said)) == (2, 1)
    assert "--threads" in said[0]


def test_a_tokenizer_with_more_pieces_than_the_model_is_one_line(tmp_path: Path) -> None:
    parsed: Any = json.loads((Bundle.open().folder / "tokenizer.json").read_text(encoding="utf-8"))
    parsed["model"]["vocab"] += [["▁zyzzyva", -1.0]]
    status, said = run("encode", "zyzzyva", "-m", str(forged(tmp_path, "tokenizer.json", json.dumps(parsed).encode())))
    assert (status, len(said)) == (1, 1)
    assert "which the model does not have; take ids from" in said[0]
