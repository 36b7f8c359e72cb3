"""The index on disk: what it finds, what it refuses, and that no kill, full disk or other writer harms it."""

import errno
import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from jobonnx.errors import JobonnxError
from jobonnx.search import index as index_module
from jobonnx.search.index import Index, Match
from jobonnx.search.topk import top_k

DIMENSION = 16
FINGERPRINT = "sha256:one"

needs_faiss = pytest.mark.skipif(
    importlib.util.find_spec("faiss") is None, reason="faiss is not installed (pip install 'jobonnx[approximate]')"
)


def vector(title: str) -> np.ndarray:
    """A vector that belongs to its title, as an encoder's would."""
    made = np.random.default_rng(list(title.encode("utf-8", "surrogatepass"))).standard_normal(DIMENSION)
    return (made / np.linalg.norm(made)).astype(np.float32)


def vectors(titles: list[str]) -> np.ndarray:
    return np.stack([vector(title) for title in titles]) if titles else np.empty((0, DIMENSION), np.float32)


def add(index: Index, titles: list[str]) -> int:
    return index.add(titles, vectors(titles), fingerprint=FINGERPRINT)


def check(index: Index, titles: list[str]) -> None:
    """The index holds these titles in this order, each with its own vector, and ranks them as `top_k` does."""
    assert list(index) == titles
    assert len(index) == len(titles)
    queries = vectors(["query 1", "query 2"])
    scores, indices = top_k(queries, vectors(titles), 5)
    expected = [
        [Match(titles[i], float(s)) for i, s in zip(row_i, row_s, strict=True)]
        for row_i, row_s in zip(indices, scores, strict=True)
    ]
    assert index.search(queries, 5, fingerprint=FINGERPRINT) == expected


def some(count: int, start: int = 0) -> list[str]:
    return [f"title {number}" for number in range(start, start + count)]


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index.create(tmp_path / "titles", FINGERPRINT, DIMENSION)


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


def test_removing_everything_leaves_no_segment(index: Index) -> None:
    add(index, some(10))
    assert index.remove(some(10)) == 10
    check(Index.open(index.path), [])
    assert sorted(path.name for path in index.path.iterdir()) == ["lock", "manifest.json"]


def test_small_additions_are_merged_and_the_order_kept(index: Index) -> None:
    for number in range(70):
        add(index, some(1, number))
        assert len(list(index.path.glob("*.vectors"))) <= 7  # log2(70) rounded up
    check(Index.open(index.path), some(70))


def test_a_segment_more_than_half_removed_is_rewritten(index: Index) -> None:
    add(index, some(100))
    before = {path.name for path in index.path.glob("*.vectors")}
    index.remove(some(50))
    assert {path.name for path in index.path.glob("*.vectors")} == before
    index.remove(some(1, 50))
    (vectors_file,) = index.path.glob("*.vectors")
    assert vectors_file.name not in before
    assert vectors_file.stat().st_size == 49 * DIMENSION * 4
    assert not list(index.path.glob("*.removed"))
    check(Index.open(index.path), some(49, 51))


def test_equal_scores_come_in_the_order_of_adding(index: Index) -> None:
    same = np.repeat(vectors(["x"]), 6, axis=0)
    for start in (0, 2, 4):
        index.add(some(2, start)[::-1], same[:2], fingerprint=FINGERPRINT)
    (found,) = index.search(same[:1], 5, fingerprint=FINGERPRINT)
    assert [match.title for match in found] == ["title 1", "title 0", "title 3", "title 2", "title 5"]


class Actions(RuleBasedStateMachine):
    """Any sequence of additions, removals and reopenings equals a plain list."""

    @initialize()
    def create(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.index = Index.create(Path(self.folder.name) / "index", FINGERPRINT, DIMENSION)
        self.titles: list[str] = []

    @rule(numbers=st.lists(st.integers(0, 60), max_size=12))
    def add(self, numbers: list[int]) -> None:
        titles = [f"title {number}" for number in numbers]
        new = [title for title in dict.fromkeys(titles) if title not in self.titles]
        assert add(self.index, titles) == len(new)
        self.titles += new

    @rule(numbers=st.lists(st.integers(0, 60), max_size=30))
    def remove(self, numbers: list[int]) -> None:
        titles = {f"title {number}" for number in numbers}
        assert self.index.remove(sorted(titles)) == len(titles & set(self.titles))
        self.titles = [title for title in self.titles if title not in titles]

    @rule()
    def reopen(self) -> None:
        self.index = Index.open(self.index.path)

    @invariant()
    def agrees(self) -> None:
        check(self.index, self.titles)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()


TestActions = Actions.TestCase
TestActions.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)


