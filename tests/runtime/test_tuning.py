"""Tuning: what is kept is what was fastest, it changes no vector, and another machine's is ignored aloud."""

from __future__ import annotations

import json
import logging
import os
import shutil
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
from jobonnx.runtime import tuning, tuning_cache
from jobonnx.runtime.engine import Engine
from jobonnx.runtime.session import Session, Settings
from jobonnx.runtime.tuning import tune
from jobonnx.runtime.tuning_cache import load, path_of, this_machine

TITLES = read_titles()[::40]
# Rows of token ids are made once, by the tokenizer of the small model; the tests' bundle has one of its own.
Seconds = dict[Settings, float]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def rows(bundle: Path) -> list[list[int]]:
    return Encoder(bundle).tokenize(TITLES)


def keep(folder: Path, settings: Settings, variant: str = "int8", **machine: Any) -> Path:
    """Keep settings as `tune` does, of this machine or another."""
    path = path_of(Bundle.open(folder), variant)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": asdict(replace(this_machine(), **machine)), "settings": asdict(settings)}))
    return path


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Seconds:
    """Candidates' times, made up; 1 second where nothing is said."""
    times: Seconds = {}
    for way in ("bulk", "one"):
        monkeypatch.setattr(tuning._Stopwatch, way, lambda self, candidate: times.get(candidate, 1.0))
    monkeypatch.setattr(tuning._Stopwatch, "limit", lambda self, candidate: None)
    monkeypatch.setattr(tuning, "available_threads", lambda: 4)
    monkeypatch.setattr(tuning_cache, "available_threads", lambda: 4)
    return times


def test_the_fastest_is_kept_for_this_user_and_used_by_auto(bundle: Path, rows: Any, seconds: Seconds) -> None:
    before = sorted(bundle.rglob("*"))
    expected = Settings("cpu", 4, streams=4, token_budget=256, spin=False)
    seconds |= {Settings("cpu", 4, streams=4, token_budget=512): 0.9, replace(expected, spin=True): 0.8, expected: 0.5}
    best, trials = tune(Bundle.open(bundle), "int8", rows)
    assert best == expected
    assert {t.what for t in trials} == {"bulk", "one title"}
    assert next(t.ratio for t in trials if t.settings.token_budget == 512) == pytest.approx(0.9)
    assert load(Bundle.open(bundle), "int8") == (expected, None)
    assert load(Bundle.open(bundle), "fp32") == (None, None)
    assert Encoder(bundle).settings == expected
    assert sorted(bundle.rglob("*")) == before  # a bundle never changes


