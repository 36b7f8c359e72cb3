"""From a checkpoint to a bundle: reference, graphs, parity, manifest; all beside the goal, renamed onto it at the very end."""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from jobonnx.arrays import Floats
from jobonnx.bundle.integrity import describe_file
from jobonnx.bundle.manifest import (
    REFERENCE_TEXTS,
    REFERENCE_VECTORS,
    TOKENIZER,
    Bundle,
    Graph,
    Model,
    Rejected,
    tokenizer_sha256,
    write_manifest,
)
from jobonnx.errors import JobonnxError
from jobonnx.parity.measure import measure, tolerance_violations
from jobonnx.parity.verify import run_graph
from jobonnx.runtime.ort import import_onnxruntime
from jobonnx.text.tokenizer import Tokenizer
from jobonnx_export.checkpoint import Checkpoint, open_checkpoint
from jobonnx_export.graph.builder import write_graph
from jobonnx_export.graph.data_file import DataFile
from jobonnx_export.portable import export_portable
from jobonnx_export.quantize import ALPHA, Int8Recipe, calibrate, linear_names, make_recipe
from jobonnx_export.reference import Reference
from jobonnx_export.source import locate
from jobonnx_export.texts import calibration_sha256, calibration_titles, parity_texts, reference_texts

VARIANTS = ("fp32", "bf16", "fp16", "int8", "int8-static")
# What a variant's graphs are written for. OpenVINO gets standard operators; where the CPU has bf16 it rounds fp32 to that, whatever
# is asked of it, and that is what bf16 is: the fp32 graph, rounded. TensorRT gets no int8: it wants signed activations around zero,
# another recipe than this one.
_TARGETS = {
    "fp32": ("cpu", "standard"),
    "bf16": ("standard",),
    "fp16": ("cuda", "tensorrt"),
    "int8": ("cpu",),
    "int8-static": ("cpu", "standard"),
}
# The numbers its large tensors are kept in, and the data file that all graphs of the same numbers share.
_NUMBERS = {"fp32": "fp32", "bf16": "fp32", "fp16": "fp16", "int8": "int8", "int8-static": "int8"}
_TOOLS = ("jobonnx", "torch", "transformers", "optimum", "optimum-onnx", "onnx", "tokenizers")
_COPIED = ("config.json", TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", "sentence_bert_config.json")
Report = Callable[[str], None]


@dataclass(frozen=True)
class Work:
    """What every step of an export needs."""

    checkpoint: Checkpoint
    model: Model
    folder: Path  # the bundle in the making
    texts: list[str]
    rows: list[list[int]]  # the texts' token ids
    reference: Floats  # their vectors, from PyTorch
    data: dict[str, DataFile]  # by the numbers they hold
    report: Report


def export(
    source: str,
    output: Path,
    variants: Sequence[str] = VARIANTS,
    *,
    revision: str | None = None,
    pooling: str | None = None,
    allow_degraded: bool = False,
    progress: Report = lambda step: None,
) -> Bundle:
    """Export a checkpoint.

    Args:
        source: a checkpoint folder or a Hub id.
        output: the bundle's folder, which must not exist yet.
        variants: which numerics to make, of `VARIANTS`. With fp32 comes optimum's portable graph.
        revision: Hub branch, tag or commit.
        pooling: for a folder that does not say its own.
        allow_degraded: keep variants that miss their tolerance, marked.
        progress: is told each step as it begins.

    Returns:
        The bundle. Variants that missed their tolerance are in `rejected`, with their figures.

    Raises:
        JobonnxError: nothing usable came out; `output` does not exist then.
        ModuleNotFoundError: a package of the extra "export" is not installed.
    """
    report = progress
    unknown = [variant for variant in variants if variant not in VARIANTS]
    if unknown or not variants:
        raise JobonnxError(f"variant {', '.join(unknown) or 'list is empty'}: pick from {', '.join(VARIANTS)}")
    if output.exists():
        raise JobonnxError(f"{output} exists already; remove it or name another folder")
    tools = _tools()  # before the work: what is not installed is known at once
    report("finding the checkpoint")
    found = locate(source, revision)
    checkpoint = open_checkpoint(found.folder, pooling)
    with _beside(output) as folder:
        report("reading and hashing the tensors")
        tensors = checkpoint.tensors_sha256()
        _copy_settings(checkpoint, folder)
        tokenizer = Tokenizer(folder / TOKENIZER, checkpoint.max_tokens)
        _check_vocabulary(checkpoint)
        texts = parity_texts(tokenizer)
        rows = tokenizer.encode(texts)
        if "fp32" in variants:  # first: its tracing takes the most memory, and nothing else is loaded yet
            report("exporting the portable graph with optimum")
            _export_portable(checkpoint, folder)
        report(f"running {len(texts)} texts through PyTorch")
        torch_model = Reference(checkpoint)
        reference = torch_model.encode(rows)
        if not np.isfinite(reference).all():
            raise JobonnxError(f"{checkpoint.transformer}: PyTorch itself gives NaN or infinity; the weights are broken")
        statistics = None
        if any(variant.startswith("int8") for variant in variants):
            report("calibrating int8")
            names = linear_names(checkpoint.architecture)
            statistics = calibrate(torch_model, tokenizer.encode(calibration_titles()), names)
        rounding: Floats | float = 0.0
        if "bf16" in variants:
            report("rounding to bf16 in PyTorch")
            torch_model.round_to_bf16()  # last: it does not go back
            rounding = torch_model.encode(rows) - reference
        del torch_model
        (folder / "engine").mkdir()
        data = {numbers: DataFile(folder / "engine" / f"{numbers}.data") for numbers in _NUMBERS.values()}
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
            tensors_sha256=tensors,
            tokenizer_sha256=tokenizer_sha256(folder / TOKENIZER),
        )
        work = Work(checkpoint, model, folder, texts, rows, reference, data, report)
        _write_reference(work)

        graphs: list[Graph] = []
        rejected: list[Rejected] = []
        for variant in (v for v in VARIANTS if v in variants):
            if variant.startswith("int8"):
                assert statistics is not None
                made = _int8(work, variant, make_recipe(checkpoint, statistics, static=variant == "int8-static"))
            else:
                made = [_float(work, variant, target, rounding if variant == "bf16" else 0.0) for target in _TARGETS[variant]]
            if variant == "fp32":
                made.append(_measured(work, "fp32", "portable", folder / "onnx" / "model.onnx", "fp32"))
            for graph in made:
                missed = tolerance_violations(graph.variant, graph.parity)
                if missed and (not allow_degraded or None in asdict(graph.parity).values()):  # NaN is beyond degraded
                    rejected.append(Rejected(**vars(graph), missed=tuple(missed)))
                else:
                    graphs.append(replace(graph, degraded=bool(missed)))
        engine = [g.variant for g in graphs if g.target != "portable"]
        _remove_others(folder, {folder / path for g in graphs for path in (g.path, g.data) if path})
        if not engine:
            reasons = "; ".join(f"{r.variant}/{r.target}: {', '.join(r.missed)}" for r in rejected)
            raise JobonnxError(f"{source}: every variant missed its tolerance ({reasons}); --allow-degraded keeps them, marked")
        good = [g.variant for g in graphs if not g.degraded and g.target != "portable"]
        default = next((v for v in ("int8", "fp32") if v in good), engine[0])

        report("hashing the files")
        bundle = Bundle(
            folder=folder,
            model=model,
            graphs=tuple(graphs),
            default_variant=default,
            files={
                path.relative_to(folder).as_posix(): describe_file(path) for path in sorted(folder.rglob("*")) if path.is_file()
            },
            rejected=tuple(rejected),
            tools=tools,
        )
        write_manifest(bundle)
    return Bundle.open(output)


