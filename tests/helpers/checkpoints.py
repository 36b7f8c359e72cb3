"""Small XLM-R checkpoints for tests: random weights with outlier channels, XLM-R's kind of tokenizer. And where data lies."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from jobonnx.data.titles import read_titles
from jobonnx_export.testing import synthetic_checkpoint

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("JOBONNX_DATA") or ROOT.parent / "shared" / "data")  # data that is not in the repository
AVATURE = SHARED / "avature_jobtitlesimilarity"
SMALL = ROOT / "training" / "checkpoint"  # the small model
OUTLIERS = ROOT / "training" / "outlier_checkpoint"  # the same with outlier channels as large models have them


def needs(what: str, *paths: Path) -> pytest.MarkDecorator:
    """Skip a test where data is missing; the reason names it and the variable that says where it lies."""
    missing = [str(path) for path in paths if not path.exists()]
    return pytest.mark.skipif(
        bool(missing),
        reason=f"needs {what}: no {', '.join(missing)}; set JOBONNX_DATA to the folder that holds it (training/README.md, docs)",
    )


needs_avature = needs("Avature's job titles", AVATURE)
MAX_TOKENS = 96


def make_checkpoint(
    folder: Path,
    *,
    pooling: str = "cls",
    normalize: bool = True,
    prompts: dict[str, str] | None = None,
    outliers: float = 5.0,
    max_tokens: int = MAX_TOKENS,
    **changes: Any,
) -> Path:
    """Make a sentence-transformers folder with a 3-layer encoder; `changes` go into config.json."""
    small = folder.with_name(folder.name + "-settings")
    (small / "1_Pooling").mkdir(parents=True)
    (small / "tokenizer.json").write_text(_tokenizer(), encoding="utf-8")
    vocabulary = Tokenizer.from_file(str(small / "tokenizer.json")).get_vocab_size()
    config = {
        "architectures": ["XLMRobertaModel"],
        "model_type": "xlm-roberta",
        "hidden_act": "gelu",
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 258,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "position_embedding_type": "absolute",
        "type_vocab_size": 1,
        "vocab_size": vocabulary,
    }
    special = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "unk_token": "<unk>"}
    special |= {"pad_token": "<pad>", "mask_token": "<mask>"}
    modules = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    places = ["", "1_Pooling", "2_Normalize"]
    for name, content in {
        "config.json": config,
        "tokenizer_config.json": special | {"tokenizer_class": "XLMRobertaTokenizerFast", "model_max_length": max_tokens},
        "special_tokens_map.json": special,
        "sentence_bert_config.json": {"max_seq_length": max_tokens, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": prompts or {}, "similarity_fn_name": "cosine"},
        "modules.json": [
            {"idx": i, "name": str(i), "path": places[i], "type": f"sentence_transformers.models.{kind}"}
            for i, kind in enumerate(modules)
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": config["hidden_size"],
            "pooling_mode_cls_token": pooling == "cls",
            "pooling_mode_mean_tokens": pooling == "mean",
            "pooling_mode_max_tokens": False,
        },
    }.items():
        (small / name).write_text(json.dumps(content))
    synthetic_checkpoint(small, folder, outliers=outliers, changes=changes)
    return folder


@cache
def _tokenizer() -> str:
    """Train a Unigram model and return its tokenizer.json.

    NFKC, Metaspace, `<s> $A </s>`, ids <s> 0, <pad> 1, </s> 2, <unk> 3 and <mask> last.
    """
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=3000, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(read_titles(), trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    content: str = tokenizer.to_str()
    return content


def measure_few_texts(patch: pytest.MonkeyPatch) -> None:
    """Let exports calibrate and measure with a few texts: measuring takes most of their time."""
    patch.setattr("jobonnx_export.texts.PER_LANGUAGE", 12)
    patch.setattr("jobonnx_export.texts.RANKED_PER_LANGUAGE", 1)
    patch.setattr("jobonnx_export.texts.CALIBRATION_PER_LANGUAGE", 12)
