"""Encoders in other processes: pickled, copied, spawned, forked, and handed to joblib and scikit-learn."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

import jobonnx
from jobonnx import Encoder, JobonnxError

SMALL = Path(jobonnx.__file__).parent / "data" / "small"
TITLES = ["nurse", "Krankenschwester", "software developer", "nurse", ""]
pytestmark = pytest.mark.medium
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows does not fork")


def make(**options: Any) -> Encoder:
    encoder = Encoder(SMALL, provider="cpu", threads=2, truncate_dim=64, token="hf_secret", prompts={"title": "title: "}, **options)
    encoder.max_seq_length = 16
    encoder.default_prompt_name = "title"
    encoder.similarity_fn_name = "dot"
    return encoder


def assert_same(one: Encoder, other: Encoder) -> None:
    assert one is not other
    names = ("fingerprint", "prompts", "default_prompt_name", "truncate_dim", "max_seq_length", "similarity_fn_name", "settings")
    assert {name: getattr(one, name) for name in names} == {name: getattr(other, name) for name in names}
    np.testing.assert_array_equal(one.encode(TITLES), other.encode(TITLES))


@pytest.mark.parametrize("way", ["pickle", "deepcopy", "copy"])
def test_a_copy_is_another_encoder_with_all_that_was_set(way: str) -> None:
    encoder = make()
    other = {"pickle": lambda e: pickle.loads(pickle.dumps(e)), "deepcopy": copy.deepcopy, "copy": copy.copy}[way](encoder)
    assert_same(encoder, other)
    other.close()
    assert_same(encoder, make())  # the first is as it was


def test_a_pickle_is_small_and_holds_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(SMALL.parent)
    with Encoder("small", token="hf_secret") as encoder:
        pickled = pickle.dumps(encoder)
    assert len(pickled) < 2000
    assert b"hf_secret" not in pickled
    monkeypatch.chdir(tmp_path)  # a worker may start elsewhere
    with pickle.loads(pickled) as again:
        assert again.encode("nurse").shape == (256,)


def test_another_bundle_in_the_same_place_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(SMALL, tmp_path / "bundle")
    with Encoder(folder) as encoder:
        pickled = pickle.dumps(encoder)
        state = encoder.__reduce__()
    reopen, (kind, arguments, named, settings, fingerprint) = state
    with pytest.raises(
        JobonnxError, match=r"bundle has fingerprint \w{12}, the pickled encoder had 000000000000; give both the same"
    ):
        reopen(kind, arguments, named, settings, "0" * len(fingerprint))
    shutil.rmtree(folder)
    with pytest.raises(JobonnxError, match="no such bundle folder"):
        pickle.loads(pickled)


def test_a_spawned_process_gets_the_same_vectors() -> None:
    encoder = make()
    # A function of the package, which a child can import however pytest was started; an executor, which says that a child has died.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(Encoder.encode, encoder, TITLES).result(timeout=120)
    np.testing.assert_array_equal(found, encoder.encode(TITLES))


def test_joblib_gets_the_same_vectors() -> None:
    encoder = make()
    parts = joblib.Parallel(n_jobs=2)(joblib.delayed(encoder.encode)(TITLES[i::2]) for i in range(2))
    for i, part in enumerate(parts):
        np.testing.assert_array_equal(part, encoder.encode(TITLES[i::2]))


# Forks: in a process of their own, because this one has threads that a child must not touch


def fork(code: str, **environment: str) -> str:
    """Run code after `fork`: what it prints in the child, and the child's status."""
    program = f"""
import os, signal, sys
from jobonnx import Encoder
titles = [f"nurse {{i}}" for i in range(300)]
encoder = Encoder(threads=int(sys.argv[1]), provider="cpu")
expected = encoder.encode(titles)
child = os.fork()
if child == 0:
    signal.alarm(60)
    try:
        {code}
    except Exception as error:
        print(type(error).__name__, error)
    sys.stdout.flush()
    {"sys.exit(0)" if "sys.exit" in code else "os._exit(0)"}
status = os.waitpid(child, 0)[1]
assert status == 0, status
assert (encoder.encode(titles) == expected).all()
"""
    found = ""
    for threads in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program, threads],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, **environment},
        )
        assert done.returncode == 0, done.stderr
        found += done.stdout
    return found


@needs_fork
@pytest.mark.parametrize("parallel", ["true", "false"])
def test_an_inherited_encoder_encodes(parallel: str) -> None:
    """With more than one thread it used those of the parent, which are not there."""
    assert fork("print((encoder.encode(titles) == expected).all())", TOKENIZERS_PARALLELISM=parallel) == "True\nTrue\n"


@needs_fork
def test_an_inherited_encoder_can_be_replaced_and_dropped() -> None:
    code = "encoder = Encoder(threads=2); import gc; gc.collect(); print((encoder.encode(titles) == expected).all())"
    assert fork(code) == "True\nTrue\n"


@needs_fork
def test_an_inherited_encoder_can_be_closed_and_a_child_ends_as_usual() -> None:
    assert fork("encoder.close(); del encoder; print('closed'); sys.exit(0)") == "closed\nclosed\n"
    assert fork("print('unused'); sys.exit(0)") == "unused\nunused\n"


@needs_fork
def test_the_tokenizer_works_in_a_child_whatever_the_user_asked_for() -> None:
    code = "print(len(encoder.tokenize(titles)), os.environ['TOKENIZERS_PARALLELISM'])"
    assert fork(code, TOKENIZERS_PARALLELISM="true") == "300 false\n" * 2


@needs_fork
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # the child touches no thread of the parent's
def test_streams_start_again_in_a_child() -> None:
    from jobonnx.runtime.forks import StreamPool

    pool = StreamPool(2)
    assert list(pool.map(str, list(range(8)))) == list("01234567")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, "".join(pool.map(str, list(range(8)))).encode())
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert os.read(read, 100) == b"01234567"
    os.close(read)
    os.close(write)
    pool.shutdown()


@needs_fork
def test_a_session_that_cannot_be_had_again_says_so() -> None:
    code = "encoder.engine.session.open_again = None; encoder.engine.session.run(*[[[1]]] * 2)"
    said = fork(code)
    assert said.count("JobonnxError") == 2
    assert "was opened before this process was forked, and provider 'cpu' forbids that; open it in the child" in said
