"""What a report says, as tables of strings: the Markdown and the page show the same ones."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from jobonnx_bench.figures import bulk_ratio, gemm_rate, one_ratio, summarise
from jobonnx_bench.gemm import NO_KERNEL
from jobonnx_bench.recommend import tolerance_violations
from jobonnx_bench.report import Report, Summary, SystemResult, Timing

_WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}
_GEMM_RATE = (
    "The GEMM rate is the best that any engine measured in the same run reaches on the same device, in matrix products of the same "
    "type at the model's layer shapes."
)


@dataclass(frozen=True)
class Table:
    """A table. The first `labels` columns are names, the others figures."""

    heading: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""  # how to read it
    labels: int = 2
    prose: bool = False  # the last column is sentences, which may take several lines


def measured(report: Report) -> list[tuple[SystemResult, Summary]]:
    """List the systems that finished a round, with their figures, fastest in bulk first."""
    found = [(result, summary) for result in report.systems if (summary := summarise(result, report.shape, report.workload))]
    return sorted(found, key=lambda pair: -pair[1].titles_per_second)


def headline(report: Report) -> str:
    """Say what was measured, on what."""
    model = report.bundle.model if report.bundle else "A comparison"
    return f"{model} on {report.environment.cpu}, {report.environment.threads} threads"


def tables(report: Report) -> list[Table]:
    """All tables that have rows."""
    made = (
        _speed(report),
        *_against_peers(report),
        _cost(report),
        _accuracy(report),
        _sweep(report),
        _products(report),
        _missing(report),
    )
    return [table for table in made if table.rows]


def environment(report: Report) -> Table:
    """Show what it ran on and with."""
    e, s, w = report.environment, report.shape, report.workload
    rows = [
        ("date", e.date),
        ("processor", e.cpu),
        ("features", ", ".join(name for name, present in e.features.items() if present) or "none known"),
        ("logical cores, threads used", f"{e.logical_cores}, {e.threads}"),
        ("CPU quota (cpu.max)", e.cpu_quota or "none found"),
        ("memory, limit (memory.max)", f"{_gib(e.memory_bytes)}, {e.memory_limit or 'none found'}"),
        ("GPU", "; ".join(e.gpus) or "none found"),
        ("load average at the start", "unknown" if e.load_average is None else f"{e.load_average:.2f}"),
        ("system, Python", f"{e.system}, {e.python}"),
        ("packages", ", ".join(f"{name} {version}" for name, version in e.versions.items())),
        ("git revision", e.git_revision or "unknown"),
        ("encoder", f"{s.layers} layers x {s.hidden}, feed-forward {s.intermediate}"),
        ("workload", f"{w.titles} distinct titles of {w.tokens / w.titles:.1f} tokens, sha256 {w.sha256[:16]}"),
        ("rounds", str(max((len(result.rounds) for result in report.systems), default=0))),
    ]
    if report.bundle:
        b = report.bundle
        revision = f" at {b.revision}" if b.revision else ""
        rows.append(("model", f"{b.model}{revision}, {b.dimension} dimensions, {b.pooling} pooling"))
        rows += [(f"fingerprint of {variant}", fingerprint) for variant, fingerprint in b.fingerprints.items()]
    return Table("Environment", ("", ""), tuple(rows), prose=True)


def _speed(report: Report) -> Table:
    rows = []
    for result, s in measured(report):
        rate = gemm_rate(report.limits, result.details)
        rows.append(
            (
                *_names(result),
                f"{s.titles_per_second:,.0f}",
                f"{s.tokens_per_second:,.0f}",
                "" if rate is None else f"{s.operations_per_second / rate:.0%}",
                *_milliseconds(s.one),
                _short(1000 * s.eight.p50),
                _short(1000 * s.thirty_two.p50),
            )
        )
    header = ("variant", "provider", "titles/s", "tokens/s", "of GEMM rate", "1: p50 ms", "p95", "p99", "8: p50 ms", "32: p50 ms")
    note = f"Bulk is one call with distinct titles. {_GEMM_RATE} Latencies are of one call with 1, 8 and 32 titles."
    return Table("Speed", header, tuple(rows), note + _unmeasured(report))


def _unmeasured(report: Report) -> str:
    """Products that failed, so that a share that is left out has its reason; a type without kernel has no system either."""
    failed = [phrase for phrase in (report.limits.missing if report.limits else ()) if not phrase.endswith(f": {NO_KERNEL}")]
    return f" Products that could not be measured: {'; '.join(failed)}." if failed else ""


def _against_peers(report: Report) -> tuple[Table, ...]:
    """Ours beside the peers, where a report has peers: ratios, and what explains them."""
    found = measured(report)
    peers = [result for result, _ in found if result.family == "peer"]
    ours = [result for result, _ in found if result.family == "jobonnx"]
    if not peers:
        return ()

    def ratios(heading: str, note: str, ratio: Callable[[SystemResult, SystemResult], float | None]) -> Table:
        rows = [(peer.name, *(_times(ratio(result, peer)) for result in ours)) for peer in peers]
        return Table(heading, ("peer", *(" ".join(_names(result)) for result in ours)), tuple(rows) if ours else (), note, labels=1)

    rounds = "Medians over rounds of the two calls of one round, so they differ a little from the ratio of the medians above."
    return (
        ratios("Times as fast in bulk as each peer", rounds, bulk_ratio),
        ratios("Time of one title over each peer's", rounds, one_ratio),
        _padding(report, found),
    )


def _padding(report: Report, found: list[tuple[SystemResult, Summary]]) -> Table:
    rows = []
    for result, s in found:
        rate, weights = gemm_rate(report.limits, result.details), _reading_seconds(report, result)
        rows.append(
            (
                *_names(result),
                result.details.dtype,
                "" if rate is None else f"{s.executed_per_second / rate:.0%}",
                f"{s.repeated_titles_per_second:,.0f}",
                f"{s.mixed_over_equal:.2f}",
                "" if weights is None else f"{s.one.p50 / weights:.2f}",
                "" if s.tokenize_share is None else f"{s.tokenize_share:.1%}",
            )
        )
    header = ("variant", "provider", "type", "executed", "titles/s, repeats", "mixed / equal", "x reading", "tokenising")
    note = (
        "Executed is the share of the GEMM rate with padding counted as work. Repeats: every title four times in one call. Mixed / "
        "equal: time of 32 titles of mixed lengths over that of the same tokens in equal lengths. x reading: time of one title "
        "over the time to read the weights once. Tokenising: its share of the bulk time."
    )
    return Table("Padding, repeats and reading", header, tuple(rows), note, labels=3)


def _reading_seconds(report: Report, result: SystemResult) -> float | None:
    """Seconds to read the weights once in the system's type."""
    size = report.shape.layers * report.shape.layer_weights * _WEIGHT_BYTES.get(result.details.dtype, 0)
    return next((r.seconds for r in (report.limits.reading if report.limits else ()) if r.bytes == size), None)


