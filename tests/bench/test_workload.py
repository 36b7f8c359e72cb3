"""The draw of titles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.adapters import SIZES, small_workload
from jobonnx import JobonnxError
from jobonnx_bench.workload import Sizes, Workload, draw

pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def workload(checkpoint: Path) -> Workload:
    return small_workload(checkpoint)


def test_the_draw_is_fair(workload: Workload) -> None:
    assert len(set(workload.bulk)) == len(workload.bulk) == 48
    assert len(workload.repeated) == 16
    assert len(set(workload.repeated)) == 4
    assert [len(group) for group in workload.groups8] == [8, 8]
    for mixed, equal in zip(workload.groups32, workload.equal32, strict=True):
        assert len(set(mixed)) == len(set(equal)) == 32
        assert set(mixed) <= set(workload.bulk)
        assert workload.count(mixed) == workload.count(equal)
        assert len({workload.tokens[title] for title in equal}) == 1


def test_the_draw_can_be_repeated_and_drops_repeats() -> None:
    def tokenize(texts: Sequence[str]) -> list[list[int]]:
        return [[0] * (int(text.split()[1]) % 3 + 4) for text in texts]

    titles = [f"title {i}" for i in range(400)] * 2 + ["", "  "]
    first = draw(titles, tokenize, SIZES)
    assert first == draw(titles, tokenize, SIZES)
    assert first.bulk != draw(titles, tokenize, SIZES, seed=1).bulk
    assert len(first.tokens) == 400


@pytest.mark.parametrize(("count", "sizes"), [(20, SIZES), (400, replace(SIZES, bulk=16)), (400, replace(SIZES, singles=0))])
def test_a_draw_that_cannot_be_made_says_so(count: int, sizes: Sizes) -> None:
    with pytest.raises(JobonnxError):
        draw([f"title {i}" for i in range(count)], lambda texts: [[0] * 5 for _ in texts], sizes)


def test_lengths_that_cannot_be_paired_are_told_with_what_is_needed() -> None:
    lengths = [3] * 100 + [11] * 100
    with pytest.raises(JobonnxError, match=r"has 0 titles of the mean length, \d tokens, and 32 are needed; give a longer one"):
        draw([f"title {i}" for i in range(200)], lambda texts: [[0] * lengths[int(t.split()[1])] for t in texts], SIZES)


def test_a_summary_counts_and_hides_the_titles(workload: Workload) -> None:
    found = workload.summary()
    assert (found.titles, found.repeated_titles, found.repeated_distinct) == (48, 16, 4)
    assert found.tokens == workload.count(workload.bulk)
    assert found.longest == max(workload.tokens[title] for title in workload.bulk)
    assert workload.bulk[0] not in str(found)


def test_a_sweep_has_titles_of_nearly_one_length_up_to_each_size() -> None:
    lengths = [4, 5, 6, 5] * 100
    made = draw(
        [f"title {i}" for i in range(400)],
        lambda texts: [[0] * lengths[int(t.split()[1])] for t in texts],
        SIZES,
        sweep=(8, 64, 10**6),
    )
    assert [made.count(group) for group in made.sweep] == [5, 60]  # 10**6 is more than all titles have
    assert {made.tokens[title] for title in made.sweep[1]} == {5}


def test_lengths_that_never_meet_are_told() -> None:
    lengths = [5, 6, 5, 9, 5, 6, 5, 5] * 50
    with pytest.raises(JobonnxError, match=r"no 32 titles whose mean length is a whole number of tokens; give one of more varied"):
        draw([f"title {i}" for i in range(400)], lambda texts: [[0] * lengths[int(t.split()[1])] for t in texts], SIZES)
