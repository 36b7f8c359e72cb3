"""A corpus of titles with its vectors, kept in the user's cache, so that it is encoded once and searched many times."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from jobonnx.arrays import Floats
from jobonnx.errors import JobonnxError
from jobonnx.files import cache_folder, new_folder
from jobonnx.search.index import Index, Match
from jobonnx.search.topk import top_k

_KEPT = 8  # corpora in the cache; the one used longest ago goes first
_log = logging.getLogger(__name__)


class TitleEncoder(Protocol):
    """What makes vectors of titles."""

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides a vector."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""

    def encode(self, titles: list[str], /, *, prompt: str, normalize_embeddings: bool) -> Floats:
        """Encode titles with a prompt before each: float32 [titles, dimension], of unit length."""


def cached_index(titles: Sequence[str], encoder: TitleEncoder, prompt: str = "") -> Index | None:
    """Open the index of a corpus in the user's cache; make it first if it is not there, or broken.

    Args:
        titles: the corpus, without repeats.
        encoder: whose vectors it holds.
        prompt: what stands before every title when it is encoded.

    Returns:
        The index, or None where the cache cannot be written: that costs time and nothing else.
    """
    try:
        home = cache_folder() / "corpora"
    except RuntimeError:  # a user without a home
        return None
    digest = hashlib.sha256(encoder.fingerprint.encode())
    # As JSON, which keeps titles with line ends apart: one call for all of them.
    digest.update(json.dumps([prompt, *titles]).encode())
    folder = home / digest.hexdigest()
    try:
        if os.path.lexists(folder):
            if opened := _open(folder, titles, encoder, prompt):
                os.utime(folder)
                return opened
            _remove(folder)
        with new_folder(folder) as making, Index.create(making, encoder.fingerprint, encoder.dimension, prompt) as made:
            vectors = encoder.encode(list(titles), prompt=prompt, normalize_embeddings=True)
            made.add(titles, vectors, fingerprint=encoder.fingerprint, prompt=prompt)
        _sweep(home)
    except (JobonnxError, OSError) as error:  # or another process was faster
        _log.info("%s; the corpus is encoded each time", error)
    return _open(folder, titles, encoder, prompt)


def nearest_titles(queries: Floats, titles: Sequence[str], corpus: Floats, k: int) -> list[list[Match]]:
    """Find the `k` titles nearest to each query where there is no index.

    Args:
        queries: float32 [queries, dimension], of unit length.
        titles: the corpus.
        corpus: its vectors, float32 [titles, dimension], of unit length.
        k: most titles per query.

    Returns:
        For each query its titles, best first, without ids.
    """
    scores, places = top_k(queries, corpus, k)
    return [[Match(titles[i], float(s)) for s, i in zip(*row, strict=True)] for row in zip(scores, places, strict=True)]


def _open(folder: Path, titles: Sequence[str], encoder: TitleEncoder, prompt: str) -> Index | None:
    """Open an index that holds these titles from this encoder with this prompt; None where there is none."""
    try:
        opened = Index.open(folder)
    except (JobonnxError, OSError) as error:
        _log.info("%s", error)
        return None
    # The folder's name is no reason to trust what lies in it.
    expected = (encoder.fingerprint, encoder.dimension, prompt)
    right = (opened.fingerprint, opened.dimension, opened.prompt) == expected and list(opened) == list(titles)
    return opened if right else None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()


def _sweep(home: Path) -> None:
    """Remove the corpora that were used longest ago."""
    with suppress(OSError):
        kept = sorted((path for path in home.iterdir() if not path.name.startswith(".")), key=lambda path: path.stat().st_mtime)
        for path in kept[:-_KEPT]:
            shutil.rmtree(path, ignore_errors=True)
