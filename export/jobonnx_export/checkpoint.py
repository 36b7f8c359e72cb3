"""A checkpoint on disk: what it is, what it holds, and whether it can be trusted.

Reads a sentence-transformers folder (modules, pooling, normalisation, prompts and length limit come from its files) or a plain
transformers XLM-R folder. Whatever cannot be honoured exactly is refused by name.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jobonnx.errors import JobonnxError

_POOLINGS = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
_PREFIX = "roberta."  # of tensor names in a checkpoint that was saved with a head on top
# All names that sentence-transformers has had for one file.
_SETTINGS = ("sentence_bert_config.json", "sentence_roberta_config.json", "sentence_xlm-roberta_config.json")


@dataclass(frozen=True)
class Architecture:
    """The shape of an XLM-RoBERTa encoder, as its config.json gives it."""

    layers: int
    hidden: int
    heads: int
    intermediate: int
    vocabulary: int
    positions: int  # rows of the position table; the first pad_id + 1 are never used by real tokens
    pad_id: int
    epsilon: float

    @property
    def longest(self) -> int:
        """Tokens the position table can hold: positions start at pad_id + 1."""
        return self.positions - self.pad_id - 1


@dataclass(frozen=True)
class Checkpoint:
    """A checked checkpoint folder. `tensor(name)` reads one tensor as float32, in the module's own layout."""

    folder: Path
    transformer: Path  # the folder of the Transformer module: config.json, tokenizer.json, weights
    architecture: Architecture
    pooling: str  # "cls" or "mean"
    normalize: bool
    max_tokens: int  # special tokens included
    prompts: dict[str, str]
    default_prompt_name: str | None
    tensor: Callable[[str], np.ndarray[Any, np.dtype[np.float32]]]

    def tensors_sha256(self, progress: Callable[[str], None] = lambda name: None) -> str:
        """Hash names, shapes and float32 values of every tensor the vectors depend on; refuse NaN and infinity on the way.

        The file format does not enter: the same values in safetensors or in a .bin file give the same hash.
        """
        digest = hashlib.sha256()
        for name, shape in tensor_shapes(self.architecture).items():
            progress(name)
            array = self.tensor(name)
            if not np.isfinite(array).all():
                raise JobonnxError(f"{self.transformer}: tensor {name} holds NaN or infinity; download the checkpoint again")
            digest.update(f"{name}{shape}".encode())
            digest.update(np.ascontiguousarray(array, dtype="<f4").data)
        return digest.hexdigest()


def tensor_shapes(a: Architecture) -> dict[str, tuple[int, ...]]:
    """Every tensor that decides a vector, with its shape. The pooler is not one: sentence-transformers never uses it."""
    h, f = a.hidden, a.intermediate
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (a.vocabulary, h),
        "embeddings.position_embeddings.weight": (a.positions, h),
        "embeddings.token_type_embeddings.weight": (1, h),
        "embeddings.LayerNorm.weight": (h,),
        "embeddings.LayerNorm.bias": (h,),
    }
    for i in range(a.layers):
        for name, rows, columns in (
            ("attention.self.query", h, h),
            ("attention.self.key", h, h),
            ("attention.self.value", h, h),
            ("attention.output.dense", h, h),
            ("intermediate.dense", f, h),
            ("output.dense", h, f),
        ):
            shapes[f"encoder.layer.{i}.{name}.weight"] = (rows, columns)
            shapes[f"encoder.layer.{i}.{name}.bias"] = (rows,)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"encoder.layer.{i}.{name}.weight"] = (h,)
            shapes[f"encoder.layer.{i}.{name}.bias"] = (h,)
    return shapes


def open_checkpoint(folder: Path, pooling: str | None = None) -> Checkpoint:
    """Read and check a checkpoint folder. `pooling` is needed where the folder does not say (a plain transformers folder).

    Raises:
        JobonnxError: naming the file and value that is missing, broken or not supported.
    """
    if not folder.is_dir():
        raise JobonnxError(f"{folder}: no such folder; give a checkpoint folder or a Hub id such as pj-mathematician/JobBGE-m3")
    if (folder / "modules.json").is_file():
        transformer, pooling_found, normalize, limit = _read_modules(folder)
        if pooling not in (None, pooling_found):
            raise JobonnxError(f"{folder}: its pooling is {pooling_found!r}, not {pooling!r}; leave --pooling away")
        pooling = pooling_found
        prompts, default_prompt = _read_prompts(folder / "config_sentence_transformers.json")
    else:
        # sentence-transformers reads such a folder as mean pooling without normalisation; so do we, and the manifest says so.
        transformer, pooling, normalize, limit = folder, pooling or "mean", False, None
        prompts, default_prompt = {}, None
    architecture = _read_architecture(transformer / "config.json")
    if not (transformer / "tokenizer.json").is_file():
        raise JobonnxError(f"{transformer}: tokenizer.json is missing; save the fast tokenizer there with save_pretrained")
    if limit is None:
        path = transformer / "tokenizer_config.json"
        options = _read_json(path, required=False)
        limit = architecture.longest
        if options.get("model_max_length"):  # a huge number in most: no limit of its own
            limit = min(_whole(path, options, "model_max_length"), limit)
    if not isinstance(limit, int) or not 3 <= limit <= architecture.longest:
        raise JobonnxError(
            f"{folder}: max_seq_length {limit} does not fit the {architecture.longest} usable positions; "
            "mend sentence_bert_config.json"
        )
    return Checkpoint(
        folder=folder,
        transformer=transformer,
        architecture=architecture,
        pooling=pooling,
        normalize=normalize,
        max_tokens=limit,
        prompts=prompts,
        default_prompt_name=default_prompt,
        tensor=_tensor_reader(transformer, architecture),
    )


