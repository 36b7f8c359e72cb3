"""Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]], labels: int = 1) -> str:
    """Write a Markdown table, without a final line end.

    Args:
        header: the columns' names.
        rows: the cells; what would end a cell or begin a tag in one is escaped.
        labels: how many columns hold words and stand at the left; the others hold numbers and stand at the right.
    """
    rule = [":---"] * labels + ["---:"] * (len(header) - labels)
    return "\n".join([_line(header), f"|{'|'.join(rule)}|", *map(_line, rows)])


def _line(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(escaped)} |"
