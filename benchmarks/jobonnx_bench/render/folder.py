"""The folder that `jobonnx bench` writes: whole, or not at all."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

from jobonnx.errors import JobonnxError
from jobonnx_bench.recommend import recommend
from jobonnx_bench.render.html import report_html
from jobonnx_bench.render.markdown import report_markdown
from jobonnx_bench.result import Report

JSON, MARKDOWN, HTML = "report.json", "report.md", "report.html"


def check_free(output: Path) -> None:
    """Before the work: that the folder can be made.

    Raises:
        JobonnxError: something is there already, or the folder around it cannot be written.
    """
    if output.exists():
        raise JobonnxError(f"{output} exists already; remove it or name another folder")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial(output)
        partial.mkdir()
        partial.rmdir()
    except OSError as error:
        raise JobonnxError(f"{output} cannot be made ({error.strerror}); name another folder") from None


def write_folder(report: Report, output: Path) -> None:
    """Write report.json, report.md and report.html into a folder that takes its name when it is complete.

    Raises:
        JobonnxError: it cannot be written; nothing is left then.
    """
    partial = _partial(output)
    try:
        partial.mkdir(parents=True)
        content = {**report.as_dict(), "recommendations": [asdict(found) for found in recommend(report)]}
        files = {
            JSON: json.dumps(content, indent=1, ensure_ascii=False) + "\n",
            MARKDOWN: report_markdown(report),
            HTML: report_html(report),
        }
        for name, text in files.items():
            (partial / name).write_text(text, encoding="utf-8")
        os.rename(partial, output)
    except OSError as error:
        raise JobonnxError(f"{output} could not be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _partial(output: Path) -> Path:
    return output.with_name(f".{output.name}.{os.getpid()}.partial")
