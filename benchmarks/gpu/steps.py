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
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_OUTLIERS = 15  # of the stand-in, see jobonnx_export/testing.py
_BULK = 40_000  # distinct titles
_REHEARSED_BULK = 96
_CALLS = 200  # with one title, or 8
_BUDGETS = (1, 2, 4, 8, 16)  # times the provider's token budget
_KERNELS = 25  # that the profile names
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
        self.small, self.cpu_bundle = self.place / "small-bundle", self.place / "cpu-bundle"

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
        "a graph of one node on CUDA": _tries(work),
    }
    return figures | {name: version for name, version in found.versions.items() if version}


def _tries(work: Work) -> str:
    """Open the smallest graph there is on the GPU: seconds, or why it does not open."""
    from jobonnx.errors import JobonnxError
    from jobonnx.runtime.providers import base, find_provider
    from jobonnx.runtime.session import Settings

    class Opened(type(find_provider("cuda"))):  # type: ignore[misc]
        wrap = base.Provider.wrap  # the graph has no token ids to bind

    _put_cpu_in_its_place(work)
    began = time.monotonic()
    try:
        Opened().open_session(ROOT / "src/jobonnx/runtime/probes/rounding.onnx", None, Settings(provider="cuda", threads=1))
    except JobonnxError as error:
        return str(error)
    return f"{time.monotonic() - began:.1f} s"


def loads(work: Work) -> Figures:
    """Export the trained small model in fp16: does it load on the GPU, and do its vectors agree."""
    with _fp16_for_cuda(work) as export:
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

    with _fp16_for_cuda(work) as run:
        bundle = run(str(work.checkpoint), work.bundle, ["fp16"], progress=progress)
    progress("end")
    (graph,) = bundle.graphs
    return figures | _figures_of(graph.parity)


def agrees(work: Work) -> Figures:
    """Parity of the full-size bundle on the GPU."""
    return _parity(work, work.bundle)


def speed(work: Work) -> Figures:
    """Latency of one and of 8 titles, and titles per second in bulk, by itself and tokenised ahead."""
    titles = work.titles()
    figures: Figures = {}
    with _encoder(work) as encoder:
        figures |= _latencies(work, encoder.encode)
        bulk = titles[: _REHEARSED_BULK if work.rehearsal else _BULK]
        encoder.encode(bulk)  # every shape once
        figures["bulk, distinct titles per second"] = f"{_rate(bulk, encoder.encode):,.0f} ({len(bulk):,} titles)"
        encoder.engine.session.block = 0
        figures["the same, tokenised before, not beside"] = f"{_rate(bulk, encoder.encode):,.0f}"
        rows = encoder.tokenize(bulk)
        figures["tokenising alone, titles per second"] = f"{len(bulk) / _seconds(lambda: encoder.tokenize(bulk)):,.0f}"
        for times in _BUDGETS:
            budget = times * encoder.settings.token_budget
            encoder.engine.encode(rows, budget)
            what = f"from token ids, {budget:,} tokens a batch, titles per second"
            figures[what] = f"{_rate(rows, partial(encoder.engine.encode, token_budget=budget)):,.0f}"
    return figures


def captured(work: Work) -> Figures:
    """Latency of one and of 8 titles with CUDA graphs."""
    from jobonnx.runtime.engine import Engine

    with _encoder(work) as encoder:
        settings = replace(encoder.settings, capture=not work.rehearsal)
        with Engine(encoder.bundle.folder / encoder.graph.path, encoder.bundle.model, settings) as engine:
            return _latencies(work, lambda group: engine.encode(encoder.tokenize(group)))


