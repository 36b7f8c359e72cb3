"""What callers may pass: texts and whole numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from numbers import Integral, Real
from typing import Self


class Closing:
    """A context manager that closes itself."""

    def close(self) -> None:
        """Let go of what is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def as_texts(inputs: str | Iterable[str]) -> list[str]:
    """Return a text, or several, as a list.

    Args:
        inputs: a string, or strings in an order: a list, an array, a column of pandas, polars or pyarrow.

    Raises:
        TypeError: it is a table or a mapping, has no order, or holds an item that is not a string, whose position is named.
    """
    if isinstance(inputs, str):
        return [inputs]
    what = type(inputs).__name__
    if isinstance(inputs, Mapping):
        raise TypeError(f"{what} is a mapping, whose keys would be taken for texts; give its texts, such as list(texts.values())")
    if hasattr(type(inputs), "columns") or hasattr(type(inputs), "column_names"):  # pandas, polars; pyarrow, datasets
        raise TypeError(f'{what} is a table, whose column names would be taken for texts; give one column, such as table["title"]')
    if isinstance(inputs, Set):
        raise TypeError(f"{what} has no order that rows could come back in; give a list, such as sorted(texts)")
    if isinstance(inputs, bytes | bytearray):
        raise TypeError(f"{what} is no text; decode it, such as texts.decode()")
    texts = inputs.to_pylist() if hasattr(inputs, "to_pylist") else list(inputs)  # an array of pyarrow holds scalars of its own
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {i} is {type(text).__name__}, not str; {_fix(text)}")
    return texts


def _fix(text: object) -> str:
    nan = isinstance(text, Real) and text != text
    missing = text is None or nan or type(text).__name__ in ("NAType", "NaTType")  # pandas' own marks
    return 'the value is missing: drop it, or put a text such as "" in its place' if missing else "give strings"


def whole(name: str, value: int | None, most: int | None = None) -> int | None:
    """Check an optional argument that has to be a whole number from 1 to `most`.

    Raises:
        TypeError: it is another type, bool among them.
        ValueError: it is out of range.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}={value!r} is {type(value).__name__}, not int")
    if value < 1 or (most is not None and value > most):
        raise ValueError(f"{name}={value} has to be {'at least 1' if most is None else f'between 1 and {most:,}'}")
    return int(value)
