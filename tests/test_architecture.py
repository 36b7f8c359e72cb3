"""The house as its plan says: who imports whom, where execution providers are named, and how long the main path is.

The imports are read from the source, those inside functions too: an import that is hidden in a function hides no circle.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.checkpoints import ROOT

HOMES = (ROOT / "src", ROOT / "export", ROOT / "benchmarks", ROOT / "training")
OURS = ("jobonnx", "jobonnx_export", "jobonnx_bench", "jobonnx_train")

FOUNDATION = (
    "jobonnx.errors",
    "jobonnx.arrays",
    "jobonnx.arguments",
    "jobonnx.signals",
    "jobonnx.files",
    "jobonnx.strict_json",
    "jobonnx.progress",
    "jobonnx.markdown",
)
OPTIONAL = ("jobonnx.parity", "jobonnx.search", "jobonnx.evaluation", "jobonnx.data")
# Module, or package with all that is in it -> what it may import of ours besides itself. The longest name that fits counts.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "jobonnx.errors": (),
    "jobonnx.arrays": (),
    "jobonnx.progress": (),
    "jobonnx.markdown": (),
    "jobonnx.arguments": ("jobonnx.errors", "jobonnx.arrays"),
    "jobonnx.signals": ("jobonnx.errors",),
    "jobonnx.files": ("jobonnx.errors", "jobonnx.signals"),
    "jobonnx.strict_json": ("jobonnx.errors", "jobonnx.files"),
    "jobonnx.bundle": FOUNDATION,
    "jobonnx.text": FOUNDATION,
    "jobonnx.runtime": (*FOUNDATION, "jobonnx.bundle", "jobonnx.text.batching"),
    "jobonnx.outputs": FOUNDATION,
    "jobonnx.similarity": FOUNDATION,
    "jobonnx.compatibility": (*FOUNDATION, "jobonnx.bundle", "jobonnx.runtime", "jobonnx.similarity", "jobonnx.text"),
    "jobonnx.prompts": (*FOUNDATION, "jobonnx.bundle", "jobonnx.compatibility"),
    "jobonnx.encoder": (
        *FOUNDATION,
        "jobonnx.bundle",
        "jobonnx.compatibility",
        "jobonnx.outputs",
        "jobonnx.prompts",
        "jobonnx.text",
        "jobonnx.runtime",
    ),
    "jobonnx.sentence_transformers": (*FOUNDATION, "jobonnx.bundle", "jobonnx.encoder", "jobonnx.text.batching"),
    "jobonnx.scikit_learn": (*FOUNDATION, "jobonnx.encoder"),
    "jobonnx.data": FOUNDATION,
    "jobonnx.search": FOUNDATION,
    # Neither service nor bulk knows the other.
    "jobonnx.bulk": (*FOUNDATION, "jobonnx.data", "jobonnx.search", "jobonnx.bundle", "jobonnx.prompts", "jobonnx.encoder"),
    "jobonnx.parity": (*FOUNDATION, "jobonnx.bundle"),  # figures are a part of the manifest
    "jobonnx.parity.verify": (*FOUNDATION, "jobonnx.parity", "jobonnx.bundle", "jobonnx.text", "jobonnx.runtime"),
    "jobonnx.evaluation": (*FOUNDATION, "jobonnx.search.topk"),
    "jobonnx.serve": (*FOUNDATION, "jobonnx", "jobonnx.encoder", "jobonnx.prompts", "jobonnx.search", "jobonnx.data"),
    "jobonnx.cli": ("jobonnx", "jobonnx_export", "jobonnx_bench"),
    "jobonnx": ("jobonnx.bundle.manifest", "jobonnx.encoder", "jobonnx.errors"),  # the public names
    "jobonnx_export": (*FOUNDATION, *OPTIONAL, "jobonnx.bundle", "jobonnx.text", "jobonnx.runtime", "jobonnx.encoder", "jobonnx"),
    "jobonnx_bench": (*FOUNDATION, *OPTIONAL, "jobonnx.bundle", "jobonnx.text", "jobonnx.runtime", "jobonnx.encoder", "jobonnx"),
    "jobonnx_train": (*FOUNDATION, *OPTIONAL, "jobonnx.bundle", "jobonnx.text", "jobonnx.runtime", "jobonnx.encoder", "jobonnx"),
}
NEVER_IN_THE_RUNTIME = {"torch", "transformers", "optimum", "sentence_transformers", "onnx", "matplotlib", "safetensors"}
ON_REQUEST = {
    "jobonnx.evaluation.ties": {"torch"},  # --ties sentence-transformers runs PyTorch's own top-k
    "jobonnx.outputs": {"torch"},  # convert_to_tensor=True
    "jobonnx.sentence_transformers": {"torch", "transformers", "sentence_transformers"},
}

PROVIDERS = re.compile("openvino|cuda|tensorrt|coreml|directml|migraphx|rocm|xnnpack|webgpu|executionprovider(?!s)", re.IGNORECASE)
MAY_NAME_PROVIDERS = ("src/jobonnx/runtime/providers/", "export/jobonnx_export/pipeline.py")

MAIN_PATH = ("encoder.py", "text/tokenizer.py", "text/batching.py", "runtime/engine.py")
MAIN_PATH_LINES = 400
OFF_THE_MAIN_PATH = re.compile("cuda|tensorrt|openvino|tuning|cgroup", re.IGNORECASE)


def source_files() -> dict[str, Path]:
    """Name every module of ours: dotted name -> its file."""
    found = {}
    for home in HOMES:
        for package in OURS:
            for path in sorted((home / package).rglob("*.py")):
                parts = path.relative_to(home).with_suffix("").parts
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


FILES = source_files()
TREES = {name: ast.parse(path.read_bytes()) for name, path in FILES.items()}


def imported(name: str, tree: ast.AST) -> set[str]:
    """List what a module imports, ours as modules: `from jobonnx.text import batching` is `jobonnx.text.batching`."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in FILES else str(node.module))
    return found


