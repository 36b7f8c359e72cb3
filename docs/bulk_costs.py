"""Work out the costs in docs/bulk.md from measured rates.

python docs/bulk_costs.py [REPORT.json]

REPORT.json is what `jobonnx bench` writes. Without it, the one that the page names is taken again.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from jobonnx.markdown import table

PAGE = Path(__file__).parent / "bulk.md"
BLOCK = re.compile(r"(?<=<!-- costs: python docs/bulk_costs\.py -->\n).*?(?=<!-- end of costs -->)", re.DOTALL)
DISTINCT = 0.4  # of the titles
DOLLARS = 0.04  # for a core-hour
SIZES = ((50_000_000, "50 million", 16), (1_000_000_000, "1 billion", 256))  # titles, their name, cores


def costs(report: dict[str, Any]) -> str:
    """Return the table: for each variant measured on the CPU, cores, hours and money."""
    threads = report["environment"]["threads"]
    header = ["variant", "titles/s per core"]
    for _, name, cores in SIZES:
        header += [f"{name}: core-hours", f"days on {cores} cores", "money"]
    rows = []
    for system in report["systems"]:
        summary, details = report["summaries"].get(system["name"]), system.get("details") or {}
        if system["family"] != "jobonnx" or summary is None or details["provider"] != "cpu":
            continue
        rate = summary["titles_per_second"] / threads
        row = [details["notes"]["variant"], f"{rate:.0f}"]
        for titles, _, cores in SIZES:
            hours = titles * DISTINCT / rate / 3600
            row += [f"{hours:,.0f}", f"{hours / cores / 24:.1f}", f"${hours * DOLLARS:,.0f}"]
        rows.append((-rate, row))
    return table(header, [row for _, row in sorted(rows)], "lr")


def updated(page: str, source: Path) -> str:
    """Return the page with costs and assumptions of a report."""
    report = json.loads(source.read_text("utf-8"))
    link = Path(os.path.relpath(source, PAGE.parent)).as_posix()
    machine, work, shape = report["environment"], report["workload"], report["shape"]
    text = f"""{costs(report)}

- Rates: `jobonnx bench` on {machine["cpu"]} with {machine["threads"]} threads, {machine["date"][:10]}, divided by the threads \
([measured rates]({link})). The encoder has {shape["layers"]} layers of {shape["hidden"]}. \
A title has {work["tokens"] / work["titles"]:.1f} tokens.
- {DISTINCT:.0%} of the titles are distinct, and only these are computed. Without repeats, multiply by {1 / DISTINCT:.1f}.
- A core-hour costs {DOLLARS} US dollars. It is a round figure for a rented virtual core; put in your own.
"""
    return BLOCK.sub(lambda match: text, page)


def source_of(page: str) -> Path:
    """Return the report that the page names."""
    found = re.search(r"\[measured rates\]\(([^)]+)\)", page)
    assert found, "the page names no report"
    return (PAGE.parent / found[1]).resolve()


if __name__ == "__main__":
    page = PAGE.read_text("utf-8")
    source = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else source_of(page)
    PAGE.write_text(updated(page, source), "utf-8")
