"""The index on disk: what it finds, what it refuses, and what readers and writers see of each other."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from helpers.indexes import DIMENSION, FINGERPRINT, add, check, some, vectors
from jobonnx.errors import JobonnxError
from jobonnx.search.index import Index
from jobonnx.search.store import Header, State


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index.create(tmp_path / "titles", FINGERPRINT, DIMENSION)


def names(index: Index) -> list[str]:
    return sorted(path.name for path in index.path.iterdir())


def test_an_empty_index_finds_nothing(index: Index) -> None:
    check(index, [])
    check(Index.open(index.path), [])
    assert index.remove(["x"]) == 0
    assert add(index, []) == 0


def test_adds_removes_and_opens_again(index: Index) -> None:
    assert add(index, some(20)) == 20
    assert add(index, ["title 3", "Müller-Geselle", "title 21", "Müller-Geselle", "", "a\nb\t\"c'", "護理師 👩‍⚕️", "\ud800"]) == 6
    titles = [*some(20), "Müller-Geselle", "title 21", "", "a\nb\t\"c'", "護理師 👩‍⚕️", "\ud800"]
    check(index, titles)
    assert index.remove(["title 3", "護理師 👩‍⚕️", "unknown"]) == 2
    titles = [title for title in titles if title not in ("title 3", "護理師 👩‍⚕️")]
    check(index, titles)
    again = Index.open(index.path)
    assert (again.fingerprint, again.dimension) == (FINGERPRINT, DIMENSION)
    check(again, titles)
    assert add(again, ["title 3"]) == 1
    check(Index.open(index.path), [*titles, "title 3"])


def test_removing_everything_leaves_no_vectors(index: Index) -> None:
    add(index, some(10))
    assert index.remove(some(10)) == 10
    check(Index.open(index.path), [])
    assert names(index) == ["index.sqlite"]
    assert add(index, some(3)) == 3
    check(Index.open(index.path), some(3))


@pytest.mark.medium
def test_small_additions_keep_one_file_and_the_order(index: Index) -> None:
    for number in range(70):
        add(index, some(1, number))
    (path,) = index.path.glob("*.vectors")
    assert path.stat().st_size == 70 * DIMENSION * 4
    check(Index.open(index.path), some(70))


def test_what_is_more_than_half_removed_is_rewritten(index: Index) -> None:
    add(index, some(100))
    before = names(index)
    index.remove(some(50))
    assert names(index) == before
    index.remove(some(1, 50))
    (path,) = index.path.glob("*.vectors")
    assert path.name not in before
    assert path.stat().st_size == 49 * DIMENSION * 4
    check(index, some(49, 51))
    check(Index.open(index.path), some(49, 51))
    add(index, some(3))
    check(Index.open(index.path), [*some(49, 51), *some(3)])


def test_more_than_a_chunk_is_added_removed_and_rewritten(index: Index) -> None:
    add(index, some(3000), some(3000))
    index.remove(some(1, 1500))
    kept = [*some(1500), *some(1499, 1501)]
    for each in (index, Index.open(index.path)):
        check(each, kept, {title: (title,) for title in kept})
    index.remove(some(1600))
    for each in (index, Index.open(index.path)):
        check(each, some(1400, 1600), {title: (title,) for title in some(1400, 1600)})


def test_equal_scores_come_in_the_order_of_adding(index: Index) -> None:
    same = np.repeat(vectors(["x"]), 6, axis=0)
    for start in (0, 2, 4):
        index.add(some(2, start)[::-1], same[:2], fingerprint=FINGERPRINT)
    (found,) = index.search(same[:1], 5, fingerprint=FINGERPRINT)
    assert [match.title for match in found] == ["title 1", "title 0", "title 3", "title 2", "title 5"]


# Ids


def test_several_ids_share_a_title_and_search_returns_them(index: Index) -> None:
    assert add(index, ["cook", "nurse", "cook", "cook"], ["7", "護 1", "3", "7"]) == 2
    check(index, ["cook", "nurse"], {"cook": ("7", "3"), "nurse": ("護 1",)})
    (found,) = index.search(vectors(["cook"]), 1, fingerprint=FINGERPRINT)
    assert (found[0].title, found[0].ids) == ("cook", ("7", "3"))
    assert add(index, ["smith", "cook"]) == 1
    assert add(index, ["cook", "nurse", "smith"], ["9", "護 1", "\ud800"]) == 0
    ids = {"cook": ("7", "3", "9"), "nurse": ("護 1",), "smith": ("\ud800",)}
    check(index, ["cook", "nurse", "smith"], ids)
    check(Index.open(index.path), ["cook", "nurse", "smith"], ids)


def test_new_ids_alone_keep_the_vectors_and_old_readers_their_ids(index: Index) -> None:
    add(index, ["cook"], ["7"])
    before, reader = names(index), Index.open(index.path)
    other = vectors(["something else"])
    assert index.add(["cook"], other, fingerprint=FINGERPRINT, ids=["8"]) == 0
    assert names(index) == before
    check(index, ["cook"], {"cook": ("7", "8")})
    check(reader, ["cook"], {"cook": ("7",)})


def test_removing_by_id_takes_a_title_with_its_last_id(index: Index) -> None:
    add(index, ["cook", "cook", "chef", "nurse", "smith"], ["1", "2", "1", "3", "4"])
    add(index, ["clerk"])
    assert index.remove(ids=["1", "3", "unknown"]) == 2
    check(index, ["cook", "smith", "clerk"], {"cook": ("2",), "smith": ("4",)})
    assert index.remove(["smith"], ids=["2"]) == 2
    check(index, ["clerk"])
    check(Index.open(index.path), ["clerk"])
    assert index.remove(ids=["2"]) == 0
    add(index, ["cook"])
    check(Index.open(index.path), ["clerk", "cook"])  # without the ids it had before


def test_ids_move_with_their_titles_when_rows_are_rewritten(index: Index) -> None:
    add(index, some(10), [str(number) for number in range(10)])
    index.remove(some(7))
    ids = {f"title {number}": (str(number),) for number in (7, 8, 9)}
    check(index, some(3, 7), ids)
    check(Index.open(index.path), some(3, 7), ids)


# Closing


def test_a_closed_index_refuses_everything(index: Index) -> None:
    with index as same:
        add(same, some(2))
        assert same is index
    index.close()
    calls: list[Callable[[], object]] = [
        lambda: add(index, ["x"]),
        lambda: index.remove(["x"]),
        lambda: index.search(vectors(["x"]), 1, fingerprint=FINGERPRINT),
        lambda: len(index),
        lambda: list(index),
        lambda: index.ids,
        index.build_approximate,
    ]
    for call in calls:
        with pytest.raises(ValueError, match="is closed; open it again"):
            call()
    check(Index.open(index.path), some(2))


class Actions(RuleBasedStateMachine):
    """Any sequence of additions, removals and reopenings equals a dictionary."""

    @initialize()
    def create(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.index = Index.create(Path(self.folder.name) / "index", FINGERPRINT, DIMENSION)
        self.titles: dict[str, tuple[str, ...]] = {}

    @rule(numbers=st.lists(st.integers(0, 60), max_size=12))
    def add(self, numbers: list[int]) -> None:
        titles = [f"title {number}" for number in numbers]
        assert add(self.index, titles) == len(set(titles) - self.titles.keys())
        for title in titles:
            self.titles.setdefault(title, ())

    @rule(pairs=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=12))
    def add_with_ids(self, pairs: list[tuple[int, int]]) -> None:
        titles, ids = [f"title {number}" for number, _ in pairs], [f"id {name}" for _, name in pairs]
        assert add(self.index, titles, ids) == len(set(titles) - self.titles.keys())
        for title, name in zip(titles, ids, strict=True):
            had = self.titles.get(title, ())
            self.titles[title] = had if name in had else (*had, name)

    @rule(numbers=st.lists(st.integers(0, 60), max_size=30), names=st.lists(st.integers(0, 9), max_size=2))
    def remove(self, numbers: list[int], names: list[int]) -> None:
        titles, ids = {f"title {number}" for number in numbers}, {f"id {name}" for name in names}
        left = {title: tuple(name for name in had if name not in ids) for title, had in self.titles.items()}
        kept = {title: left[title] for title, had in self.titles.items() if title not in titles and (left[title] or not had)}
        assert self.index.remove(sorted(titles), ids=sorted(ids)) == len(self.titles) - len(kept)
        self.titles = kept

    @rule()
    def reopen(self) -> None:
        self.index = Index.open(self.index.path)

    @invariant()
    def agrees(self) -> None:
        check(self.index, list(self.titles), {title: ids for title, ids in self.titles.items() if ids})

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()


TestActions = pytest.mark.medium(Actions.TestCase)
TestActions.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)


# Refusals


def test_refuses_another_fingerprint_by_naming_both(index: Index) -> None:
    calls: list[Callable[[], object]] = [
        lambda: index.search(vectors(["x"]), 1, fingerprint="sha256:two"),
        lambda: index.add(["x"], vectors(["x"]), fingerprint="sha256:two"),
    ]
    for call in calls:
        with pytest.raises(JobonnxError, match=r"encoder sha256:one and the .* are from sha256:two; use that encoder") as raised:
            call()
        assert "\n" not in str(raised.value)
    check(index, [])


@pytest.mark.parametrize(
    ("titles", "given", "error", "message"),
    [
        ("one string", vectors(["x"]), TypeError, "titles must be a sequence of strings, not str"),
        ({"x": 1}, vectors(["x"]), TypeError, "titles must be a sequence of strings, not dict"),
        (None, vectors(["x"]), TypeError, "titles must be a sequence of strings, not NoneType"),
        (["x", 3], vectors(["x", "y"]), TypeError, r"titles\[1\] must be a string, not int"),
        (["x"], vectors(["x", "y"]), ValueError, "1 titles and 2 vectors"),
        (["x"], vectors(["x"])[:, :8] * 0, ValueError, "length 0"),
        (["x"], np.eye(8, dtype=np.float32)[:1], ValueError, "have 8 dimensions and the index 16"),
        (["x"], vectors(["x"]) * np.float32(np.nan), ValueError, "NaN"),
        (["x"], vectors(["x"]).astype(np.float64), TypeError, "float64"),
    ],
)
def test_refuses_bad_additions(index: Index, titles: Any, given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        index.add(titles, given, fingerprint=FINGERPRINT)
    check(Index.open(index.path), [])


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ("ab", TypeError, "ids must be a sequence of strings, not str"),
        ([1, 2], TypeError, r"ids\[0\] must be a string, not int"),
        (["a", None], TypeError, r"ids\[1\] must be a string, not NoneType"),
        (["a"], ValueError, "2 titles and 1 ids"),
    ],
)
def test_refuses_bad_ids(index: Index, ids: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        add(index, some(2), ids)
    if error is TypeError:
        with pytest.raises(error, match=message):
            index.remove(ids=ids)
    check(Index.open(index.path), [])


@pytest.mark.parametrize("k", [float("nan"), 1.0, True, "1", None])
def test_refuses_k_that_is_no_integer(index: Index, k: Any) -> None:
    add(index, some(3))
    with pytest.raises(TypeError, match="k must be an integer"):
        index.search(vectors(["x"]), k, fingerprint=FINGERPRINT)


@pytest.mark.parametrize("k", [0, -3])
def test_refuses_k_below_1(index: Index, k: int) -> None:
    with pytest.raises(ValueError, match=f"k is {k}"):
        index.search(vectors(["x"]), k, fingerprint=FINGERPRINT)


def test_create_refuses_a_folder_in_use(index: Index, tmp_path: Path) -> None:
    with pytest.raises(JobonnxError, match=r"already holds index\.sqlite"):
        Index.create(index.path, FINGERPRINT, DIMENSION)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(JobonnxError, match=r"already holds notes\.txt"):
        Index.create(tmp_path / "mine", FINGERPRINT, DIMENSION)
    for path in (tmp_path / "mine" / "notes.txt", "nul\0", tmp_path / ("x" * 300)):
        with pytest.raises(JobonnxError, match="cannot make an index"):
            Index.create(path, FINGERPRINT, DIMENSION)


@pytest.mark.parametrize(
    ("fingerprint", "dimension", "error", "message"),
    [
        (FINGERPRINT, 0, ValueError, "the dimension is 0"),
        (FINGERPRINT, 10**9, ValueError, "at most 65536"),
        (FINGERPRINT, 1.5, TypeError, r"the dimension must be an integer, not 1\.5"),
        (FINGERPRINT, True, TypeError, "the dimension must be an integer, not True"),
        (None, 16, TypeError, "the fingerprint must be a string, not None"),
        ("", 16, ValueError, "the fingerprint is ''; it must be printable and not empty"),
        ("\ud800", 16, ValueError, "it must be printable"),
    ],
)
def test_create_refuses_what_is_no_encoder(
    tmp_path: Path, fingerprint: Any, dimension: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Index.create(tmp_path / "new", fingerprint, dimension)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["with space", "with%41percent", "with?question#hash", "Köche 護"])
def test_a_path_with_odd_letters_is_taken_as_it_stands(tmp_path: Path, name: str) -> None:
    add(Index.create(tmp_path / name, FINGERPRINT, DIMENSION), some(3))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    check(Index.open(tmp_path / name), some(3))


def test_open_refuses_what_is_no_index(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("empty", "other", "text", "folder", "fifo"):
        (tmp_path / name).mkdir()
    (tmp_path / "empty" / "index.sqlite").touch()
    with sqlite3.connect(tmp_path / "other" / "index.sqlite") as other:
        other.execute("CREATE TABLE header (body TEXT, sha256 TEXT)")
    other.close()
    (tmp_path / "text" / "index.sqlite").write_text("cook\nnurse\n" * 100)
    (tmp_path / "folder" / "index.sqlite").mkdir()
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "fifo" / "index.sqlite")
    for name in (".", "nowhere", "nul\0", "file", "empty", "other", "text", "folder", "fifo"):
        with pytest.raises(JobonnxError, match=r"is not an index that can be read|is damaged") as raised:
            Index.open(tmp_path / name)
        assert "\n" not in str(raised.value)


@pytest.mark.medium
@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("damage", ["truncate", "halve", "flip", "delete", "empty"])
@pytest.mark.parametrize("kind", ["vectors", "sqlite"])
def test_refuses_damaged_files(index: Index, kind: str, damage: str, verify: bool) -> None:
    add(index, some(300))
    index.remove(some(3))
    (path,) = index.path.glob(f"*.{kind}")
    data = path.read_bytes()
    place = data.index(b"title 10") if kind == "sqlite" else len(data) // 2
    flipped = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
    changed = {"truncate": data[:-1], "halve": data[: len(data) // 2], "flip": flipped, "empty": b""}
    if damage == "delete":
        path.unlink()
    else:
        path.write_bytes(changed[damage])
    if (kind, damage, verify) == ("vectors", "flip", False):
        Index.open(index.path, verify=False)  # which is what it does without
        return
    with pytest.raises(JobonnxError) as raised:
        Index.open(index.path, verify=verify)
    assert "\n" not in str(raised.value)
    assert path.name in str(raised.value)


@pytest.mark.medium
def test_every_flipped_bit_of_the_database_is_noticed(index: Index) -> None:
    add(index, some(3), some(3))
    path = index.path / "index.sqlite"
    data = path.read_bytes()
    refused = 0
    for place in range(len(data)):
        if data[place] or place % 41 == 0:  # most of it is zeros, which nothing reads
            path.write_bytes(data[:place] + bytes([data[place] ^ (1 << place % 7)]) + data[place + 1 :])
            try:
                opened = Index.open(index.path)
            except JobonnxError:
                refused += 1
                continue
            check(opened, some(3), {title: (title,) for title in some(3)})
            assert opened.fingerprint == FINGERPRINT
    assert refused > 500


def test_rows_past_the_committed_ones_are_ignored_and_removed(index: Index) -> None:
    add(index, some(30))
    (path,) = index.path.glob("*.vectors")
    data = path.read_bytes()
    path.write_bytes(data + b"what a killed writer left")
    check(Index.open(index.path), some(30))
    add(index, some(1, 30))
    assert path.read_bytes() == data + vectors(some(1, 30)).tobytes()
    check(Index.open(index.path), some(31))


def test_damaged_vectors_get_no_new_hash(index: Index) -> None:
    add(index, some(30))
    (path,) = index.path.glob("*.vectors")
    data = path.read_bytes()
    path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    damaged = Index.open(index.path, verify=False)
    with pytest.raises(JobonnxError, match="altered"):
        damaged.remove(some(20))  # would write the others anew
    add(damaged, some(40, 100))
    with pytest.raises(JobonnxError, match="altered"):
        Index.open(index.path)
    with path.open("r+b") as file:
        file.write(data)
    check(Index.open(index.path), [*some(30), *some(40, 100)])


def change(index: Index, sql: str, *values: object) -> None:
    """Change an index's database behind its back."""
    with sqlite3.connect(index.path / "index.sqlite") as db:
        db.execute(sql, values)
    db.close()


