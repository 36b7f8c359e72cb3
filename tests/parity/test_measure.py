"""The figures that parity is judged by."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from helpers.figures import figure
from jobonnx.arrays import Floats, unit
from jobonnx.bundle.manifest import Parity
from jobonnx.parity.measure import RANKED_TEXTS, TOLERANCES, measure, tolerance_violations


def cone(rows: int = 60, dimension: int = 32, spread: float = 0.1) -> Floats:
    """Unit vectors crowded around one direction, as embeddings are."""
    rng = np.random.default_rng(0)
    vectors = np.eye(1, dimension) + spread * rng.standard_normal((rows, dimension)) / np.sqrt(dimension)
    return unit(vectors.astype(np.float32))


def test_equal_vectors_are_perfect() -> None:
    parity = measure(cone(), cone())
    assert asdict(parity) == pytest.approx(asdict(Parity(60, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0)))
    assert all(tolerance_violations(variant, parity) == [] for variant in TOLERANCES)


def test_a_variant_without_a_tolerance_passes_nothing() -> None:
    assert tolerance_violations("int4", measure(cone(), cone())) == ["no tolerance is known for variant 'int4'"]


def test_figures_are_those_of_a_worked_example() -> None:
    reference = np.array([[1, 0], [0, 1], [-1, 0]], dtype=np.float32)
    vectors = np.array([[0, 1], [0, 1], [-1, 0]], dtype=np.float32)
    parity = measure(reference, vectors)
    assert parity.min_cosine == 0
    assert parity.mean_cosine == pytest.approx(2 / 3)
    # The reference's mean is (0, 1/3): (1, -1/3) against (0, 2/3) is -1 / sqrt(10).
    assert parity.min_centred == pytest.approx(-1 / np.sqrt(10))
    assert parity.mean_centred == pytest.approx((2 - 1 / np.sqrt(10)) / 3)
    assert parity.max_abs == 1
    assert parity.texts == 3


def test_centring_shows_the_ruin_that_a_cone_hides() -> None:
    reference = cone()
    ruined = reference[np.random.default_rng(1).permutation(len(reference))]  # every text has another text's vector
    parity = measure(reference, ruined)
    assert figure(parity, "min_cosine") > 0.97
    assert figure(parity, "mean_centred") < 0.3
    assert figure(parity, "top10_overlap") < 0.5
    assert "mean_centred" in " ".join(tolerance_violations("int8", parity))


def test_overlap_counts_the_neighbours_that_stay() -> None:
    rng = np.random.default_rng(2)
    reference = rng.standard_normal((40, 16)).astype(np.float32)
    noisy = (reference + 0.3 * rng.standard_normal((40, 16))).astype(np.float32)
    shared = []
    for row in range(40):
        others = [i for i in range(40) if i != row]
        near = [set(sorted(others, key=lambda i: -float(m[i] @ m[row]))[:10]) for m in (reference, noisy)]
        shared.append(len(near[0] & near[1]) / 10)
    assert measure(reference, noisy).top10_overlap == pytest.approx(np.mean(shared))
    assert 0.3 < np.mean(shared) < 1


def test_longer_vectors_have_the_same_cosine_but_another_distance() -> None:
    reference = cone()
    parity = measure(reference, 2 * reference)
    assert parity.min_cosine == pytest.approx(1)
    assert parity.max_abs == pytest.approx(np.abs(reference).max())


@pytest.mark.parametrize("variant", TOLERANCES)
def test_one_row_of_nan_fails_every_variant(variant: str) -> None:
    vectors = cone()
    vectors[7] = np.nan
    parity = replace(measure(cone(), vectors), texts=RANKED_TEXTS)
    assert len(tolerance_violations(variant, parity)) == len(TOLERANCES[variant]) - 2  # one text's row spoils no neighbour list


@pytest.mark.parametrize("variant", TOLERANCES)
def test_one_zero_row_fails_every_variant(variant: str) -> None:
    vectors = cone()
    vectors[7] = 0
    parity = measure(cone(), vectors)
    assert parity.min_cosine == 0
    assert tolerance_violations(variant, parity), "of 60 texts one is more than a mean of .99 allows"


def test_tolerances_are_the_ones_promised() -> None:
    trust = {"mean_centred": 0.99, "p5_centred": 0.98, "top10_overlap": 0.9, "ndcg20": 0.97}
    assert {
        "fp32": trust | {"max_abs": 1e-5},
        "bf16": trust,
        "fp16": trust | {"mean_centred": 0.999},
        "int8": trust,
        "int8-static": trust,
    } == TOLERANCES


# What an export of multilingual-e5-small measured; the last is int8-static as it was (decision 20), None is not known.
E5 = {
    "bf16": (Parity(2201, 0.99801, 0.99998, 0.98715, 0.99989, 0.01039, 0.98560, 0.99986, 0.99862), True),
    "int8": (Parity(2201, 0.99670, 0.99970, 0.98101, 0.99832, 0.01400, 0.94934, 0.99772, 0.99233), True),
    "int8-static": (Parity(2201, 0.99617, 0.99962, 0.97498, 0.99786, 0.01806, 0.94512, 0.99708, 0.99086), True),
    "int8-static before": (Parity(2987, 0.9898, None, None, 0.9826, None, 0.8417, 0.9666, 0.9464), False),
}


@pytest.mark.parametrize("name", E5)
def test_bf16_and_int8_of_a_trained_encoder_pass_and_one_scale_for_a_massive_activation_does_not(name: str) -> None:
    parity, passes = E5[name]
    assert (tolerance_violations(name.split()[0], parity) == []) == passes


@pytest.mark.parametrize("variant", TOLERANCES)
def test_ranking_alone_fails_a_variant_but_only_among_enough_texts(variant: str) -> None:
    shuffled = Parity(RANKED_TEXTS, 1, 1, 1, 1, 0, 0.846, 1, 0.945)
    assert [phrase.split()[0] for phrase in tolerance_violations(variant, shuffled)] == ["top10_overlap", "ndcg20"]
    assert tolerance_violations(variant, replace(shuffled, texts=RANKED_TEXTS - 1)) == []


def test_ndcg_is_that_of_a_worked_example() -> None:
    """Four texts on a line: two of one text's three neighbours change places; worth 3, 2, 1 at ranks 1, 2, 3."""
    reference = np.array([[1, 0], [0.9, 0], [0.8, 0], [0.7, 0]], dtype=np.float32)
    swapped = reference[[0, 2, 1, 3]]
    discounts = 1 / np.log2([2, 3, 4])
    ideal = np.array([3, 2, 1]) @ discounts
    # The others of rows 0 to 3 are (1, 2, 3), (0, 2, 3), (0, 1, 3), (0, 1, 2).
    # After the swap they are (2, 1, 3), (0, 2, 3), (0, 1, 3), (0, 2, 1).
    found = [float(np.array(gains) @ discounts / ideal) for gains in ([2, 3, 1], [3, 2, 1], [3, 2, 1], [3, 1, 2])]
    parity = measure(reference, swapped)
    assert parity.ndcg20 == pytest.approx(np.mean(found))
    assert parity.top10_overlap == 1


