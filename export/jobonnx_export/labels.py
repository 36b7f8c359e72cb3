"""What a graph file says of itself, for whoever finds it without its bundle: the `metadata_props` of ONNX, and who made it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import onnx

from jobonnx import __version__
from jobonnx.bundle.manifest import FORMAT, PORTABLE, Bundle, Graph, Parity

_PREFIX = "jobonnx."
_DIGITS = 4  # of parity: the last ones differ between machines
# What ONNX Runtime has to be told, and where; see docs/decisions/0007-int8-exact-without-vnni.md.
INT8_OPTION = "session.x64quantprecision"
_INT8_OPTIONS = {
    "session_options": json.dumps({INT8_OPTION: "1"}),
    "session_options_needed_on": "x86 CPUs without VNNI: int8 products overflow there without the option, and no error says so",
}


def label(path: Path, graphs: Sequence[Graph], bundle: Bundle) -> None:
    """Append metadata to a graph file.

    One message of protocol buffers behind another is read as the two merged, so nothing of the file has to be read or written
    again: https://protobuf.dev/programming-guides/encoding/#last-one-wins.

    Args:
        path: the file.
        graphs: all that it serves as; the fp32 graph is bf16's too.
        bundle: the model, and each variant's fingerprint.
    """
    said = onnx.ModelProto(model_version=FORMAT)
    if not _is_traced(graphs):
        said.producer_name, said.producer_version = "jobonnx", __version__
    for name, value in sorted(properties(graphs, bundle).items()):
        # `jobonnx.bundle.integrity.check_data_file` takes any "location" in a graph for the name of a data file.
        if "location" not in value:
            said.metadata_props.add(key=_PREFIX + name, value=value)
    with open(path, "ab") as file:
        file.write(said.SerializeToString())


def properties(graphs: Sequence[Graph], bundle: Bundle) -> dict[str, str]:
    """Return the metadata of a graph file, without the prefix of its names; see `label`."""
    model, portable = bundle.model, graphs[0].target == PORTABLE
    named = {
        "variants": " ".join(graph.variant for graph in graphs),
        "target": graphs[0].target,
        "source": model.source,
        "revision": model.revision or "",
        "output": "hidden states of every token, to be pooled and normalised" if portable else "one vector per text",
        "pooling": model.pooling,
        "normalize": json.dumps(model.normalize),
        "dimension": str(model.dimension),
        "max_tokens": str(model.max_tokens),
        "pad_id": str(model.pad_id),
        "padding": "right",
        "white_space": model.white_space,
        "tokenizer_sha256": model.tokenizer_sha256,
    }
    for graph in graphs:
        named[f"fingerprint.{graph.variant}"] = bundle.fingerprint(graph.variant)
        named[f"recipe.{graph.variant}"] = graph.recipe
        named[f"parity.{graph.variant}"] = json.dumps(_rounded(graph.parity))
    if graphs[0].variant.startswith("int8"):
        named |= _INT8_OPTIONS
    return named


def _is_traced(graphs: Sequence[Graph]) -> bool:
    """Tell whether the graph is optimum's, which names PyTorch as its producer."""
    return graphs[0].target == PORTABLE and graphs[0].variant == "fp32"


def _rounded(parity: Parity) -> dict[str, float | int | None]:
    """Return parity's figures as four decimals; the largest difference as two significant digits."""
    return {
        name: float(f"{value:.1e}") if name == "max_abs" else round(value, _DIGITS)
        for name, value in asdict(parity).items()
        if value is not None
    }
