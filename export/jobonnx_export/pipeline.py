"""From a checkpoint to a bundle, in six stages: prepare, run PyTorch, ask sentence-transformers, build, judge, finish.

The bundle is made beside its goal and takes its name at the very end, so that no half-made bundle can ever be loaded.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from jobonnx import __version__
from jobonnx.arrays import Floats
from jobonnx.bundle.integrity import describe_file
from jobonnx.bundle.manifest import (
    PORTABLE,
    PROMPTS,
    REFERENCE_TEXTS,
    REFERENCE_VECTORS,
    TOKENIZER,
    WHITE_SPACE,
    Bundle,
    Graph,
    Model,
    Rejected,
    tokenizer_sha256,
    unprompted_sha256,
    write_manifest,
)
from jobonnx.errors import JobonnxError
from jobonnx.files import new_folder
from jobonnx.parity.measure import measure, tolerance_violations
from jobonnx.parity.verify import run_graph
from jobonnx.progress import Progress
from jobonnx.runtime.providers.wheel import import_onnxruntime
from jobonnx.text.tokenizer import Tokenizer
from jobonnx_export.card import write_card
from jobonnx_export.checkpoint import Checkpoint, open_checkpoint
from jobonnx_export.graph.builder import write_float_graph, write_int8_graph
from jobonnx_export.graph.external_data import DataFile, into_one_file
from jobonnx_export.independent import check_tokenizer, check_vectors, installed, texts_of_added_tokens
from jobonnx_export.labels import label
from jobonnx_export.portable import export_portable
from jobonnx_export.quantize import ALPHA, Int8Recipe, LinearStatistics, calibrate, linear_names, make_recipe
from jobonnx_export.reference import Reference
from jobonnx_export.settings import write_json, write_settings
from jobonnx_export.source import Source, locate
from jobonnx_export.texts import calibration_sha256, calibration_titles, parity_texts, reference_texts

_TOOLS = ("torch", "transformers", "onnx", "tokenizers")
_PORTABLE_TOOLS = ("optimum", "optimum-onnx")  # without fp32 they need not be there: nothing else asks for them
_ENGINE = "engine"  # the folder of our graphs
# Where sentence-transformers, optimum and transformers.js look for graphs that leave pooling to them. fp32's is optimum's own.
_PORTABLE = {
    variant: Path("onnx") / name
    for variant, name in {"fp32": "model.onnx", "fp16": "model_fp16.onnx", "int8": "model_quantized.onnx"}.items()
}


@dataclass(frozen=True)
class Target:
    """What the graphs for a target are made of."""

    padded: bool  # see jobonnx_export.graph.layout
    standard_ops_only: bool


@dataclass(frozen=True)
class Variant:
    """A precision, and what its graphs are written for."""

    storage: str  # precision of the large tensors; graphs of one storage precision share a data file
    targets: tuple[str, ...]  # the first one's graph decides which layers of int8 stay in float


# Providers that have no target of their own run "standard".
TARGETS = {
    "cpu": Target(padded=False, standard_ops_only=False),
    "standard": Target(padded=False, standard_ops_only=True),
    "cuda": Target(padded=True, standard_ops_only=False),
    "tensorrt": Target(padded=True, standard_ops_only=True),
    PORTABLE: Target(padded=True, standard_ops_only=True),  # in int8 as "cpu", which the recipe needs
}
# bf16 is the fp32 graph: the compiler behind "standard" rounds fp32 to bf16 where the CPU has that, whatever is asked of it.
# TensorRT gets no int8: it wants activations that are symmetric around zero, which is another recipe.
VARIANTS = {
    "fp32": Variant("fp32", ("cpu", "standard")),
    "bf16": Variant("fp32", ("standard",)),
    "fp16": Variant("fp16", ("cuda", "tensorrt")),
    "int8": Variant("int8", ("cpu",)),
    "int8-static": Variant("int8", ("cpu", "standard")),
}


@dataclass(frozen=True)
class Work:
    """What all stages after the first need."""

    source: Source
    checkpoint: Checkpoint
    model: Model
    folder: Path  # the bundle in the making
    tokenizer: Tokenizer
    texts: list[str]  # that graphs are measured on
    rows: list[list[int]]  # their token ids
    added: list[str]  # texts with the tokenizer's added tokens, for the comparison with sentence-transformers
    data: dict[str, DataFile]  # by storage precision
    progress: Progress


@dataclass(frozen=True)
class Oracle:
    """What PyTorch says."""

    vectors: Floats  # of `Work.texts`, float32 [texts, hidden]
    added: Floats  # of `Work.added`
    statistics: dict[str, LinearStatistics]  # calibration of int8, by linear layer; empty if no variant needs it
    bf16_error: Floats | float  # what rounding to bf16 adds to `vectors`; 0 if no variant needs it


def export(
    source: str,
    output: Path,
    variants: Collection[str] = tuple(VARIANTS),
    *,
    revision: str | None = None,
    pooling: str | None = None,
    allow_degraded: bool = False,
    progress: Progress = lambda step: None,
) -> Bundle:
    """Export a checkpoint.

    Args:
        source: a checkpoint folder or a Hub id.
        output: the bundle's folder, which must not exist yet.
        variants: which precisions to make, of `VARIANTS`. With fp32 come the portable graphs: its own, int8's and fp16's.
        revision: Hub branch, tag or commit.
        pooling: "cls" or "mean", for a folder that does not say.
        allow_degraded: keep variants that miss their tolerance, marked; int8 leaves no layer in float to pass it.
        progress: is told each step as it begins.

    Returns:
        The bundle. Variants that missed their tolerance are in `rejected`, with their figures.

    Raises:
        JobonnxError: nothing usable came out; `output` does not exist then.
        ModuleNotFoundError: a package of the extra "export" is not installed.
    """
    unknown = [variant for variant in variants if variant not in VARIANTS]
    if unknown or not variants:
        raise JobonnxError(f"variant {', '.join(unknown) or 'list is empty'}: pick from {', '.join(VARIANTS)}")
    tools = _tools(variants)  # before the work: what is not installed is known at once
    with new_folder(output) as folder:
        work = prepare(source, folder, variants, revision, pooling, progress)
        oracle = run_pytorch(work, variants)
        tools |= ask_sentence_transformers(work, oracle)
        graphs, rejected = judge(build(work, oracle, variants, all_int8=allow_degraded), allow_degraded)
        finish(work, oracle, graphs, rejected, tools)
    return Bundle.open(output)


def prepare(
    source: str, folder: Path, variants: Collection[str], revision: str | None, pooling: str | None, progress: Progress
) -> Work:
    """Stage 1: find and check the checkpoint, copy its small files, and choose the texts; also optimum's graph, for fp32.

    Raises:
        JobonnxError: the checkpoint or its tokenizer cannot be used.
    """
    found = locate(source, revision)
    progress(f"checking {found.name}")
    checkpoint = open_checkpoint(found.folder, pooling)
    tokenizer = _open_tokenizer(checkpoint)
    check_tokenizer(checkpoint)
    write_settings(checkpoint, folder)
    texts = parity_texts(tokenizer, checkpoint.prompts.values())
    rows = tokenizer.encode(texts)
    progress("reading and hashing the tensors")
    model = Model(
        source=found.name,
        revision=found.revision,
        dimension=checkpoint.architecture.hidden,
        max_tokens=checkpoint.max_tokens,
        vocabulary=checkpoint.architecture.vocabulary,
        pad_id=checkpoint.architecture.pad_id,
        pooling=checkpoint.pooling,
        normalize=checkpoint.normalize,
        prompts=checkpoint.prompts,
        default_prompt_name=checkpoint.default_prompt_name,
        tensors_sha256=checkpoint.tensors_sha256(),
        tokenizer_sha256=tokenizer_sha256(folder / TOKENIZER),
        white_space=WHITE_SPACE,
    )
    if "fp32" in variants:  # here, because tracing takes the most memory, and PyTorch's model is not loaded yet
        progress("exporting the portable graph with optimum")
        _write_portable(checkpoint, folder)
    (folder / _ENGINE).mkdir()
    data = {variant.storage: DataFile(folder / _ENGINE / f"{variant.storage}.data") for variant in VARIANTS.values()}
    added = texts_of_added_tokens(checkpoint.transformer / TOKENIZER)
    return Work(found, checkpoint, model, folder, tokenizer, texts, rows, added, data, progress)


def run_pytorch(work: Work, variants: Collection[str]) -> Oracle:
    """Stage 2: all that PyTorch is asked; its memory is free again on return.

    Raises:
        JobonnxError: PyTorch itself gives NaN or infinity.
    """
    work.progress(f"running {len(work.texts)} texts through PyTorch")
    model = Reference(work.checkpoint)
    vectors = model.encode(work.rows)
    added = model.encode(work.tokenizer.encode(work.added))
    if not np.isfinite(vectors).all():
        raise JobonnxError(
            f"{work.checkpoint.transformer}: PyTorch itself gives NaN or infinity, so the weights are broken; "
            "download the checkpoint again"
        )
    statistics: dict[str, LinearStatistics] = {}
    if any(VARIANTS[variant].storage == "int8" for variant in variants):
        work.progress("calibrating int8")
        titles = work.tokenizer.encode(calibration_titles(work.model.prompts.values()))
        statistics = calibrate(model, titles, linear_names(work.checkpoint.architecture))
    bf16_error: Floats | float = 0.0
    if "bf16" in variants:
        work.progress("rounding to bf16 in PyTorch")
        model.round_to_bf16()  # last: it does not go back
        bf16_error = model.encode(work.rows) - vectors
    return Oracle(vectors, added, statistics, bf16_error)


def ask_sentence_transformers(work: Work, oracle: Oracle) -> dict[str, str]:
    """Stage 3: compare ids and vectors of the texts that the bundle carries, and of every added token, where it is installed.

    Returns:
        Its version, for the manifest's tools; nothing where it is not installed.

    Raises:
        JobonnxError: it computes something else than our reference, or cannot load the checkpoint.
    """
    found = installed()
    if found is None:
        work.progress("sentence-transformers is not installed, so its vectors are not compared")
        return {}
    work.progress(f"comparing with sentence-transformers {found}")
    carried = reference_texts(work.texts)
    texts = [*(work.texts[i] for i in carried), *work.added]
    check_vectors(work.checkpoint, texts, work.tokenizer.encode(texts), np.concatenate([oracle.vectors[carried], oracle.added]))
    return {"sentence-transformers": found}


def build(work: Work, oracle: Oracle, variants: Collection[str], *, all_int8: bool) -> Iterator[Graph]:
    """Stage 4: write and measure the graphs of each variant; `all_int8` leaves no layer in float for int8's tolerance."""
    for variant in (name for name in VARIANTS if name in variants):
        portable = [PORTABLE] if "fp32" in variants and variant in _PORTABLE else []
        if VARIANTS[variant].storage == "int8":
            yield from _build_int8(work, oracle, variant, portable, all_int8=all_int8)
        else:
            yield from (_build_float(work, oracle, variant, target) for target in (*VARIANTS[variant].targets, *portable))


