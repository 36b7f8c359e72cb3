"""Texts to token ids, with the Rust tokenizer that transformers uses too. Rows keep their own lengths: no padding here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jobonnx.arguments import as_texts
from jobonnx.errors import JobonnxError, native
from jobonnx.text.shortening import Cutter
from jobonnx.text.surrogates import without_lone_surrogates

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
            truncation: which end of a longer text is cut, "right" or "left"; or "error".

        Raises:
            JobonnxError: the file is not a tokenizer.
            ValueError: an unknown truncation.
        """
        import tokenizers

        if truncation not in TRUNCATIONS:
            raise ValueError(f"truncation={truncation!r} is unknown; it is one of {', '.join(TRUNCATIONS)}")
        self.path, self.max_tokens, self.truncation = path, max_tokens, truncation
        with native(f"{path} is not a tokenizer", "export or download it again"):
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
            # Whatever was saved in the file must not decide: padding would cost time, a stale limit would cut texts.
            self._tokenizer.no_padding()
            self._tokenizer.no_truncation()
            if truncation != "error":
                self._tokenizer.enable_truncation(max_tokens, direction=truncation)
        self._cutter = Cutter(self._tokenizer, max_tokens, truncation)

    def with_limit(self, max_tokens: int) -> Tokenizer:
        """Return the same tokenizer with another limit."""
        return Tokenizer(self.path, max_tokens, self.truncation)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included.

        Raises:
            TypeError: an item is not a string.
            TooLongError: a text is over the limit and truncation is "error".
        """
        if isinstance(texts, str):
            raise TypeError("encode takes a list of texts, not a single str; pass [text]")
        valid = [without_lone_surrogates(text) for text in as_texts(texts)]
        with native(f"{self.path} could not tokenise these texts", "export or download it again"):
            cut = [self._cutter.cut(text) for text in valid]
            rows = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(cut)]
        if self.truncation == "error":
            for i, row in enumerate(rows):
                if len(row) > self.max_tokens:
                    fix = 'shorten it or set truncation="right"'
                    raise TooLongError(f"text {i} has {len(row)} tokens, the limit is {self.max_tokens}; {fix}")
        return rows
