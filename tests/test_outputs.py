"""Quantised vectors and tensors, against sentence-transformers' own functions."""

from __future__ import annotations

import logging
import sys
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import torch
from sentence_transformers.util.quantization import quantize_embeddings

from jobonnx.outputs import PRECISIONS, Output, quantize


def vectors(rows: int, dimension: int = 24) -> Any:
    return np.random.default_rng(rows).normal(size=(rows, dimension)).astype(np.float32)


@pytest.mark.parametrize("precision", [name for name in PRECISIONS if name != "float32"])
@pytest.mark.parametrize("rows", [1, 3, 250])
def test_precisions_are_those_of_quantize_embeddings(precision: Any, rows: int) -> None:
    if precision == "int8" and tuple(map(int, sentence_transformers.__version__.split(".")[:2])) < (5, 7):
        pytest.skip("sentence-transformers rounds down since 5.7, and towards zero before")
    given = vectors(rows)
    given[:, 3] = 0.25  # a component without a range
    expected = quantize_embeddings(given, precision)
    found = quantize(given, precision)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("precision", "shape"), [("int8", (0, 24)), ("ubinary", (0, 3))])
def test_no_rows_stay_no_rows(precision: str, shape: tuple[int, int]) -> None:
    assert Output(precision=precision).of(vectors(0), single=False).shape == shape


def test_ranges_of_few_vectors_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        quantize(vectors(99), "int8")
        quantize(vectors(100), "int8")
        quantize(vectors(3), "binary")
    assert [message.split(";")[0] for message in caplog.messages] == ["precision='int8' takes its ranges from 99 vectors"]


def test_tensors_come_as_one_or_as_a_list() -> None:
    given = vectors(3)
    one = Output(convert_to_tensor=True).of(given, single=False)
    assert isinstance(one, torch.Tensor)
    np.testing.assert_array_equal(one.numpy(), given)
    several = Output(convert_to_numpy=False).of(given, single=False)
    assert [type(t) for t in several] == [torch.Tensor] * 3
    single = Output(convert_to_tensor=True).of(given[:1], single=True)
    assert single.shape == (24,)
    assert Output(precision="uint8", convert_to_tensor=True).of(given, single=False).dtype == torch.uint8
    np.testing.assert_array_equal(Output().of(given[:1], single=True), given[0])


@pytest.mark.parametrize("asked", [{"convert_to_tensor": True}, {"convert_to_numpy": False}])
def test_without_torch_tensors_are_refused(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    ((name, value),) = asked.items()
    with pytest.raises(
        ValueError, match=rf"{name}={value} asks for torch tensors, and torch is not installed; .*pip install torch"
    ):
        Output(**asked)
