"""Indexes that were damaged or forged: refused in one sentence, or the right answers."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from campaigns import campaign
from campaigns.mutations import ODD, spoil_bytes, spoil_json, stand_in
from helpers.indexes import DIMENSION, FINGERPRINT, add, check, some, vectors
from jobonnx.arrays import Floats
from jobonnx.errors import JobonnxError
from jobonnx.search.corpus import cached_index
from jobonnx.search.index import Index

pytestmark = [pytest.mark.medium, pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="needs faiss")]

DATABASE = "index.sqlite"


@dataclass(frozen=True)
class Original:
    """An intact index, and what it holds."""

    folder: Path
    titles: list[str]
    ids: dict[str, tuple[str, ...]]
    approximate: bool

    def answered_by(self, index: Index) -> bool:
        held = (list(index), index.ids, index.fingerprint, index.dimension, index.has_approximate)
        if held != (self.titles, self.ids, FINGERPRINT, DIMENSION, self.approximate):
            return False
        check(index, self.titles, self.ids)
        return True


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Original]:
    """Make small, large, empty and gappy indexes, with ids and without, some with an approximate search."""
    folder = tmp_path_factory.mktemp("originals")
    odd = ["", "Koch", "koch", "a\nb", "\ud800x", "软件"]
    made = []
    for number, (titles, named, removed, approximate) in enumerate(
        [
            ([], False, 0, False),
            (some(3) + odd, True, 0, False),
            (some(60) + odd, False, 20, True),
            (some(2500) + odd, True, 700, True),
            (some(1500), False, 1400, False),
        ]
    ):
        index = Index.create(folder / str(number), FINGERPRINT, DIMENSION)
        if titles:
            add(index, titles, [f"id {title[:8]!r}" for title in titles] if named else None)
            index.remove(titles[:removed])
        if approximate:
            index.build_approximate()
        made.append(Original(index.path, list(index), index.ids, approximate))
    return made


def bytes_of_a_file(chances: random.Random, folder: Path) -> None:
    path = chances.choice(sorted(folder.iterdir()))
    path.write_bytes(spoil_bytes(chances, path.read_bytes()))


def bits_of_a_file(chances: random.Random, folder: Path) -> None:
    """One to eight bits, each in a byte that is not zero: most of a database is."""
    path = chances.choice(sorted(folder.iterdir()))
    content = np.frombuffer(path.read_bytes(), np.uint8).copy()
    places = np.flatnonzero(content)
    for _ in range(chances.choice((1, 1, 2, 8)) if len(places) else 0):
        content[places[chances.randrange(len(places))]] ^= np.uint8(1 << chances.randrange(8))
    path.write_bytes(content.tobytes())


def what_stands_there(chances: random.Random, folder: Path) -> None:
    stand_in(chances, chances.choice(sorted(folder.iterdir())))


def two_files(chances: random.Random, folder: Path) -> None:
    """One file's content in the place of another's."""
    one, other = chances.choices(sorted(folder.iterdir()), k=2)
    one.write_bytes(other.read_bytes())


def another_index(chances: random.Random, folder: Path) -> None:
    """The same vectors in another order, as of an index that was made in the same way."""
    for path in folder.glob("*.vectors"):
        content = np.frombuffer(path.read_bytes(), np.float32).reshape(-1, DIMENSION)
        path.write_bytes(content[np.array(chances.sample(range(len(content)), len(content)))].tobytes())


def a_journal(chances: random.Random, folder: Path) -> None:
    """A journal that a killed writer left, spoilt or not, or one that never was a journal."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "copy"
        shutil.copytree(folder, copy)
        with closing(sqlite3.connect(copy / DATABASE, isolation_level=None)) as db:
            db.execute("PRAGMA cache_spill = 1")
            db.execute("BEGIN IMMEDIATE")
            db.execute("UPDATE chunk SET content = zeroblob(100000)")
            db.execute("UPDATE header SET body = zeroblob(3000)")
            with suppress(OSError):
                journal = (copy / f"{DATABASE}-journal").read_bytes()
            written = (copy / DATABASE).read_bytes()
    if chances.random() < 0.5:
        journal = spoil_bytes(chances, journal)
    (folder / f"{DATABASE}-journal").write_bytes(journal)
    if chances.random() < 0.3:
        (folder / DATABASE).write_bytes(written)


