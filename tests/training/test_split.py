"""What is held out of training, and which lexicon rows belong to an occupation."""

from __future__ import annotations

from jobonnx_train.readers import ESCO_LANGUAGES, Group
from jobonnx_train.split import Corpus, folded, hold_out, is_held_out, link_lexicon


def test_about_the_share_is_held_out_and_always_the_same() -> None:
    held = [key for key in map(str, range(10_000)) if is_held_out(key, 0.06)]
    assert 500 < len(held) < 700
    assert held[:3] == [key for key in map(str, range(1000)) if is_held_out(key, 0.06)][:3]
    assert not any(is_held_out(key, 0.0) for key in held)


def test_held_out_titles_leave_every_source(corpus: Corpus) -> None:
    assert {group.source for group in corpus.held} == {"esco", "lexicon", "written"}
    left = {folded(text) for group in corpus.train for texts in group.labels.values() for text in texts}
    assert corpus.held_texts
    assert not left & corpus.held_texts
    assert all(any(group.labels.values()) for group in corpus.train)


def test_a_held_out_title_leaves_other_languages_and_spellings_too() -> None:
    keys = [f"uri/{n}" for n in range(100)]
    out, kept = next(key for key in keys if is_held_out(key, 0.1)), next(key for key in keys if not is_held_out(key, 0.1))
    groups = [
        Group(out, "esco", "", {"da": ["Laborant"], "et": ["maja ehitaja"]}),
        Group(kept, "esco", "", {"sv": ["laborant", "labbtekniker"], "no": ["ＬＡＢＯＲＡＮＴ"]}),
        Group("onet:1", "onet", "", {"en": ["laborant", "lab technician"]}),
        Group("lexicon:row", "lexicon", "", {"en": ["lab worker"], "de": ["Laborant"], "es": ["laboratorista"], "zh": ["实验员"]}),
    ]
    corpus = hold_out(groups, 0.1)
    assert [group.key for group in corpus.held] == [out]
    assert {group.key: group.labels for group in corpus.train} == {
        kept: {"sv": ["labbtekniker"], "no": []},
        "onet:1": {"en": ["lab technician"]},
    }  # the lexicon's row means what is held out: its Chinese title would be a bridge to it


def test_the_same_occupations_are_held_out_in_every_language(corpus: Corpus) -> None:
    held = {group.key for group in corpus.held if group.source == "esco"}
    assert held
    for group in corpus.train:
        assert group.key not in held
    for group in corpus.held:
        if group.source == "esco":
            assert set(group.labels) == set(ESCO_LANGUAGES)


def test_csco_is_held_out_by_minor_group() -> None:
    groups = [Group(f"csco:{n}", "csco", f"csco:minor {n // 10}", {"zh": [f"{n}焊工"]}) for n in range(200)]
    held = {group.family for group in hold_out(groups, 0.3).held}
    assert 0 < len(held) < 20
    assert not held & {group.family for group in hold_out(groups, 0.3).train}


def test_onet_and_talentclef_are_never_held_out() -> None:
    groups = [Group(f"onet:{index}", "onet", "", {"en": [f"title {index}"]}) for index in range(50)]
    assert hold_out(groups, 1.0).held == []


def test_a_lexicon_row_is_linked_where_one_occupation_alone_has_its_title() -> None:
    def esco(key: str, *titles: str) -> Group:
        return Group(key, "esco", "", {"en": list(titles)})

    def row(title: str) -> Group:
        return Group(f"lexicon:{title}", "lexicon", "", {"en": [title], "zh": ["厨师"]})

    groups = [esco("a", "Cook", "chef"), esco("b", "baker", "chef"), row("cook"), row("chef"), row("king")]
    assert link_lexicon(groups) == {"lexicon:cook": "a"}
