"""The small files of a bundle that make it a sentence-transformers folder too, for its portable graph."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from jobonnx.bundle.manifest import PROMPTS, TOKENIZER
from jobonnx.files import optional
from jobonnx_export.checkpoint import MODULES, Checkpoint

_OF_TRANSFORMER = ("config.json", TOKENIZER, "tokenizer_config.json", "special_tokens_map.json")


def write_settings(checkpoint: Checkpoint, folder: Path) -> None:
    """Copy the checkpoint's own small files, and write those that say how the modules follow each other.

    Args:
        checkpoint: where they come from.
        folder: the bundle in the making.

    Raises:
        JobonnxError: an optional file is there, but is no file.
    """
    sources = [checkpoint.transformer / name for name in _OF_TRANSFORMER]
    if optional(checkpoint.folder / MODULES):  # a folder without modules has no prompts, whatever else lies there
        sources.append(checkpoint.folder / PROMPTS)
    for path in sources:
        if optional(path):
            shutil.copyfile(path, folder / path.name)
    modules = ["Transformer", "Pooling", *(["Normalize"] if checkpoint.normalize else [])]
    paths = ["", "1_Pooling", "2_Normalize"]
    write_json(
        folder / MODULES,
        [
            {"idx": i, "name": str(i), "path": paths[i], "type": f"sentence_transformers.models.{kind}"}
            for i, kind in enumerate(modules)
        ],
    )
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": checkpoint.max_tokens, "do_lower_case": False})
    (folder / "1_Pooling").mkdir()
    write_json(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": checkpoint.architecture.hidden,
            "pooling_mode_cls_token": checkpoint.pooling == "cls",
            "pooling_mode_mean_tokens": checkpoint.pooling == "mean",
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    )


def write_json(path: Path, content: Any) -> None:
    """Write JSON into the bundle in the making, laid out as transformers does."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
