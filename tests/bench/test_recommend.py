"""The recommendation's rules."""

from __future__ import annotations

from dataclasses import replace

from helpers.reports import absent, measured, parity_of, report
from jobonnx_bench.recommend import recommend, tolerance_violations


def test_each_use_has_its_own_best() -> None:
    fp32 = measured("fp32", bulk=2.0, one=0.01, peak=300_000_000)
    fp16 = measured("fp16", "cuda", bulk=0.1, one=0.02, peak=900_000_000)
    int8 = measured("int8", bulk=1.0, one=0.02, peak=100_000_000)
    single, bulk, memory = recommend(report(fp32, fp16, int8, absent("int8", "openvino")))
    assert (single.use, single.variant, single.provider, single.figure) == ("single requests", "fp32", "cpu", "10 ms")
    assert (bulk.use, bulk.variant, bulk.provider, bulk.figure) == ("bulk", "fp16", "cuda", "1,000 titles/s")
    assert (memory.use, memory.variant, memory.provider, memory.figure) == ("least memory", "int8", "cpu", "100 MB")
    assert single.why.startswith("50% of the time of fp16 on cuda, the next best (20 ms)")
    assert bulk.why.startswith("10 times the rate of int8 on cpu, the next best (100 titles/s)")
    assert "mean centred cosine 0.9950 to PyTorch fp32" in memory.why


def test_within_the_noise_the_more_exact_one_is_taken() -> None:
    (_, bulk, _) = recommend(report(measured("fp32", bulk=1.01), measured("int8", bulk=1.0)))
    assert bulk.variant == "fp32"
    assert "within the noise, and more exact" in bulk.why
    (_, bulk, _) = recommend(report(measured("fp32", bulk=1.05), measured("int8", bulk=1.0)))
    assert bulk.variant == "int8"


def test_a_loud_machine_makes_no_tie_of_twice_the_time() -> None:
    loud = measured("int8", bulk=1.0)
    loud = replace(loud, rounds=(loud.rounds[0], replace(loud.rounds[0], bulk=5.0), loud.rounds[0]))
    (_, bulk, _) = recommend(report(measured("fp32", bulk=2.0), loud))
    assert bulk.variant == "int8"


def test_what_failed_or_misses_its_tolerance_is_not_recommended() -> None:
    fast = measured("int8", bulk=0.1, one=0.001, peak=1)
    ruined = replace(fast, parity=replace(parity_of(0.995), mean_centred=0.9))
    unknown = replace(fast, parity=replace(parity_of(0.995), mean_centred=None))
    for unfit in (
        ruined,
        unknown,
        replace(fast, parity=None),
        replace(fast, status="failed", reason="died"),
        measured("int2", bulk=0.1),
    ):
        assert {r.variant for r in recommend(report(measured("fp32"), unfit))} == {"fp32"}
    assert recommend(report(ruined)) == ()
    assert "mean_centred 0.9" in tolerance_violations(ruined)[0]


def test_a_system_alone_says_that_it_is() -> None:
    assert all("the only one" in found.why for found in recommend(report(measured("fp32"))))


def test_figures_that_are_not_known_are_no_traceback() -> None:
    some = measured("fp32")
    assert some.parity is not None
    partly = replace(some, parity=replace(some.parity, top10_overlap=None))
    (single, *_) = recommend(report(partly))
    assert "mean centred cosine 1.0000 to PyTorch fp32, an unknown share of the ten nearest kept" in single.why