def test_refuses_a_later_format(index: Index) -> None:
    change(index, "PRAGMA user_version = 9")
    with pytest.raises(JobonnxError, match=r"has the format 9 and this jobonnx reads 3"):
        Index.open(index.path)


def forge(index: Index, body: str) -> None:
    """Give an index another header, with a checksum that matches."""
    change(index, "UPDATE header SET body = ?, sha256 = ?", body, hashlib.sha256(body.encode()).hexdigest())


_NAMES = ["", "x", "../../outside.vectors", "9f86d081884c7d65.vectors"]
_FIELDS = [field.name for field in dataclasses.fields(Header)]
_ODD: list[Any] = [None, True, -1, 0, 1.5, 10**30, *_NAMES, [], {}, [1], {"a": 1}]


@pytest.mark.medium
@pytest.mark.parametrize("field", _FIELDS)
def test_a_forged_field_of_the_header_is_refused_in_one_sentence(index: Index, field: str) -> None:
    add(index, some(3))
    header = dataclasses.asdict(index._state.header)
    (index.path.parent / "outside.vectors").write_bytes(bytes(4096))
    for value in _ODD:
        forge(index, json.dumps(header | {field: value}))
        if (field, value) in (("version", ""), ("version", "x"), ("approximate", None)) or (
            field in ("fingerprint", "version", "prompt") and isinstance(value, str)
        ):
            Index.open(index.path)  # nothing is wrong with it
            continue
        with pytest.raises(JobonnxError, match="index") as raised:
            Index.open(index.path)
        assert "\n" not in str(raised.value)
    del header[field]
    forge(index, json.dumps(header))
    with pytest.raises(JobonnxError, match=field):
        Index.open(index.path)


