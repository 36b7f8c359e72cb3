"""A job, the texts of one request, and a title, a text that is computed once whoever wants it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from jobonnx.arrays import Floats
from jobonnx.serve.cache import Text


class Title:
    """A text that is waiting or running, and the jobs that want it."""

    __slots__ = ("cost", "jobs", "row", "running", "size_class", "text")

    def __init__(self, text: Text, size_class: int) -> None:
        self.text = text
        self.row: Sequence[int] | None = text if isinstance(text, tuple) else None
        self.cost = len(text) if isinstance(text, tuple) else estimated_tokens(text)
        self.jobs: list[Job] = []
        self.running = False
        self.size_class = size_class  # of the job that brought it


class Job:
    """The texts of one request, and what becomes of them.

    Attributes:
        vectors: float32 [texts, dimension], complete when `done` and no `error`.
        tokens: of all texts, repeats counted.
        hits: texts that were in the cache, repeats counted.
        pending: titles that no batch has taken yet.
        remaining: their tokens, counted down title by title, as a large job is looked at for every batch.
        done: whether it has ended: computed, failed or cancelled.
        error: why it failed.
        owner: the caller's.
        submitted, ready, started, finished: when it came, was tokenised, first entered a batch, and ended, on `time.monotonic`'s
            clock; 0 for what has not happened.
    """

    def __init__(self, texts: Sequence[Text], deadline: float, owner: Any) -> None:
        self.owner, self.deadline = owner, deadline
        self.places: dict[Text, list[int]] = {}  # of each distinct text
        for place, text in enumerate(texts):
            self.places.setdefault(text, []).append(place)
        self.vectors: Floats | None = None
        self.tokens = self.hits = self.left = self.remaining = 0
        self.pending: deque[Title] = deque()
        self.done = False
        self.error: BaseException | None = None
        self.submitted = time.monotonic()
        self.ready = self.started = self.finished = 0.0

    def __len__(self) -> int:
        return sum(map(len, self.places.values()))

    def fill(self, text: Text, vector: Floats, tokens: int) -> int:
        """Take the vector of one of the texts; return how many times it is there."""
        places = self.places[text]
        if self.vectors is None:
            self.vectors = np.empty((len(self), len(vector)), np.float32)
        for place in places:
            self.vectors[place] = vector
        self.tokens += tokens * len(places)
        return len(places)


def estimated_tokens(text: str) -> int:
    """Guess a text's tokens before it is tokenised: four bytes of UTF-8 per token, which fits Latin and Chinese titles alike."""
    return 2 + len(text.encode("utf-8", "surrogatepass")) // 4