# Refusals


def test_refuses_another_fingerprint_by_naming_both(index: Index) -> None:
    for call in (index.search, lambda v, k, fingerprint: index.add(["x"], v, fingerprint=fingerprint)):
        with pytest.raises(JobonnxError, match=r"encoder sha256:one and the .* are from sha256:two") as raised:
            call(vectors(["x"]), 1, fingerprint="sha256:two")
        assert "\n" not in str(raised.value)
    check(index, [])


@pytest.mark.parametrize(
    ("titles", "given", "error", "message"),
    [
        ("one string", vectors(["x"]), TypeError, "not one string"),
        (["x", 3], vectors(["x", "y"]), TypeError, r"titles\[1\] must be a string, not int"),
        (["x"], vectors(["x", "y"]), ValueError, "1 titles and 2 vectors"),
        (["x"], vectors(["x"])[:, :8] * 0, ValueError, "length 0"),
        (["x"], np.eye(8, dtype=np.float32)[:1], ValueError, "have 8 dimensions and the index 16"),
        (["x"], vectors(["x"]) * np.float32(np.nan), ValueError, "NaN"),
        (["x"], vectors(["x"]).astype(np.float64), TypeError, "float64"),
    ],
)
def test_refuses_bad_additions(index: Index, titles: list[str], given: np.ndarray, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        index.add(titles, given, fingerprint=FINGERPRINT)
    check(Index.open(index.path), [])


def test_refuses_k_of_zero(index: Index) -> None:
    with pytest.raises(ValueError, match="k is 0"):
        index.search(vectors(["x"]), 0, fingerprint=FINGERPRINT)


def test_create_refuses_a_folder_in_use_and_a_bad_dimension(index: Index, tmp_path: Path) -> None:
    with pytest.raises(JobonnxError, match=r"already holds manifest\.json"):
        Index.create(index.path, FINGERPRINT, DIMENSION)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(JobonnxError, match=r"already holds notes\.txt"):
        Index.create(tmp_path / "mine", FINGERPRINT, DIMENSION)
    with pytest.raises(JobonnxError, match="cannot make an index"):
        Index.create(tmp_path / "mine" / "notes.txt", FINGERPRINT, DIMENSION)
    with pytest.raises(ValueError, match="dimension is 0"):
        Index.create(tmp_path / "new", FINGERPRINT, 0)


def test_open_refuses_what_is_no_index(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(JobonnxError, match="is not an index that can be read"):
            Index.open(path)


@pytest.mark.parametrize("damage", ["truncate", "extend", "flip", "delete", "empty"])
@pytest.mark.parametrize("kind", ["vectors", "titles", "removed", "json"])
def test_refuses_damaged_files(index: Index, kind: str, damage: str) -> None:
    add(index, some(30))
    index.remove(some(3))
    (path,) = index.path.glob(f"*.{kind}")
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    changed = {"truncate": data[:-1], "extend": data + b"0", "flip": data, "empty": b""}
    if damage == "delete":
        path.unlink()
    else:
        path.write_bytes(changed[damage])
    with pytest.raises(JobonnxError) as raised:
        Index.open(index.path)
    assert "\n" not in str(raised.value)
    assert path.name in str(raised.value)


def test_every_flipped_bit_of_the_manifest_is_noticed(index: Index) -> None:
    add(index, some(3))
    path = index.path / "manifest.json"
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << place % 7)]) + data[place + 1 :])
        try:
            opened = Index.open(index.path)
        except JobonnxError:
            continue
        check(opened, some(3))  # white space may change
        assert opened.fingerprint == FINGERPRINT