@pytest.mark.medium
@pytest.mark.parametrize("field", ["name", "size", "sha256", "probes", "recall"])
def test_a_forged_approximate_search_is_refused_in_one_sentence(index: Index, field: str) -> None:
    add(index, some(3))
    header = dataclasses.asdict(index._state.header)
    (index.path / f"{'0' * 16}.approximate").write_bytes(b"content")
    sha256 = hashlib.sha256(b"content").hexdigest()
    good = {"name": f"{'0' * 16}.approximate", "size": 7, "sha256": sha256, "probes": 1, "recall": 1.0}
    forge(index, json.dumps(header | {"approximate": good}))
    assert Index.open(index.path).has_approximate
    for value in _ODD:
        if (field, value) in (("recall", 0), ("recall", -1), ("recall", 1.5), ("recall", 10**30)):
            continue
        forge(index, json.dumps(header | {"approximate": good | {field: value}}))
        with pytest.raises(JobonnxError, match="index") as raised:
            Index.open(index.path)
        assert "\n" not in str(raised.value)


_NUMBER = '{"rows": ' + "9" * 5000 + "}"


@pytest.mark.parametrize("body", ["[" * 100_000, "null", "5", "[1, 2]", "{", "", '{"rows": NaN}', _NUMBER, '"\\ud800"'])
def test_a_header_that_is_no_header_is_refused(index: Index, body: str) -> None:
    forge(index, body)
    with pytest.raises(JobonnxError, match=r"index\.sqlite") as raised:
        Index.open(index.path)
    assert "\n" not in str(raised.value)
    with pytest.raises(JobonnxError, match=r"index\.sqlite"):
        add(index, some(1))


