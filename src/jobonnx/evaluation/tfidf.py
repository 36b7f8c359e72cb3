"""The baseline that a model has to beat: TF-IDF over character n-grams, without any training."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from jobonnx.arrays import Floats


class Tfidf:
    """An encoder of TF-IDF vectors over character 2-to-4-grams within words, fitted on the corpus that it ranks.

    N-grams within words with sublinear counts were the strongest of four settings on every set looked at.
    """

    def __init__(self, corpus: Iterable[str]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True).fit(corpus)

    def encode(self, texts: list[str], /) -> Floats:
        """Encode texts: dense vectors of unit length, float32 [texts, n-grams + 1].

        The last component is 1 for texts without a known n-gram, whose other components are all 0.
        """
        vectors = self._vectorizer.transform(texts).toarray()
        unknown = ~vectors.any(axis=1, keepdims=True)
        dense: Floats = np.hstack([vectors, unknown]).astype(np.float32)
        return dense
