"""Validation tasks: retrieval on occupations that training never saw, and TalentCLEF's own validation sets."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jobonnx.evaluation.formats import read_folder, relevant_documents
from jobonnx_train.readers import CSV_LANGUAGES, MORE_LANGUAGES, WRITTEN_LANGUAGES, Group
from jobonnx_train.split import Corpus

Titles = list[tuple[Group, str]]
_ESCO_FILL, _CHINESE_FILL = 4, 2  # titles per occupation that fill a corpus up


@dataclass(frozen=True)
class Retrieval:
    """A retrieval task.

    Attributes:
        queries: query id -> title.
        corpus: document id -> title.
        relevant: query id -> ids of its relevant documents.
    """

    queries: dict[str, str]
    corpus: dict[str, str]
    relevant: dict[str, set[str]]


@dataclass(frozen=True)
class Task:
    """How a task is made of held-out occupations.

    Attributes:
        name: of the task.
        source: whose occupations ask.
        query: language of the query, which is the first title of an occupation.
        language: language of the documents.
        relevant: `key`, titles of the same occupation are relevant; `family`, titles of its ISCO unit group or CSCO minor group.
        first: index of the first title that becomes a document. 1 leaves out the query's own one: as a document it would take the
            first rank of its list.
    """

    name: str
    source: str
    query: str
    language: str
    relevant: Literal["key", "family"]
    first: int = 1


TASKS = (
    Task("full_en", "esco", "en", "en", "key"),
    Task("family_en", "esco", "en", "en", "family"),
    Task("full_de", "esco", "de", "de", "key"),
    Task("family_de", "esco", "de", "de", "family"),
    Task("mix_de", "esco", "en", "de", "key"),
    Task("full_es", "esco", "es", "es", "key"),
    Task("family_es", "esco", "es", "es", "family"),
    Task("mix_es", "esco", "en", "es", "key"),
    Task("full_zh", "lexicon", "zh", "zh", "key"),
    Task("mix_zh", "lexicon", "en", "zh", "key", first=0),
    Task("family_zh", "csco", "zh", "zh", "family"),
    *(Task(f"full_{language}", "esco", language, language, "key") for language in MORE_LANGUAGES),
    # All labels are documents here: in some languages an occupation has no second one.
    *(Task(f"mix_{language}", "esco", "en", language, "key", first=0) for language in MORE_LANGUAGES),
    *(Task(f"mix_{language}", "written", "en", language, "key", first=0) for language in WRITTEN_LANGUAGES),
)


def validation_sets(corpus: Corpus, seed: int, size: int = 2500) -> dict[str, Retrieval]:
    """Make the tasks of `TASKS`: every query against a corpus of about `size` titles of one language.

    Args:
        corpus: held-out occupations ask; titles of the others fill the corpus up.
        seed: of the random choice of titles that fill up.
        size: documents per task, at least as many as the held-out occupations have.
    """
    rng = random.Random(seed)
    fill = {language: _esco_fill(corpus, language, rng) for language in CSV_LANGUAGES}
    fill["zh"] = _chinese_fill(corpus, rng)  # fourth, so that the tasks of the first four languages are those of the first model
    fill |= {language: _esco_fill(corpus, language, rng) for language in MORE_LANGUAGES}
    for language in WRITTEN_LANGUAGES:
        groups = (group for group in corpus.train if group.source == "written")
        fill[language] = [(group, text) for group in groups for text in group.labels[language]]
    return {task.name: _retrieval(task, corpus.held, fill[task.language], size) for task in TASKS}


def talentclef_tasks(folder: Path) -> dict[str, Retrieval]:
    """Read TalentCLEF's validation sets as full_xx, where the folder has them: validation/{english,german,...}."""
    tasks = {}
    for language, name in (("en", "english"), ("es", "spanish"), ("de", "german"), ("zh", "chinese")):
        place = folder / "validation" / name
        if place.is_dir():
            found = read_folder(place)
            tasks[f"full_{language}"] = Retrieval(found.queries, found.corpus, relevant_documents(found.qrels))
    return tasks


def _esco_fill(corpus: Corpus, language: str, rng: random.Random) -> Titles:
    """Shuffle the training occupations of ESCO; siblings of held-out ones come first, as they are the hard ones."""
    families = {group.family for group in corpus.held if group.source == "esco" and group.labels.get(language)}
    groups = [group for group in corpus.train if group.source == "esco"]
    rng.shuffle(groups)
    groups.sort(key=lambda group: group.family not in families)
    return [(group, text) for group in groups for text in group.labels.get(language, ())[:_ESCO_FILL]]


def _chinese_fill(corpus: Corpus, rng: random.Random) -> Titles:
    groups = [group for group in corpus.train if group.source in ("lexicon", "csco")]
    titles = [(group, text) for group in groups for text in group.labels.get("zh", ())[:_CHINESE_FILL]]
    rng.shuffle(titles)
    return titles


def _retrieval(task: Task, held: Sequence[Group], fill: Titles, size: int) -> Retrieval:
    def keyed(titles: Iterable[tuple[Group, str]]) -> list[tuple[str, str]]:
        return [(group.key if task.relevant == "key" else group.family, text) for group, text in titles]

    groups = [
        group for group in held if group.source == task.source and group.labels.get(task.query) and group.labels.get(task.language)
    ]
    queries = keyed((group, group.labels[task.query][0]) for group in groups)
    documents = keyed((group, text) for group in groups for text in group.labels[task.language][task.first :])
    return make_retrieval(queries, documents, keyed(fill), size)


def make_retrieval(
    queries: Sequence[tuple[str, str]], documents: Sequence[tuple[str, str]], fill: Sequence[tuple[str, str]], size: int
) -> Retrieval:
    """Make a task of (key, title): a document is relevant to the queries that have its key.

    Args:
        queries: a query without a relevant document is left out. A document of the query's own text does not count.
        documents: all become part of the corpus; equal titles become one document, with the keys of all.
        fill: titles that fill the corpus up to `size` documents. One that is a document already adds its key to it.
        size: documents of the corpus, unless `documents` are more.
    """
    seen: dict[str, set[str]] = defaultdict(set)
    for key, text in documents:
        seen[text].add(key)
    for key, text in fill:
        if len(seen) < size or text in seen:
            seen[text].add(key)
    corpus = {f"d{index}": text for index, text in enumerate(seen)}
    ids: dict[str, set[str]] = defaultdict(set)
    for identifier, text in corpus.items():
        for key in seen[text]:
            ids[key].add(identifier)
    asked, relevant = {}, {}
    for index, (key, text) in enumerate(queries):
        found = {identifier for identifier in ids[key] if corpus[identifier] != text}
        if found:
            asked[f"q{index}"], relevant[f"q{index}"] = text, found
    return Retrieval(asked, corpus, relevant)
