"""In which precision OpenVINO runs the operators of a graph, as its own compiled model says.

    python benchmarks/openvino_precisions.py BUNDLE/engine/int8-static-standard.onnx

Needs the package openvino alone; nothing is computed, so a CPU where int8 through OpenVINO is refused will do.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path


def precisions(graph: Path) -> Counter[tuple[str, str]]:
    """Count the operators of a compiled graph by their kind and the precision that they run in."""
    import openvino

    compiled = openvino.Core().compile_model(str(graph), "CPU")
    infos = [operator.get_rt_info() for operator in compiled.get_runtime_model().get_ops()]
    return Counter((info["layerType"].value, info["runtimePrecision"].value) for info in infos)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph", type=Path)
    for (kind, precision), count in sorted(precisions(parser.parse_args().graph).items()):
        print(f"{count:5} {kind} {precision}")
