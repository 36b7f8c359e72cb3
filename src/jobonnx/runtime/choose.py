"""Which provider runs a variant of a bundle here, and how."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

from jobonnx.arguments import whole
from jobonnx.bundle.manifest import PORTABLE, Bundle, Graph
from jobonnx.errors import JobonnxError, ProviderUnavailableError
from jobonnx.runtime.machine import available_threads
from jobonnx.runtime.providers import AUTO, EVERYWHERE, find_provider
from jobonnx.runtime.providers.base import Provider
from jobonnx.runtime.session import MOST_THREADS, Settings
from jobonnx.runtime.tuning_cache import default_settings, load

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """The graph of a variant and how it runs."""

    graph: Graph
    settings: Settings


def choose(
    bundle: Bundle, variant: str | None, provider: str, threads: int | None, force: bool = False, spin: bool | None = None
) -> Choice:
    """Choose a provider and its settings; "auto" without `threads` runs as `jobonnx tune` found best here, if it was asked.

    Args:
        bundle: the bundle.
        variant: the precision; None for the bundle's default. Never chosen by the machine.
        provider: "auto", or one by name, which is then used or an error.
        threads: threads within one run; None for as many as quota, affinity and physical cores allow.
        force: run fp16 on a CPU, where it is slower than fp32.
        spin: whether idle threads wait in a loop; None for the default, or what `jobonnx tune` found.

    Raises:
        JobonnxError: the bundle has no such variant, or nothing here runs it; the sentence says why and what to do.
    """
    threads = whole("threads", threads, MOST_THREADS)
    variant = variant or bundle.default_variant
    if variant not in bundle.variants:
        raise JobonnxError(
            f"{bundle.folder} has no variant {variant!r} (it has {', '.join(bundle.variants)}); "
            f"export it: jobonnx export SOURCE -o BUNDLE --variant {variant}"
        )
    tuned = None
    if provider == "auto" and threads is None:
        tuned, ignored = load(bundle, variant)
        if ignored:
            _log.warning("%s", ignored)
    name = tuned.provider if tuned else provider
    names = AUTO if name == "auto" else (name,)
    candidates = []
    for found, graph, reason in _candidates(bundle, variant, names, force):  # one by one: trying a provider takes a moment
        candidates.append((found, graph, reason))
        if graph is not None and reason is None:
            settings = tuned or default_settings(found.name, threads or available_threads())
            return Choice(graph, settings if spin is None else replace(settings, spin=spin))
    # A reason that can be mended goes before what the bundle lacks. Under "auto" providers without a graph have no say, but for the
    # one that could run any.
    candidates.sort(key=lambda candidate: candidate[0].name != EVERYWHERE)
    mendable = [
        reason
        for found, graph, reason in candidates
        if reason and (graph is not None or provider != "auto" or found.name == EVERYWHERE)
    ]
    targets = ", ".join(graph.target for graph in bundle.graphs if graph.variant == variant and graph.target != PORTABLE)
    lacking = (
        f"{bundle.folder} has no {variant} graph for provider {provider!r} (it has one for {targets}); "
        "pick a variant that was exported for it, or another provider"
    )
    raise ProviderUnavailableError(mendable[0] if mendable else lacking)


def runners(bundle: Bundle, variant: str, names: tuple[str, ...]) -> list[Provider]:
    """Return the providers among `names` that run a variant of a bundle here."""
    candidates = _candidates(bundle, variant, names, force=False)
    return [provider for provider, graph, reason in candidates if graph is not None and reason is None]


def _candidates(
    bundle: Bundle, variant: str, names: tuple[str, ...], force: bool
) -> Iterator[tuple[Provider, Graph | None, str | None]]:
    """Each provider with the graph it would run, if there is one, and why it cannot run it, if so."""
    for name in names:
        provider = find_provider(name)
        graph = bundle.graph(variant, provider.target)
        reason = provider.unavailable_reason(variant)
        if force and name == EVERYWHERE and variant == "fp16":
            graph, reason = next(g for g in bundle.graphs if g.variant == variant), None
        yield provider, graph, reason
