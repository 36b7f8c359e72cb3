"""A job: what it writes, what it computes, what it refuses, and what stays when something goes wrong."""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
import stat
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.bulk import DIMENSION, LAYOUT, PART_ROWS, Stub, content, job, read, run, some, vectors, write_titles
from jobonnx.bulk.compute import Advance, Computed
from jobonnx.bulk.records import Records
from jobonnx.errors import JobonnxError

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402

pytestmark = pytest.mark.medium


@pytest.fixture
def titles(tmp_path: Path) -> Path:
    return write_titles(tmp_path / "titles.jsonl", some(210, 60))


def refusal(*arguments: Any, **options: Any) -> str:
    with pytest.raises(JobonnxError) as caught:
        run(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_ids_titles_order_and_vectors(titles: Path, tmp_path: Path) -> None:
    report = run(job(titles), tmp_path / "out")
    table = read(tmp_path / "out")
    texts = some(210, 60)
    assert table["title"].to_pylist() == texts
    assert table["id"].to_pylist() == [f"i{number}" for number in range(210)]
    got = np.array(table["vector"].to_pylist(), np.float32)
    assert (got[:, :-1] == vectors(texts)[:, :-1]).all()
    assert table.schema.field("vector").type == pa.list_(pa.float32(), DIMENSION)
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert metadata["jobonnx.fingerprint"] == "print"
    assert (report["read"], report["written"], report["parts"]) == (210, 210, 11)
    assert report["distinct"] == report["computed"] == len(set(texts))
    assert report["reused"] == 210 - len(set(texts))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "_journal.sqlite",
        *(f"part-{number:08d}.parquet" for number in range(11)),
    ]
    assert [pq.read_metadata(path).num_rows for path in sorted((tmp_path / "out").glob("*.parquet"))] == [PART_ROWS] * 10 + [10]


def test_each_title_is_computed_once_in_the_range_that_has_it_first(titles: Path, tmp_path: Path) -> None:
    stub = Stub()
    run(job(titles), tmp_path / "out", stub)
    texts = some(210, 60)
    assert [text for call in stub.calls for text in call] == list(dict.fromkeys(texts))
    assert stub.closed
    for call in stub.calls:
        assert set(call) <= set(texts[texts.index(call[0]) // PART_ROWS * PART_ROWS :][:PART_ROWS])


def test_ranges_go_across_files_of_every_format(tmp_path: Path) -> None:
    texts = some(75, 30)
    write_titles(tmp_path / "a.jsonl", texts[:25])
    (tmp_path / "b.csv").write_text("title,id\n" + "".join(f"{title},i{n}\n" for n, title in enumerate(texts[25:33], 25)))
    write_titles(tmp_path / "c.jsonl", [])
    pq.write_table(
        pa.table({"id": [f"i{n}" for n in range(33, 75)], "title": texts[33:]}), tmp_path / "d.parquet", row_group_size=9
    )
    run(job(tmp_path), tmp_path / "out")
    table = read(tmp_path / "out")
    assert table["title"].to_pylist() == texts
    assert table["id"].to_pylist() == [f"i{n}" for n in range(75)]


def test_without_an_id_column_the_id_is_the_rows_number(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_titles(tmp_path / f"{name}.jsonl", ["nurse", None, *["cook"] * 30])
    run(job(tmp_path, id_column=None, on_bad_row="skip"), tmp_path / "out")
    assert read(tmp_path / "out")["id"].to_pylist() == [number for number in range(64) if number not in (1, 33)]


@pytest.mark.parametrize("mode", ["skip", "null"])
def test_bad_rows_are_left_out_or_without_a_vector(mode: str, tmp_path: Path) -> None:
    texts = ["nurse", None, 5, "x" * 65_536, "x" * 65_537, "é" * 32_769, "", "nurse", *[None] * 30, "cook"]
    write_titles(tmp_path / "a.jsonl", texts)
    report = run(job(tmp_path / "a.jsonl", on_bad_row=mode), tmp_path / "out")
    kept = [place for place, text in enumerate(texts) if isinstance(text, str) and len(text.encode()) <= 65_536]
    table = read(tmp_path / "out")
    assert (report["null"], report["refused"], report["read"]) == (31, 3, len(texts))
    assert report["truncated"] == 1
    if mode == "skip":
        assert table["id"].to_pylist() == [f"i{place}" for place in kept]
        assert table["vector"].null_count == 0
    else:
        assert table["id"].to_pylist() == [f"i{place}" for place in range(len(texts))]
        assert table["title"].to_pylist() == [text if place in kept else None for place, text in enumerate(texts)]
        assert [place for place, vector in enumerate(table["vector"].to_pylist()) if vector is not None] == kept
    assert report["written"] == len(table)


@pytest.mark.parametrize(
    ("bad", "what"), [(None, "null"), (5.5, "a number"), (["a"], "a list"), ("x" * 70_000, "a text of 70,000 bytes")]
)
def test_a_bad_row_stops_the_job_where_it_is_an_error(bad: Any, what: str, tmp_path: Path) -> None:
    path = write_titles(tmp_path / "a.jsonl", [*some(50, 20), bad, "nurse"])
    said = refusal(job(path), tmp_path / "out")
    assert said == f"row 51 of the input (id i50) has {what} in 'title'; correct it, or pass --on-bad-row skip or null"
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 2, "what was read before stays"


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "binary"])
def test_vectors_of_every_dtype(dtype: str, titles: Path, tmp_path: Path) -> None:
    layout = Records(dtype, DIMENSION)
    run(job(titles), tmp_path / "out", layout=layout)
    table, texts = read(tmp_path / "out"), some(210, 60)
    first = vectors([texts[0]] * len(dict.fromkeys(texts[:PART_ROWS])))[:1]
    expected = layout.columns(layout.pack(first, np.zeros(1, bool)), np.ones(1, bool))
    for name, array in expected.items():
        assert table[name][0] == array[0]
    assert len(table) == 210


def test_a_finished_job_is_not_done_again(titles: Path, tmp_path: Path) -> None:
    report = run(job(titles), tmp_path / "out")
    before = content(tmp_path / "out")
    again = Stub()
    assert run(job(titles), tmp_path / "out", again) == report
    assert again.calls == []
    assert content(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"fingerprint": "other"}, "fingerprint"),
        ({"layout": Records("int8", DIMENSION)}, "dtype"),
        ({"job": {"column": "id"}}, "column"),
        ({"job": {"id_column": None}}, "id column"),
        ({"job": {"on_bad_row": "skip"}}, "on bad row"),
        ({"job": {"prompt": "query: "}}, "prompt"),
    ],
)
def test_another_job_under_the_same_output_is_refused(change: dict[str, Any], name: str, titles: Path, tmp_path: Path) -> None:
    run(job(titles), tmp_path / "out")
    before = content(tmp_path / "out")
    options = change.pop("job", {})
    said = refusal(job(titles, **options), tmp_path / "out", **change)
    assert f"{tmp_path / 'out'} was begun with another {name} (" in said
    assert content(tmp_path / "out") == before


