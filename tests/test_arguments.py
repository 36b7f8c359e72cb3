"""What is taken for texts, and what would be a silent wrong answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from jobonnx import Encoder
from jobonnx.arguments import as_texts

TEXTS = ["nurse", "Koch", ""]


@pytest.mark.parametrize(
    "column",
    [
        TEXTS,
        tuple(TEXTS),
        iter(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, dtype=object),
        pd.Series(TEXTS, index=[7, 3, 5]),
        pd.Series(TEXTS, dtype="string"),
        pd.Series(TEXTS).astype("category"),
        pd.DataFrame({"title": TEXTS})["title"],
        pd.Index(TEXTS),
        pa.array(TEXTS),
        pa.chunked_array([TEXTS[:1], TEXTS[1:]]),
        pa.array(TEXTS).dictionary_encode(),
        pa.table({"title": TEXTS})["title"],
        pa.array(TEXTS, type=pa.large_string()),
    ],
    ids=lambda column: type(column).__name__,
)
def test_columns_of_texts_are_lists_of_texts(column: Any) -> None:
    assert as_texts(column) == TEXTS


def test_one_text_is_a_list_of_it() -> None:
    assert as_texts("nurse") == ["nurse"]
    assert as_texts(np.str_("nurse")) == ["nurse"]
    assert as_texts(pa.array([], pa.string())) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (pd.DataFrame({"title": TEXTS}), r"DataFrame is a table, whose column names would be taken for texts; give one column"),
        (pa.table({"title": TEXTS}), "Table is a table"),
        ({"title": TEXTS}, r"dict is a mapping, whose keys would be taken for texts; give its texts, such as list\(texts.values"),
        ({"nurse"}, "set has no order"),
        (frozenset({"nurse"}), "frozenset has no order"),
        (b"nurse", "bytes is no text; decode it"),
        ([b"nurse"], "text 0 is bytes, not str; give strings"),
        (["nurse", None], "text 1 is NoneType, not str; the value is missing: drop it"),
        (["nurse", float("nan")], "text 1 is float, not str; the value is missing"),
        (["nurse", 7.0], "text 1 is float, not str; give strings"),
        (pd.Series(["nurse", "", None, "Koch"]), r"text 2 is \w+, not str; the value is missing"),
        (pd.Series(["nurse", pd.NA]), "text 1 is (NAType|float), not str; the value is missing"),
        (pd.Series([pd.NaT]), "text 0 is NaTType, not str; the value is missing"),
        (pa.array(["nurse", None]), "text 1 is NoneType, not str; the value is missing"),
        (np.array([["nurse"]]), "text 0 is ndarray, not str"),
        (np.array([["nurse", "Koch"]]), "text 0 is ndarray, not str"),
        (7, "not iterable"),
    ],
    ids=str,
)
def test_what_would_be_a_wrong_answer_is_a_type_error(wrong: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        as_texts(wrong)


def test_an_encoder_refuses_them_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    with Encoder() as encoder:
        monkeypatch.setattr(encoder.engine, "encode", lambda *arguments: pytest.fail("it ran"))
        wrongs: list[Any] = [pd.DataFrame({"title": TEXTS}), {"title": 1}, [None]]
        for wrong in wrongs:
            for call in (encoder.encode, encoder.encode_query, encoder.tokenize, encoder.tokenizer.encode):
                with pytest.raises(TypeError):
                    call(wrong)
        with pytest.raises(TypeError, match=r"encode takes a list of texts, not a single str; pass \[text\]"):
            encoder.tokenizer.encode("nurse")