def _read_json(path: Path, required: bool = True, kind: type = dict) -> Any:
    if not path.is_file():
        if required:
            raise JobonnxError(f"{path} is missing; the checkpoint is incomplete, download it again")
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, no JSON, a number of 5,000 digits; 100,000 brackets
        raise JobonnxError(f"{path} is not valid JSON ({error}); download it again") from None
    if not isinstance(content, kind):
        raise JobonnxError(f"{path} is not what it should be, a JSON {'object' if kind is dict else 'array'}; download it again")
    return content


def _whole(path: Path, config: dict[str, Any], key: str, least: int = 1) -> int:
    """A setting that has to be a whole number; 12.0 counts as one, true does not."""
    value: Any = config.get(key)
    whole = type(value) is int or (isinstance(value, float) and value.is_integer())
    if not whole or value < least:
        raise JobonnxError(
            f"{path}: {key!r} is missing or not a number of at least {least} ({_short(value)}); download the checkpoint again"
        )
    return int(value)


def _short(value: Any) -> str:
    """A value as an error shows it."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}..."


def _read_prompts(path: Path) -> tuple[dict[str, str], str | None]:
    """config_sentence_transformers.json -> (prompts, name of the default one)."""
    settings = _read_json(path, required=False)
    prompts, default = settings.get("prompts") or {}, settings.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(prompt, str) for prompt in prompts.values()):
        raise JobonnxError(f"{path}: prompts {_short(prompts)} are not texts under names; mend them or take them out")
    if default is not None and not (isinstance(default, str) and default in prompts):
        raise JobonnxError(
            f"{path}: default_prompt_name {_short(default)} is not among its prompts {sorted(prompts)}; mend it or take it out"
        )
    return prompts, default


def _read_modules(folder: Path) -> tuple[Path, str, bool, int | None]:
    """modules.json -> (transformer folder, pooling, whether vectors are normalised, length limit or None)."""
    modules = _read_json(folder / "modules.json", kind=list)
    try:
        types = [str(module["type"]) for module in modules]
        places = [folder / module["path"] for module in modules]
    except (KeyError, TypeError):
        raise JobonnxError(f"{folder / 'modules.json'}: a module without type or path; download it again") from None
    # A module of the checkpoint's own keeps its whole name, whatever it is called.
    kinds = [name.rsplit(".", 1)[-1] if name.startswith("sentence_transformers.") else name for name in types]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise JobonnxError(
            f"{folder / 'modules.json'}: modules {kinds} are not supported; jobonnx runs Transformer, Pooling and Normalize, "
            "in that order"
        )
    transformer = places[0]
    path = next((transformer / name for name in _SETTINGS if (transformer / name).is_file()), transformer / _SETTINGS[0])
    options = _read_json(path, required=False)
    if options.get("do_lower_case"):
        raise JobonnxError(f"{path}: do_lower_case: true is not supported; lower-case the texts yourself or set it to false")
    return transformer, _read_pooling(places[1] / "config.json"), len(kinds) == 3, options.get("max_seq_length")


def _read_pooling(path: Path) -> str:
    config = _read_json(path)
    if "pooling_mode" in config:  # newer sentence-transformers write one name in place of flags
        modes = config["pooling_mode"]
        active = [str(mode) for mode in modes] if isinstance(modes, list) else [str(modes)]
        names = {"cls": "cls", "mean": "mean"}
    else:
        active = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
        names = _POOLINGS
    if len(active) != 1 or active[0] not in names:
        raise JobonnxError(f"{path}: pooling {', '.join(active) or 'none'} is not supported; jobonnx knows cls and mean")
    if config.get("include_prompt", True) is not True:
        raise JobonnxError(f"{path}: include_prompt: false is not supported; jobonnx pools over the prompt's tokens too")
    return names[active[0]]


def _read_architecture(path: Path) -> Architecture:
    config = _read_json(path)
    wanted = {
        "model_type": ("xlm-roberta",),
        "hidden_act": ("gelu",),
        "position_embedding_type": ("absolute", None),
        "type_vocab_size": (1,),
        "is_decoder": (False, None),
    }
    for key, allowed in wanted.items():
        if config.get(key) not in allowed:
            raise JobonnxError(
                f"{path}: {key} {config.get(key)!r} is not supported; jobonnx runs XLM-RoBERTa encoders ({allowed[0]!r})"
            )
    epsilon = config.get("layer_norm_eps")
    if type(epsilon) not in (int, float) or not 0 <= epsilon < 1:  # NaN is not either
        raise JobonnxError(f"{path}: layer_norm_eps {_short(epsilon)} is not a small number such as 1e-05; mend it")
    architecture = Architecture(
        layers=_whole(path, config, "num_hidden_layers"),
        hidden=_whole(path, config, "hidden_size"),
        heads=_whole(path, config, "num_attention_heads"),
        intermediate=_whole(path, config, "intermediate_size"),
        vocabulary=_whole(path, config, "vocab_size"),
        positions=_whole(path, config, "max_position_embeddings"),
        pad_id=_whole(path, config, "pad_token_id", least=0),
        epsilon=float(epsilon),
    )
    if architecture.hidden % architecture.heads:
        raise JobonnxError(
            f"{path}: hidden_size {architecture.hidden} does not divide into {architecture.heads} num_attention_heads; "
            "download the checkpoint again"
        )
    return architecture


def _tensor_reader(folder: Path, architecture: Architecture) -> Callable[[str], np.ndarray[Any, np.dtype[np.float32]]]:
    """Check names and shapes of every tensor now, without reading values, and return a reader of one tensor at a time."""
    shapes, read = _open_weights(folder)
    prefix = _PREFIX if f"{_PREFIX}embeddings.word_embeddings.weight" in shapes else ""
    for name, shape in tensor_shapes(architecture).items():
        found = shapes.get(prefix + name)
        if found is None:
            raise JobonnxError(f"{folder}: tensor {prefix + name} is missing from the weights; download the checkpoint again")
        if found != shape:
            raise JobonnxError(f"{folder}: tensor {prefix + name} has shape {list(found)}, config.json asks for {list(shape)}")
    return lambda name: read(prefix + name)


def _open_weights(folder: Path) -> tuple[dict[str, tuple[int, ...]], Callable[[str], np.ndarray[Any, np.dtype[np.float32]]]]:
    import torch
    from safetensors import SafetensorError, safe_open

    # The order that transformers looks in: the reference must hold the same tensors.
    files = [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if not files[0].is_file():
        names = _read_json(index, required=False).get("weight_map", {})
        if not isinstance(names, dict):
            raise JobonnxError(f"{index}: weight_map is not a JSON object; download it again")
        files = sorted({folder / str(name) for name in names.values()})
    if files:
        shapes: dict[str, tuple[int, ...]] = {}
        owner: dict[str, Any] = {}
        for file in files:
            try:
                handle: Any = safe_open(file, framework="pt")
                for name in handle.keys():  # noqa: SIM118 - not a dict
                    shapes[name] = tuple(handle.get_slice(name).get_shape())
                    owner[name] = handle
            except (SafetensorError, OSError) as error:
                raise JobonnxError(f"{file} is broken or cut short ({error}); download it again") from None
        return shapes, lambda name: _float32(owner[name].get_tensor(name), folder, name)
    path = folder / "pytorch_model.bin"
    if not path.is_file():
        raise JobonnxError(f"{folder}: neither model.safetensors nor pytorch_model.bin is there; download the checkpoint again")
    try:
        # Files from before torch 1.6 are no zip files, and cannot be mapped.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        shapes = {str(name): tuple(tensor.shape) for name, tensor in state.items()}
    except Exception as error:  # torch raises its own zoo: UnpicklingError, RuntimeError, EOFError, ...
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise JobonnxError(f"{path} cannot be loaded as plain weights ({reason}); convert it to safetensors") from None
    return shapes, lambda name: _float32(state[name], path, name)


def _float32(tensor: Any, where: Path, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A tensor's values, of whatever real type; a parameter's without its gradient."""
    if str(tensor.layout) != "torch.strided" or tensor.is_complex() or tensor.is_quantized or tensor.is_meta:
        raise JobonnxError(
            f"{where}: tensor {name} is sparse, complex, quantized or without values ({tensor.dtype}, {tensor.layout}); "
            "save it as plain float32"
        )
    values: np.ndarray[Any, np.dtype[np.float32]] = tensor.detach().float().numpy()
    return values
