"""Every variant of a bundle on every provider, measured: what `jobonnx bench` reports."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jobonnx.bundle.manifest import REFERENCE_TEXTS, REFERENCE_VECTORS, TOKENIZER, Bundle
from jobonnx.errors import JobonnxError
from jobonnx.runtime.machine import available_threads
from jobonnx.runtime.providers import PROVIDERS
from jobonnx.text.tokenizer import Tokenizer
from jobonnx_bench import adapter, gemm
from jobonnx_bench.environment import record
from jobonnx_bench.result import ON_CUDA, BundleFacts, Report, Shape
from jobonnx_bench.runner import System, Truth, bundle_systems, run
from jobonnx_bench.workload import Sizes, draw


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    rounds: int
    sizes: Sizes
    sweep: tuple[int, ...]  # tokens of a batch


FULL = Effort(5, Sizes(bulk=1000, repeated=200, singles=60, groups8=12, groups32=8), tuple(8 << i for i in range(11)))
QUICK = Effort(3, Sizes(bulk=200, repeated=64, singles=20, groups8=4, groups32=2), (8, 32, 128, 512, 2048))


def grid(source: str | None, variants: Sequence[str] = (), providers: Sequence[str] = ()) -> list[System]:
    """Every variant on every provider, what cannot run here with the reason and what to install.

    Args:
        source: bundle folder or Hub id; None for the small model that comes with the package.
        variants: those wanted; all of the bundle's if empty.
        providers: those wanted; all that jobonnx knows if empty.

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
    there = {(s.options["variant"], s.options["provider"]): s for s in bundle_systems(source)}
    pairs = [(v, p) for p in providers or PROVIDERS for v in bundle.variants if not variants or v in variants]
    return [there.get((variant, provider)) or _without_graph(source, variant, provider) for variant, provider in pairs]


def _without_graph(source: str | None, variant: str, provider: str) -> System:
    """A cell for which the bundle has no graph; where the provider is not there either, that is said first."""
    reason = PROVIDERS[provider].unavailable_reason() or f"the bundle has no {variant} graph for {provider}"
    return System(
        name=f"jobonnx-{variant}-{provider}",
        adapter=Path(adapter.__file__),
        options={"bundle": source, "variant": variant, "provider": provider},
        family="jobonnx",
        absent=reason,
    )


def measure(
    source: str | None,
    systems: Sequence[System],
    titles: Sequence[str],
    effort: Effort,
    report: Callable[[str], None] = lambda line: None,
) -> Report:
    """Measure the cells of a grid in one run, round by round, with the machine's rate of matrix products before each round.

    Args:
        source: the bundle, as `grid` took it.
        systems: what `grid` gave.
        titles: to draw the workload from.
        effort: how much.
        report: is told each turn as it ends.

    Raises:
        JobonnxError: the bundle's reference vectors cannot be read, or there are too few titles.
    """
    bundle = Bundle.open(source)
    shape = _shape(bundle)
    truth = _truth(bundle)
    tokenizer = Tokenizer(bundle.folder / TOKENIZER, bundle.model.max_tokens)
    workload = draw(titles, tokenizer.encode, effort.sizes, sweep=effort.sweep)
    providers = list(dict.fromkeys(system.options["provider"] for system in systems if system.absent is None))
    passes: list[list[dict[str, Any]]] = []
    environment = record()

    def products() -> None:
        passes.append(_products(shape, providers))
        report(f"matrix products of {shape.hidden} x {shape.intermediate}")

    with tempfile.TemporaryDirectory(prefix="jobonnx-bench-") as folder:
        cells = run(
            systems,
            workload,
            Path(folder),
            rounds=effort.rounds,
            truth=truth,
            each_round=products,
            report=report,
        )
    limits = {
        "weights": shape.layers * shape.layer_weights,
        "gemm": gemm.rates(passes, shape.hidden, shape.intermediate),
        "reading": [],  # benchmarks/limits.py has it
        "missing": gemm.missing(passes),
        "passes": passes,
    }
    facts = BundleFacts(
        model=bundle.model.source,
        revision=bundle.model.revision,
        dimension=bundle.model.dimension,
        pooling=bundle.model.pooling,
        parity_texts=len(truth.texts),
        fingerprints={variant: bundle.fingerprint(variant) for variant in bundle.variants},
    )
    return Report(environment, shape, workload.summary(), tuple(cells), limits, facts)


def _shape(bundle: Bundle) -> Shape:
    path = bundle.folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return Shape(config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JobonnxError(f"{path} does not say the encoder's shape ({error}); export the bundle again") from None


def _truth(bundle: Bundle) -> Truth:
    try:
        texts = json.loads((bundle.folder / REFERENCE_TEXTS).read_text(encoding="utf-8"))
        vectors = np.load(bundle.folder / REFERENCE_VECTORS, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise JobonnxError(f"{bundle.folder}: its reference vectors cannot be read ({error}); export the bundle again") from None
    return Truth(tuple(texts), vectors)


def _products(shape: Shape, providers: Sequence[str]) -> list[dict[str, Any]]:
    """One pass of gemm.py, in a process of its own, so that its threads and buffers are gone when the cells run."""
    command = [sys.executable, "-P", gemm.__file__, "--threads", str(available_threads())]
    command += ["--hidden", str(shape.hidden), "--intermediate", str(shape.intermediate)]
    command += ["--cuda"] if any(name in ON_CUDA for name in providers) else []
    command += ["--openvino"] if "openvino" in providers else []
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode:  # a rate that is not there leaves the shares out, and the report says so
        reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        found.append({"kind": "product", "engine": gemm.ENGINE, "dtype": "all", "missing": reason[:200]})
    return found
