"""Markdown tables."""

from __future__ import annotations

import pytest

from jobonnx.markdown import table


def test_a_table_of_figures() -> None:
    assert table(["name", "a", "b"], [["x", "1", "2"], ["y", "3", ""]], "lr") == (
        "| name | a | b |\n| --- | ---: | ---: |\n| x | 1 | 2 |\n| y | 3 |  |"
    )


def test_columns_are_left_aligned_unless_said_otherwise() -> None:
    assert table(["a", "b"], []).splitlines()[1] == "| --- | --- |"
    assert table(["a", "b", "c"], [], "lcr").splitlines()[1] == "| --- | :---: | ---: |"


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("a|b", r"a\|b"),
        ("two\nlines\r\n", "two lines "),
        ("\x1b[31mred", " [31mred"),
        ("line\u2028separator", "line separator"),
        ("<b> & \\", "<b> & \\"),
        ("看護師 é 👩🏽\u200d⚕️", "看護師 é 👩🏽\u200d⚕️"),
    ],
)
def test_a_cell_is_any_text(cell: str, written: str) -> None:
    assert table(["h"], [[cell]]).splitlines() == ["| h |", "| --- |", f"| {written} |"]


def test_a_row_that_does_not_fit_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="a row of 1 cells in a table of 2 columns"):
        table(["a", "b"], [["1"]])
