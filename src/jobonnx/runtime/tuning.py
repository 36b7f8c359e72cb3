"""Measure how a variant runs fastest on this machine, for provider="auto"."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from jobonnx.bundle.manifest import Bundle
from jobonnx.errors import JobonnxError
from jobonnx.runtime.choose import runners
from jobonnx.runtime.engine import Engine
from jobonnx.runtime.machine import available_threads
from jobonnx.runtime.providers import PROVIDERS, find_provider
from jobonnx.runtime.session import Settings
from jobonnx.runtime.tuning_cache import check_writable, default_settings, path_of, save

_SHARES = (1 / 8, 1 / 4, 1 / 2, 1, 2)  # of a provider's token budget, to try
_ROUNDS = 3
_TURN_SECONDS = 3.0  # of one candidate's turn in bulk
_GAIN = 0.97  # a candidate has to take at most this share of the default's time: less is noise
_LEVEL = 1.03  # times the fastest one's: candidates up to there are as fast, within the same noise
_SINGLES = 20  # calls with one title per turn


@dataclass(frozen=True)
class Trial:
    """One candidate and its time over that of the best so far: the median over rounds in which both took their turn."""

    what: str  # "bulk" or "one title"
    settings: Settings
    ratio: float


def tune(
    bundle: Bundle, variant: str, rows: Sequence[Sequence[int]], progress: Callable[[str], None] = lambda step: None
) -> tuple[Settings, list[Trial]]:
    """Measure how a variant runs fastest here, in about two minutes, and keep it for this user and machine.

    Providers first, then streams, then token budgets of one stream, each candidate in turn within a round; spinning by the time
    of one title. A candidate replaces the best so far only where it is at least 3% faster. So streams win a draw: small batches
    on all threads are as fast while all cores are, and slower than large ones while one core is held up (docs/decisions/0014).

    Args:
        bundle: the bundle.
        variant: the precision to tune.
        rows: token ids of distinct titles of the usual mix of lengths, in no order; as many are used as take 3 seconds.
        progress: is told each step.

    Returns:
        The best found, and every candidate's ratio; those of a race are over the winner of the race before.

    Raises:
        JobonnxError: no provider here runs the variant, or the user's cache cannot be written.
    """
    providers = runners(bundle, variant, tuple(PROVIDERS))
    if not providers:
        raise JobonnxError(f"{bundle.folder}: no provider here runs variant {variant!r}, so there is nothing to tune")
    check_writable(path_of(bundle, variant))
    threads = available_threads()
    best = default_settings(providers[0].name, threads)
    trials: list[Trial] = []
    with _Stopwatch(bundle, variant, rows) as watch:
        watch.limit(best)
        if len(providers) > 1:
            progress(f"{variant}: providers")
            candidates = [default_settings(p.name, threads) for p in providers]
            best = _race("bulk", best, candidates, watch.bulk, trials)
        provider = find_provider(best.provider)
        budgets = [b for share in _SHARES if (b := round(share * provider.token_budget)) < watch.tokens]
        if threads > 1 and provider.parallel:
            progress(f"{variant}: streams")
            fitting = [budget for budget in budgets if budget * threads <= watch.tokens]
            candidates = [replace(best, streams=threads, token_budget=budget) for budget in fitting]
            best = _race("bulk", best, candidates, watch.bulk, trials)
        progress(f"{variant}: token budgets")
        candidates = [replace(best, streams=1, token_budget=budget) for budget in budgets]
        best = _race("bulk", best, candidates, watch.bulk, trials)
        progress(f"{variant}: spinning")
        best = _race("one title", best, [replace(best, spin=False)], watch.one, trials)
        if provider.captures:
            progress(f"{variant}: captured batches")
            best = _race("one title", best, [replace(best, capture=True)], watch.one, trials)
    save(bundle, variant, best)
    return best, trials


class _Stopwatch:
    """Times candidates on the same rows; keeps their engines until the end."""

    def __init__(self, bundle: Bundle, variant: str, rows: Sequence[Sequence[int]]) -> None:
        self._bundle, self._variant, self._rows = bundle, variant, rows
        self._engines: dict[Settings, Engine] = {}
        self._open = ExitStack()

    def __enter__(self) -> _Stopwatch:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def limit(self, settings: Settings) -> None:
        """Keep as many rows as take about one turn."""
        everything, count, seconds = self._rows, 8, 0.0
        while seconds < _TURN_SECONDS / 10 and count < len(everything):
            count *= 2
            self._rows = everything[:count]
            self.bulk(settings)
            seconds = self.bulk(settings)
        self._rows = everything[: round(count * _TURN_SECONDS / max(seconds, 1e-9))]

    @property
    def tokens(self) -> int:
        """Real tokens of the rows that a turn runs."""
        return sum(map(len, self._rows))

    def bulk(self, settings: Settings) -> float:
        """Seconds for all rows."""
        engine = self._engine(settings)
        start = time.perf_counter()
        engine.encode(self._rows, settings.token_budget)
        return time.perf_counter() - start

    def one(self, settings: Settings) -> float:
        """Seconds for one row of middling length, the median of several calls."""
        engine = self._engine(settings)
        row = sorted(self._rows, key=len)[len(self._rows) // 2]
        seconds = []
        for _ in range(_SINGLES):
            start = time.perf_counter()
            engine.run([row])
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)

    def _engine(self, settings: Settings) -> Engine:
        key = replace(settings, token_budget=1)  # the budget is the caller's: one engine serves all of them
        if key not in self._engines:
            graph = self._bundle.graph(self._variant, find_provider(settings.provider).target)
            assert graph is not None, "candidates come from `runners`"
            engine = Engine(self._bundle.folder / graph.path, self._bundle.model, settings, self._variant)
            self._engines[key] = self._open.enter_context(engine)
        return self._engines[key]


def _race(
    what: str, default: Settings, candidates: list[Settings], seconds: Callable[[Settings], float], trials: list[Trial]
) -> Settings:
    """Return the fastest of default and candidates, all in turn, round by round.

    Of those that are as fast within the noise, the one with the smallest batches: they need the least memory, and in a call of
    few batches they leave streams the least without work.
    """
    field = [default, *(c for c in candidates if c != default)]
    for settings in field:
        seconds(settings)  # loads, allocates
    rounds = [[seconds(settings) for settings in field] for _ in range(_ROUNDS)]
    ratios = [statistics.median(times[place] / times[0] for times in rounds) for place in range(len(field))]
    trials += [Trial(what, settings, ratio) for settings, ratio in zip(field, ratios, strict=True)]
    fastest = min(ratios)
    if fastest > _GAIN:
        return default
    level = [place for place, ratio in enumerate(ratios) if ratio <= fastest * _LEVEL]
    return field[min(level, key=lambda place: (field[place].token_budget, ratios[place]))]
