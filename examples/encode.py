"""Encode job titles, compare them, and find the nearest in a list.

python examples/encode.py [BUNDLE]
"""

from __future__ import annotations

import sys

from jobonnx import Encoder
from jobonnx.search.topk import top_k

queries = ["software developer", "Krankenschwester"]
corpus = ["Softwareentwickler", "enfermera", "chef de cuisine", "programador", "nurse", "护士", "data engineer", "Koch"]

encoder = Encoder(sys.argv[1] if len(sys.argv) > 1 else None)  # None: the small model
vectors = encoder.encode([*queries, *corpus], normalize_embeddings=True)  # one call, so that repeats are computed once
scores, places = top_k(vectors[: len(queries)], vectors[len(queries) :], k=3)
for query, found, row in zip(queries, scores, places, strict=True):
    print(query)
    for score, place in zip(found, row, strict=True):
        print(f"  {score:.3f}  {corpus[place]}")
