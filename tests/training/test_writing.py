"""Other ways of writing: gendered short forms, accents, additions; and that the test's words are not the training's."""

from __future__ import annotations

import random

import pytest

from jobonnx_train.readers import LANGUAGES
from jobonnx_train.writing import (
    CASES,
    NOISE,
    TESTING,
    TRAINING,
    full_width,
    rewritten,
    short_gender,
    umlauts_spelt_out,
    without_accents,
)


@pytest.mark.parametrize(
    ("title", "forms"),
    [
        ("Ingenieur/Ingenieurin", {"Ingenieur:in", "Ingenieur*in", "Ingenieur/-in", "Ingenieur(in)"}),
        ("ingénieur/ingénieure", {"ingénieur·e", "ingénieur(e)", "ingénieur.e"}),
        ("enfermero/enfermera", {"enfermero/a", "enfermero(a)"}),
        ("directeur technique/directrice technique", {"directeur·rice technique"}),
        ("učitelj glasbe/učiteljica glasbe", {"učitelj/ica glasbe"}),
    ],
)
def test_two_gendered_forms_are_shortened(title: str, forms: set[str]) -> None:
    rng = random.Random(1)
    drawn = {short_gender(title, rng) for _ in range(200)}
    assert forms <= drawn
    assert None not in drawn


@pytest.mark.parametrize("title", ["Koch", "Arzt/Ärztin", "nurse/carer", "a/b/c", "hombre/mujer de obra", "/", "Köchin/Koch"])
def test_other_titles_have_no_short_form(title: str) -> None:
    assert short_gender(title, random.Random(1)) is None


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Ingénieur à l'œuvre", "Ingenieur a l'œuvre"),
        ("Łódź señor Straße Þór", "Lodz senor Strasse Þor"),
        ("бързий йод", "бързий йод"),  # й is a letter of its own
        ("が パン 개발자", "が パン 개발자"),
        ("ﬁ ½", "ﬁ ½"),
    ],
)
def test_accents_are_left_out_of_latin_letters_alone(text: str, plain: str) -> None:
    assert without_accents(text) == plain


def test_umlauts_are_spelt_out() -> None:
    assert umlauts_spelt_out("Köchin für Süßes") == "Koechin fuer Suesses"


def test_full_width_is_what_compatibility_normalisation_takes_back() -> None:
    import unicodedata

    text = "Data Engineer (m/w/d) #12~!"
    assert full_width(text) != text
    assert unicodedata.normalize("NFKC", full_width(text)) == text
    assert full_width("焊工") == "焊工"


def test_about_the_share_is_rewritten_and_the_same_for_the_same_seed() -> None:
    def draw(share: float, seed: int) -> list[str]:
        rng = random.Random(seed)
        return [rewritten("Köchin", "de", TRAINING, rng, share) for _ in range(2000)]

    assert draw(0.0, 1) == ["Köchin"] * 2000
    changed = sum(text != "Köchin" for text in draw(0.3, 1)) / 2000
    assert 0.2 < changed < 0.32  # a title without two forms cannot be shortened
    assert draw(0.3, 1) == draw(0.3, 1) != draw(0.3, 2)


def test_a_title_is_kept_whole_by_every_addition() -> None:
    rng = random.Random(1)
    for language in (*LANGUAGES, ""):
        for name in ("marked", "placed", "numbered", "graded", "noted"):
            for words in (TRAINING, TESTING):
                text = NOISE[name]("data engineer", language, words, rng)
                assert text is not None
                assert "data engineer" in text
                assert text != "data engineer"
                assert text.count("(") == text.count(")")


def test_the_tests_words_are_not_the_trainings() -> None:
    for field in ("places", "notes", "before", "after", "numbers"):
        assert not set(getattr(TRAINING, field)) & set(getattr(TESTING, field)), field
    for language, marks in TESTING.marks.items():
        assert not set(marks) & set(TRAINING.marks[language]), language
    assert set(CASES) == {"capitals", "lower", "title case", "full width"}
