"""The job titles that come with the package, in English, German, Spanish and Chinese, written by the project itself."""

from __future__ import annotations

from importlib.resources import files

LANGUAGES = ("en", "de", "es", "zh")


def read_lexicon() -> list[dict[str, list[str]]]:
    """Return the lexicon, one occupation a row: language -> its titles, the most usual one first."""
    lines = (files("jobonnx") / "data" / "titles.tsv").read_text(encoding="utf-8").split("\n")
    names = lines[0].split("\t")
    return [{name: cell.split("|") for name, cell in zip(names, line.split("\t"), strict=True)} for line in lines[1:] if line]


def read_titles() -> list[str]:
    """Every title of the lexicon once, language by language."""
    rows = read_lexicon()
    return list(dict.fromkeys(title for language in LANGUAGES for row in rows for title in row[language]))
