"""The titles of a measurement: one draw from a file, the same for every system."""

from __future__ import annotations

import hashlib
import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from itertools import accumulate

from jobonnx.errors import JobonnxError

_REPEATS = 4  # how often each title of the repeated call appears
_DRAWS = 100_000  # attempts at groups of 32 whose tokens divide by 32

Group = tuple[str, ...]


@dataclass(frozen=True)
class Sizes:
    """How much one round runs."""

    bulk: int = 600  # distinct titles in one call
    repeated: int = 200  # titles in one call, each four times
    singles: int = 40  # calls with one title
    groups8: int = 12  # calls with 8 titles of mixed lengths
    groups32: int = 8  # calls with 32 titles of mixed lengths, and as many with 32 of one length


@dataclass(frozen=True)
class WorkloadSummary:
    """What a report says of a workload; the titles themselves stay out."""

    titles: int  # of the bulk call
    tokens: int
    longest: int  # in tokens
    median_length: int
    repeated_titles: int
    repeated_distinct: int
    singles: int
    groups8: int
    groups32: int
    sweep: tuple[tuple[int, int], ...]  # titles and tokens of each batch
    sha256: str  # of the bulk titles

    def __post_init__(self) -> None:
        for name in ("titles", "tokens", "repeated_titles"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} has to be at least 1")


@dataclass(frozen=True)
class Workload:
    """Titles, and their tokens as the model's tokenizer counts them, special tokens included."""

    bulk: Group  # distinct, in no order, in the file's mix of lengths
    repeated: Group
    singles: Group  # from `bulk`
    groups8: tuple[Group, ...]  # from `bulk`
    groups32: tuple[Group, ...]  # from `bulk`
    equal32: tuple[Group, ...]  # 32 titles of one length each, with exactly the tokens of the group of `groups32` at that index
    tokens: dict[str, int]
    sweep: tuple[Group, ...] = ()  # for each size of the sweep, titles of nearly one length with that many tokens; smallest first

    def count(self, titles: Sequence[str]) -> int:
        """Count the real tokens of some of the titles."""
        return sum(self.tokens[title] for title in titles)

    def summary(self) -> WorkloadSummary:
        """Describe it for a report."""
        lengths = sorted(self.tokens[title] for title in self.bulk)
        return WorkloadSummary(
            titles=len(self.bulk),
            tokens=sum(lengths),
            longest=lengths[-1],
            median_length=lengths[len(lengths) // 2],
            repeated_titles=len(self.repeated),
            repeated_distinct=len(set(self.repeated)),
            singles=len(self.singles),
            groups8=len(self.groups8),
            groups32=len(self.groups32),
            sweep=tuple((len(group), self.count(group)) for group in self.sweep),
            sha256=hashlib.sha256("\n".join(self.bulk).encode()).hexdigest(),
        )


def draw(
    titles: Sequence[str],
    tokenize: Callable[[Sequence[str]], list[list[int]]],
    sizes: Sizes,
    seed: int = 0,
    sweep: Sequence[int] = (),
) -> Workload:
    """Draw a workload from titles in their natural mix of lengths; the same titles, sizes and seed give the same workload.

    Args:
        titles: repeats and empty lines are dropped first.
        tokenize: texts to token ids, special tokens included.
        sizes: how many of each.
        seed: of the draw.
        sweep: tokens of each batch of the sweep; sizes larger than all titles together are left out.

    Raises:
        JobonnxError: too few titles for the sizes.
    """
    distinct = [title for title in dict.fromkeys(title.strip() for title in titles) if title]
    need = max(sizes.bulk, 8 * sizes.groups8, 32)
    if min(astuple(sizes)) < 1 or sizes.singles > sizes.bulk or 8 * sizes.groups8 > sizes.bulk or sizes.bulk < 32:
        raise JobonnxError(f"{sizes}: every size has to be at least 1, and bulk at least 32, singles and 8 x groups8")
    if len(distinct) < need:
        raise JobonnxError(f"the titles file has {len(distinct)} distinct titles, {need} are needed; give a longer one")
    rng = random.Random(seed)
    rng.shuffle(distinct)
    tokens = dict(zip(distinct, map(len, tokenize(distinct)), strict=True))
    bulk = distinct[: sizes.bulk]
    repeated = (bulk[: -(-sizes.repeated // _REPEATS)] * _REPEATS)[: sizes.repeated]
    rng.shuffle(repeated)
    mixed, equal = _pairs(bulk, distinct, tokens, sizes.groups32, rng)
    return Workload(
        bulk=tuple(bulk),
        repeated=tuple(repeated),
        singles=tuple(bulk[: sizes.singles]),
        groups8=tuple(tuple(bulk[8 * i : 8 * i + 8]) for i in range(sizes.groups8)),
        groups32=mixed,
        equal32=equal,
        tokens=tokens,
        sweep=_sweep(distinct, tokens, sweep),
    )


def _sweep(distinct: list[str], tokens: dict[str, int], sizes: Sequence[int]) -> tuple[Group, ...]:
    """For each size, take the titles nearest to the median length, so that padding is no part of a batch's time."""
    lengths = sorted(tokens.values())
    median = lengths[len(lengths) // 2]
    nearest = sorted(distinct, key=lambda title: abs(tokens[title] - median))  # stable: the draw's order within a distance
    totals = list(accumulate(tokens[title] for title in nearest))
    groups = (tuple(nearest[: max(1, bisect_right(totals, size))]) for size in sizes if size <= totals[-1])
    return tuple(dict.fromkeys(groups))


def _pairs(
    bulk: list[str], distinct: list[str], tokens: dict[str, int], count: int, rng: random.Random
) -> tuple[tuple[Group, ...], tuple[Group, ...]]:
    """Draw groups of 32 mixed titles whose mean length is a whole number, each with a group of 32 titles of exactly that length."""
    of_length: dict[int, list[str]] = {}
    for title in distinct:
        of_length.setdefault(tokens[title], []).append(title)
    mixed: list[Group] = []
    equal: list[Group] = []
    for _ in range(_DRAWS):
        if len(mixed) == count:
            return tuple(mixed), tuple(equal)
        group = rng.sample(bulk, 32)
        length, rest = divmod(sum(tokens[title] for title in group), 32)
        if rest == 0 and len(of_length.get(length, ())) >= 32:
            mixed.append(tuple(group))
            equal.append(tuple(rng.sample(of_length[length], 32)))
    mean = round(sum(tokens[title] for title in bulk) / len(bulk))
    same = len(of_length.get(mean, ()))
    if same < 32:
        raise JobonnxError(
            f"the titles file has {same} titles of the mean length, {mean} tokens, and 32 are needed; give a longer one"
        )
    raise JobonnxError(
        "the titles file has no 32 titles whose mean length is a whole number of tokens; give one of more varied titles"
    )
