"""One step of run.py, in a process of its own: `python steps.py NAME PLACE OUT [--rehearse] [--layers N] [--seconds S]`."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_OUTLIERS = 15  # of the stand-in, see jobonnx_export/testing.py
_BULK = 40_000  # distinct titles
_REHEARSED_BULK = 96
_CALLS = 200  # with one title, or 8
Figures = dict[str, str]


class Work:
    """Where the files of all steps lie, and whether a GPU is there."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.place: Path = arguments.place
        self.output: Path = arguments.output
        self.rehearsal: bool = arguments.rehearse
        self.layers: int | None = arguments.layers
        self.seconds: float = arguments.seconds
        self.began = time.monotonic()
        self.checkpoint, self.bundle = self.place / "stand-in", self.place / "bundle"
        self.small = self.place / "small-bundle"

    def titles(self) -> list[str]:
        """Distinct titles; fewer where the CPU stands in."""
        found = (self.place / "titles.txt").read_text(encoding="utf-8").splitlines()
        return found[: _REHEARSED_BULK * 4] if self.rehearsal else found

    def left(self) -> float:
        """Seconds before this step is ended."""
        return self.seconds - (time.monotonic() - self.began)


def machine(work: Work) -> Figures:
    """Say what the machine and the versions are, and whether ONNX Runtime has its CUDA provider."""
    import onnxruntime as ort
    import torch

    from jobonnx_bench.environment import record

    found = record()
    figures = {
        "CPU": f"{found.cpu}, {found.threads} threads",
        "GPU": "; ".join(found.gpus) or "none",
        "Python": found.python,
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda}, available: {torch.cuda.is_available()}",
        "ONNX Runtime's providers": ", ".join(ort.get_available_providers()),
    }
    return figures | {name: version for name, version in found.versions.items() if version}


def loads(work: Work) -> Figures:
    """Export the trained small model in fp16: does it load on the GPU, and do its vectors agree."""
    with _fp16_for_cuda() as export:
        export(str(ROOT / "training" / "checkpoint"), work.small, ["fp16"], progress=_say)
    return _parity(work, work.small)


def checkpoint(work: Work) -> Figures:
    """Make the full-size stand-in of the checkpoint whose small files travelled."""
    from jobonnx_export.testing import synthetic_checkpoint

    changes = {"num_hidden_layers": work.layers} if work.layers else None
    made = synthetic_checkpoint(work.place / "checkpoint", work.checkpoint, outliers=_OUTLIERS, changes=changes)
    return {"layers": str(made.layers), "bytes": f"{(work.checkpoint / 'model.safetensors').stat().st_size:,}"}


def export(work: Work) -> Figures:
    """Export fp16 for CUDA."""
    began = time.monotonic()
    figures: Figures = {}
    last = "start"

    def progress(step: str) -> None:
        nonlocal began, last
        now = time.monotonic()
        figures[f"{last}, seconds"] = f"{now - began:.1f}"
        began, last = now, step
        _say(step)

    with _fp16_for_cuda() as run:
        bundle = run(str(work.checkpoint), work.bundle, ["fp16"], progress=progress)
    progress("end")
    (graph,) = bundle.graphs
    return figures | {"lowest cosine, on the CPU": f"{graph.parity.min_cosine:.6f}"}


def agrees(work: Work) -> Figures:
    """Parity of the full-size bundle on the GPU."""
    return _parity(work, work.bundle)


def speed(work: Work) -> Figures:
    """Latency of one and of 8 titles, and titles per second in bulk, by itself and tokenised ahead."""
    titles = work.titles()
    figures: Figures = {}
    with _encoder(work) as encoder:
        figures |= _latencies(encoder, titles, 20 if work.rehearsal else _CALLS)
        bulk = titles[: _REHEARSED_BULK if work.rehearsal else _BULK]
        encoder.encode(bulk)  # every shape once
        seconds = [_seconds(lambda: encoder.encode(bulk)) for _ in range(3)]
        figures["bulk, distinct titles per second"] = f"{len(bulk) / statistics.median(seconds):,.0f} ({len(bulk):,} titles)"
        encoder.engine.session.block = 0
        seconds = [_seconds(lambda: encoder.encode(bulk)) for _ in range(3)]
        figures["the same, tokenised before, not beside"] = f"{len(bulk) / statistics.median(seconds):,.0f}"
        rows = encoder.tokenize(bulk)
        figures["tokenising alone, titles per second"] = f"{len(bulk) / _seconds(lambda: encoder.tokenize(bulk)):,.0f}"
        figures["from token ids, titles per second"] = f"{len(bulk) / _seconds(lambda: encoder.encode_tokens(rows)):,.0f}"
    return figures


def captured(work: Work) -> Figures:
    """Latency of one and of 8 titles with CUDA graphs."""
    from jobonnx.runtime.engine import Engine

    with _encoder(work) as encoder:
        settings = replace(encoder.settings, capture=not work.rehearsal)
        with Engine(encoder.bundle.folder / encoder.graph.path, encoder.bundle.model, settings) as engine:
            encoder.engine.close()
            encoder.engine = engine
            return _latencies(encoder, work.titles(), 20 if work.rehearsal else _CALLS)


