"""Name this machine's kind of CPU by the features that decide which kernels run, and find the reports of that kind.

    python benchmarks/kinds.py             # prints the kind, such as avx2, avx512-vnni-bf16 or neon-dotprod-i8mm, and its reports
    python benchmarks/kinds.py --all       # prints every kind that has a report

A kind is no product's name: two CPUs of one kind run the same kernels, at different rates.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Mapping
from pathlib import Path

from jobonnx_bench.environment import record

RESULTS = Path(__file__).parent / "results"
_IMPLIED = {"AVX-512": ("AVX2",), "AMX-INT8": ("AVX2", "AVX-512", "VNNI"), "AMX-BF16": ("AVX2", "AVX-512", "BF16")}
_SCHEMA = "jobonnx.bench/"  # of report.json; other JSON files there are no reports


def kind(features: Mapping[str, bool], machine: str) -> str:
    """Name a kind by its features, without those that others bring along; the architecture where there are none."""
    there = [name for name, has in features.items() if has]
    implied = {other for name in there for other in _IMPLIED.get(name, ())}
    named = [name.lower().replace("avx-512", "avx512") for name in there if name not in implied]
    return "-".join(named) or machine.lower()


def reports(results: Path = RESULTS) -> dict[str, list[str]]:
    """Names of the reports of each kind, comparisons with peers and `jobonnx bench`'s, by their place in `results`."""
    found: dict[str, list[str]] = {}
    for path in sorted(results.rglob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        environment = content.get("environment", {}) if isinstance(content, dict) else {}
        if "features" in environment and str(content.get("schema", _SCHEMA)).startswith(_SCHEMA):
            machine = str(environment.get("system", "")).split(" ")[-1]
            found.setdefault(kind(environment["features"], machine), []).append(path.relative_to(results).as_posix())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every kind that has a report")
    arguments = parser.parse_args()
    if arguments.all:
        for name, paths in reports().items():
            print(name, *paths)
        return
    here = kind(record().features, platform.machine())
    print(here, *reports().get(here, []))


if __name__ == "__main__":
    main()
