"""Training pairs: no held-out title among them, reproducible, and TalentCLEF's as the card has them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from jobonnx_train.pairs import MIX_PAIRS, Pair, talentclef_sets, training_sets
from jobonnx_train.readers import LANGUAGES, MORE_LANGUAGES, Group
from jobonnx_train.recipe import small_recipe
from jobonnx_train.split import Corpus, folded


def test_held_out_titles_occur_in_no_training_pair(corpus: Corpus) -> None:
    recipe = small_recipe()
    sets = training_sets(corpus, 4000, recipe.shares, recipe.sources, seed=1)
    assert set(sets) == {f"full_{language}" for language in LANGUAGES} | {"mix", "mix_more", "mix_ja_ko"}
    assert all(sets.values())
    held = {group.source for group in corpus.held}
    assert {"esco", "lexicon"} <= held
    for name, pairs in sets.items():
        for anchor, positive, _ in pairs:
            assert anchor != positive or name.startswith("mix")
            assert not {folded(anchor), folded(positive)} & corpus.held_texts, name
    keys = {group.key for group in corpus.held}
    assert not keys & {key for pairs in sets.values() for *_, key in pairs}


def test_small_languages_are_not_drowned(corpus: Corpus) -> None:
    def keep(group: Group) -> Group:  # Estonian has a partner for one title in ten, Dutch has twice as many titles
        labels = dict(group.labels)
        if group.source == "esco":
            labels["nl"] = [*labels["nl"], *(f"{text} b" for text in labels["nl"])]
            labels["et"] = labels["et"] if group.key.endswith("1") else labels["et"][:1]
        return replace(group, labels=labels)

    train = [keep(group) for group in corpus.train]
    recipe = small_recipe()
    sets = training_sets(replace(corpus, train=train), 20_000, recipe.shares, recipe.sources, seed=1)
    sizes = {name: sum(len(group.labels.get(name, ())) > 1 for group in train) for name in ("et", "nl")}
    assert sizes["nl"] > 5 * sizes["et"]
    assert 0.2 < len(sets["full_et"]) / len(sets["full_nl"]) < 0.45
    found = Counter(language for pair in sets["mix_more"] for text in pair[:2] for language in languages_of(text))
    assert min(found[language] for language in MORE_LANGUAGES) > 0.8 * max(found[language] for language in MORE_LANGUAGES)
    assert found["en"] > 0.4 * len(sets["mix_more"])


def languages_of(title: str) -> set[str]:
    """Tell the language of a made-up title from its mark; titles without one are English, German or Spanish."""
    marks = {language for language in MORE_LANGUAGES if re.search(rf"^m{language} |^[a-z]+(?<=r){language} ", title)}
    return marks or {"en"}


def test_pairs_are_the_same_for_the_same_seed_only(corpus: Corpus) -> None:
    def draw(seed: int) -> dict[str, list[Pair]]:
        return training_sets(corpus, 500, small_recipe().shares, small_recipe().sources, seed)

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_talentclef_files_become_the_cards_sets(talentclef: Path, caplog: pytest.LogCaptureFixture) -> None:
    sets = talentclef_sets(talentclef)
    assert set(sets) == {"full_en", "full_de", "mix"}
    assert len(sets["full_en"]) == len(sets["full_de"]) == 120
    assert len(sets["mix"]) == MIX_PAIRS
    assert ("ship baker", "baker of ship", "uri:0") in sets["full_en"]
    assert "full_zh: no taskA_training_zh.tsv" in caplog.text


def test_talentclef_titles_keep_their_quotes(tmp_path: Path) -> None:
    rows = ['isco\turi:1\t"head" cook\tchef', 'isco\turi:2\tpilot\t"flyer', 'isco\turi:3\tnurse\tcarer"']
    (tmp_path / "taskA_training_en.tsv").write_text("\n".join(rows) + "\n", "utf-8")
    pairs = [('"head" cook', "chef", "uri:1"), ("pilot", '"flyer', "uri:2"), ("nurse", 'carer"', "uri:3")]
    assert talentclef_sets(tmp_path) == {"full_en": pairs}
