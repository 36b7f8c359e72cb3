"""The lexicon that comes with the package."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from jobonnx.data import titles
from jobonnx.data.titles import LANGUAGES, read_lexicon, read_titles


def test_every_occupation_has_a_title_in_every_language() -> None:
    rows = read_lexicon()
    assert len(rows) >= 3000
    assert len({str(row) for row in rows}) == len(rows)
    for number, row in enumerate(rows, 2):
        assert set(row) == set(LANGUAGES), f"line {number}"
        assert all(row[language] and all(row[language]) for language in LANGUAGES), f"line {number}"


def test_titles_are_clean_text() -> None:
    for title in read_titles():
        assert title == unicodedata.normalize("NFC", " ".join(title.split())), repr(title)
        assert title.isprintable(), repr(title)
        assert not set("\t|") & set(title)


def test_chinese_titles_are_chinese_and_the_others_are_not() -> None:
    chinese = {
        language: [any("\u4e00" <= c <= "\u9fff" for c in title) for row in read_lexicon() for title in row[language]]
        for language in LANGUAGES
    }
    assert {language: any(found) for language, found in chinese.items()} == {"en": False, "de": False, "es": False, "zh": True}
    assert sum(chinese["zh"]) > 0.98 * len(chinese["zh"])  # the rest are loans such as HRBP


@pytest.mark.medium
def test_titles_are_listed_once_language_by_language() -> None:
    listed = read_titles()
    assert len(listed) == len(set(listed))
    assert set(listed) == {title for row in read_lexicon() for language in LANGUAGES for title in row[language]}
    first = {language: min(listed.index(t) for row in read_lexicon()[:50] for t in row[language]) for language in ("en", "zh")}
    assert listed[0] == read_lexicon()[0]["en"][0]
    assert first["en"] < first["zh"]


def test_the_titles_of_the_readme_are_in_it() -> None:
    assert {"Volksvertreter", "Parlamentarier", "Oberbürgermeister"} <= set(read_titles())


def test_a_row_with_a_missing_column_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lexicon = tmp_path / "titles.tsv"
    monkeypatch.setattr(titles, "_FILE", lexicon)
    lexicon.write_text("en\tde\tes\tzh\ncook|chef\tKoch\tcocinero\t厨师\n", encoding="utf-8")
    assert titles.read_titles() == ["cook", "chef", "Koch", "cocinero", "厨师"]
    lexicon.write_text("en\tde\tes\tzh\ncook|chef\tKoch\tcocinero\n", encoding="utf-8")
    with pytest.raises(ValueError, match="shorter"):
        titles.read_titles()
