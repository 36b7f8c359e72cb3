"""Strings that UTF-8 cannot hold."""

from __future__ import annotations


def without_lone_surrogates(text: str) -> str:
    """Return the text with every lone surrogate replaced by U+FFFD; a pair of them becomes the character it stands for."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
