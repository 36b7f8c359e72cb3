"""Jobs without a model: vectors made from a title's text and from how many titles are computed with it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from jobonnx.arrays import Floats
from jobonnx.bulk.compute import Advance, Computed
from jobonnx.bulk.job import Job
from jobonnx.bulk.pipeline import Maker, embed
from jobonnx.bulk.records import Records
from jobonnx.data.tables import find_tables

DIMENSION = 12
LAYOUT = Records("float32", DIMENSION)
PART_ROWS = 20


def vectors(texts: Sequence[str]) -> Floats:
    """float32 [texts, DIMENSION]: from the text, the last component from the number of texts."""
    rows = [[*hashlib.sha256(text.encode()).digest()[: DIMENSION - 1], len(texts)] for text in texts]
    return np.array(rows, np.float32).reshape(len(texts), DIMENSION)


class Stub:
    """Computes at once, or when `delay` seconds are over; keeps what it was asked."""

    depth = 1

    def __init__(self, layout: Records = LAYOUT, delay: float = 0.0) -> None:
        self.layout, self.delay = layout, delay
        self.calls: list[list[str]] = []
        self.closed = False

    def submit(self, texts: list[str], advance: Advance) -> Future[Computed]:
        time.sleep(self.delay)
        self.calls.append(texts)
        advance(len(texts))
        future: Future[Computed] = Future()
        future.set_result(Computed(self.layout.pack(vectors(texts), np.array([len(text) > 30 for text in texts], bool))))
        return future

    def close(self) -> None:
        self.closed = True


def job(*inputs: Path, **options: Any) -> Job:
    """A job with small parts over tables with the columns "title" and "id"."""
    chosen = {"column": "title", "id_column": "id", "part_rows": PART_ROWS, **options}
    return Job(tuple(find_tables(inputs)), **chosen)


def run(
    todo: Job,
    output: Path,
    stub: Stub | None = None,
    *,
    fingerprint: str = "print",
    layout: Records = LAYOUT,
    cache: Path | None = None,
    show: Callable[[Any], object] = lambda standing: None,
) -> dict[str, Any]:
    """Do a job with a stub."""
    stub = Stub(layout) if stub is None else stub
    return embed(todo, output, Maker(fingerprint, "model", "int8", layout), lambda: stub, cache=cache, show=show)


def write_titles(path: Path, titles: Sequence[Any], ids: Sequence[Any] | None = None) -> Path:
    """Write JSON lines; ids are i0, i1, ... if none are given."""
    names = [f"i{number}" for number in range(len(titles))] if ids is None else ids
    path.write_text("".join(json.dumps({"title": t, "id": i}) + "\n" for t, i in zip(titles, names, strict=True)))
    return path


def some(rows: int, distinct: int, seed: int = 0) -> list[str]:
    """Titles with repeats, few in the first rows and many in the last."""
    chances = np.random.default_rng(seed)
    return [
        f"cook {int(place)}" for place in np.minimum(chances.zipf(1.3, rows), distinct) + np.arange(rows) * distinct // rows // 2
    ]


def read(output: Path) -> Any:
    """Read all parts as one pyarrow table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pa.concat_tables([pq.read_table(part) for part in sorted(output.glob("*.parquet"))])


def content(output: Path) -> dict[str, bytes]:
    """Read every file but the journal; SQLite may leave the one in which it keeps what a commit replaces, emptied."""
    hidden = ("_journal.sqlite", "_journal.sqlite-journal")
    return {path.name: path.read_bytes() for path in sorted(output.iterdir()) if path.name not in hidden}
