"""Which occupations are held out of training, and which lexicon rows belong to an ESCO occupation."""

from __future__ import annotations

import hashlib
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
        held_texts: (language, case-folded title) that may not occur in any training pair.
    """

    train: list[Group]
    held: list[Group]
    held_texts: frozenset[tuple[str, str]]

    def texts(self) -> list[str]:
        """List every distinct training title, sorted."""
        return sorted({text for group in self.train for texts in group.labels.values() for text in texts})


def is_held_out(key: str, share: float) -> bool:
    """Tell whether the occupation `key` belongs to validation: its SHA-256, read as a fraction of 1, is below `share`."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64 < share


def hold_out(groups: Sequence[Group], share: float) -> Corpus:
    """Hold out about `share` of the occupations: ESCO's by `conceptUri`, the lexicon's by row, CSCO's by minor group.

    A held-out title is also taken out of the training groups of every other source in the same language, so a validation
    title is never seen. O*NET is for training only.
    """
    held: list[Group] = []
    rest: list[Group] = []
    for group in groups:
        key = {"esco": group.key, "lexicon": group.key, "csco": group.family}.get(group.source)
        (held if key is not None and is_held_out(key, share) else rest).append(group)
    # A lexicon row is held out for en-zh: its Chinese titles stay unseen, its English ones may be ESCO's.
    held_texts = frozenset(
        (language, text.casefold())
        for group in held
        for language, texts in group.labels.items()
        if group.source == "esco" or language == "zh"
        for text in texts
    )
    train = []
    for group in rest:
        labels = {
            language: [text for text in texts if (language, text.casefold()) not in held_texts]
            for language, texts in group.labels.items()
        }
        if any(labels.values()):
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