@pytest.mark.medium
@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM header",
        "INSERT INTO header SELECT * FROM header",
        "UPDATE header SET body = 5",
        "UPDATE header SET sha256 = NULL",
        "DELETE FROM chunk WHERE first = 0",
        "DELETE FROM chunk WHERE first = 1024",
        "UPDATE chunk SET first = -1 WHERE first = 0",
        "UPDATE chunk SET first = 9223372036854775807 WHERE first = 1024",
        "UPDATE chunk SET vectors_sha256 = NULL WHERE first = 0",
        "UPDATE chunk SET vectors_sha256 = 5 WHERE first = 0",
        "UPDATE chunk SET sha256 = 5 WHERE first = 0",
        "UPDATE chunk SET content = NULL WHERE first = 0",
        "UPDATE chunk SET content = 5 WHERE first = 0",
        "UPDATE chunk SET content = CAST(replace(content, 'title 7', 'title 8') AS BLOB) WHERE first = 0",
        "INSERT INTO chunk VALUES (2000, '', '', '')",
        "INSERT INTO chunk SELECT 2000, vectors_sha256, content, sha256 FROM chunk WHERE first = 0",
        "CREATE TABLE other (x)",
        "CREATE VIEW other AS SELECT * FROM chunk",
        "CREATE TRIGGER other AFTER DELETE ON header BEGIN DELETE FROM chunk; END",
        "ALTER TABLE chunk ADD COLUMN more TEXT",
        "DROP TABLE chunk",
        "PRAGMA application_id = 5",
    ],
)
def test_a_database_that_was_changed_is_refused(index: Index, sql: str) -> None:
    add(index, some(2000), some(2000))
    change(index, sql)
    with pytest.raises(JobonnxError, match=r"index\.sqlite") as raised:
        Index.open(index.path)
    assert "\n" not in str(raised.value)


