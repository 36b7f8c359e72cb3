"""The plots of a report, as SVG that can stand in a page: no ids in common, no fixed colours for text and lines."""

from __future__ import annotations

import io
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from jobonnx_bench.render.tables import measured
from jobonnx_bench.report import Report, Summary, SystemResult

# Placeholders that become the page's own colours, in light and in dark.
_TEXT, _LINE = "#010203", "#040506"
# Readable on white and on black.
_COLOURS = ("#3b82f6", "#f59e0b", "#10b981", "#a855f7", "#ef4444", "#14b8a6", "#ec4899", "#84cc16")
_PEER = "#8b949e"
_MARKERS = "osD^vPX*"
_LABEL = 24  # characters: a longer one would leave a phone no room for the bars
_EXACT = 1e-7  # a loss below it is rounding, and a logarithm needs one


@dataclass(frozen=True)
class Plot:
    """A plot at two widths, as SVG elements."""

    title: str
    note: str
    wide: str
    narrow: str


@dataclass(frozen=True)
class _Point:
    label: str
    colour: str
    marker: str
    result: SystemResult
    summary: Summary


def plots(report: Report) -> list[Plot]:
    """Throughput, latency against batch size, accuracy against speed; those that have something to show. Needs matplotlib."""
    points = _points(report)
    made: list[Plot] = []
    if points:
        made.append(
            _plot("bulk", "Throughput", "Titles per second in bulk; more is better.", points, _bulk, 0.42 * len(points) + 0.5)
        )
    if any(point.result.sweep for point in points):
        note = "Milliseconds of one run of the model against the tokens in it; less is better."
        made.append(_plot("sweep", "Latency against batch size", note, points, _sweep, 4.0))
    if any(_loss(point) is not None for point in points):
        note = (
            "Loss is 1 less the mean centred cosine to PyTorch fp32; up and right is better. Nothing measured is both faster "
            "and more exact than a filled point: they are the Pareto front."
        )
        made.append(_plot("pareto", "Accuracy against speed", note, points, _accuracy, 4.0))
    return made


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the points (speed, loss) that no other one beats in both: as fast and as exact, and better in one."""
    return [
        i
        for i, (speed, loss) in enumerate(points)
        if not any(s >= speed and other <= loss and (s, other) != (speed, loss) for s, other in points)
    ]


def _points(report: Report) -> list[_Point]:
    """Every system that was measured, fastest first: ours in colours, peers in grey, each with its marker."""
    colours = cycle(_COLOURS)
    return [
        _Point(
            _shortened(f"{result.variant} {result.provider}".strip()),
            _PEER if result.family == "peer" else next(colours),
            _MARKERS[i % len(_MARKERS)],
            result,
            summary,
        )
        for i, (result, summary) in enumerate(measured(report))
    ]


def _shortened(label: str) -> str:
    return label if len(label) <= _LABEL else label[: _LABEL - 1] + "…"


def _loss(point: _Point) -> float | None:
    centred = point.result.parity.mean_centred if point.result.parity else None
    return None if centred is None else max(1 - centred, _EXACT)


def _plot(name: str, title: str, note: str, points: list[_Point], fill: Callable[[Any, list[_Point]], None], height: float) -> Plot:
    return Plot(title, note, *(_svg(f"{name}-{width}", points, fill, (width, height)) for width in (9.0, 4.0)))


def _svg(name: str, points: list[_Point], fill: Callable[[Any, list[_Point]], None], size: tuple[float, float]) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings = {
        "svg.fonttype": "none",  # text stays text: the page's own font, and it can be searched
        "svg.hashsalt": name,
        "font.size": 10,
        "text.color": _TEXT,
        "axes.labelcolor": _TEXT,
        "xtick.color": _TEXT,
        "ytick.color": _TEXT,
        "axes.edgecolor": _LINE,
        "grid.color": _LINE,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "text.parse_math": False,  # a name with two $ is a name
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        fill(figure.add_subplot(), points)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _embedded(file.getvalue(), name)


def _embedded(svg: str, name: str) -> str:
    """Cut out the <svg> element, prefix its ids with the plot's name, and replace placeholders by the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-")
    return svg.replace(_TEXT, "currentColor").replace(_LINE, "var(--line)").strip()


def _bulk(axes: Any, points: list[_Point]) -> None:
    ordered = points[::-1]  # the fastest ends on top
    rates = [point.summary.titles_per_second for point in ordered]
    bars = axes.barh(range(len(ordered)), rates, color=[point.colour for point in ordered], height=0.62)
    axes.set_yticks(range(len(ordered)), [point.label for point in ordered])
    axes.bar_label(bars, labels=[f"{rate:,.0f}" for rate in rates], padding=4)
    axes.margins(x=0.16)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)


def _sweep(axes: Any, points: list[_Point]) -> None:
    from matplotlib.ticker import FuncFormatter

    for point in points:
        sweep = point.result.sweep
        if sweep:
            milliseconds = [1000 * statistics.median(batch.seconds) for batch in sweep]
            axes.plot(
                [batch.tokens for batch in sweep],
                milliseconds,
                color=point.colour,
                marker=point.marker,
                markersize=4.5,
                linewidth=1.6,
                label=point.label,
            )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    digits = FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axes.xaxis.set_major_formatter(digits)
    axes.yaxis.set_major_formatter(digits)
    axes.set_xlabel("tokens in the batch")
    axes.set_ylabel("ms")
    axes.grid(True, linewidth=0.6)
    _legend(axes)


def _accuracy(axes: Any, points: list[_Point]) -> None:
    from matplotlib.ticker import FuncFormatter

    shown = [(point, loss) for point in points if (loss := _loss(point)) is not None]
    places = [(point.summary.titles_per_second, loss) for point, loss in shown]
    front = pareto(places)
    line = sorted(places[i] for i in front)
    axes.plot(*zip(*line, strict=True), color=_TEXT, alpha=0.45, linestyle="--", linewidth=1.2, zorder=1)
    for i, ((point, _), (speed, loss)) in enumerate(zip(shown, places, strict=True)):
        fill = point.colour if i in front else "none"
        axes.plot(speed, loss, point.marker, markersize=9, color=point.colour, markerfacecolor=fill, label=point.label, zorder=2)
    axes.set_xscale("log")
    axes.set_yscale("log")
    speeds = [speed for speed, _ in places]
    losses = [loss for _, loss in places]
    axes.set_xlim(min(speeds) / 1.6, max(speeds) * 1.6)
    axes.set_ylim(max(losses) * 5, min(losses) / 5)  # the most exact on top
    digits = FuncFormatter(lambda value, _: f"{value:,.0f}")
    axes.xaxis.set_major_formatter(digits)
    axes.xaxis.set_minor_formatter(digits if max(speeds) < 10 * min(speeds) else "")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-"))
    axes.tick_params(axis="x", which="both", labelsize=8, length=3)
    axes.set_xlabel("titles/s in bulk")
    axes.set_ylabel("loss")
    axes.grid(True, linewidth=0.6)
    _legend(axes)


def _legend(axes: Any) -> None:
    """Below the axes, where it covers nothing; as many columns as the width has room for."""
    axes.figure.legend(loc="outside lower center", ncols=max(2, int(axes.figure.get_figwidth() // 1.8)), fontsize=9)
