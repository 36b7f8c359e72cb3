"""Training pairs: no held-out title among them, reproducible, and TalentCLEF's as the card has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobonnx_train.pairs import MIX_PAIRS, Pair, talentclef_sets, training_sets
from jobonnx_train.recipe import small_recipe
from jobonnx_train.split import Corpus


def test_held_out_titles_occur_in_no_training_pair(corpus: Corpus) -> None:
    recipe = small_recipe()
    sets = training_sets(corpus, 4000, recipe.shares, recipe.sources, seed=1)
    assert set(sets) == {"full_en", "full_de", "full_es", "full_zh", "mix"}
    assert all(sets.values())
    held = {group.source for group in corpus.held}
    assert {"esco", "lexicon"} <= held
    for name, pairs in sets.items():
        # A title of a mixed pair may be in any language. Real titles are spelt alike in several (Manager), and one may be held
        # out in one of them alone; these made-up ones are not, so here a held-out title in any language is a leak.
        languages = ("en", "de", "es", "zh") if name == "mix" else (name[-2:],)
        for anchor, positive, _ in pairs:
            assert anchor != positive or name == "mix"
            found = {(language, text.casefold()) for language in languages for text in (anchor, positive)}
            assert not found & corpus.held_texts, name
    keys = {group.key for group in corpus.held}
    assert not keys & {key for pairs in sets.values() for *_, key in pairs}


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
