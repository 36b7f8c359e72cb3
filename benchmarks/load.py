"""The service under load, on loopback, part by part: OUT.json, OUT.md and OUT.svg.

    python benchmarks/load.py OUT [-m BUNDLE] [--variant V] [--titles FILE] [--only one,closed] [--requests 3000]

Each part can run alone and adds its figures to OUT.json, so that a campaign may be spread over several quiet hours. Parts that are
complete there are not measured again unless --only names them. OUT.md and OUT.svg are made from OUT.json after every point; with
`--only none` nothing is measured and they are made again. A part that stops in the middle keeps its points.

| part | what |
|---|---|
| one | one client: what the service adds to `encode` of the same titles |
| closed | closed loops of 1, 8, 64 and 256 clients, and `encode` in bulk before and after; the best rate is the capacity |
| open | open loop at 80% of the capacity, which is measured right before |
| twice | open loop at twice the capacity, which is measured right before |
| large | single titles beside a request of 10,000 others (needs closed) |
| zipf | Zipf-distributed titles with a cache of 10,000 vectors, from cold |
| peers | 64 clients of infinity-emb and of FastAPI with sentence-transformers (peers/infinity.txt, peers/serve.txt), beside ours |
| neighbours | threads and spinning beside 0, 1 and 2 busy processes |
| memory | memory of each variant of the bundle |
| faults | clients that are killed, a process that is stopped for 30 s (needs closed) |
| soak | traffic of every kind for --minutes, memory every ten seconds |

A point lasts until it has --requests, at least 10 s and at most --most-seconds. Titles come one per line, or from O*NET's
"Alternate Titles.txt". A closed loop is wrk (Debian's package), whose clients wait for a reply before they ask again; a probe comes
first. An open loop is `load_kit.open_loop`, a process of its own; one whose p99 lateness is over 1 ms does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from jobonnx import signals
from jobonnx.errors import Stopped
from load_kit.parts import PARTS, Run
from load_kit.report import Report, load

ROOT = Path(__file__).parents[1]


def about(arguments: argparse.Namespace) -> dict[str, Any]:
    """Say what is measured; a file of another model or machine is not added to."""
    import onnxruntime

    from jobonnx import Bundle
    from jobonnx.runtime.machine import available_threads, cpu

    bundle = Bundle.open(arguments.model)
    return {
        "model": Path(bundle.model.source).name,
        "variant": arguments.variant or bundle.default_variant,
        "titles": Path(arguments.titles).name if arguments.titles else "the built-in ones",
        "cpu": cpu().name,
        "threads": available_threads(),
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
    }


def measure(arguments: argparse.Namespace) -> None:
    """Run the parts that are asked for."""
    report = Report(arguments.out, about(arguments))
    wanted = [name for name in arguments.only.split(",") if name != "none"] if arguments.only else None
    if unknown := set(wanted or ()) - set(PARTS):
        raise SystemExit(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if wanted is None:
        complete = {name for name, part in report.content["parts"].items() if "minutes" in part["how"]}
        no_peers = {"peers"} if not (arguments.fastapi or arguments.infinity) else set()
        wanted = [name for name in PARTS if name not in complete | no_peers]
    with tempfile.TemporaryDirectory() as folder:
        names = ("model", "variant", "requests", "most_seconds", "minutes", "fastapi", "infinity")
        options = {name: getattr(arguments, name) for name in names}
        run = Run(
            **options, titles_file=arguments.titles, checkpoint=str(arguments.checkpoint), folder=Path(folder), done=report.parts
        )
        for name in wanted:
            start = time.monotonic()
            report.begin(name, {"command": _command(), "date": time.strftime("%Y-%m-%d"), "load": load()})
            for point, value in PARTS[name](run):
                report.add(name, point, value)
                report.write()
                print(f"{name}, {point}: {_shortened(value)}", flush=True)
            report.end(name, (time.monotonic() - start) / 60)
            run.done = report.parts
            print(f"{name}: {(time.monotonic() - start) / 60:.1f} minutes", flush=True)
    report.write()


def _shortened(value: Any) -> str:
    text = json.dumps(value[-1] if isinstance(value, list) else value)
    return text if len(text) < 600 else text[:600] + " ..."


def _command() -> str:
    """Return the command as it may be published: paths without their folders."""
    words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    return " ".join(["python", "benchmarks/load.py", *words])


def main() -> None:
    """Read the command line, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the report's name, without an ending")
    parser.add_argument("-m", "--model", help="a bundle; the small model if left out")
    parser.add_argument("--variant")
    parser.add_argument("--titles", help="a file; the built-in titles if left out")
    parser.add_argument("--only", default="", help="parts, with commas between them")
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--most-seconds", type=float, default=180.0)
    parser.add_argument("--minutes", type=float, default=20.0, help="of soak")
    parser.add_argument("--fastapi", metavar="PYTHON", help="a Python that has FastAPI and sentence-transformers")
    parser.add_argument("--infinity", metavar="PROGRAM", help="infinity_emb")
    parser.add_argument("--checkpoint", default=ROOT / "training" / "checkpoint", type=Path, help="what the peers serve")
    os.environ.setdefault("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    arguments = parser.parse_args()
    signals.install()  # so that the processes under load end with this one
    try:
        measure(arguments)
    except Stopped:
        raise SystemExit("stopped; what was measured is in the report") from None


if __name__ == "__main__":
    main()
