"""Settings that cannot be are refused where they are made; a graph that fails, or does not fit its manifest, is one sentence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from jobonnx.bundle.manifest import Bundle
from jobonnx.errors import JobonnxError
from jobonnx.runtime.providers import find_provider
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


def test_a_run_that_fails_in_native_code_names_the_graph_on_one_line() -> None:
    class Failing:
        def get_outputs(self) -> list[Any]:
            return []

        def run(self, *arguments: Any) -> Any:
            raise Exception("Failed to allocate memory\nfor requested buffer of size 1")

    row = np.ones((1, 2), np.int64)
    session = Session(Failing(), "cpu", 1)
    session.graph = "a/b.onnx"
    with pytest.raises(JobonnxError, match=r"^a/b\.onnx failed on provider 'cpu' \(Failed to allocate memory for .* size 1\)"):
        session.run(row, row)


def test_a_graph_of_another_dimension_than_the_manifest_says_does_not_load() -> None:
    bundle = Bundle.open()
    graph, model = bundle.folder / bundle.graphs[0].path, replace(bundle.model, dimension=7)
    with pytest.raises(JobonnxError, match=r"int8-cpu\.onnx gives vectors of \d+ dimensions, its manifest says 7; export"):
        find_provider("cpu").open_session(graph, model, Settings("cpu", 1))
