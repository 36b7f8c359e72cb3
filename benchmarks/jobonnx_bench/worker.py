"""One system in one process: commands in as JSON lines on stdin, answers out as JSON lines on stdout.

Run by path (`python -P worker.py ADAPTER`), in whatever environment the system needs: only numpy has to be there, jobonnx not.
Between commands it blocks in a read, so that an idle worker costs nothing but its memory. What libraries print goes to stderr.

An adapter is a Python file with

- `load(folder, **options)`, which returns a system: `encode(texts)` -> float32 [texts, dimension] in the order given, and
  `details`, a dict for the report (see report.Details) with at least `dtype`, the type its matrix products run in. It may have
  `computed_tokens`, a running count of the tokens its matrix products have seen, padding included; a system that computes only
  real tokens, and repeated texts once, leaves it out. It may have `tokenize(texts)`, which is then timed by itself, and
  `encode_as_one_batch(texts)`, which is `encode` in a single run of the model however many texts there are.
- `build(folder, **options)`, if it needs files that no other system has: it writes them into the folder, once.

Commands, all with seconds as floats:

    {"command": "build", "folder", "options"}                   -> {"seconds"}
    {"command": "load", "folder", "options", "files"}           -> {"seconds", "details", "versions"}
    {"command": "time", "batches": [[text, ...], ...], "vectors": path or null}
                                                                -> {"seconds": [one per batch], "cpu_seconds", "computed_tokens"}
    {"command": "sweep", "texts", "times"}                      -> {"seconds": [one per run]}
    {"command": "tokenize", "texts"}                            -> {"seconds": seconds or null}
    {"command": "memory"}                                       -> {"peak_bytes"}

`load` reads `files` (paths) once before its clock starts, so that its time does not depend on what the disk had cached; importing
the libraries counts. `time` calls `encode` once per batch and saves all rows to `vectors` as .npy; `sweep` calls
`encode_as_one_batch` with the same texts `times` times. A command that raises is answered with {"error": sentence}.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

_PACKAGES = (
    "jobonnx",
    "sentence-transformers",
    "torch",
    "transformers",
    "tokenizers",
    "optimum",
    "optimum-onnx",
    "optimum-intel",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-ep-openvino",
    "onnxruntime-directml",
    "openvino",
    "nncf",
    "numpy",
)


class Worker:
    """The adapter, and the system once it is loaded."""

    def __init__(self, adapter: Path) -> None:
        self._path = adapter
        self._system: Any = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Execute one command."""
        commands = {
            "build": self._build,
            "load": self._load,
            "time": self._time,
            "sweep": self._sweep,
            "tokenize": self._tokenize,
            "memory": self._memory,
        }
        return commands[request["command"]](request)

    def _adapter(self) -> Any:
        sys.path.append(str(self._path.parent))  # at the end: an adapter's neighbours must not hide a package
        spec = importlib.util.spec_from_file_location(f"adapter_{self._path.stem}", self._path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{self._path} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def _build(self, request: dict[str, Any]) -> dict[str, Any]:
        start = time.perf_counter()
        self._adapter().build(request["folder"], **request["options"])
        return {"seconds": time.perf_counter() - start}

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        for path in request["files"]:
            _read_through(Path(path))
        start = time.perf_counter()
        self._system = self._adapter().load(request["folder"], **request["options"])
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "details": self._system.details, "versions": dict(versions(_PACKAGES))}

    def _time(self, request: dict[str, Any]) -> dict[str, Any]:
        before = getattr(self._system, "computed_tokens", None)
        gc.collect()
        seconds = []
        rows = []
        cpu = time.process_time()
        for batch in request["batches"]:
            start = time.perf_counter()
            vectors = self._system.encode(batch)
            seconds.append(time.perf_counter() - start)
            rows.append(vectors)
        cpu = time.process_time() - cpu
        if request["vectors"]:
            np.save(request["vectors"], np.concatenate([np.asarray(row, dtype=np.float32) for row in rows]))
        computed = None if before is None else self._system.computed_tokens - before
        return {"seconds": seconds, "cpu_seconds": cpu, "computed_tokens": computed}

    def _sweep(self, request: dict[str, Any]) -> dict[str, Any]:
        gc.collect()
        seconds = []
        for _ in range(request["times"]):
            start = time.perf_counter()
            self._system.encode_as_one_batch(request["texts"])
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds}

    def _tokenize(self, request: dict[str, Any]) -> dict[str, Any]:
        if not hasattr(self._system, "tokenize"):
            return {"seconds": None}
        start = time.perf_counter()
        self._system.tokenize(request["texts"])
        return {"seconds": time.perf_counter() - start}

    def _memory(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"peak_bytes": peak_bytes()}


def peak_bytes() -> int | None:
    """Read the most memory that this process ever had resident, mapped files included; None where the system does not say."""
    try:
        # ru_maxrss would do, but a child starts with its parent's.
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def versions(packages: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Look up name and version of each package that is installed."""
    for package in packages:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue


def _read_through(path: Path) -> None:
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        with open(file, "rb", buffering=0) as data:
            while data.read(1 << 22):
                pass


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdin.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    worker = Worker(Path(sys.argv[1]))
    for line in sys.stdin:
        try:
            answer = worker.answer(json.loads(line))
        except Exception as error:
            import traceback

            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
