"""Writers of an index that are killed, or whose disk fills up, at random: the old state or the new one, and nothing left over."""

from __future__ import annotations

import importlib.util
import random
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from campaigns import campaign
from helpers.index_writer import DONE, Ended, Write, Writer, Writers
from helpers.indexes import DIMENSION, FINGERPRINT, add, check, vectors
from jobonnx.errors import JobonnxError
from jobonnx.search.index import Index

pytestmark = [
    pytest.mark.medium,
    pytest.mark.skipif(
        sys.platform == "win32" or importlib.util.find_spec("faiss") is None, reason="needs fork, SIGKILL and faiss"
    ),
]

TITLES = [*(f"title {number}" for number in range(300)), "", " ", "a\nb", "Koch", "koch", "KOCH", "\u00e9", "e\u0301", "软件"]
TITLES += ["\ud800x", "x" * 5000]
IDS = [*(f"id {number}" for number in range(40)), "é", "\udfff"]
_CLEAN = "clean 1"  # a title of no writer


@dataclass(frozen=True)
class Content:
    """What an index holds: the ids of each title, in the order in which they were added, and whether it has an approximate search.

    None in place of titles: there is no index yet.
    """

    titles: dict[str, tuple[str, ...]] | None = None
    approximate: bool = field(default=False)

    def after(self, write: Write) -> Content:
        """Say what a write makes of it, by definition and without the index's code; where a write is refused, nothing."""
        if write.kind == "create":
            return Content({}) if self.titles is None else self
        if self.titles is None:
            return self
        if write.kind == "build":
            return Content(self.titles, bool(self.titles) or self.approximate)
        made = dict(self.titles)
        if write.kind == "add":
            for place, title in enumerate(write.titles):
                more = () if write.ids is None else (write.ids[place],)
                made[title] = tuple(dict.fromkeys((*made.get(title, ()), *more)))
        elif write.kind == "remove":
            made = {title: ids for title, ids in made.items() if title not in write.titles}
        else:
            left = {title: tuple(name for name in ids if name not in write.titles) for title, ids in made.items()}
            made = {title: left[title] for title, ids in made.items() if left[title] or not ids}
        return Content(made, self.approximate and made.keys() == self.titles.keys())

    def of(self, folder: Path) -> bool:
        """Check that the index is this one, down to its answers."""
        try:
            index = Index.open(folder)
        except JobonnxError:
            return self.titles is None
        with index:
            if self.titles is None:
                return False
            ids = {title: names for title, names in self.titles.items() if names}
            if (list(index), index.ids, index.has_approximate) != (list(self.titles), ids, self.approximate):
                return False
            check(index, list(self.titles), ids)
            if self.approximate:
                query = vectors([next(iter(self.titles))])
                (found,) = index.search(query, 3, fingerprint=FINGERPRINT, approximate=True)
                assert found[0].score == pytest.approx(1, abs=1e-6)
        return True


def any_write(chances: random.Random, content: Content) -> Write:
    if content.titles is None:
        return Write("create")
    count = min(len(TITLES), chances.choice((1, 1, 3, 30, 300)))
    present = list(content.titles)
    match chances.randrange(8):
        case 0 | 1 | 2:
            titles = chances.choices(TITLES, k=count)  # with repeats
            return Write("add", tuple(titles), tuple(chances.choices(IDS, k=count)) if chances.random() < 0.5 else None)
        case 3:  # more than a chunk
            first = chances.randrange(10**6)
            return Write("add", tuple(f"title {number}" for number in range(first, first + chances.randrange(900, 2500))))
        case 4 | 5:
            gone = chances.sample(present, min(len(present), chances.choice((1, 10, len(present) // 2, len(present)))))
            return Write("remove", (*gone, *chances.choices(TITLES, k=1)))
        case 6:
            return Write("remove ids", tuple(chances.sample(IDS, chances.choice((1, 5, len(IDS))))))
    return Write("build")


def any_writer(chances: random.Random, folder: Path, content: Content) -> Writer:
    writes = []
    planned = content
    for _ in range(chances.choice((1, 1, 2, 3, 4))):
        writes.append(any_write(chances, planned))
        planned = planned.after(writes[-1])
    fault = chances.choices(("kill", "clock", "full", "hiccup", "none"), (6, 3, 3, 3, 1))[0]
    step = int(2 ** chances.uniform(0, 7)) if fault != "clock" else int(10 ** chances.uniform(2, 5))
    return Writer(str(folder), tuple(writes), fault, step)


def after_writer(content: Content, writer: Writer, ended: Ended) -> list[Content]:
    """List what the index may hold now: two states where the writer was killed in a write, one otherwise."""
    number, status, said = ended.signal, ended.status, ended.said
    if writer.fault in ("kill", "clock"):
        assert number in (0, signal.SIGKILL, signal.SIGALRM), f"ended by signal {number}"
    else:
        assert number == 0, f"ended by signal {number}"
    assert number or status == 0, f"a traceback in {writer}"
    assert number or len(said) == len(writer.writes)
    for write, report in zip(writer.writes, said, strict=False):
        assert "\n" not in report
        refused = content.titles is None and write.kind != "create"
        if report == DONE or "has been changed" in report:
            assert not refused, report
            content = content.after(write)
        elif write.kind == "build" and not content.titles:
            continue
        else:
            assert writer.fault in ("full", "hiccup"), f"{write.kind} was refused: {report}"
            # What an earlier writer left could not be undone; "disk I/O error" where it was the deletion of the journal.
            unread = report.endswith("free some space") or "can be read (disk I/O error)" in report
            assert "the index is as it was" in report or write.kind == "create" or refused or unread, report
    return [content, content.after(writer.writes[len(said)])] if number and len(said) < len(writer.writes) else [content]


def nothing_left_over(folder: Path, content: Content) -> None:
    """One more write, undisturbed: it works, and only what the state names is there."""
    index = Index.create(folder, FINGERPRINT, DIMENSION) if content.titles is None else Index.open(folder)
    assert add(index, [_CLEAN]) == 1
    content = Content((content.titles or {}) | {_CLEAN: ()})
    assert content.of(folder)
    header = index._state.header
    assert {entry.name for entry in folder.iterdir()} == {"index.sqlite", header.vectors}
    assert (folder / str(header.vectors)).stat().st_size == header.rows * DIMENSION * 4


def trial(writers: Writers, chances: random.Random) -> None:
    """Several writers, one after the other, on one index."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "index"
        content = Content()
        if chances.random() < 0.8:  # or `create` is attacked too
            add(Index.create(folder, FINGERPRINT, DIMENSION), TITLES[:40])
            content = Content(dict.fromkeys(TITLES[:40], ()))
        for _ in range(chances.choice((1, 2, 4))):
            writer = any_writer(chances, folder, content)
            possible = after_writer(content, writer, writers.run(writer))
            found = [state for state in possible if state.of(folder)]
            assert found, f"neither the old state nor the new one: {writer.fault} at {writer.step} of {writer.writes}"[:1500]
            content = found[0]
        nothing_left_over(folder, content)


@pytest.fixture(scope="module")
def writers() -> Iterator[Writers]:
    with Writers() as made:
        yield made


def test_some_disturbed_writers(writers: Writers) -> None:
    campaign.run("disturbed writers of an index", lambda chances: trial(writers, chances), trials=6)


@pytest.mark.campaign
def test_disturbed_writers(writers: Writers) -> None:
    campaign.run("disturbed writers of an index", lambda chances: trial(writers, chances))
