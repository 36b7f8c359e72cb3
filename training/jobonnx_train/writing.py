"""How titles are written elsewhere: gendered short forms, grades, places, numbers and missing accents.

Training writes a part of its titles in such forms, and a test set writes held-out ones so. Each uses places, numbers and marks of
its own, so a model that has learnt the training's words by heart gains nothing in the test.

Capitals and full-width forms are no part of training: the tokenizer's rules make them the same (`tokenizer.train_tokenizer`). The
test has them all the same.
"""

from __future__ import annotations

import json
import random
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Words:
    """What is put around a title.

    Attributes:
        places: towns, countries and districts.
        marks: notes on gender, language -> as its advertisements have them; the key "" is for every other language.
        notes: conditions of the job.
        before: what stands before a title: grades and calls.
        after: grades after a title.
        joints: what stands between a title and its place.
        numbers: how an identifier stands beside a title.
        digits: least and most digits of an identifier.
    """

    places: list[str]
    marks: dict[str, list[str]]
    notes: list[str]
    before: list[str]
    after: list[str]
    joints: list[str]
    numbers: list[str]
    digits: list[int]


_WORDS = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
TRAINING, TESTING = Words(**_WORDS["training"]), Words(**_WORDS["testing"])


_LATIN = re.compile(r"[A-Za-zªºÀ-ɏḀ-ỿ]")
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "ß": "ss"})
_WHOLE_LETTERS = str.maketrans({"ł": "l", "Ł": "L", "ø": "o", "Ø": "O", "đ": "d", "Đ": "D", "æ": "ae", "Æ": "Ae", "ß": "ss"})
_SIGNS = ("{}:{}", "{}*{}", "{}_{}", "{}/{}", "{}/-{}", "{}({})", "{}·{}", "{}.{}", "{}-{}", "{}|{}")
_HALVES = re.compile(r"(?P<left>[^/]+)/(?P<right>[^/]+)")
_SHARED = 3  # letters that two gendered forms of a word begin with, at least


def without_accents(text: str) -> str:
    """Write Latin letters without their marks; other scripts stay, as there a mark makes another letter (и and й, か and が)."""
    out = []
    for character in text.translate(_WHOLE_LETTERS):
        base = unicodedata.normalize("NFD", character)[0]
        out.append(base if _LATIN.match(base) else character)
    return "".join(out)


def umlauts_spelt_out(text: str) -> str:
    """Write ä, ö, ü and ß as ae, oe, ue and ss."""
    return text.translate(_UMLAUTS)


def full_width(text: str) -> str:
    """Write ASCII in the full-width forms of East Asian keyboards, the space included."""
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else "\u3000" if c == " " else c for c in text)


def short_gender(text: str, rng: random.Random) -> str | None:
    """Write `Ingenieur/Ingenieurin` as Ingenieur:in, `enfermero/enfermera` as enfermero/a, `ingénieur/ingénieure` as ingénieur·e.

    Args:
        text: a title.
        rng: draws the sign between stem and ending, of those that are usual in some language.

    Returns:
        None where the title is not of two forms, or where they do not differ in the endings of their words alone.
    """
    match = _HALVES.fullmatch(text)
    if match is None or match["left"].count(" ") != match["right"].count(" "):
        return None
    sign = rng.choice(_SIGNS)
    words = []
    for left, right in zip(match["left"].split(" "), match["right"].split(" "), strict=True):
        shared = _shared(left, right)
        if left != right and (shared < _SHARED or shared == len(right)):
            return None
        words.append(left if left == right else sign.format(left, right[shared:]))
    return " ".join(words)


def _shared(left: str, right: str) -> int:
    """Count the letters that both words begin with."""
    alike = [first == second for first, second in zip(left, right, strict=False)]
    return alike.index(False) if False in alike else len(alike)


def _gendered(text: str, language: str, words: Words, rng: random.Random) -> str | None:
    return short_gender(text, rng)


def _accents(text: str, language: str, words: Words, rng: random.Random) -> str | None:
    plain = umlauts_spelt_out(text) if language == "de" and rng.random() < 0.5 else without_accents(text)
    return plain if plain != text else None


def _marked(text: str, language: str, words: Words, rng: random.Random) -> str:
    return f"{text} {rng.choice(words.marks.get(language, words.marks['']))}"


def _placed(text: str, language: str, words: Words, rng: random.Random) -> str:
    joint = rng.choice(words.joints)
    return f"{text}{joint}{rng.choice(words.places)}{')' if joint == ' (' else ''}"


def _numbered(text: str, language: str, words: Words, rng: random.Random) -> str:
    number = rng.randrange(10 ** (words.digits[0] - 1), 10 ** words.digits[1])
    return rng.choice(words.numbers).format(text=text, number=number)


def _graded(text: str, language: str, words: Words, rng: random.Random) -> str:
    return f"{rng.choice(words.before)} {text}" if rng.random() < 0.5 else f"{text} {rng.choice(words.after)}"


def _noted(text: str, language: str, words: Words, rng: random.Random) -> str:
    return f"{text} {rng.choice(words.notes)}"


Form = Callable[[str, str, Words, random.Random], str | None]

NOISE: dict[str, Form] = {
    "gendered": _gendered,
    "accents": _accents,
    "marked": _marked,
    "placed": _placed,
    "numbered": _numbered,
    "graded": _graded,
    "noted": _noted,
}
"""Name -> form: a title, its language ("" if unknown), words and draws to the title in that form, None where it has none."""

CASES: dict[str, Form] = {
    "capitals": lambda text, *_: text.upper(),
    "lower": lambda text, *_: text.lower(),
    "title case": lambda text, *_: text.title(),
    "full width": lambda text, *_: full_width(text),
}
"""The same for what the tokenizer makes equal."""


def rewritten(text: str, language: str, words: Words, rng: random.Random, share: float) -> str:
    """Write a title in another form, a quarter of them in two, in about `share` of the draws.

    Args:
        text: a title.
        language: of the title, "" if unknown.
        words: what may be added.
        rng: draws.
        share: 0 to 1.
    """
    while rng.random() < share:
        text = rng.choice(tuple(NOISE.values()))(text, language, words, rng) or text
        share = 0.25
    return text
