"""Markdown tables."""

from __future__ import annotations

from jobonnx import markdown


def test_cells_cannot_end_a_cell_a_row_or_begin_a_tag() -> None:
    text = markdown.table(["a|b", "n"], [["<b>", "1\n2"], ["c", "3"]])
    assert text == "| a\\|b | n |\n|:---|---:|\n| &lt;b> | 1 2 |\n| c | 3 |"


def test_labels_stand_at_the_left() -> None:
    assert markdown.table(["a", "b", "n"], [], labels=2).splitlines()[1] == "|:---|:---|---:|"
