"""Made-up occupations for the training tests, in the formats of the real sources."""

from __future__ import annotations

import csv
from pathlib import Path

from jobonnx_train.readers import MORE_LANGUAGES, Group

TRADES = ("baker", "welder", "painter", "roofer", "tailor", "printer", "plumber", "butcher", "gardener", "weaver")
PLACES = ("ship", "rail", "farm", "mine", "film", "court", "bank", "wood", "glass", "stone", "paper", "metal")
JOBS = [(place, trade) for place in PLACES for trade in TRADES]
GERMAN = dict(zip(TRADES, ("Bäcker", "Schweißer", "Maler", "Dachdecker", "Schneider", "Drucker", "Klempner", "Metzger",
                           "Gärtner", "Weber"), strict=True))  # fmt: skip
CHINESE = dict(zip(TRADES, ("面包师", "焊工", "画家", "屋顶工", "裁缝", "印刷工", "水管工", "屠夫", "园丁", "织工"),
                   strict=True))  # fmt: skip
TINY = {
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def lexicon_rows() -> list[dict[str, list[str]]]:
    """Make a lexicon as `jobonnx.data.titles.read_lexicon` returns it."""
    return [
        {
            "en": [f"{place} {trade}"],
            "de": [f"{GERMAN[trade]} {place}"],
            "es": [f"oficial {trade} de {place}"],
            "zh": [f"{place}{CHINESE[trade]}", f"{CHINESE[trade]}{place}"],
        }
        for place, trade in JOBS
    ]


def written_groups() -> list[Group]:
    """Make groups as `jobonnx_train.readers.read_written` returns them."""
    return [
        Group(
            f"written:{place} {trade}",
            "written",
            "",
            {"en": [f"{trade} at {place}"], "ja": [f"{place}の{CHINESE[trade]}"], "ko": [f"{place} {CHINESE[trade]}직"]},
        )
        for place, trade in JOBS
    ]


def write_sources(folder: Path) -> Path:
    """Write files in the formats of ESCO, O*NET and CSCO: 120 occupations, ESCO's other languages in the folder `more`."""
    (folder / "more").mkdir()
    for language in MORE_LANGUAGES:
        forms = [(f"{trade}{language} {place}", f"m{language} {trade} {place}") for place, trade in JOBS]
        lines = [f"{index}\t{form}\n" for index, both in enumerate(forms) for form in both]
        lines.append("999\tan occupation of another version\n")
        (folder / "more" / f"{language}.tsv").write_text("".join(lines), encoding="utf-8")
    labels = {
        "en": [(f"{place} {trade}", f"{trade} of {place}\n{place} {trade} assistant") for place, trade in JOBS],
        "de": [(f"{GERMAN[trade]} {place}/{GERMAN[trade]}in {place}", f"{GERMAN[trade]}meister {place}") for place, trade in JOBS],
        "es": [(f"oficial {trade} de {place}", f"oficiala {trade} de {place}") for place, trade in JOBS],
    }
    for language, rows in labels.items():
        with open(folder / f"occupations_{language}.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["conceptUri", "iscoGroup", "preferredLabel", "altLabels"])
            for index, (label, others) in enumerate(rows):
                writer.writerow([f"uri/{index}", 7000 + index // 10, label, others])
    for name, form in (("Alternate Titles.txt", "{} {} Worker"), ("Sample of Reported Titles.txt", "Lead {} {}")):
        lines = [f"51-{index:04}.00\t{form.format(*job)}\tn/a\n" for index, job in enumerate(JOBS)]
        (folder / name).write_text("O*NET-SOC Code\tTitle\tOther\n" + "".join(lines), encoding="utf-8")
    names = [f"{index}{CHINESE[trade]}" for index, (_, trade) in enumerate(JOBS)]
    lines = [f'4,6-01-{index // 10:02}-{index:02},0,{name},,,0,"{name},高级{name}"' for index, name in enumerate(names)]
    (folder / "csco.csv").write_text("\n".join(["level,code,code_num,name,definition,tasks,n,alias", *lines]), "utf-8")
    return folder


def source_options(folder: Path) -> list[str]:
    """The options that name the sources that `write_sources` wrote."""
    more, china = str(folder / "more"), str(folder / "csco.csv")
    return ["--esco", str(folder), "--esco-more", more, "--onet", str(folder), "--csco", china]
