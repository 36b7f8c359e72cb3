"""The tables and the plot of a comparison.

    python benchmarks/show.py NAME.json [--plot NAME.svg]

Prints the tables in Markdown. The plot needs matplotlib (requirements.txt).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobonnx_bench import Cell, Report, Summary, Timing, bulk_ratio, gemm_rate, one_ratio, summarise

REFERENCE = "st-torch-fp32"
_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}  # of one weight


def tables(report: Report) -> str:
    """Bulk, latency, cost and accuracy, limits; and what did not run."""
    found = [(cell, summary) for cell in report.cells if (summary := summarise(cell, report.shape, report.workload))]
    found.sort(key=lambda pair: -pair[1].titles_per_second)
    parts = [_heading(report), _bulk(report, found), _latency(report, found), _against(found), _cost(found), _limits(report)]
    missing = [f"- {cell.name}: {cell.status}: {cell.reason}" for cell in report.cells if cell.reason]
    return "\n\n".join([part for part in parts if part] + (["\n".join(missing)] if missing else [])) + "\n"


def _heading(report: Report) -> str:
    e, w, s = report.environment, report.workload, report.shape
    features = ", ".join(name for name, there in e.features.items() if there)
    rounds = max((len(cell.rounds) for cell in report.cells), default=0)
    return (
        f"{e.date[:10]}, {e.cpu} ({features}), {e.threads} threads; {s.layers} x {s.hidden}; {w['titles']} distinct titles, "
        f"{w['tokens'] / w['titles']:.1f} tokens on average, {rounds} rounds; git {(e.git_revision or 'unknown')[:12]}"
    )


def _bulk(report: Report, found: list[tuple[Cell, Summary]]) -> str:
    reference = next((cell for cell in report.cells if cell.name == REFERENCE), None)
    peer = next((cell for cell, _ in found if cell.family == "peer"), None)  # the fastest: `found` is sorted
    rows = []
    for cell, s in found:
        rate = _rate(report, cell)
        rows.append(
            [
                cell.name,
                cell.details.get("dtype", ""),
                f"{s.titles_per_second:.1f}",
                f"{s.tokens_per_second:.0f}",
                _times(bulk_ratio(cell, reference) if reference else None),
                _times(bulk_ratio(cell, peer) if peer else None),
                _percent(s.operations_per_second / rate if rate else None),
                _percent(s.executed_per_second / rate if rate else None),
                f"{s.repeated_titles_per_second:.1f}",
                f"{s.cpu_per_1000_titles:.1f}",
                "" if s.tokenize_share is None else f"{100 * s.tokenize_share:.1f}%",
            ]
        )
    best = peer.name if peer else "no peer"
    head = ["bulk", "type", "titles/s", "tok/s", "x ST fp32", f"x {best}", "of GEMM rate", "executed, of GEMM rate"]
    return _table([*head, "titles/s, repeats", "CPU s per 1,000", "tokenising"], rows)


def _latency(report: Report, found: list[tuple[Cell, Summary]]) -> str:
    peers = [(s.one.p50, cell) for cell, s in found if cell.family == "peer"]
    peer = min(peers, key=lambda pair: pair[0])[1] if peers else None
    rows = []
    for cell, s in sorted(found, key=lambda pair: pair[1].one.p50):
        floor = _floor(report, cell)
        rows.append(
            [
                cell.name,
                *_milliseconds(s.one),
                "" if peer is None else _times(one_ratio(cell, peer)),
                "" if floor is None else _times(s.one.p50 / floor),
                *_milliseconds(s.eight),
                *_milliseconds(s.thirty_two),
                f"{1000 * s.thirty_two_equal.p50:.1f}",
                f"{s.mixed_over_equal:.2f}",
            ]
        )
    head = ["latency, ms", "1: p50", "p95", "p99", f"x {peer.name if peer else 'no peer'}", "x reading the weights"]
    return _table([*head, "8: p50", "p95", "p99", "32: p50", "p95", "p99", "32 equal: p50", "mixed/equal"], rows)


def _against(found: list[tuple[Cell, Summary]]) -> str:
    """Each of ours against each peer."""
    ours, peers = ([cell for cell, _ in found if cell.family == family] for family in ("jobonnx", "peer"))
    if not ours or not peers:
        return ""
    head = [peer.name for peer in peers]
    bulk = [[cell.name, *(_times(bulk_ratio(cell, peer)) for peer in peers)] for cell in ours]
    one = [[cell.name, *(_times(one_ratio(cell, peer)) for peer in peers)] for cell in ours]
    return _table(["times as fast in bulk as", *head], bulk) + "\n\n" + _table(["time of one title over that of", *head], one)


def _cost(found: list[tuple[Cell, Summary]]) -> str:
    rows = []
    smallest = min((cell.peak_bytes for cell, _ in found if cell.family == "peer" and cell.peak_bytes), default=None)
    for cell, s in found:
        p = cell.parity or {}
        rows.append(
            [
                cell.name,
                f"{s.load:.1f}",
                f"{1000 * s.first_call:.0f}",
                _gigabytes(cell.peak_bytes),
                _times(cell.peak_bytes / smallest if cell.peak_bytes and smallest else None),
                _gigabytes(cell.anonymous_peak_bytes),
                *(f"{p[key]:.6f}" if p else "" for key in ("mean_cosine", "min_cosine", "mean_centred", "min_centred")),
                f"{p['top10_overlap']:.3f}" if p else "",
                "" if cell.batch_cosine is None else f"{cell.batch_cosine:.7f}",
            ]
        )
    head = ["cost and accuracy", "load, s", "first call, ms", "peak, GB", "x smallest peer", "of it anonymous, GB"]
    return _table([*head, "mean cosine", "min", "mean centred", "min", "top-10 overlap", "min cosine alone/batched"], rows)


def _limits(report: Report) -> str:
    if not report.limits:
        return ""
    rows = []
    for dtype, by_rows in report.limits["gemm"].items():
        for m, best in by_rows.items():
            others = ", ".join(f"{engine} {rate / 1e9:.0f}" for engine, rate in best["rates"].items())
            rows.append([dtype, m, f"{max(best['rates'].values()) / 1e9:.0f}", others])
    reads = [
        [f"{r['bytes'] / 1e6:.0f}", f"{1000 * r['seconds']:.1f}", f"{r['bytes'] / r['seconds'] / 1e9:.1f}"]
        for r in report.limits["reading"]
    ]
    gemm = _table(["matrix products", "M", "10^9 operations/s", "engines"], rows)
    return gemm + "\n\n" + _table(["reading, MB", "ms", "GB/s"], reads)


def _rate(report: Report, cell: Cell) -> float | None:
    """The machine's best rate in the cell's type, over all numbers of rows and engines."""
    return gemm_rate(report.limits, cell.details)


def _floor(report: Report, cell: Cell) -> float | None:
    """Seconds to read the weights once in the cell's type."""
    size = report.shape.layers * report.shape.layer_weights * _BYTES.get(cell.details.get("dtype", ""), 0)
    return next((r["seconds"] for r in (report.limits or {}).get("reading", ()) if r["bytes"] == size), None)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _milliseconds(t: Timing) -> tuple[str, str, str]:
    return f"{1000 * t.p50:.1f}", f"{1000 * t.p95:.1f}", f"{1000 * t.p99:.1f}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f}%"


