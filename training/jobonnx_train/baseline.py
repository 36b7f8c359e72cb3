"""The baseline that a trained model has to beat: character n-grams, no training at all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np


class Tfidf:
    """Character 2-to-4-gram TF-IDF within word boundaries, fitted on the corpus it ranks.

    Word-bounded n-grams with sublinear counts were the strongest of the four plain settings on every set looked at.
    """

    def __init__(self, corpus: Iterable[str]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True).fit(corpus)

    def encode(self, texts: list[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Dense unit vectors, float32 [texts, n-grams + 1]; the last component is for texts without a known n-gram."""
        vectors = self._vectorizer.transform(texts).toarray()
        unknown = ~vectors.any(axis=1, keepdims=True)
        return np.hstack([vectors, unknown]).astype(np.float32)
