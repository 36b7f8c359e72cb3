"""Job titles grouped by occupation: the five training sets of the card, and the validation sets held out of them."""

from __future__ import annotations

import csv
import hashlib
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jobonnx.evaluation.formats import read_folder, relevant_documents

LANGUAGES = ("en", "de", "es", "zh")
LEXICON = Path(__file__).parents[2] / "src" / "jobonnx" / "data" / "titles.tsv"
MIX_PAIRS = 21_760  # the card's
Pair = tuple[str, str, str]  # anchor, positive, key of the group they share
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True)
class Group:
    """Titles that name one occupation: the positives of each other.

    `key` identifies it, `source` is esco, onet, csco or lexicon, `family` the coarser group it belongs to (ISCO-08 unit
    group, SOC code or CSCO minor group) and `labels` its titles by language, the preferred one first.
    """

    key: str
    source: str
    family: str
    labels: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Retrieval:
    """A ranking task: query id -> title, document id -> title, query id -> relevant document ids."""

    queries: dict[str, str]
    corpus: dict[str, str]
    relevant: dict[str, set[str]]


def is_held_out(key: str, share: float) -> bool:
    """Whether the occupation `key` belongs to validation: its SHA-256, read as a fraction of 1, is below `share`."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64 < share


def _clean(text: str) -> str:
    return _SPACES.sub(" ", text).strip()


def _unique(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(text for text in map(_clean, texts) if text))


def split_genders(label: str) -> list[str]:
    """`X/Xin` as written in ESCO's German and Spanish preferred labels -> the label and its two halves."""
    left, slash, right = label.partition("/")
    if slash and "/" not in right and min(len(left), len(right)) >= 4 and left.count(" ") == right.count(" "):
        return [label, left, right]
    return [label]


