"""The tokenizer as `/tokenize` shows it, and for counting texts that must not be cut: loaded when somebody first asks."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobonnx.errors import native
from jobonnx.serve.schemas import Token


class PlainTokenizer:
    """A tokenizer.json without truncation and padding. Safe to share between threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._loaded: Any = None

    def tokens(self, texts: Sequence[str], special: bool = True) -> list[list[Token]]:
        """Return the tokens of each text, with where they stand in it, in characters."""
        encodings = self._encode(texts, special)
        return [
            [
                Token(number, token, bool(mask), None if mask else span[0], None if mask else span[1])
                for number, token, mask, span in zip(
                    encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True
                )
            ]
            for encoding in encodings
        ]

    def counts(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of each text, special ones included."""
        return [len(encoding.ids) for encoding in self._encode(texts, True)]

    def _encode(self, texts: Sequence[str], special: bool) -> Any:
        import tokenizers

        with native(f"{self._path} could not tokenise these texts", "export or download it again"):
            with self._lock:
                if self._loaded is None:
                    loaded = tokenizers.Tokenizer.from_file(str(self._path))
                    loaded.no_padding()
                    loaded.no_truncation()
                    self._loaded = loaded
            return self._loaded.encode_batch(list(texts), add_special_tokens=special)
