"""The job titles that come with the package, in English, German, Spanish and Chinese, written by the project itself."""

from __future__ import annotations

from pathlib import Path

LANGUAGES = ("en", "de", "es", "zh")
_FILE = Path(__file__).with_name("titles.tsv")  # importlib.resources takes longer to import than the file to read


def read_lexicon() -> list[dict[str, list[str]]]:
    """Return the lexicon, one occupation a row: language -> its titles, the most usual one first."""
    names, rows = _cells()
    return [{name: cell.split("|") for name, cell in zip(names, row, strict=True)} for row in rows]


def read_titles() -> list[str]:
    """Every title of the lexicon once, language by language."""
    names, rows = _cells()
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    # One split for all of them: `jobonnx match` reads them at every call.
    return list(dict.fromkeys("|".join(cell for language in LANGUAGES for cell in columns[language]).split("|")))


def _cells() -> tuple[list[str], list[list[str]]]:
    """Read the header of the file, and its rows."""
    lines = _FILE.read_text(encoding="utf-8").split("\n")
    return lines[0].split("\t"), [line.split("\t") for line in lines[1:] if line]