DAMAGES: list[Callable[[random.Random, Path], None]] = [
    *(bytes_of_a_file, bytes_of_a_file, bits_of_a_file, bits_of_a_file, bits_of_a_file),
    *(what_stands_there, two_files, another_index, a_journal),
]

_TEXTS = ("", "x", "0", "-1", "é", "\0", "../x", "0" * 16, "0" * 64, "9" * 400)
_NUMBERS = (-(2**63), -1, 0, 1, 1024, 2**31, 2**63 - 1, 1.5, -0.0, 1e308)


def any_sql(chances: random.Random) -> tuple[str, tuple[Any, ...]]:
    """Make one statement that changes the database behind the index's back."""
    table, column = chances.choice(
        [("header", "body"), ("header", "sha256"), *(("chunk", name) for name in ("first", "vectors_sha256", "content", "sha256"))]
    )
    value = chances.choice([None, *_TEXTS, *_NUMBERS, b"", b"\xff\xfe", chances.randbytes(40)])
    statements: list[tuple[str, tuple[Any, ...]]] = [
        (f"UPDATE {table} SET {column} = ?", (value,)),
        (f"UPDATE {table} SET {column} = ? WHERE rowid = (SELECT max(rowid) FROM {table})", (value,)),
        (f"UPDATE {table} SET {column} = CAST({column} AS BLOB)", ()),
        (f"UPDATE {table} SET {column} = {column} || ' '", ()),
        (f"UPDATE {table} SET {column} = replace({column}, '1', '2')", ()),
        (f"DELETE FROM {table} WHERE rowid = (SELECT max(rowid) FROM {table})", ()),
        (f"DELETE FROM {table}", ()),
        (f"ALTER TABLE {table} RENAME TO other", ()),
        (f"CREATE TRIGGER t AFTER DELETE ON {table} BEGIN DELETE FROM chunk; END", ()),
        (f"CREATE INDEX i ON {table} ({column})", ()),
        (f"DROP TABLE {table}", ()),
        ("INSERT INTO chunk SELECT first + 1024, vectors_sha256, content, sha256 FROM chunk", ()),
        ("UPDATE chunk SET first = first + 1", ()),
        (f"PRAGMA user_version = {chances.choice((-1, 0, 1, 3, 2**31 - 1))}", ()),
        (f"PRAGMA application_id = {chances.choice((-1, 0, 5))}", ()),
        ("PRAGMA journal_mode = WAL", ()),
        ("PRAGMA auto_vacuum = 1", ()),
        ("VACUUM", ()),
    ]
    return chances.choice(statements)


def forged_sql(chances: random.Random, folder: Path) -> None:
    with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as db:
        for _ in range(chances.choice((1, 1, 2, 3))):
            with suppress(sqlite3.Error):
                db.execute(*any_sql(chances))


def forged_header(chances: random.Random, folder: Path) -> None:
    """Values of the header, sealed again."""
    with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as db:
        (body,) = db.execute("SELECT body FROM header").fetchone()
        forged = json.dumps(spoil_json(chances, json.loads(body)))
        db.execute("UPDATE header SET body = ?, sha256 = ?", (forged, hashlib.sha256(forged.encode()).hexdigest()))


