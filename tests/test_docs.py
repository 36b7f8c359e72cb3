"""The documents are true as far as a machine can tell: commands, options, links, blocks that run, and the list of decisions."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import click
import pytest

from helpers.checkpoints import ROOT
from jobonnx import Encoder
from jobonnx.cli.main import main

DOCS = ROOT / "docs"
RESULTS = ROOT / "benchmarks" / "results"
REFERENCE = runpy.run_path(str(DOCS / "cli_reference.py"))
COSTS = runpy.run_path(str(DOCS / "bulk_costs.py"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
RUNNABLE = re.compile(r"<!-- run -->\n```(\w+)\n(.*?)^```$(?:\s*<!-- prints -->\n```text\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="the block is for a POSIX shell")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def _pages() -> list[Path]:
    """Every Markdown file of the project."""
    folders = ("docs", "benchmarks", "examples", "training")
    return sorted([*ROOT.glob("*.md"), *(page for folder in folders for page in (ROOT / folder).rglob("*.md"))])


def _living() -> list[Path]:
    """Pages that describe today's program; measurements describe the program of their day."""
    return [page for page in _pages() if RESULTS not in page.parents and page.name != "CHANGELOG.md"]


def _read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _runnable() -> Iterator[Any]:
    for page in _living():
        for number, (language, code, output) in enumerate(RUNNABLE.findall(_read(page)), 1):
            marks = [POSIX] if language == "bash" else []
            yield pytest.param(language, code, output, id=f"{_named(page)}-{number}", marks=marks)


def _anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(BLOCK, "", text), re.MULTILINE)
    plain = (re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in plain}