def profile(work: Work) -> Figures:
    """Where the GPU's time goes, in bulk and for one title, by kernel. PyTorch's profiler sees those of ONNX Runtime too."""
    titles = work.titles()
    found = _torch_products(work)
    with _encoder(work) as encoder:
        for bulk in (titles[: _REHEARSED_BULK if work.rehearsal else _BULK // 2], titles[:1]):
            encoder.encode(bulk)
            elapsed, events = _gpu_events(work, partial(encoder.encode, bulk))
            kernels: dict[str, list[float]] = {}
            for event in events:
                kernels.setdefault(event["name"], []).append(event["dur"] / 1e3)
            busy = sum(map(sum, kernels.values()))
            what = f"{len(bulk):,} title{'s' * (len(bulk) > 1)}"
            found[f"{what}: elapsed, profiled"] = f"{1e3 * elapsed:.2f} ms"
            found[f"{what}: {len(events):,} kernels and copies, summed"] = f"{busy:.2f} ms"
            for name, times in sorted(kernels.items(), key=lambda kernel: -sum(kernel[1]))[:_KERNELS]:
                found[f"{what}: {name[:150]} x {len(times)}".replace("|", "/")] = f"{sum(times):.2f} ms"
    return found


def _gpu_events(work: Work, call: Callable[[], Any]) -> tuple[float, list[dict[str, Any]]]:
    """Seconds of a call, and what ran on the GPU meanwhile."""
    import torch

    with torch.profiler.profile(activities=[getattr(torch.profiler.ProfilerActivity, "CPU" if work.rehearsal else "CUDA")]) as seen:
        elapsed = _seconds(call)
    seen.export_chrome_trace(str(work.place / "trace.json"))
    events = json.loads((work.place / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    return elapsed, [event for event in events if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]


def _torch_products(work: Work) -> Figures:
    """Time PyTorch's matrix products in fp16 at the shapes of a layer: what the GPU can do."""
    import torch

    found: Figures = {}
    if work.rehearsal:
        return found
    for rows in (16_384, 65_536):
        for k, n in ((1024, 1024), (1024, 4096), (4096, 1024)):
            x, weight = (torch.randn(shape, dtype=torch.float16, device="cuda") for shape in ((rows, k), (k, n)))

            def twenty(x: Any = x, weight: Any = weight) -> None:
                for _ in range(20):
                    x @ weight
                torch.cuda.synchronize()

            twenty()
            seconds = statistics.median(_seconds(twenty) for _ in range(5)) / 20
            found[f"PyTorch's fp16 product [{rows}, {k}] x [{k}, {n}]"] = f"{2e-12 * rows * k * n / seconds:.0f} TFLOP/s"
    return found


def report(work: Work) -> Figures:
    """jobonnx beside sentence-transformers in fp16 and bf16 on the same GPU, round by round, as `jobonnx bench` reports it."""
    from jobonnx_bench.process import System
    from jobonnx_bench.workload import Sizes

    device = "cpu" if work.rehearsal else "cuda"
    systems = _sentence_transformers(work, device, {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"})
    if work.bundle.is_dir() and (work.rehearsal or _cuda_reason() is None):
        options = {"bundle": str(work.bundle), "variant": "fp16", "provider": "cuda", "rehearse": work.rehearsal}
        ours = System("jobonnx-fp16-cuda", Path(__file__).parent / "adapter.py", options, "jobonnx", on_gpu=not work.rehearsal)
        systems.insert(0, ours)
    return _bench(work, systems, Sizes(bulk=20_000, repeated=2_000, singles=60, groups8=20, groups32=10), device, work.output)


def cpu_export(work: Work) -> Figures:
    """Export int8 for the CPU of the same machine. Few texts calibrate and judge it here: this is for its speed."""
    from jobonnx_export import pipeline, texts

    texts.PER_LANGUAGE, texts.RANKED_PER_LANGUAGE, texts.CALIBRATION_PER_LANGUAGE = 12, 1, 12
    bundle = pipeline.export(str(work.checkpoint), work.cpu_bundle, ["int8"], allow_degraded=True, progress=_say)
    (graph,) = (graph for graph in bundle.graphs if graph.target == "cpu")
    return _figures_of(graph.parity)


def cpu_report(work: Work) -> Figures:
    """int8 on the machine's CPU beside sentence-transformers on it."""
    from jobonnx_bench.process import System
    from jobonnx_bench.workload import Sizes

    options = {"bundle": str(work.cpu_bundle), "variant": "int8", "provider": "cpu", "rehearse": False}
    ours = System("jobonnx-int8-cpu", Path(__file__).parent / "adapter.py", options, "jobonnx")
    systems = [ours, *_sentence_transformers(work, "cpu", {"fp32": "float32", "bf16": "bfloat16"})]
    return _bench(work, systems, Sizes(bulk=512, repeated=128, singles=20, groups8=8, groups32=4), "cpu", work.output / "cpu")


def _sentence_transformers(work: Work, device: str, kinds: dict[str, str]) -> list[Any]:
    from jobonnx_bench.process import System

    peers = Path(__file__).parents[1] / "peers" / "with_sentence_transformers.py"
    return [
        System(f"st-torch-{name}", peers, {"backend": "torch", "dtype": dtype, "device": device}, folder=work.checkpoint)
        for name, dtype in kinds.items()
    ]


def _bench(work: Work, systems: list[Any], sizes: Any, device: str, output: Path) -> Figures:
    """Measure systems beside each other until the step's time is up, and write the report."""
    from jobonnx.runtime.machine import available_threads
    from jobonnx.text.tokenizer import Tokenizer
    from jobonnx_bench.bundle import read_shape
    from jobonnx_bench.environment import record
    from jobonnx_bench.limits import combine, measure_gemm
    from jobonnx_bench.render.folder import write_figures, write_page
    from jobonnx_bench.report import Report
    from jobonnx_bench.rounds import Schedule, run
    from jobonnx_bench.workload import Sizes, draw

    tokenizer = Tokenizer(work.checkpoint / "tokenizer.json", 512)
    workload = draw(work.titles(), tokenizer.encode, Sizes(64, 16, 4, 2, 1) if work.rehearsal else sizes)
    shape = read_shape(work.checkpoint)
    passes = [] if work.rehearsal else [measure_gemm(shape, [device], available_threads())]
    environment = record()
    schedule = Schedule(1 if work.rehearsal else 3, minutes=(work.left() - 15) / 60)
    results = run(systems, workload, work.place / f"run-{output.name}", schedule, reference="st-torch-fp32", progress=_say)
    limits = combine(passes, shape) if passes else None
    output.mkdir(exist_ok=True)
    made = Report(environment, shape, workload.summary(), tuple(results), limits)
    write_figures(made, output)  # first: what was measured outlives a page that cannot be drawn
    page: Figures = {}
    if find_spec("matplotlib") is None:
        page["page"] = "matplotlib is missing here: benchmarks/page.py draws it from report.json elsewhere"
    else:
        write_page(made, output)
    return page | {result.name: result.reason or f"{len(result.rounds)} rounds" for result in results}


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
    return {"best": str(best)} | {what: f"{trial.ratio:.2f} of the time of the best so far" for what, trial in shown.items()}


def _parity(work: Work, folder: Path) -> Figures:
    from jobonnx import Bundle
    from jobonnx.parity.verify import verify

    _put_cpu_in_its_place(work)
    if reason := _cuda_reason():
        raise SystemExit(reason)
    (found,) = verify(Bundle.open(folder))
    missed = ", ".join(found.missed) or "nothing"
    return {"provider": found.provider, "missed of the tolerance": missed, **_figures_of(found.parity)}


def _figures_of(parity: Any) -> Figures:
    return {name: f"{value:.6f}" for name, value in vars(parity).items() if isinstance(value, float)}


@contextmanager
def _fp16_for_cuda(work: Work) -> Iterator[Callable[..., Any]]:
    """Give the exporter, with fp16's graph for CUDA alone. PyTorch's reference and the graph run on the GPU, where that is there.

    The reference computes in float32 there too: PyTorch rounds to TF32 only where it is told to.
    """
    from jobonnx.parity.verify import run_graph
    from jobonnx_export import pipeline
    from jobonnx_export.reference import Reference

    class OnTheGpu(Reference):
        def __init__(self, checkpoint: Any) -> None:
            super().__init__(checkpoint)
            self.model = self.model.to("cuda")
            self.model.register_forward_pre_hook(_to_the_gpu, with_kwargs=True)
            self.model.register_forward_hook(_states_from_the_gpu)

    pipeline.VARIANTS["fp16"] = replace(pipeline.VARIANTS["fp16"], targets=("cuda",))
    _put_cpu_in_its_place(work)
    if _cuda_reason() is None:
        vars(pipeline)["run_graph"] = partial(run_graph, provider="cuda")
        if not work.rehearsal:
            vars(pipeline)["Reference"] = OnTheGpu
    yield pipeline.export


def _to_the_gpu(model: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return inputs, {name: value.to("cuda") if hasattr(value, "to") else value for name, value in named.items()}


def _states_from_the_gpu(model: Any, inputs: tuple[Any, ...], output: Any) -> None:
    output["last_hidden_state"] = output.last_hidden_state.cpu()


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


def _latencies(work: Work, encode: Callable[[list[str]], Any]) -> Figures:
    titles, calls = work.titles(), 20 if work.rehearsal else _CALLS
    figures: Figures = {}
    for size in (1, 8):
        groups = [titles[(i * size) % (len(titles) - size) :][:size] for i in range(calls)]
        for group in groups:  # every length once
            encode(group)
        seconds = sorted(_seconds(partial(encode, group)) for group in groups)
        middle, late = seconds[len(seconds) // 2], seconds[int(len(seconds) * 0.95)]
        figures[f"{size} title{'s' * (size > 1)}, p50 and p95"] = f"{1e3 * middle:.2f} ms, {1e3 * late:.2f} ms"
    return figures


def _rate(items: list[Any], encode: Callable[[list[Any]], Any]) -> float:
    """Items per second, the median of three calls."""
    return len(items) / statistics.median(_seconds(partial(encode, items)) for _ in range(3))


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


STEPS = (machine, loads, checkpoint, export, agrees, speed, captured, profile, report, cpu_export, cpu_report, tuned)


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
