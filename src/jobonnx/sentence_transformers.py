"""A bundle as a `SentenceTransformer`, for whatever asks for one: evaluators, MTEB, BERTopic, LangChain, SetFit and others.

Needs the extra "sentence-transformers", and with it PyTorch. The vectors come from ONNX Runtime. `Encoder` needs neither.
"""

from __future__ import annotations

import os
import shutil
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule

from jobonnx.arguments import as_texts, whole
from jobonnx.bundle.manifest import MANIFEST
from jobonnx.encoder import Encoder
from jobonnx.errors import JobonnxError
from jobonnx.strict_json import read_json, write_json
from jobonnx.text.batching import deduplicate, pad

_SETTINGS = "jobonnx.json"  # beside a saved bundle: the constructor's arguments that make a difference
_TOGETHER = 4096  # texts that the engine sees at once, to group them by length; its batches are as small as ever


def load(
    bundle: str | os.PathLike[str] | None = None, *, variant: str | None = None, provider: str = "auto", **options: Any
) -> SentenceTransformer:
    """Open a bundle as a `SentenceTransformer`.

    Args:
        bundle: as `Encoder` takes it.
        variant: as `Encoder` takes it.
        provider: as `Encoder` takes it.
        options: all else that `Encoder` takes. As there, `truncate_dim` does not make unit vectors of what is left.

    Returns:
        A model of one module. Its vectors are those of `Encoder`.

    Raises:
        JobonnxError: as `Encoder` says it.
    """
    truncate_dim = options.pop("truncate_dim", None)
    encoder = Encoder(bundle, variant=variant, provider=provider, **options)
    return BundleTransformer(
        modules=[BundleModule(encoder)],
        device="cpu",  # of the tensors; the provider has its own
        prompts=encoder.prompts,
        default_prompt_name=encoder.default_prompt_name,
        similarity_fn_name=encoder.similarity_fn_name,
        truncate_dim=whole("truncate_dim", truncate_dim, encoder.bundle.model.dimension),
    )


class BundleModule(InputModule):  # type: ignore[misc] # sentence-transformers has no types here
    """Texts to sentence vectors by a bundle's engine, as the only module of a `SentenceTransformer`."""

    save_in_root = False  # the bundle has files of the names that a SentenceTransformer saves

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self._tokenizer: Any = None

    def preprocess(self, inputs: Any, prompt: str | None = None, **options: Any) -> dict[str, Any]:
        """Tokenise texts.

        Args:
            inputs: texts.
            prompt: is put before each.
            options: "task" and the like, which choose nothing here.

        Returns:
            `input_ids` and `attention_mask`, int64 [texts, longest].
        """
        rows = self.encoder.tokenizer.encode([(prompt or "") + text for text in as_texts(inputs)])
        ids, mask = pad(rows, self.encoder.bundle.model.pad_id)
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}

    def forward(self, features: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Add `sentence_embedding`, float32 [texts, dimension], to what `preprocess` gave; equal rows are computed once."""
        # In numpy: torch's threads would have to be woken for each of these.
        lengths = features["attention_mask"].cpu().numpy().sum(axis=1).tolist()
        rows = [tuple(ids[:length]) for ids, length in zip(features["input_ids"].tolist(), lengths, strict=True)]
        unique, inverse = deduplicate(rows)
        features["sentence_embedding"] = torch.from_numpy(self.encoder.engine.encode(unique)[inverse])
        return features

    @property
    def max_seq_length(self) -> int:
        """Longest text in tokens, special tokens included."""
        return self.encoder.max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        self.encoder.max_seq_length = value

    @property
    def tokenizer(self) -> Any:
        """The tokenizer as transformers has it, for clients that count or split tokens; texts are encoded with the bundle's own."""
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(str(self.encoder.bundle.folder), use_fast=True)
        return self._tokenizer

    def get_embedding_dimension(self) -> int:
        """Length of a vector."""
        return self.encoder.bundle.model.dimension

    get_sentence_embedding_dimension = get_embedding_dimension

    def save(self, output_path: str, *arguments: Any, **options: Any) -> None:
        """Copy the bundle into the folder of a saved `SentenceTransformer`, with the variant and the limits in use.

        Args:
            output_path: the module's folder.
            arguments: of no effect: there are no tensors of PyTorch to save.
            options: the same.
        """
        opened, goal = self.encoder.bundle, Path(output_path)
        for name in (MANIFEST, *opened.files):
            (goal / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(opened.folder / name, goal / name)
        kept = {
            "variant": self.encoder.variant,
            "truncation": self.encoder.tokenizer.truncation,
            "max_seq_length": self.max_seq_length,
        }
        write_json(goal / _SETTINGS, kept)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> BundleModule:
        """Open what `save` wrote; sentence-transformers calls it where modules.json names this class.

        Args:
            model_name_or_path: the folder or Hub id of the `SentenceTransformer`.
            subfolder: where in it the bundle is.
            token: for the Hub.
            cache_folder: for the Hub.
            revision: for the Hub.
            local_files_only: for the Hub.
            model_kwargs: what `Encoder` takes: variant, provider, threads, truncation, force.
            options: of no meaning here.
        """
        found = cls.load_dir_path(model_name_or_path, subfolder, token, cache_folder, revision, local_files_only)
        if found is None:
            raise JobonnxError(f"{model_name_or_path} has no folder {subfolder!r} with a bundle; save the model again")
        kept = read_json(Path(found) / _SETTINGS, dict[str, Any], "save the model again")
        limit = kept.pop("max_seq_length", None)
        encoder = Encoder(found, **{**kept, **(model_kwargs or {})})
        encoder.max_seq_length = limit
        return cls(encoder)


class BundleTransformer(SentenceTransformer):  # type: ignore[misc]
    """A `SentenceTransformer` that hands its module many texts at once, so that batches hold texts of one length."""

    @wraps(SentenceTransformer.preprocess)
    def preprocess(self, inputs: Any, prompt: str | None = None, **options: Any) -> dict[str, Any]:
        """Tokenise; texts need no look at whether each of them is an image, which takes longer than the tokenizer."""
        if inputs and all(type(text) is str for text in inputs):
            rows: dict[str, Any] = self[0].preprocess(inputs, prompt=prompt, **options)
        else:
            rows = super().preprocess(inputs, prompt, **options)
        return rows

    @wraps(SentenceTransformer.encode)
    def encode(self, *arguments: Any, **named: Any) -> Any:
        """Encode as `SentenceTransformer` does; `batch_size` is a least number here, because the engine makes its own batches."""
        given = list(arguments)
        if len(given) > 3:
            given[3] = _at_least(given[3])
        else:
            named["batch_size"] = _at_least(named.get("batch_size", _TOGETHER))
        return super().encode(*given, **named)


def _at_least(batch_size: int) -> int:
    return max(batch_size, _TOGETHER) if batch_size > 0 else batch_size  # which SentenceTransformer refuses