def _resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that these words call, and the words after it."""
    command: click.Command = main
    while isinstance(command, click.Group) and words and (called := command.get_command(click.Context(command), words[0])):
        command, words = called, words[1:]
    return command, words


def _options(command: click.Command) -> set[str]:
    found = {name for p in command.params if isinstance(p, click.Option) for name in (*p.opts, *p.secondary_opts)}
    return found | {"-h", "--help"}


def test_the_costs_of_bulk_work_are_worked_out_from_the_report_that_the_page_names() -> None:
    page = _read(DOCS / "bulk.md")
    assert page == COSTS["updated"](page, COSTS["source_of"](page)), "run: python docs/bulk_costs.py"
    hours = 50_000_000 * 0.4 / 25 / 3600  # by hand, for 25 titles/s
    assert COSTS["costs"](
        {
            "environment": {"threads": 2},
            "systems": [{"name": "x", "family": "jobonnx", "details": {"provider": "cpu", "notes": {"variant": "int8"}}}],
            "summaries": {"x": {"titles_per_second": 50.0}},
        }
    ).endswith(f"| int8 | 25 | {hours:,.0f} | {hours / 16 / 24:.1f} | ${hours * 0.04:,.0f} | 4,444 | 0.7 | $178 |")


def test_the_reference_of_the_command_line_is_generated_from_it() -> None:
    page = _read(DOCS / "cli.md")
    assert page == REFERENCE["updated"](page), "run: python docs/cli_reference.py"


@pytest.mark.parametrize(("name", "command"), list(REFERENCE["commands"]()))
def test_every_command_and_option_is_documented(name: str, command: click.Command) -> None:
    page = _read(DOCS / "cli.md")
    section = page.split(f"\n## {name}\n", 1)[1].split("\n## ", 1)[0]
    missing = [option for option in _options(command) - {"-h", "--help"} if f"`{option}`" not in section]
    assert not missing
    assert f"](#{name.replace(' ', '-')})" in page, "the table at the top has to link to it"


def test_every_public_name_of_the_encoder_is_documented() -> None:
    page = _read(DOCS / "python.md")
    names = {name for name in dir(Encoder) if not name.startswith("_")}
    arguments = set(signature(Encoder).parameters) | set(signature(Encoder.encode).parameters) - {"self"}
    missing = [name for name in sorted(names | arguments) if not re.search(rf"[`(, *]{name}\b", page)]
    assert not missing


@pytest.mark.parametrize("page", _living(), ids=_named)
def test_commands_in_documents_exist(page: Path) -> None:
    """Every `jobonnx ...`, in a block or within a sentence, names a command and options that there are."""
    text = _read(page)
    lines = [line for language, code in BLOCK.findall(text) if language in ("sh", "bash") for line in code.splitlines()]
    lines += re.findall(r"`(jobonnx [a-z][^`]*)`", re.sub(BLOCK, "", text))
    for line in lines:
        call = re.search(r"(?:^|&& \S*/)jobonnx ([a-z].*)", line)
        if call is None:
            continue
        command, rest = _resolve(shlex.split(call[1], comments=True))
        assert command is not main, f"{line}: no such command"
        unknown = [word for word in rest if re.match(r"--?[a-z]", word) and word.split("=")[0] not in _options(command)]
        assert not unknown, line


@pytest.mark.parametrize("page", _pages(), ids=_named)
def test_links_between_documents_resolve(page: Path) -> None:
    for target in LINK.findall(re.sub(BLOCK, "", _read(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{target} does not exist"
        if anchor:
            assert anchor in _anchors(_read(found)), f"{target} has no such heading"


def test_documents_that_the_code_names_exist() -> None:
    """A comment that points to a document points to one that is there."""
    folders = ("src", "export", "benchmarks", "training", "tests", "examples", "docs")
    files = [page for page in _living() if page.parent == ROOT]
    files += [file for folder in folders for file in (ROOT / folder).rglob("*.py") if file != Path(__file__)]
    missing = [
        f"{_named(file)}: {name}"
        for file in files
        for name in re.findall(r"\b((?:docs|benchmarks/results|examples)/[\w./-]+\.md)\b", _read(file))
        if not (ROOT / name).is_file()
    ]
    assert not missing


@pytest.mark.parametrize("page", _pages(), ids=_named)
def test_no_document_needs_a_folder_outside_the_repository(page: Path) -> None:
    assert "../shared" not in _read(page)


@pytest.mark.medium
@pytest.mark.parametrize(("language", "code", "output"), list(_runnable()))
def test_blocks_run_and_print_what_is_shown(language: str, code: str, output: str, tmp_path: Path) -> None:
    """A block marked with <!-- run --> runs in an empty folder, and prints the block marked with <!-- prints -->."""
    command = {"python": [sys.executable, "-c", code], "bash": ["bash", "-euo", "pipefail", "-c", code]}[language]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PATH": path, "PYTHONUTF8": "1"}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=env, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    if output:
        assert done.stdout == output


def test_there_are_blocks_that_run() -> None:
    assert {"README.md-1", "docs/python.md-1", "docs/cli.md-1"} <= {str(block.id) for block in _runnable()}


@POSIX
def test_the_commands_of_the_evaluation_page_name_every_set() -> None:
    """Pasted into a shell that prints what it would run; the measurement itself takes minutes."""
    found = re.search(r"<!-- commands with DATA -->\n```bash\n(.*?)```", _read(DOCS / "evaluating.md"), re.DOTALL)
    assert found
    script = 'DATA=data; jobonnx() { echo "$@"; }; python() { echo "$@"; }\n' + found[1]
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=True, cwd=ROOT)
    export, quality, evaluate = (line.split() for line in done.stdout.splitlines())
    languages = ("en", "es", "de", "zh", "fr", "it", "ja", "ko", "nl", "pl", "pt")
    sets = [f"data/avature_jobtitlesimilarity/{name}" for name in languages]
    assert quality[-len(sets) :] == evaluate[-len(sets) :] == sets
    assert export[-1] == quality[1] == evaluate[2]


def test_every_decision_has_its_parts_and_stands_in_the_index() -> None:
    index = _read(DOCS / "decisions" / "README.md")
    files = sorted((DOCS / "decisions").glob("[0-9]*.md"))
    assert [int(file.name[:4]) for file in files] == list(range(1, len(files) + 1))
    for file in files:
        text = _read(file)
        status = re.search(r"^\*\*Status:\*\* (accepted|proposed|superseded by)\b.*", text, re.MULTILINE)
        assert status, f"{file.name} has no status"
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences", "Evidence"], file.name
        row = re.search(rf"^\| \[{file.name[:4]}\]\({file.name}\) .*$", index, re.MULTILINE)
        assert row, f"{file.name} is not in the index"
        stated = "superseded" if "; for inputs" in status[0] or status[1] == "superseded by" else status[1]
        assert f"| {stated}" in row[0], f"{file.name}: the index has another status"


def test_every_measurement_stands_in_the_index() -> None:
    index = _read(RESULTS / "README.md")
    missing = [page.name for page in RESULTS.glob("2*.md") if f"]({page.name})" not in index]
    assert not missing


@pytest.mark.medium
def test_the_encode_example_runs() -> None:
    example = [sys.executable, str(ROOT / "examples" / "encode.py")]
    done = subprocess.run(example, capture_output=True, encoding="utf-8", check=True, env={**os.environ, "PYTHONUTF8": "1"})
    nearest = [line.split(maxsplit=1)[1] for line in done.stdout.splitlines() if line.startswith("  ")]
    assert nearest[0] == "Softwareentwickler"
    assert set(nearest[3:]) == {"nurse", "护士", "enfermera"}


def test_plain_onnxruntime_gives_the_encoders_vectors() -> None:
    """The example is what clients in other languages do: padding on the right, no jobonnx."""
    encoder = Encoder(provider="cpu")
    titles = ["nurse", "Krankenschwester in der Intensivpflege", "nurse", "", "Koch " * 200]
    encode = runpy.run_path(str(ROOT / "examples" / "plain_onnxruntime.py"))["encode"]
    difference = abs(encode(encoder.bundle.folder, titles) - encoder.encode(titles))
    assert difference.max() < 1e-6
