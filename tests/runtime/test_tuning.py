"""Tuning: what is kept is what was fastest, it changes no vector, and another machine's is ignored aloud."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from helpers import gpu
from jobonnx import Bundle, Encoder, JobonnxError
from jobonnx.cli.main import main
from jobonnx.data.titles import read_titles
from jobonnx.runtime import tuning
from jobonnx.runtime.tuning import FILE, Tuning, find, machine, tune

TITLES = read_titles()[::40]


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def write(folder: Path, here: dict[str, Any], **variants: Tuning) -> None:
    content = {"machine": here, "variants": {name: asdict(t) for name, t in variants.items()}}
    (folder / FILE).write_text(json.dumps(content))


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> dict[Tuning, float]:
    """Candidates' times, made up; 1 second where nothing is said."""
    times: dict[Tuning, float] = {}
    for way in ("bulk", "one"):
        monkeypatch.setattr(tuning._Runs, way, lambda self, candidate: times.get(candidate, 1.0))
    monkeypatch.setattr(tuning._Runs, "limit", lambda self, candidate: None)
    monkeypatch.setattr(tuning, "available_threads", lambda: 4)
    return times


def test_the_fastest_is_kept_beside_the_bundle_and_used_by_auto(copy: Path, seconds: dict[Tuning, float]) -> None:
    expected = Tuning("cpu", 4, streams=4, token_budget=256, spin=False)
    seconds |= {Tuning("cpu", 4, token_budget=512): 0.9, replace(expected, spin=True): 0.8, expected: 0.5}
    best, trials = tune(Bundle.open(copy), "int8", TITLES)
    assert best == expected
    assert {t.what for t in trials} == {"bulk", "one title"}
    assert next(t.ratio for t in trials if t.tuning.token_budget == 512) == pytest.approx(0.9)
    assert find(Bundle.open(copy), "int8") == (expected, None)
    assert find(Bundle.open(copy), "fp32") == (None, None)
    assert Encoder(copy).tuning == expected


def test_a_gain_within_the_noise_changes_nothing(copy: Path, seconds: dict[Tuning, float]) -> None:
    default = Tuning("cpu", 4)
    seconds |= {replace(default, token_budget=512): 0.98, replace(default, spin=False): 0.98}
    assert tune(Bundle.open(copy), "fp32", TITLES)[0] == default


def test_other_variants_are_kept(copy: Path, seconds: dict[Tuning, float]) -> None:
    for variant in ("fp32", "int8"):
        tune(Bundle.open(copy), variant, TITLES)
    assert json.loads((copy / FILE).read_text())["variants"].keys() == {"fp32", "int8"}
    assert not list(copy.glob(".*.partial"))


def test_it_measures_for_real_and_vectors_stay_the_same(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_TURN_SECONDS", 0.05)
    monkeypatch.setattr(tuning, "_ROUNDS", 1)
    before = Encoder(copy, provider="cpu").encode(TITLES)
    _, trials = tune(Bundle.open(copy), "int8", TITLES)
    assert all(0 < t.ratio < 100 for t in trials)
    write(copy, machine(), int8=Tuning("cpu", 2, streams=2, token_budget=64, spin=False))
    tuned = Encoder(copy)
    assert tuned._bulk is not tuned.session
    assert (tuned._bulk.threads, tuned.session.threads) == (1, 2)
    vectors = tuned.encode(TITLES)
    assert (vectors * before).sum(axis=1).min() >= 0.99999
    np.testing.assert_allclose(tuned.encode(TITLES[0]), before[0], atol=1e-3)


def test_what_is_asked_for_goes_before_the_tuning(copy: Path) -> None:
    write(copy, machine(), int8=Tuning("cpu", 2, streams=2, token_budget=64))
    assert Encoder(copy, provider="cpu").tuning.streams == 1
    assert Encoder(copy, threads=1).tuning == Tuning("cpu", 1)
    with pytest.raises(ValueError, match="token_budget=0"):
        Encoder(copy).encode(TITLES, token_budget=0)


@pytest.mark.parametrize("other", [{"cpu": "another"}, {"threads": 64}, {"onnxruntime": "1.0"}])
def test_another_machines_tuning_is_ignored_and_said_so(copy: Path, other: dict[str, Any]) -> None:
    write(copy, machine() | other, int8=Tuning("cpu", 2, streams=2))
    with pytest.warns(UserWarning, match=rf"{FILE} was measured elsewhere \({next(iter(other))} .*, here .*jobonnx tune"):
        assert Encoder(copy).tuning.streams == 1
    result = CliRunner().invoke(main, ["encode", "-m", str(copy), "Koch"])
    assert result.exit_code == 0
    assert result.stderr.startswith(f"note: {copy / FILE} was measured elsewhere")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"machine": MACHINE, "variants": {"int8": {}}}',
        '{"machine": MACHINE, "variants": {"int8": {"provider": "cpu", "threads": 2, "streams": 0}}}',
        '{"machine": MACHINE, "variants": {"int8": {"provider": "cpu", "threads": 2, "streams": 4}}}',
        '{"machine": MACHINE, "variants": {"int8": {"provider": "cpux", "threads": 2}}}',
        '{"machine": MACHINE, "variants": {"int8": {"provider": "cpu", "threads": "2"}}}',
    ],
)
def test_a_broken_file_is_ignored_and_said_so(copy: Path, content: str) -> None:
    (copy / FILE).write_text(content.replace("MACHINE", json.dumps(machine())))
    with pytest.warns(UserWarning, match="cannot be read and is ignored"):
        assert Encoder(copy).tuning.streams == 1


