"""The texts a graph is judged by and the titles int8 is calibrated on: never the same ones, and no evaluation data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from importlib.resources import files

from jobonnx.data.titles import read_lexicon
from jobonnx.text.tokenizer import Tokenizer

PER_LANGUAGE = 120  # parity titles of each language
RANKED_PER_LANGUAGE = 400  # more titles in en, de, es and zh, so that ranking is judged among 2,000
CALIBRATION_PER_LANGUAGE = 200
_CARRIED = 6  # a bundle carries one of so many parity titles, and none of those for ranking
_LENGTHS = (64, 256, 512)
_FILLERS = (" a", " &", ",", "z", "7")  # one of them is a single token, in whatever vocabulary


def parity_texts(tokenizer: Tokenizer, prompts: Iterable[str] = ()) -> list[str]:
    """Return titles in en, de, es, zh and ja, more of them for ranking, texts of several lengths, and an empty one.

    The lengths are 64, 256 and 512 tokens, as far as the limit allows, the limit, and one token more.

    Args:
        tokenizer: counts the tokens.
        prompts: the model's; the titles have each in turn before them, and none.
    """
    titles = _parity_titles()
    limit = tokenizer.max_tokens
    lengths = sorted({n for n in _LENGTHS if n < limit} | {limit, limit + 1})
    return [*_prompted([*titles, *_ranked_titles()], prompts), *(_text_of(n, titles, tokenizer) for n in lengths), ""]


def reference_texts(texts: Sequence[str]) -> list[int]:
    """Return the part of the parity set that a bundle carries: every sixth title, all special texts; positions in `texts`."""
    titles = len(_parity_titles())
    return [*range(0, titles, _CARRIED), *range(titles + len(_ranked_titles()), len(texts))]


def calibration_titles(prompts: Iterable[str] = ()) -> list[str]:
    """Return titles in en, de, es and zh that are not in the parity set, each of the prompts or none before them in turn."""
    judged = {*_parity_titles(), *_ranked_titles()}
    titles = [title for language in _languages()[:4] for title in _spread(language, CALIBRATION_PER_LANGUAGE, 1)]
    unseen = [title for title in dict.fromkeys(titles) if title not in judged]  # one title may stand in two rows of the lexicon
    return _prompted(unseen, prompts)


def calibration_sha256(prompts: Iterable[str] = ()) -> str:
    """Name the calibration set in an int8 recipe."""
    return hashlib.sha256("\n".join(calibration_titles(prompts)).encode()).hexdigest()


def _prompted(titles: Sequence[str], prompts: Iterable[str]) -> list[str]:
    """Put prompts before titles in turn; empty ones count once, as none.

    The turn moves on by one more every `_CARRIED` titles, so that the titles that a bundle carries have all of them too.
    """
    choices = list(dict.fromkeys(["", *prompts]))
    return [choices[(i + i // _CARRIED) % len(choices)] + title for i, title in enumerate(titles)]


def _parity_titles() -> list[str]:
    return [title for language in _languages() for title in _spread(language, PER_LANGUAGE, 0)]


def _ranked_titles() -> list[str]:
    judged = set(_parity_titles())
    titles = [title for language in _languages()[:4] for title in _spread(language, RANKED_PER_LANGUAGE, 2)]
    return [title for title in dict.fromkeys(titles) if title not in judged]


def _languages() -> list[list[str]]:
    japanese = (files("jobonnx_export") / "data" / "titles_ja.txt").read_text(encoding="utf-8").split("\n")
    lexicon = read_lexicon()
    return [*([row[language][0] for row in lexicon] for language in ("en", "de", "es", "zh")), [t for t in japanese if t]]


def _spread(titles: Sequence[str], count: int, start: int) -> list[str]:
    """`count` titles at equal distances; another `start` gives others, as long as the distance is over 1."""
    return list(titles[start :: max(1, len(titles) // count)][:count])


def _text_of(tokens: int, titles: Sequence[str], tokenizer: Tokenizer) -> str:
    """Return a text of so many tokens, special tokens included, as exactly as the fillers can make it."""
    unlimited = tokenizer.with_limit(1 << 20)

    def count(text: str) -> int:
        return len(unlimited.encode([text])[0])

    text = ""
    for title in titles:
        longer = f"{text}, {title}" if text else title
        if count(longer) > tokens:
            break
        text = longer
    while (reached := count(text)) < tokens:
        text += next((filler for filler in _FILLERS if count(text + filler) == reached + 1), _FILLERS[0])
    return text
