"""How to run a bundle fastest on one machine: measured by `tune`, kept beside the bundle, used by provider="auto"."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from jobonnx.bundle.manifest import TOKENIZER, Bundle
from jobonnx.errors import JobonnxError
from jobonnx.runtime.machine import cpu
from jobonnx.runtime.session import (
    PROVIDERS,
    Session,
    available_threads,
    import_onnxruntime,
    open_session,
    side_by_side,
    why_not,
)
from jobonnx.text.batching import Integers, pad
from jobonnx.text.tokenizer import Tokenizer

FILE = "tuning.json"  # in the bundle's folder; not listed in its manifest
_SHARES = (1 / 8, 1 / 4, 1 / 2, 1, 2)  # of a provider's token budget, to try
_ROUNDS = 3
_TURN_SECONDS = 3.0  # of one candidate's turn in bulk
_GAIN = 0.97  # a candidate has to take at most this share of the default's time: less is noise
_SINGLES = 20  # calls with one title, a turn


@dataclass(frozen=True)
class Tuning:
    """How one variant runs: nothing here changes what is computed."""

    provider: str
    threads: int  # in all
    streams: int = 1  # batches side by side in bulk, each on threads / streams threads
    token_budget: int = PROVIDERS["cpu"].token_budget  # of one batch, padding included
    spin: bool = True  # whether idle threads wait for work in a loop: faster, and busy for a while after each call
    cuda_graph: bool = False  # whether small batches are captured as CUDA graphs, on provider "cuda"


@dataclass(frozen=True)
class Trial:
    """One candidate and its time over the default's: the median over rounds in which both took their turn."""

    what: str  # "bulk" or "one title"
    tuning: Tuning
    ratio: float


Report = Callable[[str], None]


def machine() -> dict[str, Any]:
    """What a tuning holds for: another processor, number of threads or ONNX Runtime needs another one."""
    return {"cpu": cpu().name, "threads": available_threads(), "onnxruntime": import_onnxruntime().__version__}