def test_without_verifying_sizes_and_titles_are_still_checked(index: Index) -> None:
    add(index, some(30))
    for kind in ("vectors", "titles"):
        (path,) = index.path.glob(f"*.{kind}")
        data = path.read_bytes()
        path.write_bytes(data[:-1])
        with pytest.raises(JobonnxError, match="bytes and"):
            Index.open(index.path, verify=False)
        path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
        if kind == "titles":
            with pytest.raises(JobonnxError, match="altered"):
                Index.open(index.path, verify=False)
        else:
            damaged = Index.open(index.path, verify=False)
            # Nor does a damaged segment get a new hash by being merged.
            with pytest.raises(JobonnxError, match="altered"):
                add(damaged, some(40, 100))
        path.write_bytes(data)
        check(Index.open(index.path), some(30))


def test_refuses_a_later_format(index: Index) -> None:
    path = index.path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": "jobonnx-index-9"}))
    with pytest.raises(JobonnxError, match=r"jobonnx-index-9.*jobonnx-index-1"):
        Index.open(index.path)


# Other writers and readers


def test_a_second_writer_is_refused(index: Index) -> None:
    add(index, some(3))
    with index_module._locked(index.path):
        for call in (lambda: add(index, ["x"]), lambda: index.remove(some(1)), lambda: index.build_approximate()):
            with pytest.raises(JobonnxError, match="is being written by someone else"):
                call()
        check(Index.open(index.path), some(3))
    assert add(index, ["x"]) == 1


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
    add(other, some(50, 100))  # merges the segment that `index` wrote
    assert not {file.path for file in index._state.files} & set(index.path.iterdir())
    check(index, titles)
    other.remove(some(55, 95))
    check(index, titles)
    add(index, some(1))
    check(index, list(Index.open(index.path)))


