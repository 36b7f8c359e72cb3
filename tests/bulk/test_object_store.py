"""Tables in an object store: a server that speaks S3, on this machine."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from helpers.bulk import read
from helpers.environments import clean_environment, install
from jobonnx.cli.main import main

pa = pytest.importorskip("pyarrow")
import pyarrow.fs  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

_OBJECTS = {f"ads/{number}.parquet": [f"nurse {number}", "cook", "Koch"] for number in range(3)} | {
    "ads/x.jsonl.gz": ["smith", "cook"]
}
_TITLES = [title for titles in _OBJECTS.values() for title in titles]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start moto's server; give its address."""
    python = install(tmp_path_factory.mktemp("moto"), "moto[server]>=5")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(python.with_name("moto_server")), "-p", str(port)]
    server = subprocess.Popen(command, env=clean_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < until, "the server does not answer"
                time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def store(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Fill a bucket, and let the environment lead to it as people's own does."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{endpoint}",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    store = pyarrow.fs.S3FileSystem(allow_bucket_creation=True, endpoint_override=endpoint, scheme="http")
    store.create_dir("jobs")
    for name, titles in _OBJECTS.items():
        table = pa.table({"id": [f"{name} {place}" for place in range(len(titles))], "title": titles})
        with store.open_output_stream(f"jobs/{name}", compression=None) as file:
            if name.endswith(".parquet"):
                pq.write_table(table, file)
            else:
                file.write(gzip.compress("".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode()))
    return store


def embed(source: str, output: Path | str) -> Result:
    arguments = ["embed", source, "-o", str(output), "--column", "title", "--id-column", "id", "--threads", "1"]
    return CliRunner().invoke(main, arguments)


@pytest.mark.slow
@pytest.mark.network
def test_titles_of_an_object_store(store: Any, endpoint: str, tmp_path: Path) -> None:
    for number, (source, rows) in enumerate(
        {
            "s3://jobs/ads": len(_TITLES),
            "s3://jobs/**/*.parquet": 9,
            "s3://jobs/ads/1.parquet": 3,
            f"s3://jobs/ads?endpoint_override={endpoint}&scheme=http": len(_TITLES),
        }.items()
    ):
        result = embed(source, tmp_path / str(number))
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["read"] == rows
    table = read(tmp_path / "0")
    assert table["title"].to_pylist() == _TITLES
    assert table["id"].to_pylist()[-1] == "ads/x.jsonl.gz 1"
    assert read(tmp_path / "3") == table


@pytest.mark.slow
@pytest.mark.network
def test_what_is_wrong_with_an_object_store_is_one_sentence(store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert embed("s3://jobs/ads", tmp_path / "out").exit_code == 0
    with store.open_output_stream("jobs/ads/1.parquet") as file:
        pq.write_table(pa.table({"id": ["a"], "title": ["nurse"]}), file)
    with store.open_output_stream("jobs/damaged/a.parquet") as file:
        file.write(b"PAR1 and nothing else")
    wrong = {
        "s3://jobs/ads": "was begun with another input (",
        "s3://jobs/absent.parquet": "s3://jobs/absent.parquet does not exist; name a table",
        "s3://absent/ads": "s3://absent/ads does not exist; name a table",
        "s3://jobs/damaged": "s3://jobs/damaged/a.parquet cannot be read (",
    }
    for source, said in wrong.items():
        result = embed(source, tmp_path / "out" if source == "s3://jobs/ads" else tmp_path / "new")
        assert result.exit_code == 1
        assert said in result.stderr
        assert len(result.stderr.splitlines()) == 1
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    result = embed("s3://jobs/ads", tmp_path / "new2")
    assert "'s3://jobs/ads' cannot be read (" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.medium
def test_an_output_in_an_object_store_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ads.csv").write_text("id,title\n1,nurse\n")
    result = embed("ads.csv", "s3://jobs/vectors")
    assert result.exit_code == 1
    assert "s3://jobs/vectors is an address; name a folder on this machine, and copy it there when it is finished" in result.stderr
    assert os.listdir() == ["ads.csv"]
