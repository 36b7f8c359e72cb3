"""The readers of the title files, on made-up files in their formats."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jobonnx.data.titles import read_lexicon
from jobonnx_train.readers import (
    ESCO_LANGUAGES,
    LANGUAGES,
    csco_names,
    lexicon_groups,
    read_csco,
    read_esco,
    read_onet,
    read_talentclef,
    read_written,
    split_genders,
)


def test_gendered_labels_are_split_in_two() -> None:
    assert split_genders("Leiter für Film/Leiterin für Film")[1:] == ["Leiter für Film", "Leiterin für Film"]
    assert split_genders("a/b") == ["a/b"]
    assert split_genders("Dreher") == ["Dreher"]


def test_esco_groups_hold_every_language(sources: Path) -> None:
    groups = read_esco(sources, sources / "more")
    assert len(groups) == 120
    first = groups[0]
    assert (first.key, first.source, first.family) == ("uri/0", "esco", "isco:7000")
    assert first.labels["en"] == ["ship baker", "baker of ship", "ship baker assistant"]
    assert first.labels["de"] == ["Bäcker ship/Bäckerin ship", "Bäcker ship", "Bäckerin ship", "Bäckermeister ship"]
    assert first.labels["et"] == ["bakeret ship", "met baker ship"]
    assert set(first.labels) == set(ESCO_LANGUAGES)
    assert not any("another version" in text for group in groups for texts in group.labels.values() for text in texts)


def test_esco_without_more_languages_has_three(sources: Path) -> None:
    assert set(read_esco(sources)[0].labels) == {"en", "de", "es"}


def test_all_languages_are_there_once() -> None:
    assert len(LANGUAGES) == len(set(LANGUAGES)) == 22


def test_onet_groups_hold_both_files_and_no_header(sources: Path) -> None:
    groups = read_onet(sources)
    assert len(groups) == 120
    assert groups[0].labels == {"en": ["ship baker Worker", "Lead ship baker"]}
    assert (groups[0].key, groups[0].family) == ("onet:51-0000.00", "soc:51-0000")


@pytest.mark.parametrize(
    ("name", "aliases", "expected"),
    [
        ("水工环地质工程技术人员L", "", ["水工环地质工程技术人员"]),
        ("工程测量工程技术人员S", "测绘员 L/S", ["工程测量工程技术人员", "测绘员"]),
        ("HRBP", "JAVA/SQL LS", ["HRBP", "JAVA/SQL LS", "JAVA", "SQL LS"]),  # Latin titles have no mark
        ("焊工/铆工", "焊接工，焊工、工", ["焊工/铆工", "焊工", "铆工", "焊接工"]),  # one character is no title
    ],
)
def test_csco_marks_are_no_part_of_a_title(name: str, aliases: str, expected: list[str]) -> None:
    assert csco_names(name, aliases) == expected


def test_csco_families_are_minor_groups(sources: Path) -> None:
    groups = read_csco(sources / "csco.csv")
    assert groups[11].labels["zh"] == ["11焊工", "高级11焊工"]
    assert groups[11].family == "csco:6-01-01"
    assert groups[0].family == "csco:6"  # 6-01-00-00 is no occupation: a code of the level above


@pytest.mark.medium
def test_every_row_of_the_lexicon_is_a_group() -> None:
    rows = read_lexicon()
    groups = lexicon_groups(rows)
    assert [group.labels for group in groups] == rows
    assert groups[0].key == f"lexicon:{rows[0]['en'][0]}"


def test_every_row_of_japanese_and_korean_titles_is_a_group() -> None:
    groups = read_written()
    abbreviations = {"CSM", "DJ", "HRBP", "MSL", "SRE", "VMD"}  # as people write them there
    assert len(groups) == len({group.key for group in groups}) > 500
    for group in groups:
        assert set(group.labels) == {"en", "ja", "ko"}
        assert all(group.labels.values()), group.key
        for language, script in (("ja", "[\u3040-\u30ff\u4e00-\u9fff]"), ("ko", "[\uac00-\ud7a3]")):
            assert all(re.search(script, text) for text in group.labels[language] if text not in abbreviations), group.key
        assert all(text.isascii() for text in group.labels["en"]), group.key


def test_a_folder_without_talentclef_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no taskA_training_xx\.tsv"):
        read_talentclef(tmp_path)
