"""The README.md of a bundle, so that it can be published on the Hub as it is; and the checkpoint's licence files beside it."""

from __future__ import annotations

import logging
import re
import shutil
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from jobonnx import __version__
from jobonnx.bundle.hub import HUB_ID
from jobonnx.bundle.manifest import PORTABLE, Bundle, Graph
from jobonnx.errors import reason
from jobonnx.markdown import table
from jobonnx_export.labels import INT8_OPTION

CARD = "README.md"
_LICENCES = ("LICENSE", "LICENCE", "NOTICE")  # with any ending, in capitals or not
_KEPT = ("license", "license_name", "license_link", "language")  # of the checkpoint's own metadata
_MOST_BYTES = 1 << 20  # of a README.md that is looked into
_TAGS = ["jobonnx", "onnx", "onnxruntime", "xlm-roberta", "sentence-similarity", "feature-extraction", "job-titles"]
_DTYPES = {"int8": "q8", "fp16": "fp16", "fp32": "fp32"}  # variant -> what transformers.js calls it
_log = logging.getLogger(__name__)


def write_card(checkpoint: Path, bundle: Bundle) -> None:
    """Write README.md, and copy the checkpoint's LICENSE and NOTICE.

    Args:
        checkpoint: the folder that was exported.
        bundle: its export, whose folder they go into.
    """
    licences = [path for path in sorted(checkpoint.iterdir()) if path.stem.upper() in _LICENCES and path.is_file()]
    for path in licences:
        shutil.copyfile(path, bundle.folder / path.name)
    metadata = _metadata(bundle, _known(checkpoint / CARD))
    text = f"---\n{metadata.to_yaml()}\n---\n{_text(bundle, [path.name for path in licences])}"
    (bundle.folder / CARD).write_text(text, encoding="utf-8")


def _known(path: Path) -> dict[str, Any]:
    """Read what the checkpoint's own README.md says that holds for the bundle too; nothing where that cannot be read."""
    from huggingface_hub import ModelCard

    if not path.is_file() or path.stat().st_size > _MOST_BYTES:
        return {}
    try:
        data: Any = ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True).data
        found = data.to_dict()
    except Exception as error:  # YAML's errors, and those of a card that holds something else
        _log.warning("%s: its metadata cannot be read (%s), so the bundle's README.md names no licence", path, reason(error))
        return {}
    return {name: found[name] for name in _KEPT if isinstance(found.get(name), str | list)}


def _metadata(bundle: Bundle, known: dict[str, Any]) -> Any:
    from huggingface_hub import ModelCardData

    model = bundle.model
    if model.revision is not None and HUB_ID.fullmatch(model.source):
        known |= {"base_model": model.source, "base_model_relation": "quantized"}
    portable = any(graph.target == PORTABLE for graph in bundle.graphs)
    return ModelCardData(
        pipeline_tag="sentence-similarity",
        library_name="sentence-transformers" if portable else "onnx",
        tags=[*_TAGS, *(["sentence-transformers", "transformers.js"] if portable else [])],
        **known,
    )


def _text(bundle: Bundle, licences: list[str]) -> str:
    model = bundle.model
    graph = bundle.graph(bundle.default_variant, "cpu") or next(g for g in bundle.graphs if g.target != PORTABLE)
    int8 = graph.variant.startswith("int8")
    name = re.sub(r"[^\w.-]", "-", model.source.split("/")[-1])  # it stands in commands
    where = f"[{model.source}](https://huggingface.co/{model.source}) at {model.revision}" if model.revision else f"`{name}`"
    return _template("card.md").substitute(
        name=name,
        source=where,
        version=__version__,
        dimension=model.dimension,
        pooling=model.pooling.upper() if model.pooling == "cls" else model.pooling,
        length="unit length" if model.normalize else "any length",
        normalises=" and normalises" if model.normalize else "",
        max_tokens=model.max_tokens,
        pad_id=model.pad_id,
        licence=f"Its licence: {', '.join(licences)}." if licences else "Its licence is that of the checkpoint.",
        parity=_parity(bundle),
        rejected=_rejected(bundle),
        default=bundle.default_variant,
        graph=graph.path,
        python_option=f'options.add_session_config_entry("{INT8_OPTION}", "1")  # see below' if int8 else "# no option is needed",
        node_options='{ extra: { session: { x64quantprecision: "1" } } }' if int8 else "{}",
        portable=_portable(bundle),
        int8=_template("card_int8.md").template if int8 else "",
        prompts=_prompts(bundle),
    )


def _parity(bundle: Bundle) -> str:
    header = ("file", "variant", "written for", "lowest cosine", "mean centred cosine", "top-10 kept")
    rows = [(f"`{g.path}`", g.variant + (" (degraded)" if g.degraded else ""), g.target, *_figures(g)) for g in bundle.graphs]
    return table(header, rows, "lllr")


def _figures(graph: Graph) -> tuple[str, str, str]:
    parity = graph.parity
    figures = ((parity.min_cosine, 6), (parity.mean_centred, 6), (parity.top10_overlap, 3))
    lowest, centred, kept = ("not finite" if value is None else f"{value:.{digits}f}" for value, digits in figures)
    return lowest, centred, kept


def _rejected(bundle: Bundle) -> str:
    if not bundle.rejected:
        return ""
    missed = (f"{graph.variant} for {graph.target} ({'; '.join(graph.missed)})" for graph in bundle.rejected)
    return f"\nLeft out, because they missed their tolerance: {', '.join(missed)}.\n"


def _portable(bundle: Bundle) -> str:
    """Describe the graphs in onnx/, the smallest of them as the example."""
    found = {graph.variant: graph for graph in bundle.graphs if graph.target == PORTABLE}
    variant = next((name for name in _DTYPES if name in found), None)
    if variant is None:
        return ""
    return _template("card_portable.md").substitute(
        file=Path(found[variant].path).name,
        dtype=_DTYPES[variant],
        pooling=bundle.model.pooling,
        normalize=str(bundle.model.normalize).lower(),
    )


def _prompts(bundle: Bundle) -> str:
    prompts = {name: text for name, text in bundle.model.prompts.items() if text}
    if not prompts:
        return ""
    rows = [(name, f"`{text}`") for name, text in prompts.items()]
    return (
        "\n## Prompts\nThe model expects a prompt before each text. "
        "`encode_query` puts `query` there, `encode_document` puts `document`.\n"
        f"Programs without jobonnx have to do it themselves.\n\n{table(('name', 'prompt'), rows)}\n"
    )


def _template(name: str) -> Template:
    return Template((files("jobonnx_export") / "data" / name).read_text(encoding="utf-8"))