_CONTENTS = [
    "[" * 100_000,
    "",
    "null",
    "{}",
    '{"titles": ["a", "b"], "ids": []}',  # and the third?
    '{"titles": ["a", "b", "c", "d"], "ids": []}',
    '{"titles": [], "ids": []}',
    '{"titles": ["a", "b", 5], "ids": []}',
    '{"titles": ["a", "b", "c"], "ids": [["7"]]}',
    '{"titles": ["a", "b", "c"], "ids": [["7"], [8], []]}',
    '{"titles": ["a", "b", null], "ids": [["7"], [], ["9"]]}',
    '{"titles": ["a", "b", "c"], "ids": {}}',
    '{"titles": ["a", "b", "c"], "ids": [], "more": 1}',
    '{"titles": "abc", "ids": []}',
    '{"titles": ["a", "b", ' + "9" * 5000 + '], "ids": []}',
]


@pytest.mark.medium
@pytest.mark.parametrize("content", _CONTENTS)
def test_forged_titles_are_refused_in_one_sentence(index: Index, content: str) -> None:
    add(index, some(3))
    (chunk,) = index._state.chunks
    sha256 = hashlib.sha256(f"0 {chunk.vectors_sha256} {content}".encode()).hexdigest()
    change(index, "UPDATE chunk SET content = ?, sha256 = ?", content.encode(), sha256)
    with pytest.raises(JobonnxError, match=r"index\.sqlite") as raised:
        Index.open(index.path)
    assert "\n" not in str(raised.value)


