"""What callers may pass: texts, whole numbers, and what sentence-transformers takes that has no meaning here."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Self


class Closing:
    """A context manager that closes itself."""

    def close(self) -> None:
        """Let go of what is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def as_texts(sentences: str | Iterable[str]) -> list[str]:
    """Return a text, or several, as a list.

    Raises:
        TypeError: an item is not a string; its position is named.
    """
    texts = [sentences] if isinstance(sentences, str) else list(sentences)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {i} is {type(text).__name__}, not str")
    return texts


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


def refuse_tensors(convert_to_numpy: bool, convert_to_tensor: bool) -> None:
    """Raise ValueError where a call asks for torch tensors."""
    if convert_to_tensor or not convert_to_numpy:
        asked = "convert_to_tensor=True" if convert_to_tensor else "convert_to_numpy=False"
        raise ValueError(f"{asked} asks for torch tensors; take the array and use torch.from_numpy")