def judge(graphs: Iterable[Graph], allow_degraded: bool) -> tuple[list[Graph], list[Rejected]]:
    """Stage 5: hold each graph to its variant's tolerance.

    Returns:
        The graphs that are kept, and those that are not.
    """
    kept: list[Graph] = []
    rejected: list[Rejected] = []
    for graph in graphs:
        missed = tolerance_violations(graph.variant, graph.parity)
        if missed and (
            not allow_degraded or None in asdict(graph.parity).values()
        ):  # None stands for NaN, which is beyond degraded
            rejected.append(Rejected(**vars(graph), missed=tuple(missed)))
        else:
            kept.append(replace(graph, degraded=bool(missed)))
    return kept, rejected


def finish(work: Work, oracle: Oracle, graphs: list[Graph], rejected: list[Rejected], tools: dict[str, str]) -> None:
    """Stage 6: remove what was rejected, write reference vectors and manifest.

    Raises:
        JobonnxError: no graph was kept.
    """
    folder = work.folder
    _remove_others(folder, {folder / path for graph in graphs for path in (graph.path, graph.data) if path})
    engine = [graph for graph in graphs if graph.target != PORTABLE]
    if not engine:
        reasons = "; ".join(f"{r.variant}/{r.target}: {', '.join(r.missed)}" for r in rejected)
        raise JobonnxError(
            f"{work.source.name}: every variant missed its tolerance ({reasons}); --allow-degraded keeps them, marked"
        )
    good = [graph.variant for graph in engine if not graph.degraded]
    carried = reference_texts(work.texts)
    write_json(folder / REFERENCE_TEXTS, [work.texts[i] for i in carried])
    np.save(folder / REFERENCE_VECTORS, oracle.vectors[carried])
    bundle = Bundle(
        folder=folder,
        model=work.model,
        graphs=tuple(graphs),
        default_variant=next((variant for variant in ("int8", "fp32") if variant in good), engine[0].variant),
        files={},
        rejected=tuple(rejected),
        tools=tools,
        unprompted_sha256=unprompted_sha256(folder / PROMPTS) if (folder / PROMPTS).exists() else None,
    )
    for path in dict.fromkeys(graph.path for graph in graphs):
        label(folder / path, [graph for graph in graphs if graph.path == path], bundle)
    work.progress("hashing the files")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    bundle = replace(bundle, files={path.relative_to(folder).as_posix(): describe_file(path) for path in files})
    write_card(work.checkpoint.folder, bundle)  # after the hashes: its publisher may edit it
    write_manifest(bundle)


