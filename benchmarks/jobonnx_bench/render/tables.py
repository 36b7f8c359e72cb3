"""What a report says, as tables of strings: the Markdown and the page show the same ones."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from jobonnx_bench.recommend import provider_of, shortcomings, variant_of
from jobonnx_bench.result import Cell, Report, Summary, Timing, gemm_rate, summarise

_UNTESTED = ("coreml", "directml")  # the same code path, never run


@dataclass(frozen=True)
class Table:
    """A heading, a head, rows of as many cells, and a sentence that says how to read it. The first `labels` columns are names."""

    heading: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    labels: int = 2
    prose: bool = False  # the last column is sentences, which may take several lines


def measured(report: Report) -> list[tuple[Cell, Summary]]:
    """The cells that finished a round, with their figures, fastest in bulk first."""
    found = [(cell, summary) for cell in report.cells if (summary := summarise(cell, report.shape, report.workload))]
    return sorted(found, key=lambda pair: -pair[1].titles_per_second)


def headline(report: Report) -> str:
    """What was measured, on what."""
    model = report.bundle.model if report.bundle else "a comparison"
    return f"{model} on {report.environment.cpu}, {report.environment.threads} threads"


def tables(report: Report) -> list[Table]:
    """All tables that have rows."""
    made = (_speed(report), _cost(report), _accuracy(report), _sweep(report), _missing(report))
    return [table for table in made if table.rows]


def environment(report: Report) -> Table:
    """What it ran on and with."""
    e, s, w = report.environment, report.shape, report.workload
    rows = [
        ("date", e.date),
        ("processor", e.cpu),
        ("features", ", ".join(name for name, there in e.features.items() if there) or "none known"),
        ("logical cores, threads used", f"{e.logical_cores}, {e.threads}"),
        ("CPU quota (cpu.max)", e.cpu_quota or "none found"),
        ("memory, limit (memory.max)", f"{_gib(e.memory_bytes)}, {e.memory_limit or 'none found'}"),
        ("GPU", "; ".join(e.gpus) or "none found"),
        ("load average at the start", "unknown" if e.load_average is None else f"{e.load_average:.2f}"),
        ("system, Python", f"{e.system}, {e.python}"),
        ("packages", ", ".join(f"{name} {version}" for name, version in e.versions.items())),
        ("git revision", e.git_revision or "unknown"),
        ("encoder", f"{s.layers} layers x {s.hidden}, feed-forward {s.intermediate}"),
        ("workload", f"{w['titles']} distinct titles of {w['tokens'] / w['titles']:.1f} tokens, sha256 {w['sha256'][:16]}"),
        ("rounds", str(max((len(cell.rounds) for cell in report.cells), default=0))),
    ]
    if report.bundle:
        b = report.bundle
        rows.append(
            ("model", f"{b.model}{f' at {b.revision}' if b.revision else ''}, {b.dimension} dimensions, {b.pooling} pooling")
        )
        rows += [(f"fingerprint of {variant}", fingerprint) for variant, fingerprint in b.fingerprints.items()]
    return Table("Environment", ("", ""), tuple(rows), prose=True)


def _speed(report: Report) -> Table:
    rows = []
    for cell, s in measured(report):
        rate = gemm_rate(report.limits, cell.details)
        rows.append(
            (
                *_names(cell),
                f"{s.titles_per_second:,.0f}",
                f"{s.tokens_per_second:,.0f}",
                "" if rate is None else f"{100 * s.operations_per_second / rate:.0f}%",
                *_milliseconds(s.one),
                _short(1000 * s.eight.p50),
                _short(1000 * s.thirty_two.p50),
            )
        )
    head = ("variant", "provider", "titles/s", "tokens/s", "of GEMM rate", "1: p50 ms", "p95", "p99", "8: p50 ms", "32: p50 ms")
    note = (
        "Bulk is one call with distinct titles. The GEMM rate is the best that any engine measured in the same run reaches on the "
        "same device, in matrix products of the same type at the model's layer shapes. Latencies are of one call with 1, 8 and 32 "
        f"titles.{_unmeasured(report)}"
    )
    return Table("Speed", head, tuple(rows), note)


def _unmeasured(report: Report) -> str:
    """Products that failed, so that a share that is left out has its reason; a type without kernel has no cell either."""
    failed = [phrase for phrase in (report.limits or {}).get("missing", ()) if not phrase.endswith(": no kernel")]
    return f" Products that could not be measured: {'; '.join(failed)}." if failed else ""


def _cost(report: Report) -> Table:
    found = measured(report)
    on_gpu = any(cell.gpu_peak_bytes is not None for cell, _ in found)
    rows = []
    for cell, s in found:
        rows.append(
            (
                *_names(cell),
                str(cell.details.get("provider", "")),
                "unknown" if s.nodes_on_cpu is None else str(s.nodes_on_cpu),
                _short(s.load),
                _short(1000 * s.first_call),
                _megabytes(cell.peak_bytes),
                _megabytes(cell.anonymous_peak_bytes),
                *((_megabytes(cell.gpu_peak_bytes),) if on_gpu else ()),
                _short(s.cpu_per_1000_titles),
            )
        )
    head = (
        "variant",
        "provider",
        "really used",
        "nodes on CPU",
        "load s",
        "first call ms",
        "peak MB",
        "anonymous MB",
        *(("GPU MB",) if on_gpu else ()),
        "CPU s / 1,000",
    )
    note = (
        "Each cell is a process of its own. Nodes on CPU fell to the CPU provider though another was asked for. Peak memory is the "
        "process's high-water mark at the default token budget, mapped files included; anonymous is without them."
    )
    if on_gpu:
        note += " GPU memory is the most that nvidia-smi showed for the process between calls, the CUDA context included."
    return Table("Cost", head, tuple(rows), note)


def _accuracy(report: Report) -> Table:
    rows = []
    for cell, _ in measured(report):
        p = cell.parity
        overlap = p["top10_overlap"] if p else None
        figures = [_cosine(p[key]) if p else "" for key in ("mean_cosine", "min_cosine", "mean_centred")]
        figures.append("" if overlap is None else f"{100 * overlap:.1f}%")
        missed = "; ".join(shortcomings(cell)) if cell.family == "jobonnx" else ""
        rows.append((*_names(cell), *figures, _cosine(cell.batch_cosine), missed or "passes"))
    head = ("variant", "provider", "mean cosine", "lowest", "mean centred", "top-10 kept", "alone / batched", "tolerance")
    texts = f"{report.bundle.parity_texts} texts of the bundle" if report.bundle else "the bulk titles"
    note = (
        f"Against PyTorch fp32 on {texts}. Centred cosine is taken after subtracting the mean vector: plain cosine hides ruin. "
        "Alone / batched is the lowest cosine of a title's vectors in batches of other sizes."
    )
    return Table("Accuracy", head, tuple(rows), note)


def _sweep(report: Report) -> Table:
    swept = [cell for cell, _ in measured(report) if cell.sweep]
    sizes = sorted({(batch.tokens, batch.titles) for cell in swept for batch in cell.sweep})
    rows = []
    for tokens, titles in sizes:
        row = [f"{tokens:,}", f"{titles:,}"]
        for cell in swept:
            batch = next((b for b in cell.sweep if b.tokens == tokens), None)
            seconds = statistics.median(batch.seconds) if batch else None
            row += ["", ""] if seconds is None else [_short(1000 * seconds), f"{tokens / seconds:,.0f}"]
        rows.append(tuple(row))
    head = ["tokens", "titles"]
    for cell in swept:
        head += [f"{variant_of(cell)} {provider_of(cell)}: ms", "tokens/s"]
    return Table("Batch size", tuple(head), tuple(rows), "One run of the model on so many tokens, in titles of nearly one length.")


def _missing(report: Report) -> Table:
    """What was not measured; variants that lack the same thing on one provider share a row."""
    alike: dict[tuple[str, str], list[str]] = {}
    for cell in report.cells:
        if cell.reason:
            reason = f"{cell.status}: {cell.reason}{_untested(cell)}"
            alike.setdefault((provider_of(cell), reason), []).append(variant_of(cell))
    rows = tuple((", ".join(variants), *what) for what, variants in alike.items())
    return Table("Not measured", ("variant", "provider", "reason, and what to install"), rows, labels=3, prose=True)


def _untested(cell: Cell) -> str:
    return " (this provider is untested)" if provider_of(cell) in _UNTESTED else ""


def _names(cell: Cell) -> tuple[str, str]:
    return variant_of(cell), provider_of(cell)


def _milliseconds(t: Timing) -> tuple[str, str, str]:
    return _short(1000 * t.p50), _short(1000 * t.p95), _short(1000 * t.p99)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:,.0f}"


def _cosine(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def _gib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**30:.1f} GiB"