def test_fifth_percentile_sees_the_few_that_a_mean_hides() -> None:
    reference = np.random.default_rng(3).standard_normal((100, 8)).astype(np.float32)
    spoilt = reference.copy()
    spoilt[:10] += 2
    parity = measure(reference, spoilt)
    assert figure(parity, "p5_centred") < figure(parity, "mean_centred") - 0.1
    assert figure(parity, "p5_centred") > figure(parity, "min_centred")


@pytest.mark.parametrize(("variant", "field"), [(v, f) for v, fields in TOLERANCES.items() for f in fields])
def test_a_bound_is_passed_exactly_at_it_and_missed_just_beyond(variant: str, field: str) -> None:
    bound = TOLERANCES[variant][field]
    perfect: dict[str, Any] = asdict(Parity(RANKED_TEXTS, 1, 1, 1, 1, 0, 1, 1, 1))
    at = Parity(**perfect | {field: bound})
    beyond = Parity(**perfect | {field: bound * (1.01 if field == "max_abs" else 0.9999)})
    assert tolerance_violations(variant, at) == []
    (missed,) = tolerance_violations(variant, beyond)
    assert missed.startswith(f"{field} ")
    assert f"{bound:g}" in missed


@pytest.mark.parametrize("shape", [(3, 5), (4, 4), (0, 4), (4,)])
def test_matrices_that_cannot_be_compared_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="same non-empty matrix shape"):
        measure(np.zeros((3, 4), np.float32) if shape != (0, 4) else np.zeros((0, 4), np.float32), np.zeros(shape, np.float32))


def test_a_single_text_can_be_measured() -> None:
    assert measure(cone(1), cone(1)).top10_overlap == 1
