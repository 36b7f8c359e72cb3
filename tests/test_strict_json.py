"""JSON that means harm is one sentence that names the file, the field and the fix."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobonnx import strict_json
from jobonnx.errors import JobonnxError


@dataclass(frozen=True)
class Part:
    name: str
    size: int = 0

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"size {self.size} has to be at least 0")


@dataclass(frozen=True)
class Whole:
    parts: tuple[Part, ...]
    shares: dict[str, float]


GOOD = {"parts": [{"name": "a", "size": 1}], "shares": {"x": 0.5, "y": 1}}


def parsed(content: str | bytes, kind: type[Any] = Whole) -> Any:
    return strict_json.parse_json(content, kind, "f.json", "make it again")


def test_json_becomes_frozen_dataclasses() -> None:
    assert parsed(json.dumps(GOOD)) == Whole((Part("a", 1),), {"x": 0.5, "y": 1.0})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "f.json is not valid JSON (Expecting value"),
        ("{", "f.json is not valid JSON"),
        ("[" * 100_000, "f.json is not valid JSON (nested too deeply)"),
        ('{"parts":' * 50_000, "f.json is not valid JSON (nested too deeply)"),
        ('{"parts": [], "shares": {"x": ' + "9" * 5000 + "}}", "f.json is not valid JSON (Exceeds the limit (4300 digits)"),
        ('{"parts": [], "shares": {"x": NaN}}', "f.json is not valid JSON (NaN is no number in JSON)"),
        ('{"parts": [], "shares": {"x": -Infinity}}', "-Infinity is no number in JSON"),
        ('{"parts": [], "shares": {"x": 1e999}}', "1e999 is too large a number"),
        ('{"parts": [], "parts": [], "shares": {}}', "key 'parts' stands there twice"),
        ('{"parts": [{"name": "a", "name": "b"}], "shares": {}}', "key 'name' stands there twice"),
        ('{"parts": [{"name": "\\ud800"}], "shares": {}}', "f.json holds half of a surrogate pair"),
        (b'{"parts": [{"name": "\xff"}], "shares": {}}', "f.json is not valid JSON ('utf-8' codec can't decode"),
        ('{"parts": [], "shares": {}, "more": 1}', "f.json: more is unknown to this version of jobonnx"),
        ('{"parts": [{"name": "a"}, {"name": "a", "color": 1}], "shares": {}}', "f.json: parts[1].color is unknown"),
        ('{"parts": [{"name": 5}], "shares": {}}', "f.json: parts[0].name: expected str, got int"),
        ('{"parts": [{"name": "a", "size": 1.0}], "shares": {}}', "f.json: parts[0].size: expected int, got float"),
        ('{"parts": [{"name": "a", "size": true}], "shares": {}}', "f.json: parts[0].size: expected int, got bool"),
        ('{"parts": [{"name": "a", "size": -1}], "shares": {}}', "f.json: parts[0]: size -1 has to be at least 0"),
        ('{"parts": [{"name": "a", "size": -1' + "0" * 4000 + "}]}", "f.json: parts[0]: size -1000"),
        ('{"parts": [], "shares": {"x": null}}', "f.json: shares[...]: expected float, got null"),
        ('{"parts": [], "shares": {"x": 1' + "0" * 400 + "}}", "f.json: shares[...]: number out of range"),
        ('{"parts": []}', "f.json: object missing required field shares"),
        ("null", "f.json: expected object, got null"),
        ("5", "f.json: expected object, got int"),
        ("[1, 2]", "f.json: expected object, got array"),
    ],
)
def test_hostile_json_is_one_sentence_with_file_field_and_fix(content: str | bytes, said: str) -> None:
    with pytest.raises(JobonnxError) as refused:
        parsed(content)
    message = str(refused.value)
    assert said in message
    assert message.endswith("; make it again")
    assert len(message) < 500
    assert "\n" not in message


def test_a_surrogate_pair_is_a_character() -> None:
    assert parsed('{"parts": [{"name": "\\ud83d\\ude00"}], "shares": {}}').parts[0].name == "😀"


def test_json_of_a_plain_type() -> None:
    assert parsed('["a", "b"]', list[str]) == ["a", "b"]
    with pytest.raises(JobonnxError, match=r"f\.json: \[1\]: expected str, got int"):
        parsed('["a", 1]', list[str])


def test_a_json_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with open(path, "wb") as file:
        file.truncate(1 << 30)  # sparse
    with pytest.raises(JobonnxError, match=r"huge\.json has more than"):
        strict_json.read_json(path, Whole, "make it again")


def test_a_missing_or_impossible_json_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(JobonnxError, match=r"absent\.json cannot be read \(No such file or directory\)"):
        strict_json.read_json(tmp_path / "absent.json", Whole, "make it again")
    with pytest.raises(JobonnxError, match="cannot be read"):
        strict_json.read_json(Path("nul\0.json"), Whole, "make it again")


def test_written_json_reads_back(tmp_path: Path) -> None:
    strict_json.write_json(tmp_path / "a.json", GOOD)
    assert strict_json.read_json(tmp_path / "a.json", Whole, "") == parsed(json.dumps(GOOD))
    with pytest.raises(ValueError, match="Out of range float"):
        strict_json.write_json(tmp_path / "a.json", float("nan"))
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    "use", [lambda path: strict_json.read_json(path, dict, "mend it"), lambda path: strict_json.write_json(path, {})]
)
def test_a_pipe_in_the_place_of_a_json_file_is_refused_and_not_waited_for(tmp_path: Path, use: Callable[[Path], object]) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("Windows has no pipes in folders")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(JobonnxError, match=r"pipe is no (regular )?file"):
        use(tmp_path / "pipe")