def _gigabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e9:.2f}"


def plot(report: Report, path: Path) -> bool:
    """Throughput, latency, and accuracy against speed; False without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("svg" if path.suffix == ".svg" else "agg")
        import matplotlib.pyplot as plt
    except ImportError:
        return False
    found = [(cell, summary) for cell in report.cells if (summary := summarise(cell, report.shape, report.workload))]
    if not found:
        return False
    figure, (bulk, one, accuracy) = plt.subplots(1, 3, figsize=(16, 1.6 + 0.38 * len(found)), layout="constrained")
    figure.suptitle(_heading(report), fontsize=9)
    _bars(bulk, found, lambda s: s.titles_per_second, "titles/s in bulk, distinct titles (more is better)", "{:.0f}", True)
    _bars(one, found, lambda s: 1000 * s.one.p50, "one title, p50, ms (less is better)", "{:.1f}", False)
    for cell, s in found:
        if cell.parity:
            loss = max(1 - cell.parity["mean_centred"], 1e-7)
            accuracy.plot(s.titles_per_second, loss, "o", color=_colour(cell))
            accuracy.annotate(
                cell.name, (s.titles_per_second, loss), textcoords="offset points", xytext=(2, 5), fontsize=7, rotation=40
            )
    accuracy.set_yscale("log")
    accuracy.invert_yaxis()
    accuracy.margins(x=0.35, y=0.35)
    accuracy.set_xlim(left=0)
    accuracy.set_xlabel("titles/s in bulk")
    accuracy.set_ylabel("1 - mean centred cosine to torch fp32")
    accuracy.set_title("accuracy against speed (up and right is better)", fontsize=9)
    figure.savefig(path)
    plt.close(figure)
    return True


def _bars(
    axes: Any, found: list[tuple[Cell, Summary]], value: Callable[[Summary], float], title: str, form: str, most: bool
) -> None:
    ordered = sorted(found, key=lambda pair: value(pair[1]), reverse=not most)  # the best one ends on top
    bars = axes.barh(
        [cell.name for cell, _ in ordered], [value(s) for _, s in ordered], color=[_colour(cell) for cell, _ in ordered]
    )
    axes.bar_label(bars, labels=[form.format(value(s)) for _, s in ordered], padding=3, fontsize=8)
    axes.margins(x=0.15)
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=8)


def _colour(cell: Cell) -> str:
    return "tab:blue" if cell.family == "jobonnx" else "tab:gray"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="an .svg or .png")
    arguments = parser.parse_args()
    report = Report.read(arguments.report)
    print(tables(report), end="")
    if arguments.plot and not plot(report, arguments.plot):
        raise SystemExit("no plot: matplotlib is missing (pip install -r benchmarks/requirements.txt), or nothing was measured")


if __name__ == "__main__":
    main()