IMPORTS = {name: imported(name, tree) for name, tree in TREES.items()}


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def allowed(importer: str, target: str) -> bool:
    rule = max((package for package in MAY_IMPORT if inside(importer, package)), key=len)
    own = rule if rule != "jobonnx" else importer  # the root package is no room: all of the runtime lies below it
    if inside(target, own):
        return True
    others = MAY_IMPORT[rule]
    # "jobonnx" in a list means its public names; for the command line it means everything.
    if rule == "jobonnx.cli":
        return any(inside(target, other) for other in others)
    return target in others or any(inside(target, other) for other in others if other != "jobonnx")


def test_every_module_is_found() -> None:
    assert len(FILES) > 60
    assert {
        "jobonnx.encoder",
        "jobonnx.text.batching",
        "jobonnx_export.pipeline",
        "jobonnx_bench.worker",
        "jobonnx_train.cli",
    } <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_module_imports_only_what_its_room_may(name: str) -> None:
    wrong = {target for target in IMPORTS[name] if target.split(".")[0] in OURS and not allowed(name, target)}
    assert not wrong, f"{name} may not import {sorted(wrong)}"


@pytest.mark.parametrize("name", [name for name in FILES if inside(name, "jobonnx")])
def test_the_runtime_imports_nothing_that_only_others_need(name: str) -> None:
    assert not {target.split(".")[0] for target in IMPORTS[name]} & NEVER_IN_THE_RUNTIME - ON_REQUEST.get(name, set())


@pytest.mark.parametrize("name", [name for name in FILES if inside(name, "jobonnx.cli")])
def test_a_command_imports_what_it_needs_when_it_runs(name: str) -> None:
    """`jobonnx --help` must not load numpy, let alone an encoder: only the foundation is imported at the top of a file."""
    at_the_top = ast.Module([node for node in TREES[name].body if isinstance(node, ast.Import | ast.ImportFrom)], [])
    ours = {target for target in imported(name, at_the_top) if target.split(".")[0] in OURS}
    light = (
        "jobonnx.strict_json",
        "jobonnx.cli",
        "jobonnx.text.surrogates",
        "jobonnx.errors",
        "jobonnx.signals",
        "jobonnx.files",
        "jobonnx.strict_json",
        "jobonnx.progress",
    )
    assert not {target for target in ours if target != "jobonnx" and not any(inside(target, other) for other in light)}


def test_no_imports_go_in_a_circle() -> None:
    done: set[str] = set()

    def circle(name: str, way: tuple[str, ...]) -> tuple[str, ...]:
        if name in way:
            return (*way[way.index(name) :], name)
        if name in done:
            return ()
        for target in sorted(IMPORTS[name] & set(FILES)):
            if found := circle(target, (*way, name)):
                return found
        done.add(name)
        return ()

    for name in FILES:
        assert not (found := circle(name, ())), " -> ".join(found)


def words_of_code(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and text of every name and string in code; comments and docstrings are no code."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) and id(node) not in docstrings:
            yield line, str(node.value)
        for field in ("id", "attr", "name", "asname", "arg", "module"):
            if isinstance(text := getattr(node, field, None), str):
                yield line, text
        if isinstance(node, ast.MatchAs | ast.Global | ast.Nonlocal):
            yield from ((line, text) for text in getattr(node, "names", ()))


@pytest.mark.parametrize("name", [name for name in FILES if name.split(".")[0] in ("jobonnx", "jobonnx_export")])
def test_execution_providers_are_named_in_their_own_files_alone(name: str) -> None:
    place = FILES[name].relative_to(ROOT).as_posix()
    if place.startswith(MAY_NAME_PROVIDERS):
        return
    words = [(line, text) for line, text in words_of_code(TREES[name])]
    found = [(line, text[:60]) for line, text in words if PROVIDERS.search(text)]
    assert not found, f"{place} names a provider"


def test_the_search_for_provider_names_finds_them() -> None:
    code = 'def cuda_graphs(*, openvino=1):\n    """CUDA"""\n    x.tensorrt = "CoreMLExecutionProvider"  # directml\n'
    found = {text for _, text in words_of_code(ast.parse(code)) if PROVIDERS.search(text)}
    assert found == {"cuda_graphs", "openvino", "tensorrt", "CoreMLExecutionProvider"}


def test_the_main_path_reads_in_one_sitting() -> None:
    lines = {name: len((ROOT / "src" / "jobonnx" / name).read_text("utf-8").splitlines()) for name in MAIN_PATH}
    assert sum(lines.values()) <= MAIN_PATH_LINES, lines


@pytest.mark.parametrize("name", MAIN_PATH)
def test_the_main_path_speaks_of_texts_and_vectors_alone(name: str) -> None:
    text = (ROOT / "src" / "jobonnx" / name).read_text("utf-8")
    assert [line for line in text.splitlines() if OFF_THE_MAIN_PATH.search(line)] == []
