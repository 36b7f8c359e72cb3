"""The approximate search: what it finds, what drops it, and that faiss neither prints, hangs nor hides what went wrong."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from helpers.indexes import DIMENSION, FINGERPRINT, add, check, some, vectors
from jobonnx.arrays import Floats
from jobonnx.errors import JobonnxError
from jobonnx.search.index import Index

needs_faiss = pytest.mark.skipif(
    importlib.util.find_spec("faiss") is None, reason="faiss is not installed (pip install 'jobonnx[approximate]')"
)


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index.create(tmp_path / "titles", FINGERPRINT, DIMENSION)


def clustered(count: int, dimension: int, seed: int) -> Floats:
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
    normalised: Floats = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)
    return normalised


@pytest.mark.medium
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
    approximate = again._state.approximate
    assert approximate is not None
    assert approximate.probes <= approximate.index.nlist / 4


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


@pytest.mark.medium
@needs_faiss
def test_more_than_the_probed_clusters_hold_is_found_too(index: Index) -> None:
    add(index, some(2000))
    index.build_approximate()
    found = index.search(vectors(["query 1"]), 1500, fingerprint=FINGERPRINT, approximate=True)
    assert len({match.title for match in found[0]}) == 1500


@pytest.mark.medium
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


@pytest.mark.medium
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


@pytest.mark.medium
@needs_faiss
@pytest.mark.skipif(sys.platform == "win32", reason="a limit on file size is POSIX's")
def test_a_disk_that_fills_up_is_named_and_not_faiss_source(index: Index) -> None:
    import resource

    add(index, some(2000))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))  # Python ignores SIGXFSZ, so a write gives OSError
    try:
        with pytest.raises(JobonnxError, match=r"cannot write to .*\(.*File too large\); the index is as it was; free some space$"):
            index.build_approximate()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not list(index.path.glob("*.approximate"))
    check(Index.open(index.path), some(2000))


@needs_faiss
@pytest.mark.parametrize("count", [1, 17, 100])
def test_nothing_is_printed_for_a_small_index(index: Index, count: int, capfd: pytest.CaptureFixture[str]) -> None:
    add(index, some(count))
    index.build_approximate()
    index.search(vectors(["x"]), 3, fingerprint=FINGERPRINT, approximate=True)
    assert capfd.readouterr() == ("", "")


@needs_faiss
@pytest.mark.parametrize("failure", [RuntimeError("Error in faiss::x at y.cpp:5: Error: 'a' failed\nmore"), MemoryError()])
def test_a_failure_of_faiss_is_one_sentence(index: Index, failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    def fail(*arguments: object) -> None:
        raise failure

    add(index, some(100))
    with monkeypatch.context() as patch:
        patch.setattr(faiss, "index_factory", fail)
        with pytest.raises(JobonnxError, match="faiss could not build the approximate search") as raised:
            index.build_approximate()
    assert "\n" not in str(raised.value)
    assert not index.has_approximate


@pytest.mark.medium
@needs_faiss
@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows does not fork")
@pytest.mark.parametrize("thread", ["main", pytest.param("new", marks=pytest.mark.slow)])
def test_a_forked_process_searches_and_builds(index: Index, thread: str) -> None:
    # GNU's OpenMP waits for the parent's threads, which the child does not have.
    code = """
import os, sys, threading
from helpers.indexes import FINGERPRINT, add, some, vectors
from jobonnx.search.index import Index
index = Index.open(sys.argv[1])
add(index, some(4000))
index.build_approximate()
queries = vectors(some(300))

def work():
    found = index.search(queries, 5, fingerprint=FINGERPRINT, approximate=True)
    assert [matches[0].title for matches in found] == some(300)
    assert index.build_approximate() >= 0.995

work()
child = os.fork()
if child == 0:
    if sys.argv[2] == "main":
        work()
    else:
        worker = threading.Thread(target=work)
        worker.start()
        worker.join()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", code, str(index.path), thread]
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        try:
            assert process.wait(timeout=120) == 0
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 9)


def test_an_empty_index_has_nothing_to_build(index: Index) -> None:
    with pytest.raises(JobonnxError, match="holds no titles"):
        index.build_approximate()


def test_without_faiss_the_sentence_names_the_extra(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    add(index, some(10))
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(JobonnxError, match=r"pip install 'jobonnx\[approximate\]'"):
        index.build_approximate()


@needs_faiss
@pytest.mark.parametrize("numbers", [[0, 1, 10**15], [0, 1, 1], [0, 1, 25], [-5, 1, 2]])
def test_an_approximate_search_of_other_rows_is_refused(index: Index, numbers: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    from jobonnx.search.approximate import Approximate

    add(index, some(30))
    index.remove(some(1, 25))
    index.build_approximate()
    monkeypatch.setattr(Approximate, "candidates", lambda self, queries, k: [np.array(numbers)] * len(queries))
    with pytest.raises(JobonnxError, match="approximate search of other titles"):
        index.search(vectors(["x"]), 3, fingerprint=FINGERPRINT, approximate=True)


@needs_faiss
def test_a_faiss_index_of_another_kind_is_refused(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    add(index, some(30))
    index.build_approximate()
    flat = faiss.IndexFlatL2(DIMENSION)
    monkeypatch.setattr(faiss, "read_index", lambda reader: flat)
    with pytest.raises(JobonnxError, match="is no approximate search of jobonnx"):
        Index.open(index.path).search(vectors(["x"]), 3, fingerprint=FINGERPRINT, approximate=True)