def _cost(report: Report) -> Table:
    found = measured(report)
    on_gpu = any(result.gpu_peak_bytes is not None for result, _ in found)
    rows = []
    for result, s in found:
        elsewhere = result.details.nodes_elsewhere
        rows.append(
            (
                *_names(result),
                result.details.provider,
                "unknown" if elsewhere is None else str(elsewhere),
                _short(s.load),
                _short(1000 * s.first_call),
                _megabytes(result.peak_bytes),
                _megabytes(result.anonymous_peak_bytes),
                *((_megabytes(result.gpu_peak_bytes),) if on_gpu else ()),
                _short(s.cpu_per_1000_titles),
            )
        )
    gpu = ("GPU MB",) if on_gpu else ()
    memory = ("peak MB", "anonymous MB", *gpu)
    header = ("variant", "provider", "really used", "nodes elsewhere", "load s", "first call ms", *memory, "CPU s / 1,000")
    note = (
        "Each system runs in a process of its own. Nodes elsewhere fell to another provider than the one asked for. Peak memory is "
        "the process's high-water mark at the default token budget, mapped files included; anonymous is without them."
    )
    if on_gpu:
        note += " GPU memory is the most that nvidia-smi showed for the process between calls, the CUDA context included."
    return Table("Cost", header, tuple(rows), note)


