"""The framework of the campaigns itself: it counts, names the seeds of failures, and repeats a failure by its seed."""

from __future__ import annotations

import random
import re
import time

import pytest

from campaigns import campaign
from helpers.checkpoints import ROOT


def _fails_sometimes(chances: random.Random) -> None:
    drawn = chances.randrange(4)
    assert drawn, f"drew {drawn}"


def test_every_failure_is_counted_and_repeats_as_the_first_trial_of_its_seed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JOBONNX_CAMPAIGN_SEED", "100")
    with pytest.raises(AssertionError) as failed:
        campaign.run("sometimes", _fails_sometimes, trials=80)
    seeds = [int(seed) for seed in str(failed.value).splitlines()[1].removeprefix("failed: ").split(", ")]
    assert capsys.readouterr().out == f"sometimes: 80 trials, {len(seeds)} failures (seed 100)\n"
    assert 5 < len(seeds) < 40
    for seed in range(100, 180):
        monkeypatch.setenv("JOBONNX_CAMPAIGN_SEED", str(seed))
        if seed in seeds:
            with pytest.raises(AssertionError, match=f"failed: {seed}\n"):
                campaign.run("sometimes", _fails_sometimes, trials=1)
        else:
            campaign.run("sometimes", _fails_sometimes, trials=1)


def test_any_exception_is_a_failure_and_an_interrupt_is_none() -> None:
    class Panic(BaseException):
        pass

    def throws(error: BaseException) -> campaign.Trial:
        def trial(chances: random.Random) -> None:
            raise error

        return trial

    for error in (ValueError("x"), Panic("x"), SystemExit(1)):
        with pytest.raises(AssertionError, match=f"{type(error).__name__}: "):
            campaign.run("throws", throws(error), trials=1)
    with pytest.raises(KeyboardInterrupt):
        campaign.run("throws", throws(KeyboardInterrupt()), trials=1)


def test_a_campaign_ends_with_its_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("JOBONNX_CAMPAIGN_SECONDS", "0.3")
    started = time.monotonic()
    campaign.run("sleeps", lambda chances: time.sleep(0.1))
    assert 0.3 <= time.monotonic() - started < 2
    campaign.run("sleeps", lambda chances: time.sleep(0.1), seconds=0)
    assert capsys.readouterr().out.endswith("sleeps: 1 trials, 0 failures (seed 1)\n")


def test_the_tests_that_the_page_of_reliability_names_exist() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(named) > 30
    missing = [f"{file}::{test}" for file, test in named if f"def {test}(" not in (ROOT / file).read_text(encoding="utf-8")]
    assert not missing