def test_a_read_only_bundle_can_be_tuned_and_its_copies_too(bundle: Path, rows: Any, seconds: Seconds, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    copy.chmod(0o555)
    seconds[Settings("cpu", 4, token_budget=512)] = 0.5
    tune(Bundle.open(copy), "int8", rows)
    assert Encoder(copy).settings.token_budget == Encoder(bundle).settings.token_budget == 512


@pytest.mark.parametrize(("alone", "streams", "budget"), [(0.86, 4, 256), (0.84, 4, 256), (0.8, 1, 512)])
def test_small_batches_on_all_threads_have_to_beat_streams(
    alone: float, streams: int, budget: int, bundle: Path, rows: Any, seconds: Seconds
) -> None:
    """Streams keep their gain where one core is held up for a while, and small batches lose it."""
    seconds |= {Settings("cpu", 4, streams=4, token_budget=256): 0.85, Settings("cpu", 4, token_budget=512): alone}
    best, _ = tune(Bundle.open(bundle), "int8", rows)
    assert (best.streams, best.token_budget) == (streams, budget)


@pytest.mark.parametrize(
    ("of_1024", "of_512", "budget"), [(0.9, 0.95, 1024), (0.92, 0.95, 2048), (0.9, 0.9, 512), (0.88, 0.87, 512)]
)
def test_of_what_is_level_the_smallest_batches_are_kept(
    of_1024: float, of_512: float, budget: int, bundle: Path, rows: Any, seconds: Seconds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They need less memory, and leave no stream without work in a call of some batches."""
    monkeypatch.setattr(tuning._Stopwatch, "tokens", 1 << 20)
    times = {2048: 0.88, 1024: of_1024, 512: of_512}
    seconds |= {Settings("cpu", 4, streams=4, token_budget=tokens): time for tokens, time in times.items()}
    best, _ = tune(Bundle.open(bundle), "int8", rows)
    assert (best.streams, best.token_budget) == (4, budget)


def test_a_gain_within_the_noise_changes_nothing(bundle: Path, rows: Any, seconds: Seconds) -> None:
    default = Settings("cpu", 4)
    seconds |= {replace(default, token_budget=512): 0.98, replace(default, spin=False): 0.98}
    assert tune(Bundle.open(bundle), "fp32", rows)[0] == default


def test_other_variants_are_kept(bundle: Path, rows: Any, seconds: Seconds) -> None:
    opened = Bundle.open(bundle)
    for variant in ("fp32", "int8"):
        tune(opened, variant, rows)
    files = {path_of(opened, variant) for variant in ("fp32", "int8")}
    assert set(path_of(opened, "int8").parent.iterdir()) == files


def test_it_measures_for_real_and_vectors_stay_the_same(bundle: Path, rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_TURN_SECONDS", 0.05)
    monkeypatch.setattr(tuning, "_ROUNDS", 1)
    before = Encoder(bundle, provider="cpu").encode(TITLES)
    _, trials = tune(Bundle.open(bundle), "int8", rows)
    assert all(0 < t.ratio < 100 for t in trials)
    keep(bundle, Settings("cpu", 2, streams=2, token_budget=64, spin=False), threads=2)
    monkeypatch.setattr(tuning_cache, "available_threads", lambda: 2)
    with Encoder(bundle) as fast:
        assert fast.engine._stream is not fast.engine.session
        assert (fast.engine._stream.threads, fast.engine.session.threads) == (1, 2)
        vectors = fast.encode(TITLES)
        assert (vectors * before).sum(axis=1).min() >= 0.99999
        np.testing.assert_allclose(fast.encode(TITLES[0]), before[0], atol=1e-3)


def test_what_is_asked_for_goes_before_the_tuning(bundle: Path) -> None:
    keep(bundle, Settings("cpu", 2, streams=2, token_budget=64))
    assert Encoder(bundle, provider="cpu").settings.streams == 1
    assert Encoder(bundle, threads=1).settings == Settings("cpu", 1)
    with pytest.raises(ValueError, match="token_budget=0"):
        Encoder(bundle).encode(TITLES, token_budget=0)


@pytest.mark.parametrize("other", [{"cpu": "another"}, {"threads": 64}, {"onnxruntime": "1.0"}])
def test_another_machines_tuning_is_ignored_and_said_so(
    bundle: Path, other: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    path = keep(bundle, Settings("cpu", 2, streams=2), **other)
    assert Encoder(bundle).settings.streams == 1
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"{path} was measured elsewhere ({next(iter(other))} " in record.getMessage()
    assert f"measure again: jobonnx tune {bundle}" in record.getMessage()
    result = CliRunner().invoke(main, ["encode", "-m", str(bundle), "Koch"])
    assert result.exit_code == 0
    assert result.stderr.startswith(f"note: {path} was measured elsewhere")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        "[" * 100_000,
        '{"machine": MACHINE, "settings": {}}',
        '{"machine": MACHINE, "settings": {"provider": "cpu", "threads": 2, "streams": 0}}',
        '{"machine": MACHINE, "settings": {"provider": "cpu", "threads": 2, "streams": 4}}',
        '{"machine": MACHINE, "settings": {"provider": "cpu", "threads": 1.5}}',
        '{"machine": MACHINE, "settings": {"provider": "cpu", "threads": 100000}}',
        '{"machine": MACHINE, "settings": {"provider": "cpu", "threads": 2, "streams": 1.5}}',
        '{"machine": MACHINE, "settings": {"provider": "cpux", "threads": 2}}',
        '{"machine": MACHINE, "settings": {"provider": "cpu", "threads": "2"}}',
        '{"machine": MACHINE, "settings": {"provider": "cpu", "threads": 2, "token_budget": NaN}}',
        '{"machine": 7, "settings": {"provider": "cpu", "threads": 2}}',
    ],
)
def test_a_broken_file_is_ignored_and_said_so(bundle: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    path = keep(bundle, Settings("cpu", 2))
    path.write_text(content.replace("MACHINE", json.dumps(asdict(this_machine()))))
    assert Encoder(bundle).settings.streams == 1
    (record,) = caplog.records
    assert str(path) in record.getMessage()
    assert "measure again: jobonnx tune" in record.getMessage()


def test_a_provider_that_is_gone_is_ignored_and_said_so(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep(bundle, Settings("cuda", 2))
    assert Encoder(bundle).provider == "cpu"
    assert "'cuda', which does not run here (provider 'cuda' is not in onnxruntime" in caplog.text


def test_nothing_is_said_without_one(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    Encoder(bundle)
    assert caplog.records == []


def test_a_variant_that_nothing_here_runs_is_an_error(bundle: Path, rows: Any) -> None:
    with pytest.raises(JobonnxError, match="no provider here runs variant 'fp16'"):
        tune(Bundle.open(bundle), "fp16", rows)


def test_a_cache_that_cannot_be_written_is_an_error_before_the_work(
    bundle: Path, rows: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tuning, "_Stopwatch", None)
    with pytest.raises(JobonnxError, match=r"cannot be written to \(.*\); mend that, or set XDG_CACHE_HOME"):
        tune(Bundle.open(bundle), "int8", rows)


def test_a_user_without_a_home_has_no_tuning_and_no_note(
    bundle: Path, rows: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert Encoder(bundle).settings.streams == 1
    assert caplog.records == []
    with pytest.raises(JobonnxError, match="this user has no home to keep settings in; set XDG_CACHE_HOME"):
        tune(Bundle.open(bundle), "int8", rows)


@pytest.mark.parametrize(("gain", "captured"), [(0.9, True), (0.98, False)])
def test_gpus_start_from_a_larger_budget_and_cuda_races_its_graphs_for_one_title(
    gain: float, captured: bool, bundle: Path, rows: Any, seconds: Seconds, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu.pretend(monkeypatch)
    monkeypatch.setattr(tuning._Stopwatch, "tokens", 1 << 20)
    best = Settings("cuda", 4, token_budget=8192)
    seconds |= {best: 0.5, replace(best, capture=True): 0.5 * gain}
    found, trials = tune(Bundle.open(bundle), "fp16", rows)
    assert found == replace(best, capture=captured)
    assert {t.settings.provider for t in trials} == {"cuda", "tensorrt"}
    assert {t.settings.token_budget for t in trials} == {2048, 4096, 8192, 16384, 32768}
    assert {t.settings.streams for t in trials} == {1}
    assert {t.what for t in trials if t.settings.capture} == {"one title"}
    if not captured:  # the CPU's kernels stand in, and they cannot capture
        encoder = Encoder(bundle, variant="fp16")
        assert (encoder.provider, encoder.settings) == ("cuda", found)
        assert encoder.encode(TITLES[:2]).shape == (2, 128)


def test_tensorrt_and_the_cpu_capture_nothing(bundle: Path, rows: Any, seconds: Seconds, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.pretend(monkeypatch)
    monkeypatch.setattr(tuning._Stopwatch, "tokens", 1 << 20)
    seconds[Settings("tensorrt", 4, token_budget=16384)] = 0.5
    for variant, provider in (("fp16", "tensorrt"), ("int8", "cpu")):
        found, trials = tune(Bundle.open(bundle), variant, rows)
        assert found.provider == provider
        assert not any(t.settings.capture for t in trials)


def test_gpus_are_measured_for_real_in_their_buckets(bundle: Path, rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.pretend(monkeypatch)
    monkeypatch.setattr(tuning, "_TURN_SECONDS", 0.05)
    monkeypatch.setattr(tuning, "_ROUNDS", 1)
    monkeypatch.setattr(tuning, "_GAIN", 100.0)  # whatever is fastest
    found, trials = tune(Bundle.open(bundle), "fp16", rows)
    assert found.provider in ("cuda", "tensorrt")
    assert all(0 < t.ratio < 100 for t in trials)


def test_command_line(bundle: Path, seconds: Seconds) -> None:
    seconds[Settings("cpu", 4, token_budget=512)] = 0.5
    result = CliRunner().invoke(main, ["tune", str(bundle), "--json"])
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found.keys() == {"fp32", "int8", "int8-static"}
    assert found["int8"]["settings"]["token_budget"] == 512
    shown = CliRunner().invoke(main, ["tune", str(bundle), "--variant", "int8"])
    assert "kept" in shown.stdout
    assert f"int8: kept in {path_of(Bundle.open(bundle), 'int8')}" in shown.stderr
    info = CliRunner().invoke(main, ["info", str(bundle), "--json"])
    assert json.loads(info.stdout)["settings"]["token_budget"] == 512
    assert os.listdir(path_of(Bundle.open(bundle), "int8").parent)


def test_a_single_batch_has_all_threads(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams are for batches side by side: one title on one of two single threads took 20 ms in place of 15."""
    opened = Bundle.open(bundle)
    graph = opened.graph("int8", "cpu")
    assert graph is not None
    used: list[int] = []
    run = Session.run

    def counted(session: Session, *batch: Any) -> Any:
        used.append(session.threads)
        return run(session, *batch)

    monkeypatch.setattr(Session, "run", counted)
    with Engine(bundle / graph.path, opened.model, Settings("cpu", 2, streams=2)) as engine:
        engine.encode([[0, 9, 2]])
        engine.encode([[0, 9, 2], [0, 9, 8, 2]], max_rows=1)
    assert used == [2, 1, 1]
