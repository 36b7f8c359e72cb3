"""Cores that are not the service's alone."""

from __future__ import annotations

import pytest

from jobonnx import Encoder
from jobonnx.serve import profile


@pytest.mark.parametrize(("available", "threads"), [(1, 1), (2, 1), (5, 2), (8, 4)])
def test_it_takes_half_of_the_threads_and_never_spins(available: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "available_threads", lambda: available)
    assert profile.shared_cores(None) == {"threads": threads, "spin": False}
    assert profile.shared_cores(7) == {"threads": 7, "spin": False}  # what the user asks for goes first


def test_an_encoder_takes_it() -> None:
    with Encoder(**profile.shared_cores(2)) as encoder:
        assert (encoder.settings.threads, encoder.settings.spin) == (2, False)