def _accuracy(report: Report) -> Table:
    rows = []
    for result, _ in measured(report):
        p = result.parity
        figures = (_cosine(p.mean_cosine), _cosine(p.min_cosine), _cosine(p.mean_centred)) if p else ("", "", "")
        overlap = "" if p is None or p.top10_overlap is None else f"{p.top10_overlap:.1%}"
        verdict = "" if result.family == "peer" else "; ".join(tolerance_violations(result)) or "passes"
        rows.append((*_names(result), *figures, overlap, _cosine(result.batch_cosine), verdict))
    header = ("variant", "provider", "mean cosine", "lowest", "mean centred", "top-10 kept", "alone / batched", "tolerance")
    texts = f"{report.bundle.parity_texts} texts of the bundle" if report.bundle else "the bulk titles"
    note = (
        f"Against PyTorch fp32 on {texts}. The centred cosine is taken after subtracting the mean vector, because vectors that all "
        "point much the same way have a high cosine however wrong they are. Alone / batched is the lowest cosine of a title's "
        "vectors in batches of other sizes."
    )
    return Table("Accuracy", header, tuple(rows), note)


def _sweep(report: Report) -> Table:
    swept = [result for result, _ in measured(report) if result.sweep]
    sizes = sorted({(batch.tokens, batch.titles) for result in swept for batch in result.sweep})
    rows = []
    for tokens, titles in sizes:
        row = [f"{tokens:,}", f"{titles:,}"]
        for result in swept:
            batch = next((b for b in result.sweep if b.tokens == tokens), None)
            seconds = statistics.median(batch.seconds) if batch else None
            row += ["", ""] if seconds is None else [_short(1000 * seconds), f"{tokens / seconds:,.0f}"]
        rows.append(tuple(row))
    columns = [name for result in swept for name in (f"{' '.join(_names(result)).strip()}: ms", "tokens/s")]
    note = "One run of the model on so many tokens, in titles of nearly one length."
    return Table("Batch size", ("tokens", "titles", *columns), tuple(rows), note)


def _products(report: Report) -> Table:
    """Show the rates behind "of GEMM rate": one row per type and engine, one column per number of rows."""
    rates = report.limits.rates if report.limits else ()
    sizes = sorted({rate.rows for rate in rates})
    by_engine: dict[tuple[str, str], dict[int, float]] = {}
    for rate in rates:
        by_engine.setdefault((rate.dtype, rate.engine), {})[rate.rows] = rate.operations_per_second
    rows = [
        (dtype, engine, *(f"{found[size] / 1e9:,.0f}" if size in found else "" for size in sizes))
        for (dtype, engine), found in by_engine.items()
    ]
    note = f"10⁹ operations per second, by rows of the left matrix. {_GEMM_RATE}"
    return Table("Matrix products", ("type", "engine", *(f"{size:,} rows" for size in sizes)), tuple(rows), note)


def _missing(report: Report) -> Table:
    """Show what was not measured; variants that lack the same thing on one provider share a row."""
    alike: dict[tuple[str, str], list[str]] = {}
    for result in report.systems:
        if result.reason:
            reason = f"{result.status}: {result.reason}"
            alike.setdefault((result.provider, reason), []).append(result.variant)
    rows = tuple((", ".join(variants), *what) for what, variants in alike.items())
    return Table("Not measured", ("variant", "provider", "reason, and what to install"), rows, labels=3, prose=True)


def _names(result: SystemResult) -> tuple[str, str]:
    return result.variant, result.provider


def _milliseconds(t: Timing) -> tuple[str, str, str]:
    return _short(1000 * t.p50), _short(1000 * t.p95), _short(1000 * t.p99)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:,.0f}"


def _cosine(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def _gib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**30:.1f} GiB"