def test_a_searching_thread_keeps_its_state_while_another_writes(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows_after_a_write(self: Index, state: index_module._State) -> object:
        writer = threading.Thread(target=lambda: self.remove(some(10)))
        writer.start()
        writer.join()
        return rows(self, state)

    add(index, some(10))
    rows = Index._rows
    monkeypatch.setattr(Index, "_rows", rows_after_a_write)  # between a search's taking the state and its reading it
    (found,) = index.search(vectors(["title 3"]), 1, fingerprint=FINGERPRINT)
    assert found[0].title == "title 3"
    assert list(index) == []


def test_opening_while_another_writes_always_succeeds(index: Index) -> None:
    def write() -> None:
        for number in range(60):
            add(index, some(1, number))
        done.set()

    done = threading.Event()
    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        titles = list(Index.open(index.path))
        assert titles == some(len(titles))
    writer.join()
    check(Index.open(index.path), some(60))


def test_a_writer_notices_that_the_index_was_replaced(index: Index) -> None:
    shutil.rmtree(index.path)
    Index.create(index.path, "sha256:two", DIMENSION)
    with pytest.raises(JobonnxError, match="has been replaced"):
        add(index, ["x"])


# Kills and full disks

_ACTIONS: dict[str, tuple[Callable[[Index], object], list[str]]] = {
    "add": (lambda index: add(index, some(5, 100)), [*some(40), *some(5, 100)]),
    "add, merging": (lambda index: add(index, some(50, 100)), [*some(40), *some(50, 100)]),
    "remove, few": (lambda index: index.remove(some(6)), some(34, 6)),
    "remove, rewriting": (lambda index: index.remove(some(25)), some(15, 25)),
}

# In the n-th folder, runs one action in a process that is killed with SIGKILL at its n-th step: before or after a file is forced to
# the disk, replaced or deleted, and before or in the middle of each write. Ends with the first process that comes through.
_KILLED = """
import os, pathlib, signal, sys
sys.path[:0] = sys.argv[3].split(os.pathsep)
from test_index import _ACTIONS
from jobonnx.search.index import Index

def strike():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

def deadly(call):
    def wrapped(*args, **kwargs):
        strike()
        result = call(*args, **kwargs)
        strike()
        return result
    return wrapped

class Torn:
    def __init__(self, file): self.file = file
    def __enter__(self): return self
    def __exit__(self, *args): self.file.close()
    def __getattr__(self, name): return getattr(self.file, name)
    def write(self, data):
        strike()
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        strike()
        self.file.write(data[len(data) // 2 :])

plain = pathlib.Path.open
torn = lambda self, mode="r", **options: (Torn if mode == "wb" else lambda file: file)(plain(self, mode, **options))
folders = sorted(pathlib.Path(sys.argv[1]).iterdir())
for step, folder in enumerate(folders, 1):
    child = os.fork()
    if child == 0:
        index = Index.open(folder)
        left = step
        pathlib.Path.open, pathlib.Path.unlink = torn, deadly(pathlib.Path.unlink)
        os.fsync, os.replace = deadly(os.fsync), deadly(os.replace)
        _ACTIONS[sys.argv[2]][0](index)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status == 0:
        print(step)
        break
    assert os.WTERMSIG(status) == signal.SIGKILL, status
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL and fork are POSIX")
@pytest.mark.parametrize("action", _ACTIONS)
def test_a_kill_at_any_step_leaves_the_old_state_or_the_new(action: str, tmp_path: Path) -> None:
    for step in range(50):
        add(Index.create(tmp_path / f"{step:02d}", FINGERPRINT, DIMENSION), some(40))
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", _KILLED, str(tmp_path), action, path]
    steps = int(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    assert 10 < steps < 50
    outcomes = []
    for step in range(steps):
        survivor = Index.open(tmp_path / f"{step:02d}")
        new = list(survivor) != some(40)
        check(survivor, _ACTIONS[action][1] if new else some(40))
        outcomes.append(new)
        # What was killed can be done again, and leaves nothing behind.
        _ACTIONS[action][0](survivor)
        check(Index.open(survivor.path), _ACTIONS[action][1])
        named = {file.path.name for file in survivor._state.files}
        assert {entry.name for entry in survivor.path.iterdir()} == named | {"lock", "manifest.json"}
    assert outcomes == sorted(outcomes), "once the new state is there it stays"
    assert not outcomes[0]
    assert outcomes[-1]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_kills_at_random_times_lose_nothing_that_was_reported(tmp_path: Path) -> None:
    loop = """
import os, sys
sys.path[:0] = sys.argv[2].split(os.pathsep)
from test_index import add, some
from jobonnx.search.index import Index
index = Index.open(sys.argv[1])
start = len(index)
for number in range(start, 10**6):
    add(index, some(1, number))
    print(number + 1, flush=True)
"""
    index = Index.create(tmp_path / "index", FINGERPRINT, DIMENSION)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    chance = random.Random(0)
    for _ in range(6):
        command = [sys.executable, "-c", loop, str(index.path), path]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            time.sleep(chance.uniform(0, 0.1))
            process.kill()
            reported = int((first + process.stdout.read()).split()[-1])
        survivor = Index.open(index.path)
        assert reported <= len(survivor) <= reported + 1
        check(survivor, some(len(survivor)))


def test_a_killed_create_can_be_repeated(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    folder.mkdir()
    (folder / "lock").touch()
    (folder / "manifest.json.new").write_text('{"format"')
    check(Index.create(folder, FINGERPRINT, DIMENSION), [])


@pytest.mark.parametrize("action", _ACTIONS)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_refuses_leaves_the_old_state(index: Index, action: str, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    add(index, some(40))
    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(JobonnxError, match="No space left on device; the index is as it was"):
            _ACTIONS[action][0](index)
    check(index, some(40))
    check(Index.open(index.path), some(40))
    assert len(list(index.path.iterdir())) == 4  # a segment's two files, the manifest and the lock: no debris
    _ACTIONS[action][0](index)
    check(Index.open(index.path), _ACTIONS[action][1])


def refuse_the_last_sync(patch: pytest.MonkeyPatch) -> None:
    """A disk that takes everything but the new manifest's name."""

    def then_refuse(*args: Path) -> None:
        replace(*args)
        patch.setattr(os, "fsync", refuse)

    def refuse(*args: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    replace = os.replace
    patch.setattr(os, "replace", then_refuse)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not synchronise folders")
@pytest.mark.parametrize("action", _ACTIONS)
def test_a_state_that_the_disk_does_not_confirm_is_taken_up(index: Index, action: str, monkeypatch: pytest.MonkeyPatch) -> None:
    add(index, some(40))
    old = set(index.path.iterdir())
    new = _ACTIONS[action][1]
    with monkeypatch.context() as patch:
        refuse_the_last_sync(patch)
        for _ in range(2):  # the second finds nothing left to change, and does not pass for a success
            with pytest.raises(JobonnxError, match=r"has been changed, but the disk did not confirm it \(.*Input/output error"):
                _ACTIONS[action][0](index)
            check(index, new)
            check(Index.open(index.path), new)
            # The manifest may yet go back to the old one, whose files must be there.
            assert old <= set(index.path.iterdir())
    assert _ACTIONS[action][0](index) == 0
    check(Index.open(index.path), new)
    named = {file.path.name for file in index._state.files}
    assert {entry.name for entry in index.path.iterdir()} == named | {"lock", "manifest.json"}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not synchronise folders")
def test_a_create_that_the_disk_does_not_confirm_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        refuse_the_last_sync(patch)
        with pytest.raises(JobonnxError, match=r"cannot make an index in .*Input/output error"):
            Index.create(tmp_path / "index", FINGERPRINT, DIMENSION)
    check(Index.create(tmp_path / "index", FINGERPRINT, DIMENSION), [])


@pytest.mark.skipif(sys.platform == "win32", reason="a limit on file size is POSIX")
def test_a_disk_that_fills_in_the_middle_of_a_file_leaves_the_old_state(index: Index) -> None:
    import resource

    add(index, some(40))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, limit[1]))  # Python ignores SIGXFSZ, so a write gives OSError
    try:
        with pytest.raises(JobonnxError, match="the index is as it was"):
            add(index, some(2000, 100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    check(index, some(40))
    check(Index.open(index.path), some(40))


# The approximate search


def clustered(count: int, dimension: int, seed: int) -> np.ndarray:
    """Vectors as of titles: occupations of very different sizes within fields, off centre, and some repeated."""
    rng, shape = np.random.default_rng(seed), np.random.default_rng(99)
    basis = shape.standard_normal((dimension // 3, dimension))
    fields = shape.standard_normal((30, dimension // 3)) * 0.7
    occupations = np.repeat(fields, 20, axis=0) + shape.standard_normal((600, dimension // 3)) * 0.5
    sizes = shape.permutation(1 / np.arange(1, 601))
    chosen = occupations[rng.choice(600, count, p=sizes / sizes.sum())]
    made = (chosen + rng.standard_normal(chosen.shape) * 0.35 + 0.3) @ basis
    made += rng.standard_normal(made.shape) * 0.5
    made[: count // 20] = made[-(count // 20) :]
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


@needs_faiss
def test_the_approximate_search_finds_99_in_100(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", FINGERPRINT, 96)
    corpus = clustered(30000, 96, 1)
    index.add(some(20000), corpus[:20000], fingerprint=FINGERPRINT)
    index.add(some(10000, 20000), corpus[20000:], fingerprint=FINGERPRINT)
    index.remove(some(500, 3000))
    assert not index.has_approximate
    assert index.build_approximate() >= 0.995
    again = Index.open(index.path)
    assert again.has_approximate
    queries = clustered(1000, 96, 2)
    exact = again.search(queries, 10, fingerprint=FINGERPRINT)
    found = again.search(queries, 10, fingerprint=FINGERPRINT, approximate=True)
    hits = 0
    for best, some_found in zip(exact, found, strict=True):
        assert len(some_found) == 10
        scores = {match.title: match.score for match in best}
        assert all(scores[match.title] == match.score for match in some_found if match.title in scores)
        assert [match.score for match in some_found] == sorted((match.score for match in some_found), reverse=True)
        hits += sum(match.score >= best[-1].score for match in some_found)
    assert hits / 10000 >= 0.99
    # It scans a part of the corpus only.
    saved = again._state.approximate
    assert saved is not None
    assert saved.probes <= saved.opened.index.nlist / 4


@needs_faiss
def test_few_titles_are_all_found(index: Index) -> None:
    add(index, some(100))
    index.build_approximate()
    queries = vectors(["query 1", "query 2"])
    for k in (1, 10, 100, 500):
        exact = index.search(queries, k, fingerprint=FINGERPRINT)
        assert index.search(queries, k, fingerprint=FINGERPRINT, approximate=True) == exact


@needs_faiss
def test_one_title_can_be_searched_approximately(index: Index) -> None:
    add(index, ["x"])
    assert index.build_approximate() == 1
    (found,) = index.search(vectors(["x"]), 3, fingerprint=FINGERPRINT, approximate=True)
    assert [match.title for match in found] == ["x"]


@needs_faiss
def test_more_than_the_probed_clusters_hold_is_found_too(index: Index) -> None:
    add(index, some(2000))
    index.build_approximate()
    found = index.search(vectors(["query 1"]), 1500, fingerprint=FINGERPRINT, approximate=True)
    assert len({match.title for match in found[0]}) == 1500


@needs_faiss
@pytest.mark.parametrize("change", [lambda index: add(index, ["new"]), lambda index: index.remove(some(1))])
def test_a_changed_index_has_no_approximate_search(index: Index, change: Callable[[Index], object]) -> None:
    add(index, some(100))
    index.build_approximate()
    add(index, some(3))  # nothing new: nothing changes
    assert index.has_approximate
    change(index)
    for each in (index, Index.open(index.path)):
        assert not each.has_approximate
        with pytest.raises(JobonnxError, match="call build_approximate"):
            each.search(vectors(["x"]), 3, fingerprint=FINGERPRINT, approximate=True)
    assert not list(index.path.glob("*.approximate"))


@needs_faiss
@pytest.mark.parametrize("change", [lambda index: add(index, ["new"]), lambda index: index.remove(some(1))])
def test_a_reader_keeps_the_approximate_search_it_opened(index: Index, change: Callable[[Index], object]) -> None:
    add(index, some(100))
    index.build_approximate()
    reader = Index.open(index.path)
    change(Index.open(index.path))
    assert not list(index.path.glob("*.approximate"))
    for each in (reader, index):  # neither has searched before
        exact = each.search(vectors(["query 1"]), 10, fingerprint=FINGERPRINT)
        assert each.search(vectors(["query 1"]), 10, fingerprint=FINGERPRINT, approximate=True) == exact


@needs_faiss
def test_a_damaged_approximate_search_is_refused(index: Index) -> None:
    add(index, some(100))
    index.build_approximate()
    (path,) = index.path.glob("*.approximate")
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    with pytest.raises(JobonnxError, match="altered"):
        Index.open(index.path)
    path.write_bytes(data[:-1])
    with pytest.raises(JobonnxError, match="bytes and"):
        Index.open(index.path, verify=False)
    path.write_bytes(bytes(len(data)))
    with pytest.raises(JobonnxError, match="cannot be read by faiss"):
        Index.open(index.path, verify=False).search(vectors(["x"]), 3, fingerprint=FINGERPRINT, approximate=True)


@needs_faiss
def test_a_disk_that_refuses_the_approximate_search(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobonnx.search.approximate import Approximate

    add(index, some(100))
    plain = Approximate.save
    monkeypatch.setattr(Approximate, "save", lambda self, path: plain(self, path.parent / "nowhere" / path.name))
    with pytest.raises(JobonnxError, match="the index is as it was"):
        index.build_approximate()
    check(Index.open(index.path), some(100))


def test_an_empty_index_has_nothing_to_build(index: Index) -> None:
    with pytest.raises(JobonnxError, match="holds no titles"):
        index.build_approximate()


def test_without_faiss_the_sentence_names_the_extra(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    add(index, some(10))
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(JobonnxError, match=r"pip install 'jobonnx\[approximate\]'"):
        index.build_approximate()


def test_importing_loads_nothing_heavy() -> None:
    code = "import sys, jobonnx.search.index; print({'faiss', 'onnxruntime', 'torch', 'scipy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