def test_a_provider_that_is_gone_is_ignored_and_said_so(copy: Path) -> None:
    write(copy, machine(), int8=Tuning("cuda", 2))
    with pytest.warns(UserWarning, match="'cuda', which is gone"):
        assert Encoder(copy).provider == "cpu"


def test_nothing_is_said_without_one(copy: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Encoder(copy)


def test_a_variant_that_nothing_here_runs_is_an_error(copy: Path) -> None:
    with pytest.raises(JobonnxError, match="no provider here runs variant 'fp16'"):
        tune(Bundle.open(copy), "fp16", TITLES)


def test_a_folder_that_cannot_be_written_is_an_error(
    copy: Path, monkeypatch: pytest.MonkeyPatch, seconds: dict[Tuning, float]
) -> None:
    monkeypatch.setattr(tuning.os, "access", lambda *_: False)
    with pytest.raises(JobonnxError, match="cannot be written to; copy the bundle"):
        tune(Bundle.open(copy), "int8", TITLES)


@pytest.mark.parametrize(("gain", "captured"), [(0.9, True), (0.98, False)])
def test_gpus_start_from_a_larger_budget_and_cuda_races_its_graphs_for_one_title(
    gain: float, captured: bool, copy: Path, seconds: dict[Tuning, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu.stand_in(monkeypatch)
    monkeypatch.setattr(tuning._Runs, "tokens", 1 << 20)
    best = Tuning("cuda", 4, token_budget=8192)
    seconds |= {best: 0.5, replace(best, cuda_graph=True): 0.5 * gain}
    found, trials = tune(Bundle.open(copy), "fp16", TITLES)
    assert found == replace(best, cuda_graph=captured)
    assert {t.tuning.provider for t in trials} == {"cuda", "tensorrt"}
    assert {t.tuning.token_budget for t in trials} == {2048, 4096, 8192, 16384, 32768}
    assert {t.tuning.streams for t in trials} == {1}
    assert {t.what for t in trials if t.tuning.cuda_graph} == {"one title"}
    encoder = Encoder(copy, variant="fp16")
    assert (encoder.provider, encoder.tuning) == ("cuda", found)
    assert encoder.encode(TITLES[:2]).shape == (2, 128)


def test_tensorrt_and_the_cpu_race_no_cuda_graphs(
    copy: Path, seconds: dict[Tuning, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu.stand_in(monkeypatch)
    monkeypatch.setattr(tuning._Runs, "tokens", 1 << 20)
    seconds[Tuning("tensorrt", 4, token_budget=16384)] = 0.5
    for variant, provider in (("fp16", "tensorrt"), ("int8", "cpu")):
        found, trials = tune(Bundle.open(copy), variant, TITLES)
        assert found.provider == provider
        assert not any(t.tuning.cuda_graph for t in trials)


def test_gpus_are_measured_for_real_in_their_buckets(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.stand_in(monkeypatch)
    monkeypatch.setattr(tuning, "_TURN_SECONDS", 0.05)
    monkeypatch.setattr(tuning, "_ROUNDS", 1)
    monkeypatch.setattr(tuning, "_GAIN", 100.0)  # whatever is fastest
    found, trials = tune(Bundle.open(copy), "fp16", TITLES)
    assert found.provider in ("cuda", "tensorrt")
    assert all(0 < t.ratio < 100 for t in trials)


def test_a_file_from_before_cuda_graphs_still_loads(copy: Path) -> None:
    write(copy, machine(), int8=Tuning("cpu", 2, token_budget=64))
    content = json.loads((copy / FILE).read_text())
    del content["variants"]["int8"]["cuda_graph"]
    (copy / FILE).write_text(json.dumps(content))
    assert find(Bundle.open(copy), "int8") == (Tuning("cpu", 2, token_budget=64), None)


def test_command_line(copy: Path, seconds: dict[Tuning, float]) -> None:
    seconds[Tuning("cpu", 4, token_budget=512)] = 0.5
    result = CliRunner().invoke(main, ["tune", str(copy), "--json"])
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found.keys() == {"fp32", "int8", "int8-static"}
    assert found["int8"]["tuning"]["token_budget"] == 512
    shown = CliRunner().invoke(main, ["tune", str(copy), "--variant", "int8"])
    assert "kept" in shown.stdout
    info = CliRunner().invoke(main, ["info", str(copy), "--json"])
    assert json.loads(info.stdout)["tuning"]["token_budget"] == 512
