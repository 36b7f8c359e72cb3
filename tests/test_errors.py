"""What native code throws becomes one sentence; what stops a program passes."""

from __future__ import annotations

import pytest

from jobonnx.errors import JobonnxError, Stopped, native


class Panic(BaseException):
    """As pyo3's PanicException, no `Exception`."""


@pytest.mark.parametrize("error", [Exception("a\nb"), RuntimeError("a b"), Panic("a  b"), OSError("a b"), ValueError("a b")])
def test_whatever_comes_out_is_one_sentence(error: BaseException) -> None:
    with pytest.raises(JobonnxError) as said, native("f.json is not a tokenizer", "export it again"):
        raise error
    assert str(said.value) == "f.json is not a tokenizer (a b); export it again"


def test_out_of_memory_says_so() -> None:
    with pytest.raises(JobonnxError, match=r"it failed \(out of memory\); free some memory"), native("it failed", "mend it"):
        raise MemoryError


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), Stopped(15), JobonnxError("mine")])
def test_what_stops_a_program_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as passed, native("it failed", "mend it"):
        raise error
    assert passed.value is error


def test_an_error_without_a_message_has_its_type() -> None:
    with pytest.raises(JobonnxError, match=r"it failed \(Panic\); mend it"), native("it failed", "mend it"):
        raise Panic


def test_what_cannot_be_printed_is_escaped() -> None:
    error = JobonnxError("a\r\nb\x1b[31m \u202e \ud800 \u2028 is ü 護士 no name")
    assert str(error) == r"a\r\nb\x1b[31m \u202e \ud800 \u2028 is ü 護士 no name"


def test_a_name_without_an_end_is_shortened_in_the_middle() -> None:
    said = str(JobonnxError(f"{'x' * 70_000} cannot be read; mend it"))
    assert len(said) < 2100
    assert said.startswith("xxx")
    assert said.endswith("cannot be read; mend it")
