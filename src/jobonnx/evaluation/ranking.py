"""Ranking titles by vectors: what evaluation needs of an encoder, and the cosines of its vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from jobonnx.arrays import Floats, unit
from jobonnx.errors import JobonnxError
from jobonnx.evaluation.lines import shortened
from jobonnx.evaluation.trec import Ranking
from jobonnx.search.topk import top_k

CELLS = 4_000_000
"""Scores held at a time: some 200 MB with all that is computed from them."""

_UNIT_TOLERANCE = 1e-4
"""Vectors this close to unit length are left as they are, so that scores are those of the encoder to the last bit."""


class TitleEncoder(Protocol):
    """What evaluation needs of an encoder: texts in, float32 [texts, dimension] out, of any length but zero."""

    def encode(self, texts: list[str], /) -> Floats:
        """Encode texts."""
        ...


@dataclass(frozen=True)
class Prompted:
    """An encoder that puts a prompt before every text.

    Attributes:
        encoder: anything with sentence-transformers' `encode`.
        prompt_name: the name of one of the model's prompts, or None.
        prompt: the prompt itself, or None.
    """

    encoder: Any
    prompt_name: str | None = None
    prompt: str | None = None

    def encode(self, texts: list[str], /) -> Floats:
        """Encode texts with the prompt before each, float32 [texts, dimension]."""
        vectors: Floats = self.encoder.encode(texts, prompt_name=self.prompt_name, prompt=self.prompt)
        return vectors


def rank(
    encoder: TitleEncoder,
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    depth: int,
    documents: TitleEncoder | None = None,
) -> Iterator[Ranking]:
    """Rank a corpus for each query by cosine similarity, ties as trec_eval orders them.

    Args:
        encoder: encodes the queries.
        queries: title by query id.
        corpus: title by document id.
        depth: documents per query, at most; the complete corpus where it is smaller.
        documents: encodes the corpus; `encoder` if left out.

    Raises:
        JobonnxError: the encoder returned a vector that is zero or not finite.
    """
    ids = sorted(corpus, reverse=True)  # `top_k` breaks ties by lower index
    corpus_vectors = unit_length(encoded(documents or encoder, [corpus[document] for document in ids]))
    query_vectors = unit_length(encoded(encoder, list(queries.values())))
    names, size = list(queries), max(1, CELLS // min(depth, len(ids)))
    for start in range(0, len(names), size):
        scores, indices = top_k(query_vectors[start : start + size], corpus_vectors, min(depth, len(ids)))
        for row, name in enumerate(names[start : start + size]):
            yield Ranking(name, [ids[index] for index in indices[row].tolist()], scores[row])


def cosines(queries: Floats, corpus: Floats) -> Iterator[Floats]:
    """Compute the cosine of every query with every document, a block of queries at a time: float32 [block, documents].

    The product is float64. Its last bits depend on the shapes that the BLAS is called with; where they could decide how a score
    is rounded to float32, the score is summed again as `jobonnx.search.topk` does.
    """
    error = 2.0**-52 * corpus.shape[1]
    size = max(1, CELLS // len(corpus))
    for start in range(0, len(queries), size):
        block = queries[start : start + size]
        exact = np.concatenate(
            [block.astype(np.float64) @ corpus[first : first + 8192].astype(np.float64).T for first in range(0, len(corpus), 8192)],
            axis=1,
        )
        scores = exact.astype(np.float32)
        rows, columns = np.nonzero((exact - error).astype(np.float32) != (exact + error).astype(np.float32))
        for first in range(0, len(rows), 1024):
            some = slice(first, first + 1024)
            products = np.multiply(block[rows[some]], corpus[columns[some]], dtype=np.float64)
            scores[rows[some], columns[some]] = products.sum(axis=1)
        yield scores


def encoded(encoder: TitleEncoder, texts: list[str]) -> Floats:
    """Encode texts, float32 [texts, dimension].

    Raises:
        JobonnxError: a vector is zero or not finite.
    """
    vectors = encoder.encode(texts)
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    broken = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(broken):
        text = texts[broken[0]]
        raise JobonnxError(f"the vector of {shortened(text)} is zero or not finite; this variant cannot be scored, choose another")
    return vectors


def unit_length(vectors: Floats) -> Floats:
    """Bring vectors to unit length, where the cosine is their inner product, whatever length the model gives them."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    return unit(vectors) if np.abs(lengths - 1).max() > _UNIT_TOLERANCE else vectors
