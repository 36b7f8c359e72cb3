"""Training pairs: the card's five sets and those of 18 more languages, drawn from occupations or read from TalentCLEF."""

from __future__ import annotations

import logging
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from jobonnx_train.readers import MORE_LANGUAGES, Group, distinct, read_talentclef
from jobonnx_train.split import Corpus, link_lexicon

Pair = tuple[str, str, str]  # anchor, positive, key of the occupation that they share

MIX_PAIRS = 21_760  # the card's
# The languages of a `mix` pair, by source. A direction that stands there n times is drawn n times as often.
MIX_DIRECTIONS = {
    "esco": ("en-de", "en-es", "de-es"),
    "linked": ("en-zh", "de-zh", "es-zh"),
    "lexicon": ("en-zh", "en-zh", "en-zh", "de-zh", "es-zh", "en-de", "en-es"),
    "written": ("en-ja", "en-ko", "ja-ko"),
}
# Of `mix_more`: 55% from English, which most searches across languages start or end in, 15% from German and Spanish, and 31%
# between any two of the 18. Every language has the same part, however few titles it has.
MORE_DIRECTIONS = (
    *(f"en-{language}" for language in MORE_LANGUAGES for _ in range(15)),
    *(f"{first}-{second}" for first in ("de", "es") for second in MORE_LANGUAGES for _ in range(2)),
    *(f"{first}-{second}" for first, second in combinations(MORE_LANGUAGES, 2)),
)
# Of `full_more`: a language's part is its titles that have a partner, to this power, so that the 397 Estonian occupations with two
# titles are neither drowned nor learnt by heart.
MORE_POWER = 0.5
# The weight of a group of n titles is n to this power: below 1, so that occupations with many titles do not crowd out the rest.
WITHIN_POWER, ACROSS_POWER = 0.75, 0.4

log = logging.getLogger(__name__)


def training_sets(
    corpus: Corpus, total: int, shares: Mapping[str, float], sources: Mapping[str, Mapping[str, float]], seed: int
) -> dict[str, list[Pair]]:
    """Draw the card's five sets, and those of the 18 languages that the card does not have.

    Args:
        corpus: the occupations; only those of training are drawn from.
        total: pairs in all, about.
        shares: set -> its part of the pairs. `full_more` becomes one set per language, as a batch is of one set and titles of one
            language are the hardest negatives; `mix_more` pairs titles of one occupation across languages, `mix_ja_ko` those of
            titles_ja_ko.tsv.
        sources: set -> source -> the source's part of the set's pairs. Besides esco, onet, lexicon and csco there are `siblings`,
            names of one CSCO minor group, and `linked`, lexicon rows that belong to one ESCO occupation.
        seed: of the random draws.
    """
    rng = random.Random(seed)
    by_source = _by_source(corpus.train)
    links = link_lexicon(corpus.train)
    mixed = {**by_source, "linked": _bridges(by_source, links)}
    sets: dict[str, list[Pair]] = {}
    for name, share in _spelt_out(shares, by_source["esco"]).items():
        pairs: list[Pair] = []
        for source, part in sources.get(name, {"esco": 1.0}).items():
            count = round(total * share * part)
            if name == "mix_more":
                pairs += draw_across(rng, mixed[source], count, MORE_DIRECTIONS)
            elif name.startswith("mix"):
                pairs += draw_across(rng, mixed[source], count, MIX_DIRECTIONS[source])
            else:
                pairs += draw_within(rng, _pools(by_source, links, source, name.removeprefix("full_")), count)
        rng.shuffle(pairs)
        sets[name] = pairs
    return {name: pairs for name, pairs in sets.items() if pairs}


def _spelt_out(shares: Mapping[str, float], groups: Sequence[Group]) -> dict[str, float]:
    """Put a set per language in the place of `full_more`."""
    sizes = {
        language: sum(len(titles) for group in groups if len(titles := group.labels.get(language, [])) > 1) ** MORE_POWER
        for language in MORE_LANGUAGES
    }
    whole = sum(sizes.values()) or 1.0
    more = {f"full_{language}": shares.get("full_more", 0.0) * size / whole for language, size in sizes.items()}
    return {**{name: share for name, share in shares.items() if name != "full_more"}, **more}


