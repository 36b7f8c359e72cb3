"""The checkpoint as transformers and sentence-transformers load it, which our own reading of its files is held to.

Graphs are measured against our reference, and both start from the same reading of the files: a mistake there would be in both, and
parity would be called perfect. So two loaders that are not ours have to agree with it: AutoTokenizer on what the tokenizer is, and,
where sentence-transformers is installed, `SentenceTransformer(folder).encode` on token ids and vectors.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Vocabulary

from jobonnx.arrays import Floats
from jobonnx.bundle.manifest import TOKENIZER
from jobonnx.errors import JobonnxError, native
from jobonnx.files import optional
from jobonnx.strict_json import read_json
from jobonnx_export.checkpoint import MODULES, Checkpoint

MOST_APART = 1e-3  # of a vector's length; float32 sums in another order give 1e-6, another model 1e-1 and more
_DECIDING = ("normalizer", "pre_tokenizer", "model", "post_processor", "added_tokens")  # parts of a tokenizer.json
_SETTINGS = ("tokenizer_config.json", "added_tokens.json", "special_tokens_map.json")
_SAVE_AGAIN = (
    "save the tokenizer again into a copy of the folder, AutoTokenizer.from_pretrained(...).save_pretrained(...), and export that"
)
_TOKENS_PER_TEXT = 8
_SHOWN = 5


def check_tokenizer(checkpoint: Checkpoint) -> None:
    """Compare tokenizer.json with the tokenizer that AutoTokenizer makes of the whole folder.

    Raises:
        JobonnxError: they differ, by tokens that stand in another file alone, say; or transformers cannot load it.
    """
    folder = checkpoint.transformer
    theirs = _auto_tokenizer(folder)
    file, loaded = (json.loads(t.to_str()) for t in (Vocabulary.from_file(str(folder / TOKENIZER)), theirs.backend_tokenizer))
    known = {token["content"] for token in file["added_tokens"]}
    if lost := [token["content"] for token in loaded["added_tokens"] if token["content"] not in known]:
        shown = ", ".join(map(repr, lost[:_SHOWN])) + (f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else "")
        places = [name for name in _SETTINGS if set(lost) & _strings(folder / name)]
        raise JobonnxError(
            f"{folder}: {TOKENIZER}, which jobonnx reads, lacks the added tokens {shown} of "
            f"{' and '.join(places) or 'the folder'}; {_SAVE_AGAIN}"
        )
    if theirs.backend_tokenizer.encode_special_tokens:
        raise JobonnxError(f"{folder / _SETTINGS[0]}: split_special_tokens: true is not supported; set it to false")
    if other := [part for part in _DECIDING if file[part] != loaded[part]]:
        raise JobonnxError(f"{folder / TOKENIZER}: AutoTokenizer has another {' and '.join(other)} for this folder; {_SAVE_AGAIN}")


def texts_of_added_tokens(path: Path) -> list[str]:
    """Return texts in which every added token of a tokenizer.json stands, alone and between words."""
    tokens = [str(token["content"]) for token in json.loads(path.read_text(encoding="utf-8"))["added_tokens"]]
    groups = [tokens[i : i + _TOKENS_PER_TEXT] for i in range(0, len(tokens), _TOKENS_PER_TEXT)]
    return [*tokens, *(" Koch ".join(["", *group, ""]).strip() for group in groups)]


def installed() -> str | None:
    """Return the version of sentence-transformers, or None where it cannot be imported."""
    try:
        import sentence_transformers  # noqa: F401
    except ImportError:
        return None
    return version("sentence-transformers")


def check_vectors(checkpoint: Checkpoint, texts: Sequence[str], rows: Sequence[Sequence[int]], vectors: Floats) -> None:
    """Encode texts with sentence-transformers and compare.

    Args:
        checkpoint: what is exported.
        texts: any texts, longer ones than the limit among them.
        rows: the token ids that jobonnx makes of them.
        vectors: what our reference makes of those, float32 [texts, hidden].

    Raises:
        JobonnxError: an id or a vector differs, or sentence-transformers cannot load the folder.
    """
    import torch

    folder = checkpoint.folder
    with native(f"{folder}: sentence-transformers cannot load it", "mend the folder until it does"):
        model = _load(checkpoint, {"torch_dtype": torch.float32})
        most = model.max_seq_length
        if _makes_tokenizers_anew():
            model[0].processor = _auto_tokenizer(checkpoint.transformer)
            model.max_seq_length = most  # is kept in the tokenizer there
        limit = {"truncation": True, "max_length": most}
        their_rows = [list(map(int, ids)) for ids in model.tokenizer(list(texts), **limit)["input_ids"]]
        theirs = model.encode(list(texts), prompt="", convert_to_numpy=True, show_progress_bar=False)
    del model
    gc.collect()
    for text, ours, other in zip(texts, rows, their_rows, strict=True):
        if list(ours) != other:
            raise JobonnxError(
                f"{checkpoint.transformer / TOKENIZER}: sentence-transformers makes {_short(other)} of the text {text[:60]!r}, "
                f"jobonnx {_short(ours)}; settings in {_SETTINGS[0]} may cut or split texts otherwise; {_SAVE_AGAIN}"
            )
    if theirs.shape != vectors.shape:
        raise JobonnxError(
            f"{folder}: sentence-transformers {version('sentence-transformers')} computes vectors of {theirs.shape[1]} numbers, "
            f"and jobonnx of {vectors.shape[1]}, so a file there means what jobonnx does not know; report it as an issue, with the "
            "folder's small files"
        )
    apart = np.linalg.norm(theirs - vectors, axis=1) / np.maximum(np.linalg.norm(theirs, axis=1), np.finfo(np.float32).tiny)
    worst = int(np.argmax(np.nan_to_num(apart, nan=np.inf)))
    if not apart[worst] <= MOST_APART:
        raise JobonnxError(
            f"{folder}: sentence-transformers {version('sentence-transformers')} computes another vector of the text "
            f"{texts[worst][:60]!r} than jobonnx's reading of the folder ({apart[worst]:.2g} of its length apart), so a file there "
            "means what jobonnx does not know; report it as an issue, with the folder's small files"
        )


def _load(checkpoint: Checkpoint, options: dict[str, Any]) -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    if optional(checkpoint.folder / MODULES) or checkpoint.pooling == "mean":
        return SentenceTransformer(str(checkpoint.folder), device="cpu", model_kwargs=options, local_files_only=True)
    transformer = Transformer(str(checkpoint.folder), model_args=options)
    return SentenceTransformer(modules=[transformer, Pooling(checkpoint.architecture.hidden, "cls")], device="cpu")


def _makes_tokenizers_anew() -> bool:
    """Whether AutoTokenizer drops a file's normaliser and pre-tokeniser, and makes XLM-R's usual ones: transformers 5 does.

    Words beside an added token then get other ids than the file gives them, so such a loader cannot say what the folder means.
    """
    return int(version("transformers").split(".")[0]) >= 5


def _loader() -> Any:
    """Return the class of transformers that loads what the file says, and adds the tokens of the folder's other files."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    return PreTrainedTokenizerFast if _makes_tokenizers_anew() else AutoTokenizer


def _auto_tokenizer(folder: Path) -> Any:
    from transformers.utils import logging

    logging.set_verbosity_error()
    with native(f"{folder}: transformers cannot load its tokenizer", _SAVE_AGAIN):
        tokenizer = _loader().from_pretrained(folder, use_fast=True, local_files_only=True)
        if not tokenizer.is_fast:
            raise ValueError("it is no fast one")
    return tokenizer


def _strings(path: Path) -> set[str]:
    """Collect every string of a JSON file, names among them."""
    found: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, str):
            found.add(value)
        elif isinstance(value, dict):
            for key, item in value.items():
                walk(key)
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(read_json(path, Any, _SAVE_AGAIN) if optional(path) else None)
    return found


def _short(ids: Sequence[int]) -> str:
    return str(list(ids)) if len(ids) <= 12 else f"{len(ids)} ids that end with {list(ids[-3:])}"
