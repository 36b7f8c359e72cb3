"""Markdown tables, in the one way that the project writes them."""

from __future__ import annotations

import re
from collections.abc import Sequence

_RULES = {"l": "---", "r": "---:", "c": ":---:"}
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")  # line ends, which would end a row, and a terminal's escape codes


def table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str = "l") -> str:
    """Write a table.

    Args:
        header: the names of the columns.
        rows: one cell per column; a cell may hold any text: pipes are escaped, control characters become spaces.
        align: "l", "r" or "c" per column; the last one holds for all columns that follow, so that "lr" is a table of figures.

    Raises:
        ValueError: a row has more or fewer cells than the header.
    """
    rules = [_RULES[align[min(i, len(align) - 1)]] for i in range(len(header))]
    lines = [_line(header), f"| {' | '.join(rules)} |"]
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"a row of {len(row)} cells in a table of {len(header)} columns")
        lines.append(_line(row))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    return _CONTROLS.sub(" ", text).replace("|", "\\|")
