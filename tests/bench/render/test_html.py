"""The page: what is in it, what must not be, and that a browser takes it without a word."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from helpers.reports import absent, measured, report

pytest.importorskip("matplotlib", reason='the page needs matplotlib: pip install "jobonnx[bench]"')

from jobonnx_bench.render.html import report_html
from jobonnx_bench.report import Requested

pytestmark = pytest.mark.medium

HOSTILE = '<script>console.error("x")</script>"\'&|$a$'
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
REPORT = report(
    measured("fp32", bulk=2.0),
    measured("int8"),
    absent("fp16", "cuda", reason=HOSTILE),
    measured("int8", "openvino", status="failed", reason="was killed by signal 9 during 'time'", rounds=()),
)


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "srcset", "action"):
                self.links.append(value or "")


def test_it_holds_recommendation_plots_tables_and_environment() -> None:
    text = report_html(REPORT)
    order = (
        "For single requests",
        "Throughput",
        "Latency against batch size",
        "Accuracy against speed",
        "Speed",
        "Cost",
        "Accuracy<",
    )
    places = [text.index(part) for part in (*order, "Not measured", "Environment")]
    assert places == sorted(places)
    assert "was killed by signal 9" in text
    assert text.count("<svg") == 6  # three plots at two widths


def test_it_needs_nothing_else_and_no_id_comes_twice() -> None:
    text = report_html(REPORT)
    page = _Page(text)
    assert "script" not in page.tags
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert all(target[0] == "#" for target in re.findall(r"url\(([^)]*)\)", text))
    assert "@import" not in text


def test_hostile_names_are_text() -> None:
    assert REPORT.bundle is not None
    odd = replace(measured("fp32"), requested=Requested(HOSTILE, HOSTILE))
    text = report_html(replace(REPORT, systems=(odd,), bundle=replace(REPORT.bundle, model=HOSTILE)))
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_a_report_without_a_measured_system_is_a_page_all_the_same() -> None:
    text = report_html(report(absent("fp32", "cuda")))
    assert "No recommendation" in text
    assert "<svg" not in text


def browse(path: Path, profile: Path) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync --disable-component-update"
    options += " --disable-background-networking --enable-logging=stderr --virtual-time-budget=2000 --dump-dom"
    command = [BROWSER, *options.split(), f"--user-data-dir={profile}", path.as_uri()]
    env = {**os.environ, "HOME": str(profile)}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)


@pytest.mark.skipif(BROWSER is None, reason="no chromium and no google-chrome on the PATH to open the page with")
def test_a_browser_opens_it_without_a_word_on_its_console(tmp_path: Path) -> None:
    page, broken = tmp_path / "report.html", tmp_path / "broken.html"
    page.write_text(report_html(REPORT), encoding="utf-8")
    broken.write_text("<!doctype html><script>nothing()</script>", encoding="utf-8")
    assert "CONSOLE" in browse(broken, tmp_path / "a").stderr  # an error would be seen
    done = browse(page, tmp_path / "b")
    assert "For single requests" in done.stdout
    assert "CONSOLE" not in done.stderr