def talentclef_sets(folder: Path) -> dict[str, list[Pair]]:
    """Make the card's five sets of TalentCLEF 2025 Task A's training files.

    TalentCLEF has no Chinese file: the card's authors made theirs. So full_zh is there only if such a file is. `mix` pairs titles
    of one id in different languages, as many as the card's has.

    Raises:
        FileNotFoundError: the folder has no training file.
    """
    rows = read_talentclef(folder)
    sets = {f"full_{language}": [(first, second, key) for key, first, second in found] for language, found in rows.items()}
    if "zh" not in rows:
        log.warning("full_zh: no taskA_training_zh.tsv, left out (TalentCLEF has none; the card's authors made theirs)")
    titles: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for language, found in rows.items():
        for key, first, second in found:
            titles[key][language] += [first, second]
    groups = [
        Group(key, "talentclef", "", {language: distinct(texts) for language, texts in labels.items()})
        for key, labels in titles.items()
    ]
    present = list(rows)
    directions = [f"{first}-{second}" for index, first in enumerate(present) for second in present[index + 1 :]]
    mixed = draw_across(random.Random(42), groups, MIX_PAIRS, directions) if directions else []
    return {**sets, "mix": mixed} if mixed else sets


def draw_within(rng: random.Random, pools: Mapping[str, Sequence[str]], count: int) -> list[Pair]:
    """Draw `count` pairs of two different titles of one pool (key -> titles)."""
    keys = [key for key, texts in pools.items() if len(texts) > 1]
    if not keys:
        return []
    weights = [len(pools[key]) ** WITHIN_POWER for key in keys]
    pairs = []
    for key in rng.choices(keys, weights, k=count):
        anchor, positive = rng.sample(pools[key], 2)
        pairs.append((anchor, positive, key))
    return pairs


def draw_across(rng: random.Random, groups: Sequence[Group], count: int, directions: Sequence[str]) -> list[Pair]:
    """Draw `count` pairs of one occupation in two languages, evenly over directions such as en-de; repeated ones count again."""
    pairs = []
    for direction, times in Counter(directions).items():
        first, second = direction.split("-")
        able = [group for group in groups if group.labels.get(first) and group.labels.get(second)]
        if not able:
            continue
        weights = [(len(group.labels[first]) * len(group.labels[second])) ** ACROSS_POWER for group in able]
        for group in rng.choices(able, weights, k=count * times // len(directions)):
            pair = [rng.choice(group.labels[first]), rng.choice(group.labels[second])]
            rng.shuffle(pair)
            pairs.append((pair[0], pair[1], group.key))
    return pairs


def _by_source(groups: Sequence[Group]) -> dict[str, list[Group]]:
    found: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        found[group.source].append(group)
    return found


def _pools(
    by_source: Mapping[str, Sequence[Group]], links: Mapping[str, str], source: str, language: str
) -> Mapping[str, Sequence[str]]:
    """Key -> titles of one language that may be paired. A linked lexicon row has the key of its ESCO occupation."""
    if source == "siblings":
        return _merged((group.family, group.labels.get(language, [])) for group in by_source["csco"])
    if source == "linked":
        return _merged((links.get(row.key, row.key), row.labels.get(language, [])) for row in by_source["lexicon"])
    return {links.get(group.key, group.key): group.labels.get(language, []) for group in by_source[source]}


def _merged(parts: Iterable[tuple[str, Sequence[str]]]) -> dict[str, list[str]]:
    merged: dict[str, list[str]] = defaultdict(list)
    for key, texts in parts:
        merged[key] += texts
    return {key: distinct(texts) for key, texts in merged.items()}


def _bridges(by_source: Mapping[str, Sequence[Group]], links: Mapping[str, str]) -> list[Group]:
    """Linked lexicon rows as groups of ESCO's labels and the row's Chinese titles."""
    occupations = {group.key: group for group in by_source["esco"]}
    return [
        Group(links[row.key], "lexicon", "", {**occupations[links[row.key]].labels, "zh": row.labels.get("zh", [])})
        for row in by_source["lexicon"]
        if row.key in links
    ]
