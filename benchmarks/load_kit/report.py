"""What a load campaign found: one JSON that every run adds its parts to, and a Markdown and a plot made from it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobonnx.files import replaced
from jobonnx.markdown import table

Parts = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """A row of the table of aims.

    Attributes:
        what: was measured.
        model: which model the aim is for.
        least, goal: the aims, as shown.
        figure: from the parts; KeyError if they were not measured.
        unit: behind the figure.
        low_is_good: whether the aims are "at most".
        late: whether the open loop was on time, so that it counts.
    """

    what: str
    model: str
    least: float
    goal: float
    figure: Callable[[Parts], float]
    unit: str = ""
    low_is_good: bool = False
    late: Callable[[Parts], bool] | None = None


def _sixty_four(parts: Parts) -> float:
    return {int(loop["clients"]): float(loop["per_second"]) for loop in parts["closed"]["loops"]}[64]


SMALL = "jobonnx-small"
ROWS = (
    Row(
        "one client: p50 over that of `encode`",
        "full size, int8",
        1.5,
        0.7,
        lambda p: float(p["one"]["one"]["overhead_p50_ms"]),
        " ms",
        True,
    ),
    Row(
        "64 clients: share of the rate of `encode` in bulk",
        "full size, int8",
        75,
        90,
        lambda p: 100 * _sixty_four(p) / float(p["closed"]["bulk"]["per_second"]),
        "%",
    ),
    Row(
        "open loop at 80% of the capacity: p99 over p50",
        "full size, int8",
        3,
        2,
        lambda p: float(p["open"]["open"]["p99_ms"]) / float(p["open"]["open"]["p50_ms"]),
        " x",
        True,
        lambda p: bool(p["open"]["open"]["counts"]),
    ),
    Row(
        "twice the capacity: goodput of the maximum",
        "any",
        90,
        97,
        lambda p: 100 * float(p["twice"]["twice"]["goodput_share"]),
        "%",
        late=lambda p: bool(p["twice"]["twice"]["counts"]),
    ),
    Row(
        "twice the capacity: refusals that are clean 429s",
        "any",
        100,
        100,
        lambda p: 100 * float(p["twice"]["twice"]["clean_refusals_share"]),
        "%",
        late=lambda p: bool(p["twice"]["twice"]["counts"]),
    ),
    Row(
        "single titles beside a request of 10,000: p99 over their p50 alone",
        "any",
        3,
        2,
        lambda p: float(p["large"]["beside"]["p99_over_p50_alone"]),
        " x",
        True,
        lambda p: bool(p["large"]["alone"]["counts"] and p["large"]["beside"]["counts"]),
    ),
    Row(
        "64 clients: requests/s over those of the faster peer",
        "small",
        3,
        8,
        lambda p: float(p["peers"]["ratio"]["to_the_faster_peer"]),
        " x",
    ),
    Row(
        "Zipf over all titles, cache of 10,000: gain as a share of requests/distinct",
        "full size, int8",
        85,
        95,
        lambda p: 100 * float(p["zipf"]["zipf"]["share"]),
        "%",
    ),
)


class Report:
    """OUT.json, OUT.md and OUT.svg, written anew after every point."""

    def __init__(self, out: Path, about: dict[str, Any]) -> None:
        """Read what is there already.

        Raises:
            SystemExit: it is of another model or machine.
        """
        self._out = out
        self.content: dict[str, Any] = {"about": about, "parts": {}}
        path = self._path(".json")
        if path.exists():
            before = json.loads(path.read_text())
            for name, value in about.items():
                if before["about"].get(name) != value:
                    raise SystemExit(f"{path} has {name} {before['about'].get(name)!r}, and this run {value!r}; name another file")
            self.content["parts"] = before["parts"]

    @property
    def parts(self) -> dict[str, Any]:
        return {name: part["points"] for name, part in self.content["parts"].items()}

    def begin(self, part: str, how: dict[str, Any]) -> None:
        """Drop what an earlier run has of a part."""
        self.content["parts"][part] = {"how": how, "points": {}}

    def add(self, part: str, point: str, value: Any) -> None:
        """Keep a point, and write everything."""
        self.content["parts"][part]["points"][point] = value

    def end(self, part: str, minutes: float) -> None:
        """Say that a part is complete."""
        self.content["parts"][part]["how"]["minutes"] = round(minutes, 2)

    def write(self) -> None:
        for ending, text in ((".json", json.dumps(self.content, indent=1) + "\n"), (".md", markdown(self.content))):
            with replaced(self._path(ending)) as fresh:
                fresh.write(text.encode())
        if any(part in self.parts for part in ("closed", "open", "neighbours", "soak")):
            plot(self.parts, self._path(".svg"))

    def _path(self, ending: str) -> Path:
        return self._out.with_name(self._out.name + ending)


def markdown(content: Mapping[str, Any]) -> str:
    """Write the report: the aims first, then every figure."""
    about = content["about"]
    lines = ["# The service under load", "", *(f"- **{name}:** {value}" for name, value in about.items()), "", "## Aims", ""]
    parts = {name: part["points"] for name, part in content["parts"].items()}
    rows = [_verdict(row, parts, about["model"] == SMALL) for row in ROWS]
    lines += [table(["what", "aim for", "at least", "goal", "measured", "verdict"], rows), ""]
    for name, part in content["parts"].items():
        how = part["how"]
        state = f"{how['minutes']} minutes" if "minutes" in how else "not complete"
        lines += [
            f"## {name[0].upper()}{name[1:]}",
            "",
            f"`{how['command']}` ({how['date']}, {state}; load before {how['load']})",
            "",
        ]
        lines += [_figures(part["points"]), ""]
    return "\n".join(lines).rstrip() + "\n"


def _verdict(row: Row, parts: Parts, small: bool) -> list[str]:
    aims = [f"{row.least:g}{row.unit}", f"{row.goal:g}{row.unit}"]
    if row.low_is_good:
        aims = [f"at most {aim}" for aim in aims]
    try:
        figure = row.figure(parts)
    except KeyError:
        return [row.what, row.model, *aims, "-", "not measured"]
    sign = -1 if row.low_is_good else 1
    reached = "goal" if sign * figure >= sign * row.goal else "reached" if sign * figure >= sign * row.least else "missed"
    if row.model not in ("any", "small" if small else "full size, int8"):
        reached = "no aim of this model"
    elif row.late is not None and not row.late(parts):
        reached = "does not count: the generator was late"
    return [row.what, row.model, *aims, f"{figure:.2f}{row.unit}", reached]


def _figures(points: Mapping[str, Any]) -> str:
    rows = [row for name, value in points.items() for row in (value if isinstance(value, list) else [{"point": name} | value])]
    names = list(dict.fromkeys(name for row in rows for name in row if name != "seconds_and_mb"))
    if not rows:
        return "Nothing yet."
    if len(rows) >= len(names) or len(rows) > 6:
        return table(names, [[_shown(row.get(name, "")) for name in names] for row in rows], "lr")
    return table(["", *(f"{row.get('point', number + 1)}" for number, row in enumerate(rows))], _turned(rows, names), "lr")


def _turned(rows: list[dict[str, Any]], names: list[str]) -> list[list[str]]:
    return [[name.replace("_", " "), *(_shown(row.get(name, "")) for row in rows)] for name in names if name != "point"]


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_shown(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(_shown(each) for each in value)
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if math.isfinite(value) else "-"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def plot(parts: Parts, path: Path) -> None:
    """Draw latency over rate, the loss beside busy processes, and memory over time: as much of it as was measured."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    drawn = [
        draw
        for name, draw in ((("closed", "open"), _latency), (("neighbours",), _loss), (("soak",), _memory))
        if set(name) & set(parts)
    ]
    figure, axes = pyplot.subplots(1, len(drawn), figsize=(6.2 * len(drawn), 4.4), layout="constrained", squeeze=False)
    for draw, each in zip(drawn, axes[0], strict=True):
        draw(parts, each)
        each.grid(alpha=0.25)
        each.spines[["top", "right"]].set_visible(False)
    with replaced(path) as fresh:
        figure.savefig(fresh, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def _latency(parts: Parts, axes: Any) -> None:
    loops = parts.get("closed", {}).get("loops", [])
    for name, style, colour in (("p50_ms", "o-", "C0"), ("p99_ms", "o--", "C0")):
        axes.plot(
            [loop["per_second"] for loop in loops],
            [loop[name] for loop in loops],
            style,
            color=colour,
            label=f"closed loop, {name[:3]}",
        )
    for loop in loops:
        axes.annotate(
            f"{loop['clients']}",
            (loop["per_second"], loop["p50_ms"]),
            textcoords="offset points",
            xytext=(5, -11),
            fontsize="small",
        )
    points = [("open", "open", "open loop, 80% of the capacity", "C1"), ("twice", "twice", "open loop, twice the capacity", "C3")]
    points += [("large", "alone", "open loop, 10%", "C2"), ("large", "beside", "the same beside 10,000 titles", "C4")]
    for part, name, label, colour in points:
        if point := parts.get(part, {}).get(name):
            axes.plot([point["good_per_second"]] * 2, [point["p50_ms"], point["p99_ms"]], "s-", color=colour, label=label)
    axes.set(xlabel="replies per second", ylabel="milliseconds", yscale="log", title="Latency over rate; numbers are clients")
    axes.margins(0.08)
    axes.legend(fontsize="x-small", frameon=False)


def _loss(parts: Parts, axes: Any) -> None:
    points = [point for point in parts["neighbours"].values() if isinstance(point, dict)]
    for setting in dict.fromkeys(point["setting"] for point in points):
        own = [point for point in points if point["setting"] == setting]
        axes.plot([point["busy"] for point in own], [point["of_64_clients_per_second"] for point in own], "o-", label=setting)
    axes.set(
        xlabel="busy processes beside it", ylabel="replies per second, 64 clients", title="Beside busy processes", xticks=[0, 1, 2]
    )
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="x-small", frameon=False)


def _memory(parts: Parts, axes: Any) -> None:
    samples = parts["soak"]["soak"]["seconds_and_mb"]
    axes.plot([seconds / 60 for seconds, _ in samples], [megabytes for _, megabytes in samples], color="C0")
    axes.set(xlabel="minutes", ylabel="resident memory, MB", title="Soak")
    axes.set_ylim(bottom=0)


def load() -> str:
    """Return the machine's load of the last minute, which says whether it was quiet."""
    return f"{os.getloadavg()[0]:.2f}"
