"""Measure jobonnx on a GPU for some minutes, the most valuable first, and keep what there is when time is up.

    PLACE/env/bin/python benchmarks/gpu/run.py PLACE -o OUT [--minutes 8]

PLACE is what assemble.py made. Each step of steps.py runs in a process of its own, under a limit, and leaves its figures at once:

- OUT/summary.md: steps with their state and seconds, and all figures
- OUT/figures.json: the same for programs
- OUT/log.txt: what the steps printed
- OUT/report.md, report.json, report.html: jobonnx beside sentence-transformers, when that step ends

A step that fails, or for which too little time is left, is named with the reason, and the next one runs. --rehearse puts the CPU
provider in the GPU's place, with --layers 4 for a smaller model, so that all of it can be tried before a machine is held for it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
_LEFT_FOR_THE_END = 5.0  # seconds


@dataclass(frozen=True)
class Step:
    """A step of steps.py."""

    name: str
    least: float  # seconds that have to be left for it to begin; estimated for a GPU, see docs/hardware.md
    most: float  # seconds after which it is ended
    needs: tuple[str, ...] = ()  # steps that have to have succeeded


# In this order. Without onnxruntime-gpu "machine" says so, and the steps that need it say that in turn.
STEPS = (
    Step("machine", 5, 60),
    Step("loads", 15, 90),  # a small trained model on the GPU: does it load and agree
    Step("checkpoint", 20, 120),  # the full-size stand-in
    Step("export", 40, 240, ("checkpoint",)),
    Step("agrees", 10, 60, ("export",)),  # parity at full size on the GPU
    Step("speed", 10, 90, ("export",)),  # one title, 8 titles, bulk, and where the host's time goes
    Step("captured", 10, 60, ("export",)),  # CUDA graphs
    Step("profile", 10, 60, ("export",)),  # by kernel
    Step("report", 150, 240, ("checkpoint",)),  # beside sentence-transformers, which needs no export
    Step("cpu_export", 60, 150, ("checkpoint",)),  # the machine's CPU is measured too
    Step("cpu_report", 60, 150, ("cpu_export",)),
    Step("tuned", 40, 120, ("export",)),
)


@dataclass
class Outcome:
    """How a step went."""

    name: str
    state: str  # "done", or why it is not
    seconds: float = 0.0


def main() -> None:
    arguments = _arguments()
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * arguments.minutes - _LEFT_FOR_THE_END
    outcomes: list[Outcome] = []
    for step in STEPS:
        if arguments.steps and step.name not in arguments.steps:
            continue
        outcomes.append(take(step, outcomes, end, arguments))
        write_summary(output, outcomes)
        print(f"{outcomes[-1].name}: {outcomes[-1].state} ({outcomes[-1].seconds:.0f} s)", flush=True)


def take(step: Step, before: list[Outcome], end: float, arguments: argparse.Namespace) -> Outcome:
    """Run a step, if what it needs is there and there is time."""
    lost = [outcome.name for outcome in before if outcome.name in step.needs and outcome.state != "done"]
    if lost:
        return Outcome(step.name, f"left out: {' and '.join(lost)} did not succeed")
    left = end - time.monotonic()
    if left < step.least:
        return Outcome(step.name, f"left out: {max(left, 0):.0f} s were left, it needs {step.least:.0f} s")
    limit = min(step.most * arguments.patience, left)
    command = [sys.executable, str(HERE / "steps.py"), step.name, str(arguments.place), str(arguments.output)]
    command += ["--seconds", f"{limit:.0f}"] + (["--rehearse"] if arguments.rehearse else [])
    command += ["--layers", str(arguments.layers)] if arguments.layers else []
    began = time.monotonic()
    with open(arguments.output / "log.txt", "ab") as log:
        log.write(f"== {step.name}\n".encode())
        log.flush()
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=_environment(arguments.place))
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return Outcome(step.name, f"ended after its {limit:.0f} s", time.monotonic() - began)
    state = "done" if status == 0 else _last_line(arguments.output / "log.txt")
    return Outcome(step.name, state, time.monotonic() - began)


def write_summary(output: Path, outcomes: list[Outcome]) -> None:
    """Write summary.md and figures.json from what the steps have left so far."""
    parts = {path.stem.removeprefix("step-"): json.loads(path.read_text()) for path in sorted(output.glob("steps/step-*.json"))}
    lines = ["| step | state | seconds |", "|---|---|--:|"]
    lines += [f"| {outcome.name} | {outcome.state} | {outcome.seconds:.1f} |" for outcome in outcomes]
    for outcome in outcomes:
        if found := parts.get(outcome.name):
            lines += ["", f"## {outcome.name}", "| what | figure |", "|---|--:|"]
            lines += [f"| {what} | {figure} |" for what, figure in found.items()]
    (output / "summary.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    content = {"steps": [asdict(outcome) for outcome in outcomes], "figures": parts}
    (output / "figures.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def _environment(place: Path) -> dict[str, str]:
    """Nothing outside is asked, and nothing is kept in the user's folders."""
    own = {"HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str((place / "cache").resolve()), "TOKENIZERS_PARALLELISM": "true"}
    return {**os.environ, **own, "PYTHONUNBUFFERED": "1"}


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"failed: {lines[-1][:300].replace('|', '/')}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", type=Path, help="folder that assemble.py made")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder for the figures")
    parser.add_argument("--minutes", type=float, default=8, help="time in all (8)")
    parser.add_argument("--steps", nargs="+", choices=[step.name for step in STEPS], metavar="NAME", help="these alone")
    parser.add_argument("--rehearse", action="store_true", help="the CPU provider in the GPU's place")
    parser.add_argument("--layers", type=int, metavar="N", help="layers of the stand-in; the checkpoint's if left out")
    parser.add_argument("--patience", type=float, default=1, metavar="X", help="times each step's limit, for a slow rehearsal")
    return parser.parse_args()


if __name__ == "__main__":
    main()
