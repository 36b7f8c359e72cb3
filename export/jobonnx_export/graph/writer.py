"""Nodes and tensors of one ONNX graph in the making."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from jobonnx_export.graph.external_data import DataFile

MICROSOFT = "com.microsoft"  # ONNX Runtime's own operators: attention and integer products, each one kernel
_OPSET = 20
_IR_VERSION = 10
_INLINE_BYTES = 1024  # smaller tensors stay in the graph file, where ONNX Runtime folds constants


class GraphWriter:
    """Collects nodes and tensors. Large tensors are streamed to the data file as they come, so that one at a time is in memory.

    A node's name is its operator and its number. So the order of the calls is part of the exported bytes, as are the names of the
    tensors: benchmarks/same_graphs.py tells whether a change altered either.
    """

    def __init__(self, data: DataFile) -> None:
        """Start an empty graph whose large tensors go to `data`, which has to be open."""
        self._data = data
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: dict[str, onnx.TensorProto] = {}

    def op(self, kind: str, *inputs: str, name: str = "", domain: str = "", **attributes: Any) -> str:
        """Add a node with one output; return the output's name."""
        output = name or f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [output], name=output, domain=domain, **attributes))
        return output

    def const(self, name: str, array: np.ndarray[Any, Any]) -> str:
        """Add a tensor unless one of that name is there; return its name."""
        if name in self._tensors:
            return name
        array = np.asarray(array, order="C")  # not ascontiguousarray: it makes scalars one-dimensional
        if array.nbytes <= _INLINE_BYTES:
            self._tensors[name] = numpy_helper.from_array(array, name)
            return name
        tensor = TensorProto(name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype))
        tensor.data_location = TensorProto.EXTERNAL
        offset, length = self._data.add(array)
        for key, value in (("location", self._data.path.name), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        self._tensors[name] = tensor
        return name

    def scalar(self, name: str, value: float, dtype: type[np.generic]) -> str:
        """Add a constant of no dimension; return its name."""
        return self.const(name, np.array(value, dtype))

    def ints(self, *values: int) -> str:
        """Add a list of int64, such as a shape or axes; return its name."""
        return self.const("ints_" + "_".join(map(str, values)), np.array(values, dtype=np.int64))

    def save(self, path: Path, inputs: Mapping[str, Sequence[str]], outputs: Mapping[str, Sequence[str | int]]) -> None:
        """Write the graph file.

        Args:
            path: the file.
            inputs: name -> dimensions; all are int64.
            outputs: name -> dimensions; all are float32.
        """
        graph = helper.make_graph(
            self._nodes,
            "jobonnx",
            [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            list(self._tensors.values()),
        )
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="jobonnx")
        path.write_bytes(model.SerializeToString())