def forged_titles(chances: random.Random, folder: Path) -> None:
    """Titles, ids and places of a chunk, sealed again."""
    with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as db:
        chunks = db.execute("SELECT first, vectors_sha256, content FROM chunk").fetchall()
        if not chunks:
            return
        first, sha256, content = chances.choice(chunks)
        forged = json.loads(content.decode("utf-8", "surrogatepass"))
        if chances.random() < 0.3:
            forged = spoil_json(chances, forged)
        for _ in range(chances.choice((1, 3))):
            if isinstance(forged, dict) and isinstance(titles := forged.get("titles"), list) and titles:
                titles[chances.randrange(len(titles))] = chances.choice([None, titles[0], "new", chances.choice(ODD)])
        text = json.dumps(forged, ensure_ascii=chances.random() < 0.5).encode("utf-8", "surrogatepass")
        moved = chances.choice((first, first, first, first + 1, -first, 2**62))
        seal = hashlib.sha256(b"%d %b %b" % (moved, sha256.encode(), text)).hexdigest()
        with suppress(sqlite3.IntegrityError):
            db.execute("UPDATE chunk SET first = ?, content = ?, sha256 = ? WHERE first = ?", (moved, text, seal, first))


def forged_vectors(chances: random.Random, folder: Path) -> None:
    """Vectors that no encoder makes, with seals that match."""
    for path in folder.glob("*.vectors"):
        content = np.frombuffer(path.read_bytes(), np.float32).copy().reshape(-1, DIMENSION)
        row = chances.randrange(len(content))
        content[row] = chances.choice((np.nan, np.inf, 0.0, 1e30, 1e-40))
        path.write_bytes(content.tobytes())
        with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as db:
            for first, titles in db.execute("SELECT first, content FROM chunk").fetchall():
                count = len(json.loads(titles.decode("utf-8", "surrogatepass"))["titles"])
                sha256 = hashlib.sha256(content[first : first + count].tobytes()).hexdigest()
                seal = hashlib.sha256(b"%d %b %b" % (first, sha256.encode(), titles)).hexdigest()
                db.execute("UPDATE chunk SET vectors_sha256 = ?, sha256 = ? WHERE first = ?", (sha256, seal, first))


def forged_approximate(chances: random.Random, folder: Path) -> None:
    """The content of the approximate search, with a seal that matches."""
    for path in folder.glob("*.approximate"):
        content = spoil_bytes(chances, path.read_bytes()) or b"x"
        path.write_bytes(content)
        with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as db:
            (body,) = db.execute("SELECT body FROM header").fetchone()
            header = json.loads(body)
            header["approximate"] |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            forged = json.dumps(header)
            db.execute("UPDATE header SET body = ?, sha256 = ?", (forged, hashlib.sha256(forged.encode()).hexdigest()))


FORGERIES: list[Callable[[random.Random, Path], None]] = [
    *(forged_header, forged_header, forged_titles, forged_titles, forged_vectors, forged_approximate)
]


def one_sentence(error: Exception) -> None:
    assert isinstance(error, JobonnxError), f"{type(error).__name__}: {error}"
    assert "\n" not in str(error)
    assert 10 < len(str(error)) < 1000, f"{len(str(error))} characters: {str(error)[:400]}"


