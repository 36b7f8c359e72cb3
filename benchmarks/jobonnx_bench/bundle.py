"""Every variant of a bundle on every provider, measured: what `jobonnx bench` reports."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobonnx.bundle.manifest import TOKENIZER, Bundle
from jobonnx.errors import JobonnxError
from jobonnx.parity.measure import read_reference
from jobonnx.progress import Progress
from jobonnx.runtime.machine import available_threads
from jobonnx.runtime.providers import PROVIDERS, find_provider, providers_for
from jobonnx.runtime.providers.base import Provider
from jobonnx.strict_json import read_json
from jobonnx.text.tokenizer import Tokenizer
from jobonnx_bench import adapter
from jobonnx_bench.environment import record
from jobonnx_bench.gemm import CPU
from jobonnx_bench.limits import combine, measure_gemm
from jobonnx_bench.process import System
from jobonnx_bench.report import BundleFacts, LimitsPass, Report, Shape
from jobonnx_bench.rounds import Reference, Schedule, run
from jobonnx_bench.workload import Sizes, draw

_FIX = "export the bundle again"


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    rounds: int
    sizes: Sizes
    sweep: tuple[int, ...]  # tokens of each batch


FULL = Effort(5, Sizes(bulk=1000, repeated=200, singles=60, groups8=12, groups32=8), tuple(8 << i for i in range(11)))
QUICK = Effort(3, Sizes(bulk=200, repeated=64, singles=20, groups8=4, groups32=2), (8, 32, 128, 512, 2048))


def bundle_systems(source: str | None = None) -> list[System]:
    """List every variant of a bundle on every provider that has a graph for it; those that cannot run here, as absent.

    Args:
        source: bundle folder or Hub id; None for the small model that comes with the package.
    """
    bundle = Bundle.open(source)
    systems = []
    for graph in bundle.graphs:
        files = tuple(bundle.folder / name for name in (graph.path, graph.data) if name)
        for provider in providers_for(graph.target):
            systems.append(_system(source, graph.variant, provider, provider.unavailable_reason(graph.variant), files))
    return systems


def select_systems(source: str | None, variants: Sequence[str] = (), providers: Sequence[str] = ()) -> list[System]:
    """List every variant on every provider, what cannot run here with the reason and what to install.

    Args:
        source: bundle folder or Hub id; None for the small model that comes with the package.
        variants: the variants wanted; all of the bundle's if empty.
        providers: the providers wanted; all that jobonnx knows if empty.

    Raises:
        JobonnxError: the bundle has no such variant, or jobonnx knows no such provider.
    """
    bundle = Bundle.open(source)
    for provider in providers:
        if provider not in PROVIDERS:
            raise JobonnxError(f"provider {provider!r} is unknown; it is one of {', '.join(PROVIDERS)}")
    for variant in variants:
        if variant not in bundle.variants:
            raise JobonnxError(
                f"{bundle.folder} has no variant {variant!r} (it has {', '.join(bundle.variants)}); "
                f"export it: jobonnx export SOURCE -o BUNDLE --variant {variant}"
            )
    with_graph = {(s.options["variant"], s.options["provider"]): s for s in bundle_systems(source)}
    pairs = dict.fromkeys((v, p) for p in providers or PROVIDERS for v in bundle.variants if not variants or v in variants)
    return [with_graph.get(pair) or _without_graph(source, *pair) for pair in pairs]


def measure(
    source: str | None,
    systems: Sequence[System],
    titles: Sequence[str],
    effort: Effort,
    progress: Progress = lambda step: None,
) -> Report:
    """Measure systems in one run, round by round, with the machine's rate of matrix products before each round.

    Args:
        source: the bundle, as `select_systems` took it.
        systems: what `select_systems` returned.
        titles: to draw the workload from.
        effort: how much.
        progress: is told each turn as it begins.

    Raises:
        JobonnxError: the bundle's reference vectors cannot be read, or there are too few titles.
    """
    bundle = Bundle.open(source)
    shape = read_shape(bundle.folder)
    texts, vectors = read_reference(bundle.folder, bundle.model.dimension)
    tokenizer = Tokenizer(bundle.folder / TOKENIZER, bundle.model.max_tokens)
    workload = draw(titles, tokenizer.encode, effort.sizes, sweep=effort.sweep)
    devices = {find_provider(system.options["provider"]).device for system in systems if system.absent is None}
    providers = [name for name, provider in PROVIDERS.items() if provider.device in devices and provider.is_here()]
    passes: list[LimitsPass] = []
    environment = record()

    def measure_limits() -> None:
        progress(f"matrix products of {shape.hidden} x {shape.intermediate}")
        passes.append(measure_gemm(shape, providers, available_threads()))

    with tempfile.TemporaryDirectory(prefix="jobonnx-bench-") as folder:
        results = run(
            systems,
            workload,
            Path(folder),
            Schedule(effort.rounds),
            reference=Reference(tuple(texts), vectors),
            before_round=measure_limits,
            progress=progress,
        )
    return Report(
        environment=environment,
        shape=shape,
        workload=workload.summary(),
        systems=tuple(results),
        limits=combine(passes, shape),
        bundle=_facts(bundle, len(texts)),
    )


def read_shape(folder: Path) -> Shape:
    """Read the encoder's shape from the config.json of a bundle or a checkpoint.

    Raises:
        JobonnxError: the file cannot be read, or does not hold the shape.
    """
    path = folder / "config.json"
    config = read_json(path, dict[str, Any], _FIX)
    sizes = [config.get(name) for name in ("num_hidden_layers", "hidden_size", "intermediate_size")]
    if not all(type(size) is int and 1 <= size < 1 << 20 for size in sizes):
        raise JobonnxError(f"{path}: num_hidden_layers, hidden_size and intermediate_size have to be positive integers; {_FIX}")
    return Shape(*(int(size) for size in sizes if size))


def _system(source: str | None, variant: str, provider: Provider, absent: str | None, files: tuple[Path, ...] = ()) -> System:
    if absent and provider.untested:
        absent = f"{absent} (nobody has run this provider with jobonnx yet)"
    return System(
        name=f"jobonnx-{variant}-{provider.name}",
        adapter=Path(adapter.__file__),
        options={"bundle": source, "variant": variant, "provider": provider.name},
        family="jobonnx",
        files=files,
        absent=absent,
        on_gpu=provider.device != CPU,
    )


def _without_graph(source: str | None, variant: str, name: str) -> System:
    """Make a system for which the bundle has no graph; where the provider is not here either, that is said first."""
    provider = find_provider(name)
    reason = provider.unavailable_reason() or f"the bundle has no {variant} graph for {name}"
    return _system(source, variant, provider, reason)


def _facts(bundle: Bundle, parity_texts: int) -> BundleFacts:
    return BundleFacts(
        model=bundle.model.source,
        revision=bundle.model.revision,
        dimension=bundle.model.dimension,
        pooling=bundle.model.pooling,
        parity_texts=parity_texts,
        fingerprints={variant: bundle.fingerprint(variant) for variant in bundle.variants},
    )
