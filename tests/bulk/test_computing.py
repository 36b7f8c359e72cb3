"""Vectors do not depend on who computes them with what: several processes and a cache give those of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.bulk import job, read, some, write_titles
from jobonnx import Encoder
from jobonnx.bulk.compute import Compute, Embedder, Here, Workers
from jobonnx.bulk.pipeline import Maker, embed

pytest.importorskip("pyarrow")

_ROWS, _DISTINCT, _PART = 900, 400, 100


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_vectors_of_several_workers_and_of_a_cache_are_those_of_one(variant: str, bundle: Path, tmp_path: Path) -> None:
    """In fp32 within 1e-5, in int8 to a cosine of .99999; ids, titles, order and counts are the same."""
    rows = some(_ROWS, _DISTINCT)
    titles = write_titles(tmp_path / "titles.jsonl", rows)
    other_order = write_titles(tmp_path / "other.jsonl", [*rows[::-1], "nurse"])
    with Encoder(bundle, variant=variant, threads=2) as encoder:
        embedder = Embedder(encoder, "float32")
        maker = Maker(encoder.fingerprint, "model", variant, embedder.layout)

        def made(name: str, start: Any, source: Path = titles, rows_each: int = _PART, cache: Path | None = None) -> dict[str, Any]:
            return embed(job(source, part_rows=rows_each), tmp_path / name, maker, start, cache=cache)

        def here() -> Compute:
            return Here(embedder)

        def workers() -> Compute:
            return Workers(2, {"bundle": bundle, "variant": variant, "threads": 1}, "float32")

        report = made("one", here)
        made("cache", here, other_order, 37, tmp_path / "cache.sqlite")
        others = {"workers": made("two", workers), "cache": made("cached", here, cache=tmp_path / "cache.sqlite")}
    counted = ("read", "written", "parts", "distinct", "truncated", "null", "refused", "reused")
    assert report["computed"] == others["workers"]["computed"] == len(set(rows))
    assert others["cache"]["cached"] == len(set(rows))
    for name, folder in (("workers", "two"), ("cache", "cached")):
        same = counted[:-1] if name == "cache" else counted
        assert {key: others[name][key] for key in same} == {key: report[key] for key in same}
        table, expected = read(tmp_path / folder), read(tmp_path / "one")
        assert table.drop(["vector"]) == expected.drop(["vector"])
        got, wanted = (np.array(one["vector"].to_pylist(), np.float32) for one in (table, expected))
        assert np.abs(got - wanted).max() <= (1e-5 if variant == "fp32" else 1)
        lengths = np.linalg.norm(got, axis=1) * np.linalg.norm(wanted, axis=1)
        assert (np.sum(got * wanted, axis=1) / lengths).min() >= 0.99999
