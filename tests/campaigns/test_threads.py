"""Threads and processes that share an index or an encoder: each gets the right answer, or one sentence."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from campaigns import campaign
from helpers.indexes import DIMENSION, FINGERPRINT, check, some, vectors
from jobonnx import Encoder
from jobonnx.arrays import Floats
from jobonnx.data.titles import read_titles
from jobonnx.errors import JobonnxError
from jobonnx.search.index import Index

pytestmark = pytest.mark.medium

_PATIENCE = 120  # seconds after which a thread or a process hangs

# Adds and removes titles by a plan, and reports each write when it has come back.
_WRITER = """
import json, sys
from helpers.indexes import add
from jobonnx.errors import JobonnxError
from jobonnx.search.index import Index
index = Index.open(sys.argv[1])
for kind, titles in json.loads(sys.argv[2]):
    add(index, titles) if kind == "add" else index.remove(titles)
    print(len(index), flush=True)
"""


def plan(chances: random.Random, start: list[str]) -> tuple[list[tuple[str, list[str]]], list[list[str]]]:
    """Make writes, and the states before the first and after each."""
    states, writes, number = [start], [], 1000
    for _ in range(chances.choice((3, 10, 25))):
        held = states[-1]
        if held and chances.random() < 0.4:
            gone = chances.sample(held, chances.choice((1, len(held) // 3, len(held) * 2 // 3, len(held))))
            writes.append(("remove", gone))
            states.append([title for title in held if title not in set(gone)])
        else:
            new = some(chances.choice((1, 5, 200)), number)
            number += len(new)
            writes.append(("add", new))
            states.append(held + new)
    return writes, states


def watched(chances: random.Random) -> None:
    """Readers open and search while another process writes: each sees one state, and never goes back."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        start = some(chances.choice((0, 10, 100)))
        with Index.create(path, FINGERPRINT, DIMENSION) as index:
            index.add(start, vectors(start), fingerprint=FINGERPRINT)
        writes, states = plan(chances, start)
        faults: list[BaseException] = []
        done = threading.Event()

        def read() -> None:
            try:
                last = 0
                while not done.is_set():
                    with Index.open(path) as index:
                        last = states.index(list(index), last)
                        check(index, states[last])
            except BaseException as error:
                faults.append(error)

        readers = [threading.Thread(target=read) for _ in range(chances.choice((1, 2, 4)))]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", _WRITER, str(path), json.dumps(writes)]
        for reader in readers:
            reader.start()
        try:
            ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=_PATIENCE)
        finally:
            done.set()
            join(readers)
        assert not faults, repr(faults[0])
        assert ran.returncode == 0, ran.stderr
        assert [int(line) for line in ran.stdout.split()] == [len(state) for state in states[1:]]
        with Index.open(path) as index:
            check(index, states[-1])


def shared(chances: random.Random) -> None:
    """Threads search one index while one of them writes: each search answers from one state."""
    with tempfile.TemporaryDirectory() as folder, Index.create(Path(folder) / "index", FINGERPRINT, DIMENSION) as index:
        start = some(50)
        index.add(start, vectors(start), fingerprint=FINGERPRINT)
        writes, states = plan(chances, start)
        allowed = [set(state) for state in states]
        done = threading.Event()

        def search() -> None:
            while not done.is_set():
                (found,) = index.search(vectors(["query 1"]), 5, fingerprint=FINGERPRINT)
                titles = {match.title for match in found}
                assert any(titles <= state and len(found) == min(5, len(state)) for state in allowed)
                for match in found:
                    assert match.score == pytest.approx(float(vectors([match.title])[0] @ vectors(["query 1"])[0]), abs=1e-6)
                time.sleep(0.001)  # or three who search leave the one who writes no turn for half a minute

        def write() -> None:
            try:
                for kind, titles in writes:
                    if kind == "add":
                        index.add(titles, vectors(titles), fingerprint=FINGERPRINT)
                    else:
                        index.remove(titles)
            finally:
                done.set()

        together([write, search, search, search])
        check(index, states[-1])


@pytest.fixture(scope="module")
def expected() -> dict[str, Floats]:
    """Encode some titles, for comparison."""
    titles = read_titles()[:400]
    with Encoder(provider="cpu", threads=1) as encoder:
        return dict(zip(titles, encoder.encode(titles), strict=True))


def closed(expected: dict[str, Floats], chances: random.Random) -> None:
    """Eight threads encode while one closes the encoder: right vectors before, one sentence after."""
    encoder = Encoder(provider="cpu", threads=chances.choice((1, 2)))
    seeds = [chances.random() for _ in range(8)]
    wait = chances.choice((0.0, 0.01, 0.1, 0.3))

    def encode(seed: float) -> Callable[[], None]:
        def work() -> None:
            mine = random.Random(seed)
            for _ in range(200):
                titles = mine.choices(list(expected), k=mine.choice((1, 3, 40)))
                try:
                    made = encoder.encode(titles)
                except JobonnxError as error:
                    assert "closed" in str(error)  # noqa: PT017 - what it says belongs to the promise
                    return
                assert np.abs(made - np.stack([expected[title] for title in titles])).max() < 2e-2
            raise AssertionError("the encoder was never closed")

        return work

    def close() -> None:
        time.sleep(wait)
        encoder.close()
        encoder.close()

    together([close, *(encode(seed) for seed in seeds)])


def together(works: list[Callable[[], None]]) -> None:
    """Run functions in a thread each, and raise the first fault of any."""
    faults: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=guarded, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    join(threads)
    if faults:
        raise faults[0]


def join(threads: list[threading.Thread]) -> None:
    deadline = time.monotonic() + _PATIENCE
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
        assert not thread.is_alive(), "a thread hangs"


def test_some_readers_beside_a_writer() -> None:
    campaign.run("readers beside a writer", watched, trials=1)


def test_some_searches_beside_writes() -> None:
    campaign.run("searches beside writes", shared, trials=1)


def test_some_closed_encoders(expected: dict[str, Floats]) -> None:
    campaign.run("closed encoders", lambda chances: closed(expected, chances), trials=2)


@pytest.mark.campaign
def test_readers_beside_a_writer() -> None:
    campaign.run("readers beside a writer", watched)


@pytest.mark.campaign
def test_searches_beside_writes() -> None:
    campaign.run("searches beside writes", shared)


@pytest.mark.campaign
def test_closed_encoders(expected: dict[str, Floats]) -> None:
    campaign.run("closed encoders", lambda chances: closed(expected, chances))
