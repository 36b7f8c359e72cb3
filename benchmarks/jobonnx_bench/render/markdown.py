"""A report as Markdown, and a comparison of two."""

from __future__ import annotations

from jobonnx import markdown
from jobonnx_bench.compare import Change, Comparison
from jobonnx_bench.recommend import recommend
from jobonnx_bench.render.tables import Table, environment, headline, tables
from jobonnx_bench.report import Report


def report_markdown(report: Report) -> str:
    """Write the page without its plots: recommendation, tables, environment."""
    parts = [f"# {_literal(headline(report))}", f"{report.environment.date[:10]}, `jobonnx bench`"]
    parts.append("## Recommendation\n\n" + _recommendation(report))
    parts += [_section(table) for table in [*tables(report), environment(report)]]
    return "\n\n".join(parts) + "\n"


def comparison_text(found: Comparison) -> str:
    """Write a comparison for a terminal: warnings, then the changes beyond noise, then the others, as a Markdown table."""
    parts = [f"Warning: {_one_line(warning)}." for warning in found.warnings]
    parts += [_one_line(sentence) for sentence in found.systems]
    beyond = [change for change in found.changes if change.verdict != "within noise"]
    within = [change for change in found.changes if change.verdict == "within noise"]
    rows = [_row(change) for change in [*beyond, *within]]
    if rows:
        parts.append(markdown.table(("system", "figure", "A", "B", "change", "noise", ""), rows, "llrrrrl"))
    parts.append(f"{len(beyond)} of {len(found.changes)} figures changed by more than the noise.")
    return "\n\n".join(parts) + "\n"


def _row(c: Change) -> tuple[str, ...]:
    before, after = (f"{value:.5g} {c.unit}".strip() for value in (c.before, c.after))
    return c.system, c.metric, before, after, f"{c.change:+.1%}", f"{c.noise:.1%}", c.verdict


def _recommendation(report: Report) -> str:
    found = recommend(report)
    if not found:
        return "None: no system was measured to the end and is within its tolerances."
    return "\n".join(
        f"- **{r.use}: {_literal(r.variant)} on {_literal(r.provider)}**, {_literal(r.figure)}: {_literal(r.why)}" for r in found
    )


def _section(table: Table) -> str:
    note = f"\n\n{_literal(table.note)}" if table.note else ""
    rows = [[_literal(cell) for cell in row] for row in table.rows]
    return f"## {table.heading}\n\n{markdown.table(table.header, rows, 'l' * table.labels + 'r')}{note}"


def _literal(text: str) -> str:
    """Text from outside (names, paths, messages of libraries) on one line, none of it HTML."""
    return _one_line(text).replace("&", "&amp;").replace("<", "&lt;")


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