def find(bundle: Bundle, variant: str) -> tuple[Tuning | None, str | None]:
    """A variant's tuning for this machine, or None; and a sentence where there is one that cannot be used."""
    path = bundle.folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["machine"] != (here := machine()):
            there = content["machine"]
            different = ", ".join(f"{key} {there.get(key)!r}, here {here[key]!r}" for key in here if there.get(key) != here[key])
            return None, f"{path} was measured elsewhere ({different}) and is ignored; measure again: jobonnx tune {bundle.folder}"
        if variant not in content["variants"]:
            return None, None
        tuning = Tuning(**content["variants"][variant])
        if tuning.provider not in PROVIDERS or min(tuning.threads // tuning.streams, tuning.token_budget) < 1:
            raise ValueError
        if why_not(tuning.provider, variant):
            return None, f"{path} asks for provider {tuning.provider!r}, which is gone; measure again: jobonnx tune {bundle.folder}"
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
        return None, f"{path} cannot be read and is ignored; measure again: jobonnx tune {bundle.folder}"
    return tuning, None


def tune(bundle: Bundle, variant: str, titles: Sequence[str], report: Report = lambda line: None) -> tuple[Tuning, list[Trial]]:
    """Measure how a variant runs fastest here, in about a minute, and keep it beside the bundle.

    Provider and token budget first, then streams, each candidate in turn within a round; spinning by the time of one title. A
    candidate replaces the default only where it is at least 3% faster.

    Args:
        bundle: its folder has to be writable.
        variant: the numerics to tune.
        titles: distinct titles of the usual mix of lengths, in no order; as many are used as take 3 seconds.
        report: is told each step.

    Returns:
        The best found, and every candidate's ratio.

    Raises:
        JobonnxError: no provider here runs the variant, or the folder cannot be written to.
    """
    names = runners(bundle, variant)
    if not names:
        raise JobonnxError(f"{bundle.folder}: no provider here runs variant {variant!r}, so there is nothing to tune")
    if not os.access(bundle.folder, os.W_OK):
        raise JobonnxError(f"{bundle.folder} cannot be written to; copy the bundle to a folder of your own and tune it there")
    threads = available_threads()
    rows = Tokenizer(bundle.folder / TOKENIZER, bundle.model.max_tokens).encode(titles)
    best = untuned(names[0], threads)
    runs = _Runs(bundle, variant, rows)
    runs.limit(best)
    trials: list[Trial] = []
    report(f"{variant}: token budgets")
    budgets = {name: _budgets(name, runs.tokens) for name in names}
    candidates = [replace(best, provider=name, token_budget=budget) for name in names for budget in budgets[name]]
    best = _race("bulk", best, candidates, runs.bulk, trials)
    if threads > 1 and not PROVIDERS[best.provider].device:  # a GPU computes one batch at a time, with all it has
        report(f"{variant}: streams")
        fitting = [budget for budget in budgets[best.provider] if budget * threads <= runs.tokens]
        candidates = [replace(best, streams=threads, token_budget=budget) for budget in fitting]
        best = _race("bulk", best, candidates, runs.bulk, trials)
    report(f"{variant}: spinning")
    best = _race("one title", best, [replace(best, spin=False)], runs.one, trials)
    if best.provider == "cuda":
        report(f"{variant}: CUDA graphs")
        best = _race("one title", best, [replace(best, cuda_graph=True)], runs.one, trials)
    _keep(bundle, variant, best)
    return best, trials


def untuned(provider: str, threads: int) -> Tuning:
    """How a variant runs where nothing was measured."""
    return Tuning(provider, threads, token_budget=PROVIDERS[provider].token_budget)


def runners(bundle: Bundle, variant: str) -> list[str]:
    """The providers here that run a variant of a bundle, by our names."""
    return [name for name, p in PROVIDERS.items() if bundle.graph(variant, p.target) and why_not(name, variant) is None]


def _budgets(provider: str, tokens: int) -> list[int]:
    """Token budgets to try with so many tokens: one that holds all rows would be no budget."""
    return [budget for share in _SHARES if (budget := round(share * PROVIDERS[provider].token_budget)) < tokens]


class _Runs:
    """Timed runs of candidates on the same rows."""

    def __init__(self, bundle: Bundle, variant: str, rows: list[list[int]]) -> None:
        self._bundle, self._variant, self._rows = bundle, variant, rows
        self._sessions: dict[tuple[str, int, bool, bool], Session] = {}

    def limit(self, tuning: Tuning) -> None:
        """Keep as many rows as take about one turn."""
        everything, count, seconds = self._rows, 8, 0.0
        while seconds < _TURN_SECONDS / 10 and count < len(everything):
            count *= 2
            self._rows = everything[:count]
            self.bulk(tuning)
            seconds = self.bulk(tuning)
        self._rows = everything[: round(count * _TURN_SECONDS / max(seconds, 1e-9))]

    @property
    def tokens(self) -> int:
        """Real tokens of the rows that a turn runs."""
        return sum(map(len, self._rows))

    def bulk(self, tuning: Tuning) -> float:
        session = self._session(tuning, tuning.threads // tuning.streams)
        batches = self._batches(tuning)
        start = time.perf_counter()
        for _ in side_by_side(lambda batch: session.run(*batch), batches, tuning.streams):
            pass
        return time.perf_counter() - start

    def one(self, tuning: Tuning) -> float:
        session = self._session(tuning, tuning.threads)
        (inputs,) = self._batches(replace(tuning, token_budget=1))[len(self._rows) // 2 :][:1]
        seconds = []
        for _ in range(_SINGLES):
            start = time.perf_counter()
            session.run(*inputs)
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)

    def _batches(self, tuning: Tuning) -> list[tuple[Integers, Integers]]:
        batches = PROVIDERS[tuning.provider].plan([len(row) for row in self._rows], tuning.token_budget)
        return [pad([self._rows[i] for i in batch], self._bundle.model.pad_id) for batch in batches]

    def _session(self, tuning: Tuning, threads: int) -> Session:
        key = tuning.provider, threads, tuning.spin, tuning.cuda_graph
        if key not in self._sessions:
            graph = self._bundle.graph(self._variant, PROVIDERS[tuning.provider].target)
            assert graph is not None
            self._sessions[key] = open_session(
                self._bundle.folder / graph.path,
                tuning.provider,
                threads,
                spin=tuning.spin,
                cuda_graph=tuning.cuda_graph,
                model=self._bundle.model,
            )
        return self._sessions[key]


def _race(what: str, default: Tuning, candidates: list[Tuning], seconds: Callable[[Tuning], float], trials: list[Trial]) -> Tuning:
    """The fastest of default and candidates, all in turn, round by round."""
    field = [default, *(c for c in candidates if c != default)]
    for tuning in field:
        seconds(tuning)  # loads, allocates
    rounds = [[seconds(tuning) for tuning in field] for _ in range(_ROUNDS)]
    ratios = [statistics.median(times[place] / times[0] for times in rounds) for place in range(len(field))]
    trials += [Trial(what, tuning, ratio) for tuning, ratio in zip(field, ratios, strict=True)]
    ratio, place = min((ratio, place) for place, ratio in enumerate(ratios))
    return field[place] if ratio <= _GAIN else default


def _keep(bundle: Bundle, variant: str, tuning: Tuning) -> None:
    """Add to the file beside the bundle, whole or not at all; what was measured on another machine goes."""
    path = bundle.folder / FILE
    here = machine()
    variants: dict[str, Any] = {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        variants = dict(content["variants"]) if content["machine"] == here else {}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    variants[variant] = asdict(tuning)
    beside = path.with_name(f".{FILE}.{os.getpid()}.partial")
    try:
        beside.write_text(json.dumps({"machine": here, "variants": variants}, indent=1) + "\n", encoding="utf-8")
        os.replace(beside, path)
    except OSError as error:
        raise JobonnxError(f"{path} could not be written ({error.strerror}); free some space or mend its permissions") from None
    finally:
        beside.unlink(missing_ok=True)
