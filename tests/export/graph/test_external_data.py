"""The data file that graphs share: what is added is there, once, on a page of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from helpers.calibrated import Calibrated
from jobonnx_export.graph.builder import write_float_graph
from jobonnx_export.graph.external_data import DataFile


def test_equal_bytes_are_stored_once_and_across_openings(tmp_path: Path) -> None:
    file = DataFile(tmp_path / "numbers.data")
    one, other = np.arange(3000, dtype=np.float32), np.arange(12000, dtype=np.uint8)
    with file.open():
        assert file.add(one) == (0, 12000)
        assert file.add(other) == (12288, 12000)
        assert file.add(one.copy().reshape(3, 1000)) == (0, 12000)
    with file.open():
        assert file.add(one) == (0, 12000)
        assert file.add(one[::-1].copy()) == (24576, 12000)
    content = file.path.read_bytes()
    assert len(content) == 24576 + 12000
    assert content[12288:24288] == other.tobytes()


def test_a_file_of_an_earlier_export_is_not_added_to(tmp_path: Path) -> None:
    (tmp_path / "numbers.data").write_bytes(b"old" * 1000)
    with DataFile(tmp_path / "numbers.data").open() as file:
        file.add(np.zeros(8, np.uint8))
    assert (tmp_path / "numbers.data").read_bytes() == bytes(8)


@pytest.mark.parametrize("standard", [False, True])
def test_two_graphs_of_the_same_precision_need_hardly_more_room_than_one(
    standard: bool, calibrated: Calibrated, tmp_path: Path
) -> None:
    alone = tmp_path / "alone.onnx"
    write_float_graph(calibrated.checkpoint, alone, standard_ops_only=standard)
    shared = DataFile(tmp_path / "shared.data")
    for name in ("first", "second"):
        path, other = tmp_path / f"{name}.onnx", standard == (name == "second")
        write_float_graph(calibrated.checkpoint, path, shared, standard_ops_only=other)
    assert shared.path.stat().st_size <= 1.01 * (tmp_path / "alone.onnx.data").stat().st_size
    expected = {t.name: numpy_helper.to_array(t) for t in onnx.load(alone).graph.initializer}
    second = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "second.onnx").graph.initializer}
    assert second.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(second[name], array, err_msg=name)
