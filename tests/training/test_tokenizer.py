"""The tokenizer: XLM-R's layout and the published pipeline, sampled subwords, and a folder that is complete or not there."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, XLMRobertaTokenizerFast

from helpers.checkpoints import SHARED, needs
from jobonnx_train import tokenizer as training_tokenizer
from jobonnx_train.split import Corpus
from jobonnx_train.tokenizer import SENTENCEPIECE, subword_sampler, train_tokenizer, vary_case

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
            train_tokenizer(corpus.texts(), folder, 200, 1, 32)
    assert list(tmp_path.iterdir()) == []
    train_tokenizer(corpus.texts(), folder, 200, 1, 32)
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
    # The same rules but for 174 code points: SentencePiece's nmt_nfkc has followed Unicode since.
    for tokenizer in (ours, theirs):
        assert tokenizer["normalizer"]["normalizers"][0].pop("precompiled_charsmap")
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


def test_titles_are_varied_in_case_alone() -> None:
    rng = random.Random(1)
    drawn = [vary_case("data Engineer II", rng) for _ in range(1000)]
    assert set(drawn) == {"data Engineer II", "data engineer ii", "Data Engineer Ii", "Data Engineer II"}
    assert 0.55 < drawn.count("data Engineer II") / 1000 < 0.65