def load_esco(folder: Path) -> list[Group]:
    """Occupations of the ESCO classification (occupations_{en,de,es}.csv), one group per `conceptUri`."""
    labels: dict[str, dict[str, list[str]]] = defaultdict(dict)
    families: dict[str, str] = {}
    for language in ("en", "de", "es"):
        with open(folder / f"occupations_{language}.csv", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                raw = [row["preferredLabel"], *row["altLabels"].split("\n")]
                names = [part for label in raw for part in split_genders(label)] if language != "en" else raw
                labels[row["conceptUri"]][language] = _unique(names)
                families[row["conceptUri"]] = f"isco:{row['iscoGroup']}"
    return [Group(uri, "esco", families[uri], names) for uri, names in labels.items()]


def load_onet(folder: Path) -> list[Group]:
    """O*NET occupations with their alternate and sample-of-reported titles, one group per O*NET-SOC code."""
    titles: dict[str, list[str]] = defaultdict(list)
    for name in ("Alternate Titles.txt", "Sample of Reported Titles.txt"):
        with open(folder / name, encoding="utf-8", newline="") as file:
            for row in csv.reader(file, delimiter="\t"):
                if row[0][:1].isdigit():
                    titles[row[0]].append(row[1])
    return [Group(f"onet:{code}", "onet", f"soc:{code[:7]}", {"en": _unique(names)}) for code, names in titles.items()]


def load_csco(file_name: Path) -> list[Group]:
    """China's 2022 occupational classification: names and aliases, one group per occupation code."""
    groups = []
    with open(file_name, encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            raw = [row["name"], *re.split("[,，、]", row["alias"])]
            names = []
            for name in raw:
                name = re.sub(r"\s*L?/?S?$", "", name) if name.endswith(("L", "S")) and name[:1] > "z" else name
                names += [name, *name.split("/")] if name.count("/") == 1 else [name]
            names = [name for name in _unique(names) if len(name) > 1]
            parts = row["code"].split("-")
            depth = 3 if parts[-1] != "00" else max(1, sum(part != "00" for part in parts) - 1)
            groups.append(Group(f"csco:{row['code']}", "csco", "csco:" + "-".join(parts[:depth]), {"zh": names}))
    return groups


def load_lexicon(file_name: Path) -> list[Group]:
    """The project's own titles in four languages (header en, de, es, zh; synonyms of a cell parted by `|`)."""
    groups = []
    with open(file_name, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            labels = {language: _unique(row[language].split("|")) for language in LANGUAGES}
            groups.append(Group(f"lexicon:{labels['en'][0]}", "lexicon", "", labels))
    return groups


def load_talentclef(folder: Path) -> dict[str, list[Pair]]:
    """The card's five sets from TalentCLEF 2025 Task A's training files, taskA_training_{en,de,es,zh}.tsv.

    Columns are (family_id,) id, jobtitle_1, jobtitle_2, with or without a header; the files may lie in any subfolder.
    TalentCLEF has no Chinese file: the card's authors made theirs, so full_zh is there only if such a file is. `mix`
    pairs titles of one id in different languages, as many as the card's has.

    Raises:
        FileNotFoundError: The folder has no training file.
    """
    sets: dict[str, list[Pair]] = {}
    titles: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for language in LANGUAGES:
        for file_name in sorted(folder.rglob(f"taskA_training_{language}.tsv")):
            with open(file_name, encoding="utf-8-sig", newline="") as file:
                # Quotes are part of a title: read as CSV's own, one would swallow the lines up to the next.
                cells = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
                rows = [row[-3:] for row in cells if len(row) >= 3]
            rows = [row for row in rows if row[1] != "jobtitle_1"]
            sets[f"full_{language}"] = [(first, second, key) for key, first, second in rows]
            for key, first, second in rows:
                titles[key][language] += [first, second]
    if not sets:
        raise FileNotFoundError(f"{folder} has no taskA_training_xx.tsv; give the folder of TalentCLEF 2025 Task A.")
    if "full_zh" not in sets:
        print("full_zh: no taskA_training_zh.tsv, left out (TalentCLEF has none; the card's authors made theirs)")
    groups = [
        Group(key, "talentclef", "", {name: _unique(texts) for name, texts in languages.items()})
        for key, languages in titles.items()
    ]
    present = [name.removeprefix("full_") for name in sets]
    directions = [f"{first}-{second}" for index, first in enumerate(present) for second in present[index + 1 :]]
    mixed = _draw_across(random.Random(42), groups, MIX_PAIRS, directions) if directions else []
    return {**sets, **({"mix": mixed} if mixed else {})}


def talentclef_tasks(folder: Path) -> dict[str, Retrieval]:
    """TalentCLEF's validation sets as full_xx, where the folder has them: validation/{english,german,...}."""
    tasks = {}
    for language, name in (("en", "english"), ("es", "spanish"), ("de", "german"), ("zh", "chinese")):
        place = folder / "validation" / name
        if place.is_dir():
            found = read_folder(place)
            tasks[f"full_{language}"] = Retrieval(found.queries, found.corpus, relevant_documents(found.qrels))
    return tasks


@dataclass(frozen=True)
class Corpus:
    """Groups for training and groups held out; `held_texts` may not occur in any training pair."""

    train: list[Group]
    held: list[Group]
    held_texts: frozenset[tuple[str, str]]

    def texts(self) -> list[str]:
        """Every distinct training title, in a fixed order."""
        return sorted({text for group in self.train for texts in group.labels.values() for text in texts})


def split(groups: Sequence[Group], share: float = 0.06) -> Corpus:
    """Hold out about `share` of the occupations: ESCO by `conceptUri`, the lexicon by row, CSCO by minor group.

    A held-out label is also taken out of the training groups of every other source in the same language, so a
    validation title is never seen; O*NET is for training only.
    """

    def held_key(group: Group) -> str | None:
        return {"esco": group.key, "lexicon": group.key, "csco": group.family}.get(group.source)

    held, rest = [], []
    for group in groups:
        key = held_key(group)
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
    """Lexicon rows whose first English title is a label of exactly one ESCO occupation: row key -> occupation key."""
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


def _draw(rng: random.Random, pools: dict[str, list[str]], count: int, power: float) -> list[Pair]:
    """`count` pairs of two different titles of one pool; a pool of n titles is drawn with weight n**power."""
    keys = [key for key, texts in pools.items() if len(texts) > 1]
    if not keys:
        return []
    weights = [len(pools[key]) ** power for key in keys]
    pairs = []
    for key in rng.choices(keys, weights, k=count):
        anchor, positive = rng.sample(pools[key], 2)
        pairs.append((anchor, positive, key))
    return pairs


def _draw_across(rng: random.Random, groups: Sequence[Group], count: int, directions: Sequence[str]) -> list[Pair]:
    """`count` pairs of one occupation in two languages; `directions` such as en-de are drawn evenly."""
    pairs = []
    for direction in directions:
        first, second = direction.split("-")
        able = [group for group in groups if group.labels.get(first) and group.labels.get(second)]
        if not able:
            continue
        weights = [(len(group.labels[first]) * len(group.labels[second])) ** 0.4 for group in able]
        for group in rng.choices(able, weights, k=count // len(directions)):
            pair = [rng.choice(group.labels[first]), rng.choice(group.labels[second])]
            rng.shuffle(pair)
            pairs.append((pair[0], pair[1], group.key))
    return pairs


def training_sets(
    corpus: Corpus, total: int, shares: dict[str, float], sources: dict[str, dict[str, float]], seed: int
) -> dict[str, list[Pair]]:
    """The card's five sets, about `total` pairs in all.

    `shares` is each set's part of the pairs, `sources` the part of each source within a set (names as in the recipe:
    esco, onet, lexicon, csco, siblings for names of one CSCO minor group, linked for lexicon rows of one occupation).
    """
    rng = random.Random(seed)
    by_source: dict[str, list[Group]] = defaultdict(list)
    for group in corpus.train:
        by_source[group.source].append(group)
    links = link_lexicon(corpus.train)

    def pools(name: str, language: str) -> dict[str, list[str]]:
        if name in ("siblings", "linked"):
            merged: dict[str, list[str]] = defaultdict(list)
            for group in by_source["csco" if name == "siblings" else "lexicon"]:
                key = group.family if name == "siblings" else links.get(group.key, group.key)
                merged[key] += group.labels.get(language, [])
            return {key: _unique(texts) for key, texts in merged.items()}
        return {links.get(group.key, group.key): group.labels.get(language, []) for group in by_source[name]}

    occupations = {group.key: group for group in by_source["esco"]}
    bridged = [
        Group(links[row.key], "lexicon", "", {**occupations[links[row.key]].labels, "zh": row.labels.get("zh", [])})
        for row in by_source["lexicon"]
        if row.key in links
    ]
    sets: dict[str, list[Pair]] = {}
    for name, share in shares.items():
        pairs: list[Pair] = []
        for source, part in sources[name].items():
            count = round(total * share * part)
            if name != "mix":
                pairs += _draw(rng, pools(source, name.removeprefix("full_")), count, 0.75)
            elif source == "esco":
                pairs += _draw_across(rng, by_source["esco"], count, ("en-de", "en-es", "de-es"))
            elif source == "linked":
                pairs += _draw_across(rng, bridged, count, ("en-zh", "de-zh", "es-zh"))
            else:
                pairs += _draw_across(
                    rng, by_source["lexicon"], count, ("en-zh", "en-zh", "en-zh", "de-zh", "es-zh", "en-de", "en-es")
                )
        rng.shuffle(pairs)
        sets[name] = pairs
    return sets


def _task(
    queries: Sequence[tuple[str, str]], documents: Sequence[tuple[str, str]], fill: Sequence[tuple[str, str]], size: int
) -> Retrieval:
    """Queries and documents as (key, title): a document is relevant where the key is the query's; `fill` pads."""
    seen: dict[str, set[str]] = defaultdict(set)
    for key, text in documents:
        seen[text].add(key)
    for key, text in fill:
        if len(seen) >= size and text not in seen:
            continue
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


def validation_sets(corpus: Corpus, seed: int, size: int = 2500) -> dict[str, Retrieval]:
    """Tasks on held-out occupations: every query against a corpus of about `size` titles of one language.

    `full_xx`: other labels of the same occupation are relevant. `family_xx`: all labels of its ISCO unit group (zh:
    CSCO minor group) are, nearer to "similar titles". `mix_xx`: the occupation's titles in xx for an English query.
    """
    rng = random.Random(seed)
    tasks = {}
    for language in ("en", "de", "es"):
        held = [group for group in corpus.held if group.source == "esco" and group.labels.get(language)]
        families = {group.family for group in held}
        rest = [group for group in corpus.train if group.source == "esco"]
        rng.shuffle(rest)
        rest.sort(key=lambda group: group.family not in families)  # siblings first: the hard ones
        # A query's own text is no document: it would take the first rank of its list.
        documents = [(group, text) for group in held for text in group.labels[language][1:]]
        fill = [(group, text) for group in rest for text in group.labels.get(language, ())[:4]]
        queries = [(group, group.labels[language][0]) for group in held]
        english = [(group, group.labels["en"][0]) for group in held]
        for name, asked, key in (
            (f"full_{language}", queries, "key"),
            (f"family_{language}", queries, "family"),
            (f"mix_{language}", english, "key"),
        ):
            if name != "mix_en":
                tasks[name] = _task(
                    [(getattr(group, key), text) for group, text in asked],
                    [(getattr(group, key), text) for group, text in documents],
                    [(getattr(group, key), text) for group, text in fill],
                    size,
                )
    rows = [group for group in corpus.held if group.source == "lexicon"]
    names = [group for group in corpus.held if group.source == "csco"]
    other = [
        (group.key, text)
        for group in corpus.train
        if group.source in ("lexicon", "csco")
        for text in group.labels.get("zh", ())[:2]
    ]
    rng.shuffle(other)
    documents = [(group.key, text) for group in rows for text in group.labels["zh"][1:]]
    tasks["full_zh"] = _task([(group.key, group.labels["zh"][0]) for group in rows], documents, other, size)
    documents = [(group.key, text) for group in rows for text in group.labels["zh"]]
    tasks["mix_zh"] = _task([(group.key, group.labels["en"][0]) for group in rows], documents, other, size)
    documents = [(group.family, text) for group in names for text in group.labels["zh"][1:]]
    tasks["family_zh"] = _task([(group.family, group.labels["zh"][0]) for group in names], documents, other, size)
    return tasks
