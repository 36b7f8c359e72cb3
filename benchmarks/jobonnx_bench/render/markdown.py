"""A report as Markdown, and a difference between two."""

from __future__ import annotations

from collections.abc import Sequence

from jobonnx_bench.compare import Change, Difference
from jobonnx_bench.recommend import recommend
from jobonnx_bench.render.tables import Table, environment, headline, tables
from jobonnx_bench.result import Report


def report_markdown(report: Report) -> str:
    """The page without its plots: tables, environment, recommendation."""
    parts = [f"# {_escaped(headline(report))}", f"{report.environment.date[:10]}, `jobonnx bench`"]
    parts += [_section(table) for table in [*tables(report), environment(report)]]
    parts.append("## Recommendation\n\n" + _recommendation(report))
    return "\n\n".join(parts) + "\n"


def difference_markdown(found: Difference) -> str:
    """The changes beyond noise first, then the others; warnings on top."""
    parts = [f"Warning: {_escaped(warning)}." for warning in found.warnings]
    parts += [_escaped(sentence) for sentence in found.cells]
    loud = [change for change in found.changes if change.verdict != "within noise"]
    quiet = [change for change in found.changes if change.verdict == "within noise"]
    rows = [_row(change) for change in [*loud, *quiet]]
    if rows:
        parts.append(_table(("cell", "figure", "A", "B", "change", "noise", ""), rows, 2))
    parts.append(f"{len(loud)} of {len(found.changes)} figures changed by more than the noise.")
    return "\n\n".join(parts) + "\n"


def _row(c: Change) -> tuple[str, ...]:
    before, after = (f"{value:.5g} {c.unit}".strip() for value in (c.before, c.after))
    return c.cell, c.metric, before, after, f"{c.change:+.1%}", f"{c.noise:.1%}", c.verdict


def _recommendation(report: Report) -> str:
    found = recommend(report)
    if not found:
        return "None: no cell was measured to the end and passes its parity tolerance."
    return "\n".join(f"- **{r.use}: {r.variant} on {r.provider}**, {r.figure}: {_escaped(r.why)}" for r in found)


def _section(table: Table) -> str:
    note = f"\n\n{table.note}" if table.note else ""
    return f"## {table.heading}\n\n{_table(table.head, table.rows, table.labels)}{note}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], labels: int) -> str:
    rule = ["---"] * labels + ["---:"] * (len(head) - labels)
    return "\n".join(f"| {' | '.join(map(_escaped, line))} |" for line in [head, rule, *rows])


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