def test_titles_are_what_the_checksum_says(index: Index) -> None:
    add(index, some(3))
    content = '{"titles": ["a", null, "c"], "ids": [["7"], [], []]}'
    (chunk,) = index._state.chunks
    sha256 = hashlib.sha256(f"0 {chunk.vectors_sha256} {content}".encode()).hexdigest()
    change(index, "UPDATE chunk SET content = ?, sha256 = ?", content.encode(), sha256)
    opened = Index.open(index.path)  # the forgeries above are refused for what they hold
    assert (list(opened), opened.ids) == (["a", "c"], {"a": ("7",)})


# Other writers and readers


def test_a_second_writer_is_refused(index: Index) -> None:
    add(index, some(3))
    other = sqlite3.connect(index.path / "index.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    calls: list[Callable[[], object]] = [lambda: add(index, ["x"]), lambda: index.remove(some(1)), index.build_approximate]
    for call in calls:
        with pytest.raises(JobonnxError, match="is being written by someone else"):
            call()
    check(Index.open(index.path), some(3))
    other.close()
    assert add(index, ["x"]) == 1


def test_a_commit_waits_for_a_reader(index: Index) -> None:
    add(index, some(3))
    other = sqlite3.connect(index.path / "index.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN")
    other.execute("SELECT * FROM header").fetchall()
    timer = threading.Timer(0.3, other.close)
    timer.start()
    assert add(index, ["x"]) == 1
    timer.join()
    check(Index.open(index.path), [*some(3), "x"])


def test_a_writer_takes_up_what_another_wrote(index: Index) -> None:
    other = Index.open(index.path)
    add(index, some(3))
    check(other, [])
    add(other, some(3, 2))
    check(other, some(5))
    index.remove(some(2))
    check(index, some(3, 2))


def test_a_reader_keeps_the_state_it_opened(index: Index) -> None:
    add(index, some(10))
    reader = Index.open(index.path)
    index.remove(some(9))
    add(index, some(50, 100))
    check(reader, some(10))


@pytest.mark.medium
@pytest.mark.parametrize("write", ["add", "remove, few", "remove, rewriting"])
@pytest.mark.parametrize("opened", ["before", "after"])
def test_a_writer_keeps_the_state_it_wrote(index: Index, write: str, opened: str) -> None:
    other = Index.open(index.path)
    titles = some(10)
    add(index, titles)
    if write != "add":
        gone = 2 if write == "remove, few" else 8
        index.remove(titles[:gone])
        titles = titles[gone:]
    if opened == "after":
        other = Index.open(index.path)
    add(other, some(50, 100))
    check(index, titles)
    other.remove([*some(55, 95), *titles])  # rewrites the file that `index` has mapped
    assert not (index.path / str(index._state.header.vectors)).exists()
    check(index, titles)
    add(index, some(1))
    check(index, list(Index.open(index.path)))


def test_a_searching_thread_keeps_its_state_while_another_writes(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    searched = State.__dict__["searched"]  # a cached_property

    def after_a_write(state: State) -> object:
        writer = threading.Thread(target=lambda: index.remove(some(10)))
        writer.start()
        writer.join()
        return searched.func(state)

    add(index, some(10))
    monkeypatch.setattr(State, "searched", property(after_a_write))  # between a search's taking the state and its reading it
    (found,) = index.search(vectors(["title 3"]), 1, fingerprint=FINGERPRINT)
    assert found[0].title == "title 3"
    assert list(index) == []


@pytest.mark.medium
def test_opening_while_another_writes_always_succeeds(index: Index) -> None:
    def write() -> None:
        try:
            for number in range(60):
                add(index, some(1, number))
                if number % 20 == 19:
                    index.remove(some(number, 1))  # the files are replaced
                    add(index, some(number, 1))
        finally:
            done.set()

    done = threading.Event()
    writer = threading.Thread(target=write)
    writer.start()
    opened = 0
    while not done.is_set():
        titles = list(Index.open(index.path))
        assert set(titles) <= set(some(60))
        opened += 1
    writer.join()
    assert opened > 3
    check(Index.open(index.path), [*some(1), *some(59, 1)])


def test_a_writer_notices_that_the_index_was_replaced(index: Index) -> None:
    shutil.rmtree(index.path)
    with pytest.raises(JobonnxError, match="cannot write to"):
        add(index, ["x"])
    Index.create(index.path, "sha256:two", DIMENSION)
    with pytest.raises(JobonnxError, match="has been replaced"):
        add(index, ["x"])


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are POSIX's")
def test_a_folder_without_the_right_to_write_can_be_read(index: Index) -> None:
    add(index, some(10))
    code = """
import os, sys
from helpers.indexes import add, check, some
from jobonnx.errors import JobonnxError
from jobonnx.search.index import Index
check(Index.open(sys.argv[1]), some(10))  # imports what the user below may not read
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
check(Index.open(sys.argv[1]), some(10))
try:
    add(Index.open(sys.argv[1]), ["x"])
except JobonnxError as error:
    print(error)
"""
    for path in (index.path, *index.path.iterdir()):
        path.chmod(0o555 if path.is_dir() else 0o444)
    for parent in index.path.parents[:3]:
        parent.chmod(0o755)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run([sys.executable, "-c", code, index.path], capture_output=True, text=True, env=environment)
    assert ran.stdout.startswith("cannot write to ")
    assert "; the index is as it was" in ran.stdout
    assert ran.stderr == ""
    index.path.chmod(0o755)


def test_importing_loads_nothing_heavy() -> None:
    code = "import sys, jobonnx.search.index; print({'faiss', 'onnxruntime', 'torch', 'scipy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, 0.0])
def test_vectors_that_no_encoder_makes_are_refused_though_their_hash_matches(index: Index, value: float) -> None:
    add(index, some(30))
    made = vectors(some(30))
    made[7, 3:] = value
    (index.path / str(index._state.header.vectors)).write_bytes(made.tobytes())
    with sqlite3.connect(index.path / "index.sqlite") as db:
        (content,) = db.execute("SELECT content FROM chunk").fetchone()
    db.close()
    sha256 = hashlib.sha256(made.tobytes()).hexdigest()
    seal = hashlib.sha256(b"0 %b %b" % (sha256.encode(), content)).hexdigest()
    change(index, "UPDATE chunk SET vectors_sha256 = ?, sha256 = ?", sha256, seal)
    with pytest.raises(JobonnxError, match=r"row\[7\] "):
        Index.open(index.path)
    with pytest.raises(JobonnxError, match=r"row\[7\] "):
        Index.open(index.path, verify=False).build_approximate()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_search_over_altered_vectors_that_were_not_verified_is_one_sentence(index: Index, value: float) -> None:
    add(index, some(30))
    made = vectors(some(30))
    made[7] = np.where(made[7] > 0, value, 0)
    (index.path / str(index._state.header.vectors)).write_bytes(made.tobytes())
    with pytest.raises(JobonnxError, match=r"was altered \(a vector is not finite or not of unit length\)"):
        Index.open(index.path, verify=False).search(np.abs(vectors(["x"])), 3, fingerprint=FINGERPRINT)


def test_a_damaged_schema_that_is_not_utf8_is_one_sentence(index: Index) -> None:
    add(index, some(3))
    path = index.path / "index.sqlite"
    data = path.read_bytes()
    assert data.count(b"CREATE TABLE header") == 1
    for damaged in (b"CREATE TABL\xd4 header", b"CREATE TABLE hea\xd4er", b"\xd4REATE TABLE header"):
        path.write_bytes(data.replace(b"CREATE TABLE header", damaged))
        with pytest.raises(JobonnxError, match=r"index\.sqlite is damaged") as raised:
            Index.open(index.path)
        assert "\n" not in str(raised.value)
        with pytest.raises(JobonnxError):
            index.remove(some(1))


# The prompt


def test_an_index_refuses_vectors_of_another_prompt(tmp_path: Path) -> None:
    titles = some(3)
    with Index.create(tmp_path / "prompted", FINGERPRINT, DIMENSION, "passage: ") as index:
        with pytest.raises(JobonnxError, match=r"behind the prompt 'passage: ' and these have ''; encode them with that prompt"):
            index.add(titles, vectors(titles), fingerprint=FINGERPRINT)
        assert len(index) == 0
        index.add(titles, vectors(titles), fingerprint=FINGERPRINT, prompt="passage: ")
    with Index.open(tmp_path / "prompted") as index:
        assert (index.prompt, len(index)) == ("passage: ", 3)


@pytest.mark.parametrize(("prompt", "error"), [(None, TypeError), (7, TypeError), ("\ud800", ValueError)])
def test_a_prompt_that_cannot_be_kept_is_refused(prompt: Any, error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error, match="the prompt"):
        Index.create(tmp_path / "new", FINGERPRINT, DIMENSION, prompt)
    assert not (tmp_path / "new").exists()
