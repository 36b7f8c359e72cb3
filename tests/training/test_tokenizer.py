"""The tokenizer: XLM-R's layout and the published pipeline, sampled subwords, and a folder that is complete or not there."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from transformers import AutoTokenizer, XLMRobertaTokenizerFast

from helpers.checkpoints import SHARED, needs
from jobonnx.text.shortening import Cutter, shorten
from jobonnx.text.tokenizer import Tokenizer
from jobonnx_train import tokenizer as training_tokenizer
from jobonnx_train.split import Corpus
from jobonnx_train.tokenizer import SENTENCEPIECE, balanced, subword_sampler, train_tokenizer

PUBLISHED = SHARED / "jobbge-m3" / "tokenizer.json"


def test_tokenizer_is_laid_out_as_xlm_roberta(tokenizer_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    assert isinstance(tokenizer, XLMRobertaTokenizerFast)
    assert len(tokenizer) == 200
    assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>", "<mask>"]) == [0, 1, 2, 3, 199]
    ids = tokenizer("ship  ｂａｋｅｒ")["input_ids"]
    assert (ids[0], ids[-1]) == (0, 2)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ship baker"


def test_killed_tokenizer_training_leaves_no_folder_that_looks_complete(
    corpus: Corpus, tokenizer_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(slow: Any) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "tokenizer"
    with monkeypatch.context() as patched:
        patched.setattr(training_tokenizer, "convert_slow_tokenizer", kill)
        with pytest.raises(KeyboardInterrupt):
            train_tokenizer(corpus.texts(), folder, 200, 32)
    assert list(tmp_path.iterdir()) == []
    train_tokenizer(corpus.texts(), folder, 200, 32)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in tokenizer_folder.iterdir())
    assert ".partial" not in (folder / "tokenizer_config.json").read_text("utf-8")


@pytest.mark.medium
@needs("the tokenizer of JobBGE-m3", PUBLISHED)
def test_tokenizer_has_the_published_pipeline(tokenizer_folder: Path) -> None:
    ours = json.loads((tokenizer_folder / "tokenizer.json").read_text(encoding="utf-8"))
    theirs = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    for part in ("pre_tokenizer", "post_processor", "decoder", "truncation", "padding"):
        assert ours[part] == theirs[part], part
    # The rules themselves differ: case folding, and 174 code points, as SentencePiece's nmt_nfkc has followed Unicode since.
    for tokenizer in (ours, theirs):
        assert tokenizer["normalizer"]["normalizers"][0].pop("precompiled_charsmap")
    assert ours["normalizer"]["normalizers"].pop(1) == {"type": "Lowercase"}
    assert ours["normalizer"]["normalizers"].pop(1) == {"type": "Replace", "pattern": {"String": "ß"}, "content": "ss"}
    assert ours["normalizer"] == theirs["normalizer"]
    assert {key: value for key, value in ours["model"].items() if key != "vocab"} == {
        key: value for key, value in theirs["model"].items() if key != "vocab"
    }
    assert ours["added_tokens"][:4] == theirs["added_tokens"][:4]


def test_sampled_subwords_spell_the_same_title_in_the_tokenizers_ids(tokenizer_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    encode = subword_sampler(tokenizer_folder / SENTENCEPIECE, 0.1, 1)
    samples = {tuple(encode("paper gardener assistant")) for _ in range(30)}
    assert len(samples) > 1
    for ids in samples:
        assert (ids[0], ids[-1]) == (0, 2)
        assert tokenizer.decode(ids, skip_special_tokens=True) == "paper gardener assistant"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SHIP BAKER", "ship baker"),
        ("Paper Gardener", "paper gardener"),
        ("GÄRTNER BANK", "Gärtner bank"),
        ("SCHWEISSER GLASS", "Schweißer glass"),  # the capitals of ß are two letters
        ("SCHWEIẞER GLASS", "Schweißer glass"),
        ("ＳＨＩＰ　ＢＡＫＥＲ", "ship baker"),
        ("Sh\u0131p", "sh\u0131p"),  # Turkish: a dotless i is no i, and its capital I is everybody's I
    ],
)
def test_capitals_and_wide_forms_are_the_same_ids(tokenizer_folder: Path, one: str, other: str) -> None:
    fast = AutoTokenizer.from_pretrained(tokenizer_folder)
    assert fast(one)["input_ids"] == fast(other)["input_ids"]
    own = Tokenizer(tokenizer_folder / "tokenizer.json", 32)
    assert own.encode([one, other]) == fast([one, other])["input_ids"]


def test_every_title_in_capitals_has_its_own_ids(corpus: Corpus, tokenizer_folder: Path) -> None:
    own = Tokenizer(tokenizer_folder / "tokenizer.json", 32)
    titles = corpus.texts()
    assert own.encode([title.upper() for title in titles]) == own.encode(titles)


def test_sampled_subwords_are_blind_to_capitals_too(tokenizer_folder: Path) -> None:
    encode = subword_sampler(tokenizer_folder / SENTENCEPIECE, 1e9, 1)
    assert encode("SHIP BAKER") == encode("ship baker")
    assert encode("SCHWEISSER") == encode("Schweißer") == encode("SCHWEIẞER")
    assert 3 not in encode("SHIP BAKER")


@pytest.mark.medium
def test_a_huge_text_is_cut_where_its_ids_stay_the_same(tokenizer_folder: Path) -> None:
    """Where case folding makes two characters of one, or another one, a place to cut must not be counted wrong."""
    path, limit = tokenizer_folder / "tokenizer.json", 8
    whole = tokenizers.Tokenizer.from_file(str(path))
    whole.no_padding()
    whole.enable_truncation(limit)
    rng = random.Random(1)
    letters = [
        "ß",
        "ẞ",
        "ŉ",
        "ǰ",
        "ΐ",
        "İ",
        "I",
        "ı",
        "ﬀ",
        "ﬄ",
        "Ǆ",
        "ς",
        "Σ",
        "ss",
        "s",
        "S",
        "\u0130",
        "\u212a",
        "e\u0301",
        "É",
        "Ａ",
    ]
    words = ["SHIP", "Baker", "schweisser", "Schweißer", "GÄRTNER", "焊工", "paper gardener"]
    texts = []
    for _ in range(400):
        alphabet = rng.sample(letters, 3) + rng.sample(words, 2) + [" "] * rng.randrange(3)
        texts.append("".join(rng.choice(alphabet) for _ in range(800)))
    texts += [letter * 2000 for letter in letters]
    cut = Cutter(whole, limit, "right")
    assert sum(cut.cut(text) != text for text in texts) > 100
    assert Tokenizer(path, limit).encode(texts) == [encoding.ids for encoding in whole.encode_batch(texts)]


@pytest.mark.parametrize("letter", ["ß", "ẞ", "ŉ", "ǰ", "İ", "ﬀ"])
def test_a_letter_that_folds_to_several_is_no_place_to_cut(letter: str) -> None:
    def segment(texts: list[str]) -> list[list[int]]:
        return [list(text.casefold().encode("utf-32-le")[::4]) for text in texts]

    text = letter * 3000
    assert shorten(text, 8, segment, 4) == text  # nothing can be proven of it
    assert len(shorten("s" * 3000, 8, segment, 4)) < 3000


def test_small_languages_are_repeated_for_the_tokenizer() -> None:
    texts = balanced({"en": [f"title {n}" for n in range(900)], "et": [f"amet {n}" for n in range(100)], "xx": []})
    assert texts.count("title 1") == 1
    assert texts.count("amet 1") == 3
    assert len(texts) == 1200
