"""Texts to ragged token ids, with the Rust tokenizer that transformers uses too. No padding happens here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jobonnx.errors import JobonnxError

TRUNCATIONS = ("right", "left", "error")


class TooLongError(JobonnxError, ValueError):
    """A text is longer than the model takes, and truncation="error" forbids cutting it."""


class Tokenizer:
    """A tokenizer.json with the model's length limit. Safe to share between threads: nothing in it changes after construction."""

    def __init__(self, path: Path, max_tokens: int, truncation: str = "right") -> None:
        """Load `path`.

        Args:
            path: a tokenizer.json.
            max_tokens: limit on a text's tokens, special tokens included.
            truncation: which end of a longer text is cut: "right" or "left"; or "error".

        Raises:
            JobonnxError: the file is not a tokenizer.
            ValueError: an unknown truncation.
        """
        import tokenizers

        if truncation not in TRUNCATIONS:
            raise ValueError(f"truncation={truncation!r} is unknown; it is one of {', '.join(TRUNCATIONS)}")
        self.path = path
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises plain Exception
            raise JobonnxError(f"{path} is not a tokenizer ({error}); export or download it again") from None
        self.max_tokens = max_tokens
        self.truncation = truncation
        # Whatever was baked into the file must not decide: padding would cost time, a stale limit would cut texts.
        self._tokenizer.no_padding()
        if truncation == "error":
            self._tokenizer.no_truncation()
        else:
            self._tokenizer.enable_truncation(max_tokens, direction=truncation)

    def with_limit(self, max_tokens: int) -> Tokenizer:
        """The same tokenizer with another limit."""
        return Tokenizer(self.path, max_tokens, self.truncation)

    @property
    def largest_id(self) -> int:
        """The largest token id that it can give."""
        ids: dict[str, int] = self._tokenizer.get_vocab()
        return max(ids.values())

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included.

        Raises:
            TypeError: an item is not a string.
            TooLongError: a text is over the limit and truncation is "error".
        """
        rows = [e.ids for e in self._tokenizer.encode_batch_fast([_valid(text, i) for i, text in enumerate(texts)])]
        if self.truncation == "error":
            for i, row in enumerate(rows):
                if len(row) > self.max_tokens:
                    raise TooLongError(
                        f'text {i} has {len(row)} tokens, the limit is {self.max_tokens}; shorten it or set truncation="right"'
                    )
        return rows


def _valid(text: object, position: int) -> str:
    """The text itself, with lone surrogates (which no UTF-8 can hold) replaced by U+FFFD."""
    if not isinstance(text, str):
        raise TypeError(f"text {position} is {type(text).__name__}, not str")
    try:
        text.encode()
    except UnicodeEncodeError:
        return without_lone_surrogates(text)
    return text


def without_lone_surrogates(text: str) -> str:
    """The text with every lone surrogate replaced by U+FFFD; a pair of them becomes the character it stands for."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
