"""The one reader of tables: every format, compressed or not, and one sentence for whatever is wrong with a file."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobonnx.data.tables import Rows, find_tables, is_table, read_rows, read_titles
from jobonnx.errors import JobonnxError

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402

TITLES = ["nurse", "Köchin", "", "护士", 'chef, "head"\nof kitchen', "nurse"]
IDS = ["007", "b", "c", "d", "e", "f"]


def compressed(content: bytes, ending: str) -> bytes:
    if ending == ".gz":
        return gzip.compress(content)
    return pa.Codec("zstd").compress(content, asbytes=True) if ending == ".zst" else content


def delimited(mark: str, titles: list[str], ids: list[str]) -> bytes:
    quoted = (title.replace('"', '""') for title in titles)
    return (
        "\ufeffid,x,title\n".replace(",", mark) + "".join(f'{i}{mark}1{mark}"{t}"\r\n' for i, t in zip(ids, quoted, strict=True))
    ).encode()


def json_lines(titles: list[Any], ids: list[Any]) -> bytes:
    return "\n\n".join(json.dumps({"x": [1, {"title": 0}], "title": t, "id": i}) for t, i in zip(titles, ids, strict=True)).encode()


def parquet(path: Path, titles: Any, ids: Any, **options: Any) -> Path:
    pq.write_table(pa.table({"x": [0] * len(titles), "title": titles, "id": ids}), path, **options)
    return path


def write(folder: Path, ending: str, titles: list[str] = TITLES, ids: list[str] = IDS) -> Path:
    path = folder / f"titles{ending}"
    if ending == ".parquet":
        return parquet(path, titles, ids)
    kind, _, packed = ending[1:].partition(".")
    content = json_lines(titles, ids) if "json" in kind else delimited("\t" if kind == "tsv" else ",", titles, ids)
    path.write_bytes(compressed(content, f".{packed}"))
    return path


def rows(path: str | Path, column: str = "title", id_column: str | None = "id", skip: int = 0) -> list[Rows]:
    return list(read_rows(find_tables([path]), column, id_column, skip))


def refusal(path: str | Path, column: str = "title", id_column: str | None = "id") -> str:
    with pytest.raises(JobonnxError) as caught:
        rows(path, column, id_column)
    assert "\n" not in str(caught.value)
    return str(caught.value)


ENDINGS = [
    ".parquet",
    *(kind + packed for kind in (".csv", ".tsv", ".jsonl", ".ndjson", ".json") for packed in ("", ".gz", ".zst")),
]


@pytest.mark.parametrize("ending", ENDINGS)
def test_titles_and_ids_of_every_format(ending: str, tmp_path: Path) -> None:
    path = write(tmp_path, ending)
    assert is_table(path)
    assert is_table(str(path).upper())
    assert read_titles([path], "title", "id") == (TITLES, IDS)
    assert read_titles([path], "title") == (TITLES, None)


@pytest.mark.parametrize("name", ["titles.txt", "titles", "csv", "titles.gz", "titles.parquet.gz", ".csv"])
def test_other_names_are_no_tables(name: str, tmp_path: Path) -> None:
    assert not is_table(name)
    (tmp_path / name).write_bytes(b"nurse\n")
    assert "the name has to end in .parquet, or in .csv" in refusal(tmp_path / name)


@pytest.mark.medium
@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl.gz"])
@pytest.mark.parametrize("skip", [0, 1, 8192, 10_000, 20_000, 24_999, 25_000, 30_000])
def test_rows_at_the_beginning_are_left_out(ending: str, skip: int, tmp_path: Path) -> None:
    titles = [f"cook {number}" for number in range(25_000)]
    path = write(tmp_path, ending, titles, titles)
    if ending == ".parquet":
        parquet(path, titles, titles, row_group_size=10_000)
    read = rows(path, skip=skip)
    assert [title for block in read for title in block.titles.to_pylist()] == titles[skip:]
    assert [name for block in read for name in block.ids.to_pylist()] == titles[skip:]
    assert [block.first for block in read][:1] == ([skip] if skip < 25_000 else [])
    assert all(block.titles[0].as_py() == titles[block.first] for block in read)


def test_rows_are_left_out_across_files(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path, f"{number}.csv", [f"cook {number} {row}" for row in range(3)], ["i"] * 3)
    read = list(read_rows(find_tables([tmp_path]), "title", skip=4))
    assert [block.titles.to_pylist() for block in read] == [["cook 1 1", "cook 1 2"], ["cook 2 0", "cook 2 1", "cook 2 2"]]
    assert [block.first for block in read] == [1, 0]
    assert all(block.ids is None for block in read)


def test_folders_and_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.csv", "a.csv.gz", "deep/c.jsonl", "deep/er/d.parquet", "_SUCCESS", "_x.csv", ".hidden.csv", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"id,title\n")
    monkeypatch.chdir(tmp_path)

    def found(*inputs: str | Path) -> list[str]:
        return [Path(file.name).as_posix() for file in find_tables(inputs)]

    everything = ["a.csv.gz", "b.csv", "deep/c.jsonl", "deep/er/d.parquet"]
    assert found(".") == everything
    assert found("**") == everything
    assert found("*") == ["a.csv.gz", "b.csv"]
    assert found("?.csv", "[a-b].csv*") == ["b.csv", "a.csv.gz", "b.csv"]
    assert found("**/*.jsonl") == ["deep/c.jsonl"]
    assert found("*/*.jsonl") == ["deep/c.jsonl"]
    assert found("deep/**/d.parquet") == ["deep/er/d.parquet"]
    assert found("_x.csv", ".hidden.csv", "_*.csv") == ["_x.csv", ".hidden.csv", "_x.csv"]
    assert found(tmp_path / "deep") == [f"{tmp_path.as_posix()}/deep/c.jsonl", f"{tmp_path.as_posix()}/deep/er/d.parquet"]
    assert found(f"{tmp_path.as_posix()}/*.csv") == [f"{tmp_path.as_posix()}/b.csv"]
    (tmp_path / "[b].csv").write_bytes(b"id,title\n")
    assert found("[b].csv") == ["[b].csv"], "a file of that very name goes before a pattern"


@pytest.mark.skipif(sys.platform == "win32", reason="addresses of drives look otherwise")
def test_addresses_of_file_systems(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"title\nnurse\n")
    assert read_titles([f"file://{tmp_path}/a.csv"], "title") == (["nurse"], None)
    assert [file.path for file in find_tables([f"file://{tmp_path}/*.csv"])] == [f"{tmp_path}/a.csv"]
    assert find_tables([f"file://{tmp_path}"])[0].name == f"file://{tmp_path}/a.csv"
    assert "nosuch://x/a.csv" in refusal("nosuch://x/a.csv")


@pytest.mark.parametrize("name", ["absent.csv", "absent*.csv", "ab\0sent.csv", "x" * 5000 + ".csv", "nowhere/**"])
def test_what_is_not_there(name: str, tmp_path: Path) -> None:
    assert "name a" in refusal(f"{tmp_path}/{name}")
    (tmp_path / "empty").mkdir()
    assert "holds no table" in refusal(tmp_path / "empty")


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".tsv.gz", ".jsonl"])
def test_a_missing_column_is_named_with_those_there_are(ending: str, tmp_path: Path) -> None:
    path = write(tmp_path, ending)
    said = refusal(path, "Title")
    assert said.startswith(f"{path} has no column 'Title'; it has ")
    assert {"x", "title", "id"} == set(said.partition("it has ")[2].split(", "))
    assert "no column 'nr'" in refusal(path, "title", "nr")
    with pytest.raises(JobonnxError, match=r"has the columns .*; name the one of the titles with --column"):
        read_titles([path], None)


def test_many_columns_are_not_all_listed(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",".join(f"c{number}" for number in range(1000)) + "\n")
    assert refusal(tmp_path / "a.csv").endswith("c28, c29 and 970 more")


def test_columns_with_odd_names(tmp_path: Path) -> None:
    name = "job.title [en]"
    pq.write_table(pa.table({name: ["nurse"], "job": [1]}), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text(json.dumps({name: "nurse"}))
    (tmp_path / "a.csv").write_text(f"{name}\nnurse\n")
    for ending in ("parquet", "jsonl", "csv"):
        assert read_titles([tmp_path / f"a.{ending}"], name, name) == (["nurse"], ["nurse"])


def test_a_column_that_stands_there_twice(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("title,title\nnurse,cook\n")
    assert "more than one column 'title'" in refusal(tmp_path / "a.csv", id_column=None)


@pytest.mark.parametrize("ending", [".csv", ".tsv.gz", ".jsonl"])
def test_what_is_not_utf8(ending: str, tmp_path: Path) -> None:
    path = write(tmp_path, ending, ["K\u00f6chin"], ["a"])
    content = path.read_bytes() if not ending.endswith(".gz") else gzip.decompress(path.read_bytes())
    content = content.replace("ö".encode(), b"\xf6").replace(b"\\u00f6", b"\xf6")
    path.write_bytes(compressed(content, Path(ending).suffix))
    assert refusal(path) == f"{path} is not UTF-8; convert it, for instance with iconv"


def test_parquet_that_is_not_utf8(tmp_path: Path) -> None:
    titles = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
    path = parquet(tmp_path / "a.parquet", titles, ["a"])
    assert "is not UTF-8" in refusal(path)


@pytest.mark.parametrize("ending", [".csv.gz", ".csv.zst", ".jsonl.gz", ".jsonl.zst"])
@pytest.mark.parametrize(
    "harm", [lambda c: c[: len(c) // 2], lambda c: c[:-3], lambda c: b"", lambda c: c[:9] + b"\xff" * 30 + c[39:]]
)
def test_damaged_compression(ending: str, harm: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = write(tmp_path, ending, [f"cook {number}" for number in range(1000)], ["a"] * 1000)
    path.write_bytes(harm(path.read_bytes()))
    if path.stat().st_size or ending.startswith(".csv"):
        said = refusal(path)
        assert said.startswith(f"{path} ")
        assert said.endswith(("; make or download the file again", "; its first line has to name the columns"))


def test_files_written_in_pieces_are_read_whole(tmp_path: Path) -> None:
    for ending in (".gz", ".zst"):
        pieces = [b"title\nnurse\nco", b"ok\n"]
        (tmp_path / f"a.csv{ending}").write_bytes(b"".join(compressed(piece, ending) for piece in pieces))
        assert read_titles([tmp_path / f"a.csv{ending}"], "title") == (["nurse", "cook"], None)


@pytest.mark.parametrize("keep", [0, 3, 0.5, -5])
def test_damaged_parquet(keep: float, tmp_path: Path) -> None:
    path = write(tmp_path, ".parquet", [f"cook {number}" for number in range(1000)], [str(number) for number in range(1000)])
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep) if 0 < keep < 1 else int(keep)])
    assert refusal(path).startswith(f"{path} cannot be read (")
    place = content.index(b"cook")
    path.write_bytes(content[: place - 40] + b"\xff" * 30 + content[place - 10 :])
    assert refusal(path).startswith(f"{path} cannot be read (")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"id,title\n1,nurse\n2,cook,chef\n", "Row #3: Expected 2 columns, got 3"),
        (b"", "is empty; its first line has to name the columns"),
        (b'id,title\n1,"' + b"nurse\n" * 5_000_000, "a row has more than 8,388,608 bytes, or a quote is not closed"),
    ],
)
def test_damaged_csv(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    assert said in refusal(tmp_path / "a.csv")


@pytest.mark.parametrize(
    "line",
    [b"5", b"[1]", b'{"title": "a"', b'{"title": "a"} x', b'{"title": NaN}', b"[" * 100_000, b"nurse", b'{"title": "\\ud800"}'],
)
def test_damaged_json(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"title": "nurse", "id": 1}\n\n' + line)
    assert f"{tmp_path / 'a.jsonl'}, line 3 is no JSON object (" in refusal(tmp_path / "a.jsonl")


def test_a_line_of_json_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobonnx.data.tables._LINE", 2 << 20)
    (tmp_path / "a.jsonl").write_bytes(b'{"title": "' + b"x" * (5 << 20))
    assert "line 1 has more than 2,097,152 bytes" in refusal(tmp_path / "a.jsonl")


def test_what_is_no_title_is_told(tmp_path: Path) -> None:
    values = ["nurse", None, 5, 5.5, True, ["a"], {"title": "a"}, 10**5000 if sys.version_info < (3, 11) else 10**4000, "cook"]
    (tmp_path / "a.jsonl").write_bytes(json_lines(values, list(range(9))) + b'\n{"id": 9}')
    (block,) = rows(tmp_path / "a.jsonl")
    assert block.titles.to_pylist() == ["nurse", *[None] * 7, "cook", None]
    assert block.ids.to_pylist() == list(range(10))
    kinds = ["null", "a number", "a number", "a boolean", "a list", "an object", "a number"]
    assert block.wrong == {**dict(enumerate(kinds, 1)), 9: "null"}
    with pytest.raises(JobonnxError, match=r"a\.jsonl, row 2 has null in 'title'; give every row a title, or leave it out"):
        read_titles([tmp_path / "a.jsonl"], "title")


@pytest.mark.parametrize(
    ("titles", "shown"),
    [
        (pa.array([1, None]), "a value of type int64"),
        (pa.array([b"nurse", None]), "a value of type binary"),
        (pa.array([["a"], None]), "a value of type list<element: string>"),
        (pa.array([{"a": "b"}, None]), "a value of type struct<a: string>"),
    ],
)
def test_columns_of_parquet_that_hold_no_titles(titles: Any, shown: str, tmp_path: Path) -> None:
    (block,) = rows(parquet(tmp_path / "a.parquet", titles, ["a", "b"]))
    assert block.titles.to_pylist() == [None, None]
    assert block.wrong == {0: shown, 1: "null"}


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_text_of_every_type_of_arrow(kind: Any, tmp_path: Path) -> None:
    try:
        file = parquet(tmp_path / "a.parquet", pa.array(["nurse", None, "cook"]).cast(kind), [1, 2, None])
    except pa.ArrowNotImplementedError as error:
        pytest.skip(f"pyarrow {pa.__version__} writes no such file: {error}")
    (block,) = rows(file, skip=1)
    assert block.titles.type == pa.string()
    assert (block.titles.to_pylist(), block.wrong, block.ids.to_pylist()) == ([None, "cook"], {0: "null"}, [2, None])


def test_ids_have_to_be_there_and_alike(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,title\n7,nurse\n,cook\n")
    with pytest.raises(JobonnxError, match="row 2 has no id; give every title an id"):
        read_titles([tmp_path / "a.csv"], "title", "id")
    for wrong, said in (([1, "a"], "text and numbers"), ([1, 2.5], "a number"), (["a", True], "a boolean"), ([{}, 1], "an object")):
        (tmp_path / "a.jsonl").write_bytes(json_lines(["nurse", "cook"], wrong))
        assert f"{tmp_path / 'a.jsonl'} has {said} in 'id'" in refusal(tmp_path / "a.jsonl")


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_a_file_that_changes_while_it_is_read(ending: str, tmp_path: Path) -> None:
    titles = [f"cook {number}" for number in range(20_000)]
    path = write(tmp_path, ending, titles, titles)
    reading = read_rows(find_tables([path]), "title")
    next(reading)
    with open(path, "ab") as file:
        file.write(b"99,1,nurse\n")
    with pytest.raises(JobonnxError, match=r"has changed while it was read \(it had .* bytes and has .* bytes now\); read it when"):
        list(reading)


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, ".csv")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert 'install it: pip install "jobonnx[bulk]"' in refusal(path)


def test_headers_alone_and_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"title\r\n")
    (tmp_path / "b.csv").write_bytes(b"title\n\nnurse\n\n\ncook")
    (tmp_path / "c.jsonl").write_bytes(b"\n \r\n")
    assert read_titles([tmp_path], "title") == (["nurse", "cook"], None)
