"""Cut a huge text before it is tokenised, so that its token ids up to a limit stay the same.

A Unigram tokenizer (Kudo 2018, arXiv:1804.10959) finds the best segmentation from left to right, by Viterbi's algorithm: the best
path to a position depends on nothing after it. No piece is longer than L characters, so the best path of the whole text has a
boundary among any L + 1 neighbouring positions, and up to there it equals the segmentation of the text that ends there. What the
segmentations of all those prefixes have in common is therefore what the whole text begins with.

This asks for positions where normalisation makes one character of one and joins no neighbours; `_is_plain` knows them. It counts
NFKC and case folding as normalisation, whether or not the tokenizer at hand folds case: ß is not plain, as some make ss of it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

# Characters per token of the limit from which a text counts as huge. Titles are never touched, and real text has 4 to 5.
LONG = 32
_PREFIXES = (8, 16, 32)  # characters per token of the limit that are tried; what repeats without an end may never agree
_SEARCHED = 4096  # positions that are searched for a place to cut, per prefix
_PLAIN = frozenset({"Lu", "Ll", "Lo", "Nd", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "So"})
_JOINING = ((0x1100, 0x11FF), (0xA960, 0xA97F), (0xD7B0, 0xD7FF), (0x1F1E6, 0x1F1FF))  # Hangul jamo, regional indicators

Segment = Callable[[list[str]], list[list[int]]]


class Cutter:
    """Cuts huge texts for one tokenizer; one that is not Unigram has none cut."""

    def __init__(self, tokenizer: Any, max_tokens: int, truncation: str) -> None:
        self._tokenizer, self._max_tokens, self._truncation = tokenizer, max_tokens, truncation

    def cut(self, text: str) -> str:
        """Return a huge text without what can never reach the limit, so that its ids stay the same; any other text as it is."""
        if len(text) <= LONG * self._max_tokens or self._truncation == "left" or self._parts is None:
            return text
        return shorten(text, self._max_tokens, *self._parts)

    @cached_property
    def _parts(self) -> tuple[Segment, int] | None:
        """The tokenizer without a limit, and the length of its longest piece."""
        import tokenizers

        unlimited = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
        unlimited.no_truncation()

        def segment(texts: list[str]) -> list[list[int]]:
            return [encoding.ids for encoding in unlimited.encode_batch_fast(texts, add_special_tokens=False)]

        unigram = isinstance(unlimited.model, tokenizers.models.Unigram)
        return (segment, max(map(len, unlimited.get_vocab()))) if unigram else None


def shorten(text: str, limit: int, segment: Segment, longest: int) -> str:
    """Return a prefix of `text` whose first `limit` token ids are those of `text`; `text` itself where none can be proven.

    Args:
        text: a huge text.
        limit: token ids that have to stay.
        segment: texts to token ids by a Unigram tokenizer, without special tokens and without a limit.
        longest: characters of the longest piece in its vocabulary.
    """
    for end in _places_to_cut(text, [factor * limit for factor in _PREFIXES], longest + 1):
        candidates = segment([text[: end - back] for back in range(longest + 1)])
        if _common_prefix(candidates, limit) >= limit:
            return text[:end]
    return text


def _places_to_cut(text: str, starts: Sequence[int], window: int) -> Iterator[int]:
    """Find the ends of runs of `window` plain characters, each followed by one more: the first after each start."""
    for start in starts:
        run = 0
        for position in range(start, min(start + _SEARCHED, len(text))):
            double_space = text[position] == " " == text[position - 1]
            run = run + 1 if _is_plain(text[position]) and not double_space else 0
            if run > window:
                yield position
                break


def _is_plain(character: str) -> bool:
    """Whether NFKC and case folding make one character of it, and no neighbour of its kind joins it."""
    if character.isascii():
        return character == " " or character.isprintable()
    normalised = unicodedata.normalize("NFKC", character).casefold()
    return (
        len(normalised) == 1
        and {unicodedata.category(character), unicodedata.category(normalised)} <= _PLAIN
        and not any(first <= ord(character) <= last for first, last in _JOINING)
    )


def _common_prefix(rows: list[list[int]], limit: int) -> int:
    """How many ids all rows begin with, `limit` at most."""
    for place, ids in enumerate(zip(*(row[:limit] for row in rows), strict=False)):
        if len(set(ids)) > 1:
            return place
    return min(limit, *map(len, rows))