def _tools() -> dict[str, str]:
    """Versions of what exports, for the manifest; safetensors has no part in the values, yet is asked for with the others."""
    version("safetensors")
    return {
        "python": platform.python_version(),
        **{tool: version(tool) for tool in _TOOLS},
        "onnxruntime": import_onnxruntime().__version__,
    }


@contextmanager
def _beside(output: Path) -> Iterator[Path]:
    """A folder beside `output` that becomes `output` if all goes well, and vanishes if anything does not."""
    made = [parent for parent in output.parents if not parent.exists()]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent))
    except OSError as error:
        raise JobonnxError(f"{output.parent} cannot be written to ({error.strerror}); name another folder") from None

    stopped = False

    def stop(number: int, frame: object) -> None:
        nonlocal stopped
        stopped = True
        raise KeyboardInterrupt  # unwinds through the clean-up below

    before = {}
    if threading.current_thread() is threading.main_thread():  # elsewhere, whoever runs this handles signals
        numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        before = {number: signal.getsignal(number) for number in numbers}
    try:
        for number, handler in before.items():
            if handler in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, stop)
        yield folder
        if stopped:
            raise KeyboardInterrupt
        folder.chmod(0o755)
        os.rename(folder, output)
    except Exception as error:
        if stopped:  # C code under way may swallow the interrupt, or raise something of its own in its place
            raise KeyboardInterrupt from None
        if not isinstance(error, OSError):
            raise
        full = error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
        raise JobonnxError(
            f"{output}: the export failed ({error}); {'free some space' if full else 'mend that'} and try again"
        ) from None
    finally:
        for number in before:
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not stop the clean-up
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # not empty: the bundle, or something of somebody else's
            for parent in made:
                parent.rmdir()
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_vocabulary(checkpoint: Checkpoint) -> None:
    """Every id that the tokenizer can give needs a row in the embedding table."""
    from tokenizers import Tokenizer as Raw

    path = checkpoint.transformer / TOKENIZER
    largest, rows = max(Raw.from_file(str(path)).get_vocab().values()), checkpoint.architecture.vocabulary
    if largest >= rows:
        raise JobonnxError(f"{path}: token id {largest} is beyond config.json's vocab_size {rows}; they belong to two models")


