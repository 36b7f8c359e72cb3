"""What stands twice because it has to: the same in the Makefile, the workflow, the README and pyproject.toml."""

from __future__ import annotations

import re
import tomllib

from helpers.checkpoints import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
WORKFLOW = (ROOT / ".github" / "workflows" / "tests.yml").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


def test_the_workflow_runs_the_fast_tests_of_the_makefile() -> None:
    (fast,) = re.findall(r'pytest -m ("not .*")', MAKEFILE)
    assert f"python -m pytest -m {fast}" in WORKFLOW
    options = PROJECT["tool"]["pytest"]["ini_options"]
    (default,) = re.findall(r'-m (".*?")', options["addopts"])
    assert fast == f'{default[:-1]} and not medium"'


def test_the_workflow_runs_on_what_the_project_promises() -> None:
    classifiers = PROJECT["project"]["classifiers"]
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(classifiers))
    (versions,) = re.findall(r'python-version: \["(3\.\d+)", "(3\.\d+)"\]', WORKFLOW)
    assert versions == (promised[0], promised[-1])
    assert PROJECT["project"]["requires-python"] == f">={promised[0]}"
    systems = {"Linux": "ubuntu", "MacOS": "macos", "Windows": "windows"}
    for name, image in systems.items():
        assert any(name in line for line in classifiers)
        assert f"{image}-latest" in WORKFLOW


def test_every_package_that_tests_need_is_pinned() -> None:
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if "==" in line}
    extras = PROJECT["project"]["optional-dependencies"]
    parts = re.findall(r"[\w-]+", next(line for line in extras["test"] if line.startswith("jobonnx["))[8:])
    needed = [*PROJECT["project"]["dependencies"], *extras["test"], *(line for part in parts for line in extras[part])]
    names = {re.split(r"[\[<>=;~! ]", line)[0].lower() for line in needed}
    assert {name.replace("-", "_") for name in names - {"jobonnx"}} <= {name.replace("-", "_") for name in pinned}
