"""Settings that cannot be are refused where they are made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from jobonnx.errors import JobonnxError
from jobonnx.runtime.session import MOST_THREADS, Session, Settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"threads": 0},
        {"threads": 1.5},
        {"threads": True},
        {"threads": 20_000},
        {"threads": 999_999_999},
        {"streams": 0},
        {"streams": 3},
        {"streams": 1.5},
        {"token_budget": 0},
        {"token_budget": float("nan")},
        {"token_budget": 10**400},
    ],
)
def test_numbers_are_whole_and_in_range(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=rf"{name} .* has to be a whole number from 1 to"):
        replace(Settings("cpu", 2), **wrong)


def test_a_stream_has_its_share_of_the_threads() -> None:
    assert Settings("cpu", 5, streams=2).one_stream() == Settings("cpu", 2)
    assert Settings("cpu", MOST_THREADS).threads == MOST_THREADS


def test_what_onnxruntime_throws_is_one_sentence() -> None:
    class Failing:
        def get_outputs(self) -> list[Any]:
            return []

        def run(self, *arguments: Any) -> None:
            raise RuntimeError("[ONNXRuntimeError] : 6 : std::bad_alloc\nat line 3")

    ids = np.zeros((1, 2), np.int64)
    with pytest.raises(JobonnxError, match=r"onnxruntime failed on provider 'cpu' \(.*bad_alloc at line 3\); try smaller batches"):
        Session(Failing(), "cpu", 1).run(ids, ids)