def _tools(variants: Collection[str]) -> dict[str, str]:
    """Versions of what exports, for the manifest. safetensors has no part in the values, but is asked for with the others."""
    version("safetensors")
    return {
        "jobonnx": __version__,  # not the installed one's: a working tree may stand before it, or nothing be installed
        "python": platform.python_version(),
        **{tool: version(tool) for tool in (*_TOOLS, *(_PORTABLE_TOOLS if "fp32" in variants else ()))},
        "onnxruntime": import_onnxruntime().__version__,
    }


def _open_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """Load the checkpoint's tokenizer and try it.

    Raises:
        JobonnxError: it does not load, fails on a text, or gives ids that the embedding table does not have.
    """
    from tokenizers import Tokenizer as Vocabulary

    path = checkpoint.transformer / TOKENIZER
    tokenizer = Tokenizer(path, checkpoint.max_tokens)
    tokenizer.encode(["", "a", "\U0010ffff"])
    largest = max(Vocabulary.from_file(str(path)).get_vocab().values())
    rows = checkpoint.architecture.vocabulary
    if largest >= rows:
        raise JobonnxError(f"{path}: token id {largest} is beyond config.json's vocab_size {rows}; take both files from one model")
    return tokenizer


def _write_portable(checkpoint: Checkpoint, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        export_portable(checkpoint.transformer, Path(temporary))
        goal = folder / _PORTABLE["fp32"]
        goal.parent.mkdir()
        for path in Path(temporary).glob(f"{goal.name}*"):
            path.chmod(0o644)  # optimum leaves external data readable by its owner alone
            path.rename(goal.with_name(path.name))


def _build_float(work: Work, oracle: Oracle, variant: str, target: str) -> Graph:
    """Write and measure one graph that computes in floats."""
    storage, kind = VARIANTS[variant].storage, TARGETS[target]
    path, data = _place(work, variant, target, storage)
    if not path.exists():  # bf16's is fp32's, and fp32's portable one is optimum's
        work.progress(f"writing {variant} for {target}")
        write_float_graph(
            work.checkpoint,
            path,
            data,
            padded=kind.padded,
            standard_ops_only=kind.standard_ops_only,
            fp16=storage == "fp16",
            hidden_states=target == PORTABLE,
        )
        if target == PORTABLE:
            into_one_file(path, data.path)
    return _measured(work, oracle, variant, target, path, variant)


def _build_int8(work: Work, oracle: Oracle, variant: str, portable: Sequence[str], *, all_int8: bool) -> Iterator[Graph]:
    """Write and measure the graphs of an int8 variant, with as few layers left in float as its tolerance asks for.

    Those are none, then the 2, 4, 8, ... layers of the largest errors. The first target's graph decides; the others are written
    with the same layers.
    """
    recipe = make_recipe(work.checkpoint, oracle.statistics, static=variant == "int8-static")
    worst_first = sorted(recipe.errors, key=lambda name: -recipe.errors[name])
    first, *others = VARIANTS[variant].targets
    count = 0
    while True:
        in_float = sorted(worst_first[:count])
        graph = _write_int8(work, oracle, variant, first, recipe, in_float)
        count = max(2, count * 2)
        if all_int8 or not tolerance_violations(variant, graph.parity) or count > len(worst_first) // 2:
            break
    yield graph
    for target in (*others, *portable):
        yield _write_int8(work, oracle, variant, target, recipe, in_float)


def _write_int8(work: Work, oracle: Oracle, variant: str, target: str, recipe: Int8Recipe, in_float: Sequence[str]) -> Graph:
    """Write and measure one graph of a recipe, with the layers `in_float` left in float."""
    work.progress(f"writing {variant} for {target}" + (f", {len(in_float)} layers in float" if in_float else ""))
    path, data = _place(work, variant, target, variant)
    chosen = recipe.without(in_float)
    standard = target != PORTABLE and TARGETS[target].standard_ops_only
    write_int8_graph(work.checkpoint, path, chosen, data, standard_ops_only=standard, hidden_states=target == PORTABLE)
    if target == PORTABLE:
        into_one_file(path, data.path)
    # The recipe's text enters the fingerprint, so its words stay: "column" is an output channel.
    described = (
        f"{variant} weights=s8/column activations=u8 inputs={chosen.inputs_sha256()[:16]} smoothing={ALPHA}/pow2 embeddings=s8/row "
        f"calibration={calibration_sha256(work.model.prompts.values())[:16]} float={','.join(in_float) or 'none'}"
    )
    return _measured(work, oracle, variant, target, path, described)


def _place(work: Work, variant: str, target: str, name: str) -> tuple[Path, DataFile]:
    """Where a graph is written, and its large tensors: an engine graph's are shared, a portable one's are its own."""
    if target == PORTABLE:
        path = work.folder / _PORTABLE[variant]
        return path, DataFile(path.with_name(f"{path.name}_data"))
    return work.folder / _ENGINE / f"{name}-{target}.onnx", work.data[VARIANTS[variant].storage]


def _measured(work: Work, oracle: Oracle, variant: str, target: str, path: Path, recipe: str) -> Graph:
    """Measure a written graph against PyTorch.

    It runs on the CPU provider, which does not round to bf16; so what that rounding adds in PyTorch is added to bf16's vectors.
    """
    work.progress(f"measuring {variant} for {target}")
    rounding = oracle.bf16_error if variant == "bf16" else 0.0
    parity = measure(oracle.vectors, run_graph(path, work.rows, work.model) + rounding)
    name = path.relative_to(work.folder).as_posix()
    data: str | None = work.data[VARIANTS[variant].storage].path.relative_to(work.folder).as_posix()
    if target == PORTABLE:  # a data file of its own, for a graph of more than 2 GB
        beside = path.with_name(f"{path.name}_data")
        data = beside.relative_to(work.folder).as_posix() if beside.exists() else None
    return Graph(variant, target, name, recipe, parity, data=data)


def _remove_others(folder: Path, kept: set[Path]) -> None:
    """Remove the graphs and data of variants that were left out."""
    for home in (folder / _ENGINE, folder / _PORTABLE["fp32"].parent):
        for path in home.iterdir() if home.exists() else ():
            if path not in kept:
                path.unlink()
        with suppress(OSError):  # graphs are left
            home.rmdir()
