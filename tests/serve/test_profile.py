"""How the engine shares the cores with HTTP."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from jobonnx.serve import profile


class Engine:
    """An encoder that takes a fixed CPU time per title, on a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float, threads: int, block: int = 0) -> None:
        self.settings = SimpleNamespace(threads=threads)
        self.engine = SimpleNamespace(session=SimpleNamespace(block=block))
        self.encoded, self._now, self._seconds = 0, 0.0, seconds
        monkeypatch.setattr(profile, "time", SimpleNamespace(process_time=lambda: self._now))

    def encode(self, titles: list[str]) -> None:
        self.encoded += len(titles)
        self._now += self._seconds * len(titles)


@pytest.mark.parametrize(
    ("seconds", "threads", "block", "left"),
    [
        (0.001, 2, 0, 1),
        (0.001, 8, 0, 7),
        (0.001, 1, 0, None),  # there is none to give
        (0.001, 8, 4096, None),  # a device computes
        (0.002, 2, 0, None),  # HTTP takes little of a core
        (0.04, 2, 0, None),
    ],
)
def test_a_fast_engine_leaves_http_a_core(
    seconds: float, threads: int, block: int, left: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert profile.leave_a_core(cast(Any, Engine(monkeypatch, seconds, threads, block))) == left


def test_a_slow_engine_is_not_kept_from_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(monkeypatch, 0.5, 2)
    assert profile.leave_a_core(cast(Any, engine)) is None
    assert engine.encoded == 16
