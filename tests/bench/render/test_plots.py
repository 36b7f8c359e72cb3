"""Plots: the front, and SVG that stands in a page."""

from __future__ import annotations

import pytest

from helpers.reports import measured, peer, report
from jobonnx_bench.render.plots import pareto, plots

pytestmark = pytest.mark.medium


def test_the_front_is_what_nothing_beats_in_both() -> None:
    assert pareto([(10, 0.1), (20, 0.2), (15, 0.3), (20, 0.2), (20, 0.5)]) == [0, 1, 3]
    assert pareto([]) == []


def test_plots_take_the_pages_colours() -> None:
    pytest.importorskip("matplotlib", reason='plots need matplotlib: pip install "jobonnx[bench]"')
    made = plots(report(measured("fp32"), measured("int8", sweep=())))
    assert [plot.title for plot in made] == ["Throughput", "Latency against batch size", "Accuracy against speed"]
    for plot in made:
        for svg in (plot.wide, plot.narrow):
            assert svg.startswith("<svg")
            assert svg.endswith("</svg>")
            assert "currentColor" in svg
            assert "#010203" not in svg
    assert made == plots(report(measured("fp32"), measured("int8", sweep=())))  # the same report, the same page


def test_peers_are_grey_and_ours_are_not() -> None:
    pytest.importorskip("matplotlib", reason='plots need matplotlib: pip install "jobonnx[bench]"')
    throughput = plots(report(measured("fp32"), peer("a peer"), peer("another peer")))[0]
    assert throughput.wide.count("#8b949e") == 2
    assert throughput.wide.count("#3b82f6") == 1