def used(chances: random.Random, folder: Path, verify: bool) -> None:
    """Search and write, whatever is there: one sentence at worst."""
    index = Index.open(folder, verify=verify)
    alike = np.full((2, index.dimension), index.dimension**-0.5, np.float32)
    queries = vectors(["query", "title 3"]) if index.dimension == DIMENSION else alike
    index.search(queries, 5, fingerprint=index.fingerprint)
    if index.has_approximate:
        index.search(queries, 5, fingerprint=index.fingerprint, approximate=True)
    assert len(list(index)) == len(index)
    match chances.randrange(4):
        case 0:
            index.add(["a new one", "another"], queries, fingerprint=index.fingerprint)
        case 1:
            index.remove(list(index)[: len(index) * 2 // 3])
        case 2:
            index.remove(ids=["id 'title 1'", *(name for names in list(index.ids.values())[:9] for name in names)])
        case 3 if len(index) < 100:
            index.build_approximate()


def damaged(originals: list[Original], chances: random.Random) -> None:
    """Damage that no one sealed: the intact index's answers, or one sentence, also after more writes."""
    with tempfile.TemporaryDirectory() as place:
        original = chances.choice(originals)
        folder = Path(place) / "index"
        shutil.copytree(original.folder, folder)
        damage = chances.choice([*DAMAGES, forged_sql, forged_sql])
        damage(chances, folder)
        try:
            with Index.open(folder) as index:
                assert original.answered_by(index), f"other answers in silence after: {damage.__name__}"
        except JobonnxError as error:
            one_sentence(error)
        if chances.random() < 0.5:  # a write seals nothing that was damaged
            before = set(original.titles)
            try:
                used(chances, folder, verify=False)
            except Exception as error:
                one_sentence(error)
            try:
                with Index.open(folder) as index:
                    titles = list(index)
                    assert set(titles) <= before | {"a new one", "another"}
                    held = [title for title in titles if title in before]
                    check_vectors(index, held)
            except JobonnxError as error:
                one_sentence(error)


def damaged_corpus(chances: random.Random) -> None:
    """Damage to a corpus in the cache, sealed or not: it is made again."""
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", place)
        titles = some(chances.choice((1, 50)))
        made = cached_index(titles, Lookup())
        assert made is not None
        if chances.random() < 0.1:
            stand_in(chances, made.path)
        else:
            chances.choice([*DAMAGES, forged_sql, forged_header])(chances, made.path)
        again = cached_index(titles, Lookup())
        assert again is not None
        check(again, titles)


class Lookup:
    """An encoder whose vectors are made from the titles' letters."""

    fingerprint = FINGERPRINT
    dimension = DIMENSION

    def encode(self, titles: list[str], /, *, prompt: str, normalize_embeddings: bool) -> Floats:
        assert (prompt, normalize_embeddings) == ("", True)
        return vectors(titles)


def check_vectors(index: Index, titles: list[str]) -> None:
    """Check that each title is still found by its own vector."""
    sample = titles[:: max(1, len(titles) // 50)]
    for title, found in zip(sample, index.search(vectors(sample), 1, fingerprint=FINGERPRINT), strict=True):
        assert found[0].score == pytest.approx(1, abs=1e-6), f"{title!r} has another vector"


def forged(originals: list[Original], chances: random.Random) -> None:
    """Damage with seals that match: what it says, or one sentence."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "index"
        shutil.copytree(chances.choice(originals).folder, folder)
        (Path(place) / "x").write_bytes(os.urandom(100))
        outside = sorted(path.name for path in Path(place).iterdir())
        chances.choice(FORGERIES)(chances, folder)
        try:
            used(chances, folder, verify=chances.random() < 0.7)
        except Exception as error:
            one_sentence(error)
        assert sorted(path.name for path in Path(place).iterdir()) == outside


def test_some_damaged_indexes(originals: list[Original]) -> None:
    campaign.run("damaged indexes", lambda chances: damaged(originals, chances), trials=40)


def test_some_forged_indexes(originals: list[Original]) -> None:
    campaign.run("forged indexes", lambda chances: forged(originals, chances), trials=40)


def test_some_damaged_corpora() -> None:
    campaign.run("damaged corpora in the cache", damaged_corpus, trials=20)


@pytest.mark.campaign
def test_damaged_corpora() -> None:
    campaign.run("damaged corpora in the cache", damaged_corpus)


@pytest.mark.campaign
def test_damaged_indexes(originals: list[Original]) -> None:
    campaign.run("damaged indexes", lambda chances: damaged(originals, chances))


@pytest.mark.campaign
def test_forged_indexes(originals: list[Original]) -> None:
    campaign.run("forged indexes", lambda chances: forged(originals, chances))
