"""benchmarks/quality.py: the table of systems on sets."""

from __future__ import annotations

import numpy as np
import pytest

from jobonnx.evaluation.evaluate import Evaluation
from jobonnx.evaluation.lines import Counts
from quality import table


def scored(*values: float) -> Evaluation:
    return Evaluation("en", tuple(f"q{i}" for i in range(len(values))), {"map": np.array(values)}, Counts())


def test_variants_show_their_difference_to_fp32_and_fp32_its_share_of_the_baseline() -> None:
    results = {"en": {"TF-IDF": scored(0.25, 0.75), "fp32": scored(0.5, 1.0), "int8": scored(0.25, 1.0)}}
    assert table("MAP", "map", results).splitlines() == [
        "| MAP | TF-IDF | fp32 | int8 | fp32 / TF-IDF |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| en | 0.5000 | 0.7500 | 0.6250 -0.1250 [-0.2500 +0.0000] | 1.50 |",
    ]


@pytest.mark.parametrize("variant", ["int8", "bf16"])
def test_a_bundle_without_fp32_is_shown_without_differences(variant: str) -> None:
    assert table("MAP", "map", {"en": {"TF-IDF": scored(0.5), variant: scored(0.5)}}).splitlines()[2] == "| en | 0.5000 | 0.5000 |"
