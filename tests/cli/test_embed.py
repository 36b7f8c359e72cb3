"""`jobonnx embed` as people call it, with the small model; what other programs read of its output; and the way to an index."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from helpers.bulk import content, read, write_titles
from helpers.checkpoints import ROOT
from helpers.service import CLIENT, running
from jobonnx import Encoder
from jobonnx.bulk.compute import Embedder, Workers
from jobonnx.cli.main import main
from jobonnx.data.titles import read_titles
from jobonnx.errors import JobonnxError
from jobonnx.search.index import Index

pytestmark = pytest.mark.medium

pytest.importorskip("pyarrow")

TITLES = [*read_titles()[::700], "nurse", "Koch " * 400, "nurse", "", "護士"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["embed", *map(str, arguments), "--threads", "1"])


def done(*arguments: object) -> dict[str, Any]:
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    report: dict[str, Any] = json.loads(result.stdout)
    return report


@pytest.fixture(scope="module")
def titles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_titles(tmp_path_factory.mktemp("titles") / "titles.jsonl", TITLES)


@pytest.fixture(scope="module")
def output(titles: Path) -> Path:
    done(titles, "-o", titles.parent / "out", "--column", "title", "--id-column", "id")
    return titles.parent / "out"


@pytest.fixture(scope="module")
def expected() -> Any:
    with Encoder(threads=1) as encoder:
        return encoder.encode(TITLES)


def test_the_vectors_are_the_encoders(output: Path, expected: Any) -> None:
    table = read(output)
    assert table["title"].to_pylist() == TITLES
    got = np.array(table["vector"].to_pylist(), np.float32)
    assert np.sum(got * expected, axis=1).min() > 0.99999
    report = json.loads(run(output.parent / "titles.jsonl", "-o", output, "--column", "title", "--id-column", "id").stdout)
    assert report["truncated"] == 1
    assert report["fingerprint"] == Encoder(threads=1).fingerprint
    assert table.schema.metadata[b"jobonnx.fingerprint"].decode() == report["fingerprint"]


@pytest.mark.parametrize(("dtype", "least"), [("float16", 0.99999), ("int8", 0.9995)])
def test_smaller_vectors_point_the_same_way(dtype: str, least: float, titles: Path, tmp_path: Path, expected: Any) -> None:
    done(titles, "-o", tmp_path / "out", "--column", "title", "--dtype", dtype)
    table = read(tmp_path / "out")
    got = np.array(table["vector"].to_pylist(), np.float32)
    if dtype == "int8":
        got *= np.array(table["scale"].to_pylist(), np.float32)[:, None]
        assert np.abs(got - expected).max() < np.abs(expected).max() / 127
    cosines = np.sum(got * expected, axis=1) / np.linalg.norm(got, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > least


def test_binary_vectors_are_the_signs(titles: Path, tmp_path: Path, expected: Any) -> None:
    done(titles, "-o", tmp_path / "out", "--column", "title", "--dtype", "binary")
    got = np.array(read(tmp_path / "out")["vector"].to_pylist(), np.uint8)
    clear = np.abs(expected) > 1e-3
    assert (np.unpackbits(got, axis=1)[clear] == (expected > 0)[clear]).all()


def test_wrong_calls_are_one_sentence(titles: Path, tmp_path: Path) -> None:
    for arguments, said in (
        ((titles, "-o", tmp_path / "out", "--column", "name"), "has no column 'name'; it has title, id"),
        ((tmp_path / "absent.csv", "-o", tmp_path / "out", "--column", "x"), "absent.csv does not exist; name a table"),
        (
            (titles, "-o", tmp_path / "out", "--column", "title", "--document-prompt-name", "nosuch"),
            "prompt_name='nosuch' is unknown",
        ),
    ):
        result = run(*arguments)
        assert result.exit_code == 1
        assert said in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_duckdb_and_polars_read_the_output(output: Path, expected: Any) -> None:
    duckdb, polars = pytest.importorskip("duckdb"), pytest.importorskip("polars")
    query = (
        f"SELECT id, title, array_cosine_similarity(vector::FLOAT[256], (SELECT vector::FLOAT[256] FROM '{output}/*.parquet' "
        f"WHERE title = '護士')) AS score FROM '{output}/*.parquet' ORDER BY score DESC, id LIMIT 3"
    )
    best = np.argsort(-(expected @ expected[-1]), kind="stable")[0]
    found = duckdb.sql(query).fetchall()
    assert found[0][1] == TITLES[best] == "護士"
    assert found[0][2] == pytest.approx(1, abs=1e-5)
    frame = polars.read_parquet(f"{output}/*.parquet")
    assert frame["title"].to_list() == TITLES
    assert frame.schema["vector"] == polars.Array(polars.Float32, 256)
    assert np.sum(frame["vector"].to_numpy() * expected, axis=1).min() > 0.99999


def test_an_index_of_what_was_embedded(output: Path, titles: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["index", "create", str(tmp_path / "index"), "--from", str(output)])
    assert result.exit_code == 0, result.stderr
    with Index.open(tmp_path / "index") as index:
        assert list(index) == list(dict.fromkeys(title for title in TITLES if title.strip()))
        assert index.ids["nurse"] == (f"i{TITLES.index('nurse')}", f"i{len(TITLES) - 3}")
        assert index.fingerprint == Encoder(threads=1).fingerprint
    found = CliRunner().invoke(main, ["index", "search", str(tmp_path / "index"), "護士", "-k", "1", "--json", "--threads", "1"])
    assert json.loads(found.stdout)["matches"][0]["ids"] == [f"i{len(TITLES) - 1}"]


@pytest.mark.slow
def test_three_commands_lead_from_a_parquet_file_to_a_search_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of docs/bulk.md, in this order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JOBONNX_THREADS", "1")
    page = (ROOT / "docs" / "bulk.md").read_text("utf-8")
    found = re.search(r"<!-- three commands -->\n```bash\n(.*?)```", page, re.DOTALL)
    assert found
    embed, index, serve = (shlex.split(line.partition(" > ")[0]) for line in found[1].splitlines())
    table = pa.table({"id": [17, 18, 19, 20], "title": ["nurse", "programador", "nurse", "Krankenschwester"]})
    pq.write_table(table, "ads.parquet")
    for command in (embed, index):
        result = CliRunner().invoke(main, command[1:])
        assert result.exit_code == 0, result.stderr
    assert serve[:2] == ["jobonnx", "serve"]
    with running(*serve[2:]) as service:
        assert '<input id="title"' in CLIENT.get(service.url + "/").text
        (answer,) = service.post("/match", {"titles": "Krankenpfleger", "top_k": 2}).json()["results"]
    matches = [(match["title"], match["ids"]) for match in answer["matches"]]
    assert matches == [("Krankenschwester", ["20"]), ("nurse", ["17", "19"])]


def test_an_index_of_other_dtypes(titles: Path, tmp_path: Path) -> None:
    for dtype in ("float16", "int8", "binary"):
        done(titles, "-o", tmp_path / dtype, "--column", "title", "--dtype", dtype)
        result = CliRunner().invoke(main, ["index", "create", str(tmp_path / f"{dtype}.index"), "--from", str(tmp_path / dtype)])
        if dtype == "float16":
            assert result.exit_code == 0, result.stderr
            assert Index.open(tmp_path / "float16.index").ids["護士"] == (str(len(TITLES) - 1),)
        else:
            assert f"holds {dtype} vectors, from which no exact search can be made; embed with --dtype" in result.stderr
            assert not (tmp_path / f"{dtype}.index").exists()


def test_an_index_needs_a_finished_output(tmp_path: Path, titles: Path) -> None:
    path = write_titles(tmp_path / "bad.jsonl", ["nurse", None])
    assert run(path, "-o", tmp_path / "out", "--column", "title").exit_code == 1
    for source, said in ((tmp_path / "out", "is not finished (0 parts are there)"), (tmp_path, "is no output of jobonnx embed")):
        result = CliRunner().invoke(main, ["index", "create", str(tmp_path / "index"), "--from", str(source)])
        assert said in result.stderr
        assert not (tmp_path / "index").exists()
    both = CliRunner().invoke(main, ["index", "create", str(tmp_path / "index"), "nurse", "--from", str(tmp_path / "out")])
    assert both.exit_code == 2


@pytest.mark.slow
def test_several_workers_give_the_same_rows(tmp_path: Path) -> None:
    texts = read_titles()[:: 34_000 // 2000]
    path = write_titles(tmp_path / "a.jsonl", texts)
    for workers in (1, 2):
        done(path, "-o", tmp_path / str(workers), "--column", "title", "--workers", workers)
    one, two = read(tmp_path / "1"), read(tmp_path / "2")
    assert one["title"].to_pylist() == two["title"].to_pylist() == texts
    a, b = (np.array(table["vector"].to_pylist(), np.float32) for table in (one, two))
    assert np.sum(a * b, axis=1).min() > 0.99999


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX's")
def test_a_worker_that_is_killed_is_replaced_once() -> None:
    with Encoder(threads=1) as encoder:
        embedder = Embedder(encoder, "float32")
        expected = embedder(read_titles()[:400]).records
    workers = Workers(1, {"threads": 1}, "float32")
    try:
        assert (workers.submit(read_titles()[:400], lambda titles: None).result(60).records == expected).all()
        (first,) = workers.pids
        os.kill(first, signal.SIGKILL)
        assert (workers.submit(read_titles()[:400], lambda titles: None).result(60).records == expected).all()
        assert workers.pids != [first]

        def hunt() -> None:
            while not future.done():
                for pid in workers.pids:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.05)

        future = workers.submit(read_titles(), lambda titles: None)
        threading.Thread(target=hunt).start()
        with pytest.raises(JobonnxError, match="a worker was killed twice on the same titles; free some memory"):
            future.result(60)
    finally:
        workers.close()


@pytest.mark.slow
def test_workers_that_cannot_start_say_why() -> None:
    workers = Workers(2, {"bundle": "/nowhere"}, "float32")
    try:
        with pytest.raises(JobonnxError, match="/nowhere: no such bundle folder"):
            workers.submit(["nurse"], lambda titles: None).result(60)
    finally:
        workers.close()


def test_nothing_is_left_of_the_map(output: Path) -> None:
    assert sorted(content(output)) == ["part-00000000.parquet"]
