"""Files of titles as people have them, each read by its name; the readers of tables have tests of their own."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from jobonnx.cli.input import read_titles
from jobonnx.cli.main import main
from jobonnx.errors import JobonnxError

TITLES = ["nurse", "Koch, Köchin", "", "nurse"]
CSV = 'id,title\n1,nurse\n2,"Koch, Köchin"\n3,""\n4,nurse\n'


@pytest.fixture(params=["a.csv", "a.CSV", "a.tsv", "a.csv.gz", "a.tsv.gz", "a.parquet", "a.jsonl.gz"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path: Path = tmp_path / request.param
    text = CSV if "csv" in path.name.lower() else CSV.replace("Koch, ", "Koch; ").replace(",", "\t").replace("; ", ", ")
    if ".jsonl" in path.name:
        text = "".join(f'{{"id": {i}, "title": "{title}"}}\n' for i, title in enumerate(TITLES))
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"id": [1, 2, 3, 4], "title": TITLES}), path)
    else:
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_a_column_of_a_table(table: Path) -> None:
    assert read_titles(table, "title") == TITLES


def test_a_table_without_a_column_lists_those_that_it_has(table: Path) -> None:
    with pytest.raises(JobonnxError, match=r"has the columns id, title; name the one of the titles with --column"):
        read_titles(table, None)


def test_an_unknown_column_is_one_sentence(table: Path) -> None:
    with pytest.raises(JobonnxError, match=r"has no column '?titel'?.*title"):
        read_titles(table, "titel")


def test_lines_and_compressed_lines(tmp_path: Path) -> None:
    lines = "\ufeffnurse\r\nKoch, Köchin\n\nnurse\n".encode()
    (tmp_path / "a.txt").write_bytes(lines)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(lines))
    assert read_titles(tmp_path / "a.txt", None) == read_titles(tmp_path / "a.txt.gz", None) == TITLES
    with pytest.raises(JobonnxError, match=r"has one title per line and no column 'title'; leave --column out"):
        read_titles(tmp_path / "a.txt", "title")


@pytest.mark.parametrize("content", [b"", b"nurse\n", gzip.compress(b"nurse\n" * 99)[:-9], b"\x1f\x8b\x08" + bytes(40)])
def test_a_broken_gz_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "titles.gz"
    path.write_bytes(content)
    if not content:
        assert read_titles(path, None) == []  # as gzip has it
        return
    with pytest.raises(JobonnxError, match=r"titles\.gz cannot be read \(.*\)"):
        read_titles(path, None)


@pytest.mark.parametrize("command", [["match", "nurse", "-k", "1", "--corpus"], ["encode", "--file"]])
def test_commands_take_the_column(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(CSV, encoding="utf-8")
    done = CliRunner().invoke(main, [*command, str(tmp_path / "a.csv"), "--column", "title"])
    assert done.exit_code == 0, done.output
    assert "nurse" in done.stdout
    assert "id," not in done.stdout
    refused = CliRunner().invoke(main, [*command, str(tmp_path / "a.csv")])
    assert "has the columns id, title" in refused.stderr


@pytest.mark.parametrize("command", [["match", "nurse"], ["encode", "nurse"]])
def test_a_column_of_nothing_is_refused(command: list[str]) -> None:
    done = CliRunner().invoke(main, [*command, "--column", "title"])
    assert done.exit_code == 2
    assert "--column names a column of a" in done.stderr