def report(work: Work) -> Figures:
    """jobonnx beside sentence-transformers in fp16 and bf16 on the same GPU, round by round, as `jobonnx bench` reports it."""
    from jobonnx.runtime.machine import available_threads
    from jobonnx.text.tokenizer import Tokenizer
    from jobonnx_bench.bundle import read_shape
    from jobonnx_bench.environment import record
    from jobonnx_bench.limits import combine, measure_gemm
    from jobonnx_bench.process import System
    from jobonnx_bench.render.folder import write_report
    from jobonnx_bench.report import Report
    from jobonnx_bench.rounds import Schedule, run
    from jobonnx_bench.workload import Sizes, draw

    device = "cpu" if work.rehearsal else "cuda"
    peers = Path(__file__).parents[1] / "peers" / "with_sentence_transformers.py"
    systems = [
        System(f"st-torch-{name}", peers, {"backend": "torch", "dtype": dtype, "device": device}, folder=work.checkpoint)
        for name, dtype in {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}.items()
    ]
    if work.bundle.is_dir() and (work.rehearsal or _cuda_reason() is None):
        options = {"bundle": str(work.bundle), "variant": "fp16", "provider": "cuda", "rehearse": work.rehearsal}
        ours = System("jobonnx-fp16-cuda", Path(__file__).parent / "adapter.py", options, "jobonnx", on_gpu=not work.rehearsal)
        systems.insert(0, ours)
    tokenizer = Tokenizer(work.checkpoint / "tokenizer.json", 512)
    sizes = Sizes(64, 16, 4, 2, 1) if work.rehearsal else Sizes(bulk=20_000, repeated=2_000, singles=60, groups8=20, groups32=10)
    workload = draw(work.titles(), tokenizer.encode, sizes)
    shape = read_shape(work.checkpoint)
    passes = [] if work.rehearsal else [measure_gemm(shape, ["cuda"], available_threads())]
    environment = record()
    schedule = Schedule(1 if work.rehearsal else 3, minutes=(work.left() - 15) / 60)
    results = run(systems, workload, work.place / "run", schedule, reference="st-torch-fp32", progress=_say)
    limits = combine(passes, shape) if passes else None
    write_report(Report(environment, shape, workload.summary(), tuple(results), limits), work.output)
    return {result.name: result.reason or f"{len(result.rounds)} rounds" for result in results}


def tuned(work: Work) -> Figures:
    """Run `jobonnx tune`; what it finds is kept for the user's cache in PLACE."""
    from jobonnx import Bundle
    from jobonnx.runtime.tuning import tune
    from jobonnx.text.tokenizer import Tokenizer

    bundle = Bundle.open(work.bundle)
    _put_cpu_in_its_place(work)
    rows = Tokenizer(work.bundle / "tokenizer.json", bundle.model.max_tokens).encode(work.titles())
    best, trials = tune(bundle, "fp16", rows, _say)
    shown = {f"{t.what}: budget {t.settings.token_budget}, capture {t.settings.capture}, spin {t.settings.spin}": t for t in trials}
    return {"best": str(best)} | {what: f"{trial.ratio:.2f} of the default's time" for what, trial in shown.items()}


def _parity(work: Work, folder: Path) -> Figures:
    from jobonnx import Bundle
    from jobonnx.parity.verify import verify

    _put_cpu_in_its_place(work)
    if reason := _cuda_reason():
        raise SystemExit(reason)
    (found,) = verify(Bundle.open(folder))
    figures = {name: f"{value:.6f}" for name, value in vars(found.parity).items() if isinstance(value, float)}
    return {"provider": found.provider, "missed of the tolerance": ", ".join(found.missed) or "nothing", **figures}


@contextmanager
def _fp16_for_cuda() -> Iterator[Callable[..., Any]]:
    """Give the exporter, with fp16's graph for CUDA alone: each graph is measured on the CPU, which takes its time."""
    from jobonnx_export import pipeline

    pipeline.VARIANTS["fp16"] = replace(pipeline.VARIANTS["fp16"], targets=("cuda",))
    yield pipeline.export


def _put_cpu_in_its_place(work: Work) -> None:
    if work.rehearsal:
        import adapter

        adapter.rehearse()


def _cuda_reason() -> str | None:
    """Why CUDA cannot run here; None if it can."""
    from jobonnx.runtime.providers import find_provider

    return find_provider("cuda").unavailable_reason("fp16")


def _encoder(work: Work) -> Any:
    from jobonnx import Encoder

    _put_cpu_in_its_place(work)
    return Encoder(work.bundle, variant="fp16", provider="cuda")


def _latencies(encoder: Any, titles: list[str], calls: int) -> Figures:
    figures: Figures = {}
    for size in (1, 8):
        groups = [titles[(i * size) % (len(titles) - size) :][:size] for i in range(calls)]
        for group in groups:  # every length once
            encoder.encode(group)
        seconds = sorted(_seconds(partial(encoder.encode, group)) for group in groups)
        middle, late = seconds[len(seconds) // 2], seconds[int(len(seconds) * 0.95)]
        figures[f"{size} title{'s' * (size > 1)}, p50 and p95"] = f"{1e3 * middle:.2f} ms, {1e3 * late:.2f} ms"
    return figures


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


STEPS = (machine, loads, checkpoint, export, agrees, speed, captured, report, tuned)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=[step.__name__ for step in STEPS])
    parser.add_argument("place", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--seconds", type=float, default=600.0)
    arguments = parser.parse_args()
    (step,) = (step for step in STEPS if step.__name__ == arguments.step)
    figures = step(Work(arguments))
    folder = arguments.output / "steps"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"step-{arguments.step}.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
    for what, figure in figures.items():
        _say(f"{what}: {figure}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
