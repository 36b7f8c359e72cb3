"""Which occupations are held out of training, and which lexicon rows belong to an ESCO occupation."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from jobonnx_train.readers import Group


@dataclass(frozen=True)
class Corpus:
    """Occupations of training, and occupations held out of it.

    Attributes:
        train: groups for training.
        held: groups for validation.
        held_texts: folded titles that may not occur in any training pair, in whatever language.
    """

    train: list[Group]
    held: list[Group]
    held_texts: frozenset[str]

    def by_language(self) -> dict[str, list[str]]:
        """List the distinct training titles of every language, sorted."""
        found: dict[str, set[str]] = defaultdict(set)
        for group in self.train:
            for language, texts in group.labels.items():
                found[language].update(texts)
        return {language: sorted(texts) for language, texts in sorted(found.items())}

    def texts(self) -> list[str]:
        """List every distinct training title, sorted."""
        return sorted({text for texts in self.by_language().values() for text in texts})


def is_held_out(key: str, share: float) -> bool:
    """Tell whether the occupation `key` belongs to validation: its SHA-256, read as a fraction of 1, is below `share`."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64 < share


def folded(text: str) -> str:
    """Return the title as two titles are compared that shall not both be in training and validation: NFKC and case-folded."""
    return unicodedata.normalize("NFKC", text).casefold()


def hold_out(groups: Sequence[Group], share: float) -> Corpus:
    """Hold out about `share` of the occupations: ESCO's by `conceptUri`, the lexicons' by row, CSCO's by minor group.

    An occupation is held out in all its languages. Its titles leave the training groups of every other source, whatever their
    language: *laborant* is a title in seven of them. A lexicon row is no occupation of ESCO, but where it shares a title with a
    held-out one it most likely means the same, so the complete row leaves. O*NET is for training only.
    """
    held: list[Group] = []
    rest: list[Group] = []
    for group in groups:
        key = {"esco": group.key, "lexicon": group.key, "written": group.key, "csco": group.family}.get(group.source)
        (held if key is not None and is_held_out(key, share) else rest).append(group)
    # A lexicon row is held out for en-zh, en-ja or en-ko: these titles stay unseen, its other ones may be ESCO's.
    held_texts = frozenset(
        folded(text)
        for group in held
        for language, texts in group.labels.items()
        if group.source == "esco" or language in ("zh", "ja", "ko")
        for text in texts
    )
    train = []
    for group in rest:
        labels = {language: [text for text in texts if folded(text) not in held_texts] for language, texts in group.labels.items()}
        if any(labels.values()) and not (group.source in ("lexicon", "written") and labels != group.labels):
            train.append(Group(group.key, group.source, group.family, labels))
    return Corpus(train, held, held_texts)


def link_lexicon(groups: Sequence[Group]) -> dict[str, str]:
    """Find the lexicon rows whose first English title is a label of exactly one ESCO occupation.

    Returns:
        Key of the row -> key of the occupation.
    """
    owners: dict[str, set[str]] = defaultdict(set)
    for group in groups:
        if group.source == "esco":
            for text in group.labels.get("en", ()):
                owners[text.casefold()].add(group.key)
    links = {}
    for group in groups:
        if group.source == "lexicon" and group.labels.get("en"):
            found = owners.get(group.labels["en"][0].casefold(), set())
            if len(found) == 1:
                links[group.key] = next(iter(found))
    return links