def _copy_settings(checkpoint: Checkpoint, folder: Path) -> None:
    """The small files that make the bundle a sentence-transformers folder too, for its portable graph."""
    for name in _COPIED:
        if (checkpoint.transformer / name).is_file():
            shutil.copyfile(checkpoint.transformer / name, folder / name)
    settings = checkpoint.folder / "config_sentence_transformers.json"
    if settings.is_file():
        shutil.copyfile(settings, folder / settings.name)
    modules = ["Transformer", "Pooling", *(["Normalize"] if checkpoint.normalize else [])]
    paths = ["", "1_Pooling", "2_Normalize"]
    _write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": paths[i], "type": f"sentence_transformers.models.{kind}"}
            for i, kind in enumerate(modules)
        ],
    )
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": checkpoint.max_tokens, "do_lower_case": False})
    (folder / "1_Pooling").mkdir()
    _write_json(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": checkpoint.architecture.hidden,
            "pooling_mode_cls_token": checkpoint.pooling == "cls",
            "pooling_mode_mean_tokens": checkpoint.pooling == "mean",
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    )


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_reference(work: Work) -> None:
    places = reference_texts(work.texts)
    _write_json(work.folder / REFERENCE_TEXTS, [work.texts[i] for i in places])
    np.save(work.folder / REFERENCE_VECTORS, work.reference[places])


def _graph_path(work: Work, variant: str, target: str) -> Path:
    return work.folder / "engine" / f"{variant}-{target}.onnx"


def _measured(work: Work, variant: str, target: str, path: Path, recipe: str, rounding: Floats | float = 0.0) -> Graph:
    """A written graph with its parity. `rounding` is added to its vectors: what its provider rounds and the CPU provider not."""
    work.report(f"measuring {variant} for {target}")
    parity = measure(work.reference, run_graph(path, work.rows, work.model) + rounding)
    name, data = (p.relative_to(work.folder).as_posix() for p in (path, work.data[_NUMBERS[variant]].path))
    beside = path.with_name(path.name + "_data")  # optimum's, for a model of more than 2 GB
    portable = beside.relative_to(work.folder).as_posix() if beside.exists() else None
    return Graph(variant, target, name, recipe, parity, data=portable if target == "portable" else data)


def _float(work: Work, variant: str, target: str, rounding: Floats | float = 0.0) -> Graph:
    path = _graph_path(work, _NUMBERS[variant], target)
    if not path.exists():  # bf16's is fp32's
        work.report(f"writing {variant} for {target}")
        data = work.data[_NUMBERS[variant]]
        standard = target in ("standard", "tensorrt")
        write_graph(work.checkpoint, path, data, half=variant == "fp16", packed=target in ("cpu", "standard"), plain=standard)
    return _measured(work, variant, target, path, variant, rounding)


def _remove_others(folder: Path, kept: set[Path]) -> None:
    """Remove graphs and data of variants that were left out; of optimum's graph, what lies beside it as well."""
    for path in (folder / "engine").iterdir():
        if path not in kept:
            path.unlink()
    if folder / "onnx" / "model.onnx" not in kept:
        shutil.rmtree(folder / "onnx", ignore_errors=True)


def _export_portable(checkpoint: Checkpoint, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        export_portable(checkpoint.transformer, Path(temporary))
        (folder / "onnx").mkdir()
        for path in Path(temporary).glob("model.onnx*"):
            path.chmod(0o644)  # optimum leaves external data readable by its owner alone
            path.rename(folder / "onnx" / path.name)


def _int8(work: Work, variant: str, recipe: Int8Recipe) -> list[Graph]:
    """int8, with as few layers left in float as its tolerance asks for: none, then the 2, 4, 8, ... that suffer most.

    The first target's graph decides that; the others are written with the same layers.
    """
    worst = sorted(recipe.errors, key=lambda name: -recipe.errors[name])
    first, *others = _TARGETS[variant]
    in_float = 0
    while True:
        floats = sorted(worst[:in_float])
        graph = _int8_graph(work, variant, first, recipe, floats)
        in_float = max(2, in_float * 2)
        if not tolerance_violations(variant, graph.parity) or in_float > len(worst) // 2:
            break
    return [graph, *(_int8_graph(work, variant, target, recipe, floats) for target in others)]


def _int8_graph(work: Work, variant: str, target: str, recipe: Int8Recipe, floats: list[str]) -> Graph:
    work.report(f"writing {variant} for {target}" + (f", {len(floats)} layers in float" if floats else ""))
    path = _graph_path(work, variant, target)
    chosen = recipe.without(floats)
    write_graph(
        work.checkpoint,
        path,
        work.data["int8"],
        plain=target == "standard",
        half_embeddings=True,
        int8=chosen.linears,
        scaled_values=chosen.scaled_values,
    )
    described = (
        f"{variant} weights=s8/column activations=u8 inputs={chosen.inputs_sha256()[:16]} smoothing={ALPHA}/pow2 embeddings=fp16 "
        f"calibration={calibration_sha256()[:16]} float={','.join(floats) or 'none'}"
    )
    return _measured(work, variant, target, path, described)