def test_another_input_under_the_same_output_is_refused(titles: Path, tmp_path: Path) -> None:
    run(job(titles), tmp_path / "out")
    more = write_titles(tmp_path / "more.jsonl", ["nurse"])
    assert "more.jsonl" in refusal(job(titles, more), tmp_path / "out")
    with open(titles, "a") as file:
        file.write('{"title": "nurse"}\n')
    assert "was begun with another input (" in refusal(job(titles), tmp_path / "out")


def test_a_folder_with_something_else_is_refused(titles: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert "holds mine.txt, which no job made; name a new or empty folder" in refusal(job(titles), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    assert "titles.jsonl cannot be written" in refusal(job(titles), titles)


def test_a_damaged_output_is_refused(titles: Path, tmp_path: Path) -> None:
    run(job(titles), tmp_path / "out")
    part = tmp_path / "out" / "part-00000003.parquet"
    kept = part.read_bytes()
    part.write_bytes(kept[:-1])
    assert f"{part} is missing or has been changed; restore it" in refusal(job(titles), tmp_path / "out")
    part.unlink()
    assert f"{part} is missing or has been changed" in refusal(job(titles), tmp_path / "out")
    part.write_bytes(kept)
    (tmp_path / "out" / "_journal.sqlite").write_bytes(b"no database" * 1000)
    assert "is damaged (" in refusal(job(titles), tmp_path / "out")


def test_two_processes_do_not_write_one_output(titles: Path, tmp_path: Path) -> None:
    def second(standing: Any) -> None:
        if not said:
            said.append("")
            said[0] = refusal(job(titles), tmp_path / "out")

    said: list[str] = []
    run(job(titles), tmp_path / "out", show=second)
    assert "is being written by another process; wait until that has ended" in said[0]


class Failing(Stub):
    """Fails at the third call."""

    def submit(self, texts: list[str], advance: Advance) -> Future[Computed]:
        future = super().submit(texts, advance)
        if len(self.calls) == 3:
            future = Future()
            future.set_exception(JobonnxError("out of memory"))
        return future


def test_what_was_done_before_a_failure_stays_and_the_rest_gives_the_same_bits(titles: Path, tmp_path: Path) -> None:
    run(job(titles), tmp_path / "whole")
    assert refusal(job(titles), tmp_path / "out", Failing()) == "out of memory"
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 2
    rest = Stub()
    report = run(job(titles), tmp_path / "out", rest)
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert report["read"] == 210
    assert report["this_run"]["read"] == 210 - 2 * PART_ROWS
    assert report["computed"] == len(set(some(210, 60)))


def damage_gzip(path: Path) -> Path:
    packed = path.with_suffix(".jsonl.gz")
    whole = gzip.compress(path.read_bytes() + os.urandom(0))
    packed.write_bytes(whole[: len(whole) * 3 // 4])
    return packed


def test_what_was_read_of_a_truncated_gzip_stays(tmp_path: Path) -> None:
    chances = np.random.default_rng(0)
    path = write_titles(tmp_path / "a.jsonl", [f"cook {number}" for number in chances.integers(0, 1 << 60, 60_000)])
    said = refusal(job(damage_gzip(path), part_rows=1000), tmp_path / "out")
    assert "a.jsonl.gz cannot be read (Truncated compressed stream); make or download the file again" in said
    table = read(tmp_path / "out")
    assert 20_000 <= len(table) <= 45_000
    assert table["id"].to_pylist() == [f"i{n}" for n in range(len(table))]


def test_what_was_read_of_a_damaged_parquet_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobonnx.data.tables._ROWS", 50)
    texts = [f"cook {number}" for number in range(1000)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"title": texts, "id": texts}), path, row_group_size=100, compression="none", use_dictionary=False)
    whole = path.read_bytes()
    place = whole.index(b"cook 500")
    path.write_bytes(whole[: place - 40] + b"\xff" * 36 + whole[place - 4 :])
    assert "a.parquet cannot be read (" in refusal(job(path), tmp_path / "out")
    assert read(tmp_path / "out")["title"].to_pylist() == texts[:500]


def test_a_file_that_grows_while_it_is_read(tmp_path: Path) -> None:
    texts = [f"cook {number}" for number in range(9500)]
    path = write_titles(tmp_path / "a.jsonl", texts)

    def grow(standing: Any) -> None:
        with open(path, "a") as file:
            file.write('{"title": "nurse", "id": "x"}\n')

    said = refusal(job(path, part_rows=1000), tmp_path / "out", show=grow)
    assert f"{path} has changed while it was read (" in said
    table = read(tmp_path / "out")
    assert len(table) == 9000
    assert table["title"].to_pylist() == texts[:9000]


def test_mixed_schemas(tmp_path: Path) -> None:
    write_titles(tmp_path / "a.jsonl", ["nurse"] * 30)
    write_titles(tmp_path / "b.jsonl", ["cook"] * 30, list(range(30)))
    said = refusal(job(tmp_path), tmp_path / "out")
    assert said.endswith(
        "b.jsonl has values of type int64 in 'id' and " + str(tmp_path / "a.jsonl") + " has string; give all ids one type"
    )
    assert len(read(tmp_path / "out")) == PART_ROWS
    (tmp_path / "b.jsonl").write_text('{"name": "cook", "id": "x"}\n')
    assert "b.jsonl has no column 'title'; it has name, id" in refusal(job(tmp_path), tmp_path / "out2")


def test_ids_of_like_types_are_one_type(tmp_path: Path) -> None:
    for name, ids in {
        "a": pa.array([1, 2], pa.int32()),
        "b": pa.array([3, None], pa.int64()),
        "c": pa.array([None, None], pa.string()),
        "d": pa.array([4, 5], pa.uint8()),
    }.items():
        pq.write_table(pa.table({"title": ["nurse", "cook"], "id": ids}), tmp_path / f"{name}.parquet")
    run(job(tmp_path), tmp_path / "out")
    assert read(tmp_path / "out")["id"].to_pylist() == [1, 2, 3, None, None, None, 4, 5]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_that_cannot_be_written(titles: Path, tmp_path: Path) -> None:
    run(job(titles), tmp_path / "out", Stub())
    (tmp_path / "out").chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert "cannot be written" in refusal(job(titles), tmp_path / "out")
    assert "cannot be written" in refusal(job(titles), tmp_path / "out" / "below")


def test_an_output_below_a_file_or_on_a_read_only_file_system(titles: Path, tmp_path: Path) -> None:
    assert "cannot be written" in refusal(job(titles), titles / "out")
    if Path("/proc/version").exists():
        assert "cannot be written" in refusal(job(titles), Path("/proc/out"))


def test_a_cache_saves_what_an_earlier_job_computed(titles: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache.sqlite"
    first = run(job(titles), tmp_path / "first", cache=cache)
    assert first["cached"] == 0
    later = write_titles(tmp_path / "later.jsonl", ["nurse", *some(100, 60), "nurse", "smith"])
    stub = Stub()
    report = run(job(later), tmp_path / "later", stub, cache=cache)
    known = set(some(210, 60))
    distinct = list(dict.fromkeys(["nurse", *some(100, 60), "smith"]))
    new = [text for text in distinct if text not in known]
    assert [text for call in stub.calls for text in call] == new
    assert (report["distinct"], report["computed"]) == (len(distinct), len(new))
    assert report["cached"] == len(distinct) - len(new)
    assert report["reused"] == 103 - len(new)
    table = read(tmp_path / "later")
    assert (np.array(table["vector"].to_pylist())[:, :-1] == vectors(table["title"].to_pylist())[:, :-1]).all()
    third = Stub()
    run(job(later), tmp_path / "third", third, cache=cache)
    assert third.calls == []


def test_a_prompt_makes_another_title_of_it(titles: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache.sqlite"
    run(job(titles), tmp_path / "first", cache=cache)
    stub = Stub()
    run(job(titles, prompt="query: "), tmp_path / "second", stub, cache=cache)
    assert all(text.startswith("query: cook") for call in stub.calls for text in call)
    assert read(tmp_path / "second")["title"].to_pylist() == some(210, 60)
    assert read(tmp_path / "second").schema.metadata[b"jobonnx.prompt"] == b"query: "


@pytest.mark.parametrize("other", [{"fingerprint": "other"}, {"layout": Records("int8", DIMENSION)}])
def test_another_encoders_cache_is_refused(other: dict[str, Any], titles: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache.sqlite"
    run(job(titles), tmp_path / "first", cache=cache)
    before = cache.read_bytes()
    assert f"{cache} holds float32 vectors of the encoder print, and this job makes" in refusal(
        job(titles), tmp_path / "second", cache=cache, **other
    )
    assert cache.read_bytes() == before


def test_two_jobs_share_a_cache(titles: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache.sqlite"
    stubs = [Stub(), Stub()]

    def inner(standing: Any) -> None:
        if not stubs[1].calls:
            run(job(titles), tmp_path / "inner", stubs[1], cache=cache)

    run(job(titles), tmp_path / "outer", stubs[0], cache=cache, show=inner)
    for name in ("inner", "outer"):
        table = read(tmp_path / name)
        assert table["title"].to_pylist() == some(210, 60)
        assert (np.array(table["vector"].to_pylist())[:, :-1] == vectors(table["title"].to_pylist())[:, :-1]).all()
    with sqlite3.connect(cache) as db:
        assert db.execute("SELECT count(*) FROM title").fetchone()[0] == len(set(some(210, 60)))


def test_a_cache_that_is_none(titles: Path, tmp_path: Path) -> None:
    assert "titles.jsonl is damaged (" in refusal(job(titles), tmp_path / "out", cache=titles)
    assert f"{tmp_path} cannot be written (" in refusal(job(titles), tmp_path / "out2", cache=tmp_path)


def test_the_standing_only_grows(titles: Path, tmp_path: Path) -> None:
    shares: list[float] = []
    run(job(titles), tmp_path / "out", show=lambda standing: shares.append(standing.share))
    assert shares[-1] == 1.0
    assert len(shares) >= 11
    assert all(0 <= share <= 1 for share in shares)


def test_the_report_is_json(titles: Path, tmp_path: Path) -> None:
    report = run(job(titles), tmp_path / "out")
    assert json.loads(json.dumps(report)) == report
    assert {"read", "distinct", "computed", "reused", "null", "refused", "truncated"} <= set(report)
    assert {"rows_per_second", "computed_per_second", "cpu_seconds", "seconds"} <= set(report["this_run"])


def test_no_rows_at_all(tmp_path: Path) -> None:
    report = run(job(write_titles(tmp_path / "a.jsonl", [])), tmp_path / "out")
    assert (report["read"], report["parts"]) == (0, 0)
    assert LAYOUT.width == DIMENSION * 4 + 1
