"""Which thread settings are kind to neighbours, and what they cost: spinning, on a quiet machine and beside busy processes.

    python benchmarks/spinning.py [--bundle FOLDER] [--variant int8] [--rounds 5] [--titles 3000] [--batches 20] [--json FILE]
        [--settings "no spinning" "backoff 8" ...] [--conditions quiet "beside one" "beside two"]

Run it on a machine where nothing else runs. Each setting has a session of its own in this one process. All take their turn in every
round and condition, in an order that moves on, so that a slow moment of the machine slows all of them. After each turn nobody works
for a moment, until threads that spin have gone to sleep.

- **One title** is called fifty times with a pause of 20 ms between calls, as requests come; median and 95th percentile.
- **Batch** is 32 titles, `--batches` times without a pause.
- **Bulk** is all titles.

The CPU time of a turn counts all threads, and the moment after it: that is what a neighbour loses. Ratios are medians over rounds
of a setting's time divided by the default's in the same round. A default may take at most 1.03 of today's on a quiet machine.

The settings are those of `jobonnx.runtime.session.Settings`, ONNX Runtime's `session.intra_op.allow_spinning`,
`session.intra_op.spin_duration_us`, `session.intra_op.spin_backoff_max` (both since 1.26; older versions ignore them, and then the
rows show no difference) and `session.force_spinning_stop`, which ends all spinning when the last call returns. Without a duration
the threads spin for a number of turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jobonnx import Bundle
from jobonnx.data.titles import read_titles
from jobonnx.markdown import table
from jobonnx.runtime.choose import choose
from jobonnx.runtime.engine import Engine
from jobonnx.runtime.machine import available_threads, cpu
from jobonnx.text.tokenizer import Tokenizer

_UNTIL_NOW: dict[str, Any] = {"spin": True, "spin_us": None, "spin_backoff": 1, "spin_after_call": True}  # ONNX Runtime's default
SETTINGS: dict[str, dict[str, Any]] = {
    "today": {},
    "no spinning": {"spin": False},
    "stop after a call": {"spin_after_call": False},
    "backoff 8": {"spin_backoff": 8},
    "stop, backoff 8": {"spin_after_call": False, "spin_backoff": 8},
    "spin 50 us": {"spin_us": 50},
    "spin 200 us": {"spin_us": 200},
    "spin 1000 us": {"spin_us": 1000},
    "spin 200 us, stop": {"spin_us": 200, "spin_after_call": False},
}
NEIGHBOURS = {"quiet": 0, "beside one": 1, "beside two": 2}
_SETTLE = 0.3  # seconds
_PAUSE = 0.02  # seconds between calls with one title


@dataclass(frozen=True)
class Turn:
    """What one setting took in one round."""

    round: int
    condition: str
    setting: str
    work: str  # "one title", "one title, p95", "batch", "bulk"
    seconds: float  # of a call
    cpu_seconds: float  # of the complete turn and the moment after it


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Keep processes busy meanwhile, one core each."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(0.5 if busy else 0)
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def measure(engine: Engine, rows: Sequence[Sequence[int]], work: str, batches: int) -> Iterator[tuple[str, float, float]]:
    """Take one turn: name, seconds of a call, and CPU seconds of it all."""
    middling = sorted(rows, key=len)[len(rows) // 2]
    cpu_before, times = time.process_time(), []
    for _ in range({"one title": 50, "batch": batches, "bulk": 1}[work]):
        start = time.perf_counter()
        if work == "one title":
            engine.run([middling])
        else:
            engine.encode(rows[:32] if work == "batch" else rows)
        times.append(time.perf_counter() - start)
        if work == "one title":
            time.sleep(_PAUSE)
    time.sleep(_SETTLE)
    spent = time.process_time() - cpu_before
    yield work, statistics.median(times), spent
    if work == "one title":
        yield "one title, p95", statistics.quantiles(times, n=20)[-1], spent


def run(bundle: Bundle, names: Sequence[str], arguments: argparse.Namespace) -> list[Turn]:
    """Measure all settings in turn, round by round, in every condition."""
    rounds, count = arguments.rounds, arguments.titles
    choice = choose(bundle, arguments.variant, "cpu", available_threads())
    tokenizer = Tokenizer(bundle.folder / "tokenizer.json", bundle.model.max_tokens)
    titles = read_titles()
    rows = tokenizer.encode(titles[:: max(1, len(titles) // count)][:count])
    turns: list[Turn] = []
    with ExitStack() as opened:
        engines = {}
        for name in names:
            settings = replace(choice.settings, **{**_UNTIL_NOW, **SETTINGS[name]})
            engines[name] = opened.enter_context(Engine(bundle.folder / choice.graph.path, bundle.model, settings))
            engines[name].encode(rows[:64])
        for number in range(rounds):
            for condition in arguments.conditions:
                with neighbours(NEIGHBOURS[condition]):
                    for work in ("one title", "batch", "bulk"):
                        shift = number % len(names)
                        for name in (*names[shift:], *names[:shift]):
                            found = measure(engines[name], rows, work, arguments.batches)
                            turns += [Turn(number, condition, name, what, seconds, spent) for what, seconds, spent in found]
                print(f"round {number + 1} of {rounds}, {condition}: done", file=sys.stderr)
    return turns


def report(turns: Sequence[Turn], names: Sequence[str]) -> str:
    """Write a table for each condition: medians over rounds, and ratios to the first setting of the same round."""
    by_place = {(t.condition, t.work, t.setting, t.round): t for t in turns}
    rounds = sorted({t.round for t in turns})
    parts = []
    for condition in dict.fromkeys(t.condition for t in turns):
        lines = []
        for work in dict.fromkeys(t.work for t in turns):
            for name in names:
                mine = [by_place[condition, work, name, r] for r in rounds]
                first = [by_place[condition, work, names[0], r] for r in rounds]
                seconds = statistics.median(t.seconds for t in mine)
                ratios = [a.seconds / b.seconds for a, b in zip(mine, first, strict=True)]
                spent = [a.cpu_seconds / b.cpu_seconds for a, b in zip(mine, first, strict=True)]
                lines.append(
                    [
                        work,
                        name,
                        f"{seconds * 1000:.2f}",
                        f"{statistics.median(ratios):.3f}",
                        f"{min(ratios):.3f} to {max(ratios):.3f}",
                        f"{statistics.median(spent):.3f}",
                    ]
                )
        header = ["work", "setting", "ms", "time / today's", "range", "CPU time / today's"]
        parts.append(f"### {condition}\n{table(header, lines, 'llr')}")
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", help="a bundle; the small model if left out")
    parser.add_argument("--variant")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--titles", type=int, default=3000, help="of bulk")
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--conditions", nargs="+", choices=list(NEIGHBOURS), default=list(NEIGHBOURS))
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--json", type=Path, help="writes every turn there")
    arguments = parser.parse_args()
    names = list(dict.fromkeys([next(iter(SETTINGS)), *arguments.settings]))
    bundle = Bundle.open(arguments.bundle)
    turns = run(bundle, names, arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(turn) for turn in turns], indent=1), "utf-8")
    import onnxruntime

    print(
        f"{bundle.model.source}, {arguments.variant or bundle.default_variant}, {available_threads()} threads, {cpu().name}, ",
        end="",
    )
    print(f"onnxruntime {onnxruntime.__version__}, {arguments.rounds} rounds, {arguments.titles} titles\n")
    print(report(turns, names))


if __name__ == "__main__":
    main()
