"""A checkpoint on disk: what it is, what it holds, and whether it can be trusted.

Reads a sentence-transformers folder (modules, pooling, normalisation, prompts and length limit come from its files) or a plain
transformers XLM-R folder. Whatever cannot be honoured exactly is refused by name.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from jobonnx.arrays import Floats
from jobonnx.bundle.integrity import is_inside
from jobonnx.bundle.manifest import PROMPTS
from jobonnx.errors import JobonnxError, native
from jobonnx.files import optional
from jobonnx.strict_json import convert, read_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MODULES = "modules.json"
ADAPTER = "adapter_config.json"
_AGAIN = "download the checkpoint again"
_POOLINGS = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
_PREFIX = "roberta."  # of tensor names in a checkpoint that was saved with a head on top
# All names that sentence-transformers has had for one file.
_LIMITS = ("sentence_bert_config.json", "sentence_roberta_config.json", "sentence_xlm-roberta_config.json")
_MOST_LAYERS = 1000  # the largest published XLM-R has 48; more would take the check of the tensors minutes
_MOST = (1 << 31) - 1  # any other size
_SHOWN = 60  # characters of a value that an error shows
Kind = TypeVar("Kind", bound="DataclassInstance")
TensorReader = Callable[[str], Floats]


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
        """Tokens that the position table can hold: positions start at pad_id + 1."""
        return self.positions - self.pad_id - 1


@dataclass(frozen=True)
class Checkpoint:
    """A checked checkpoint folder."""

    folder: Path
    transformer: Path  # the folder of the Transformer module: config.json, tokenizer.json, weights
    architecture: Architecture
    pooling: str  # "cls" or "mean"
    normalize: bool
    max_tokens: int  # special tokens included
    prompts: dict[str, str]
    default_prompt_name: str | None
    tensor: TensorReader  # reads one tensor as float32, in the module's own layout

    def tensors_sha256(self, progress: Callable[[str], None] = lambda name: None) -> str:
        """Hash all that decides a vector: names, shapes and float32 values of the tensors, and the settings that no shape shows.

        The file format does not enter: the same values in safetensors or in a .bin file give the same hash.

        Args:
            progress: is told each tensor's name.

        Returns:
            64 hex digits.

        Raises:
            JobonnxError: a tensor holds NaN or infinity, or cannot be read.
        """
        a = self.architecture
        digest = hashlib.sha256(f"heads={a.heads} epsilon={a.epsilon!r} pad_id={a.pad_id} ".encode())
        for name, shape in tensor_shapes(a).items():
            progress(name)
            array = self.tensor(name)
            if not np.isfinite(array).all():
                raise JobonnxError(f"{self.transformer}: tensor {name} holds NaN or infinity; {_AGAIN}")
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
    """Read and check a checkpoint folder.

    Args:
        folder: a sentence-transformers folder or a plain transformers folder.
        pooling: "cls" or "mean", for a folder that does not say (a plain transformers folder); mean if left out.

    Raises:
        JobonnxError: naming the file and value that is missing, broken or not supported.
    """
    if not folder.is_dir():
        raise JobonnxError(f"{folder}: no such folder; give a checkpoint folder or a Hub id such as pj-mathematician/JobBGE-m3")
    _refuse_adapter(folder)
    if optional(folder / MODULES):
        transformer, pooling_found, normalize, limit = _read_modules(folder)
        if pooling not in (None, pooling_found):
            raise JobonnxError(f"{folder}: its pooling is {pooling_found!r}, not {pooling!r}; leave --pooling away")
        pooling = pooling_found
        prompts, default_prompt = _read_prompts(folder / PROMPTS)
    else:
        # sentence-transformers reads such a folder as mean pooling without normalisation; so do we, and the manifest says so.
        transformer, pooling, normalize, limit = folder, pooling or "mean", False, None
        prompts, default_prompt = {}, None
    _refuse_adapter(transformer)
    architecture = read_architecture(transformer / "config.json")
    if not optional(transformer / "tokenizer.json"):
        raise JobonnxError(f"{transformer}: tokenizer.json is missing; save the fast tokenizer there with save_pretrained")
    if limit is None:
        options = _read(transformer / "tokenizer_config.json", _TokenizerOptions)
        # A huge number in most: no limit of its own.
        limit = min(int(options.model_max_length or architecture.longest), architecture.longest)
    if not 3 <= limit <= architecture.longest:
        raise JobonnxError(
            f"{folder}: max_seq_length {_short(limit)} does not fit the {architecture.longest} usable positions; mend {_LIMITS[0]}"
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


# What is read of each settings file. Their other fields are many, differ between versions, and do not change a vector.


@dataclass(frozen=True)
class _Module:
    type: str
    path: str


@dataclass(frozen=True)
class _Limit:
    max_seq_length: int | None = None
    do_lower_case: bool | None = None


@dataclass(frozen=True)
class _TokenizerOptions:
    model_max_length: int | float | None = None

    def __post_init__(self) -> None:
        length = self.model_max_length
        if length is not None and (length < 0 or length != int(length)):
            raise ValueError(f"model_max_length {_short(length)} has to be a whole number of at least 0")


@dataclass(frozen=True)
class _Prompts:
    prompts: dict[str, str] | None = None
    default_prompt_name: str | None = None


@dataclass(frozen=True)
class _Config:
    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    pad_token_id: int
    layer_norm_eps: float

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least, most = (0 if field.name == "pad_token_id" else 1), (_MOST_LAYERS if field.name == "num_hidden_layers" else _MOST)
            if field.name != "layer_norm_eps" and not least <= value <= most:
                raise ValueError(f"{field.name} {_short(value)} has to be from {least} to {most}")
        if not 0 <= self.layer_norm_eps < 1:
            raise ValueError(f"layer_norm_eps {self.layer_norm_eps} has to be a small number such as 1e-05")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} does not divide into {self.num_attention_heads} num_attention_heads")


def _read(path: Path, kind: type[Kind], fix: str = _AGAIN) -> Kind:
    """Read the fields that `kind` has from a JSON object; one without any where there is no such file."""
    return _picked(read_json(path, dict[str, Any], fix) if optional(path) else {}, kind, path, fix)


def _picked(content: dict[str, Any], kind: type[Kind], path: Path, fix: str = _AGAIN) -> Kind:
    wanted = {field.name for field in fields(kind)}
    return convert({name: value for name, value in content.items() if name in wanted}, kind, str(path), fix)


def _required(path: Path) -> Path:
    if not optional(path):
        raise JobonnxError(f"{path} is missing; the checkpoint is incomplete, download it again")
    return path


def _refuse_adapter(folder: Path) -> None:
    """Refuse a PEFT adapter: sentence-transformers adds it to the weights, which nothing here does."""
    if optional(folder / ADAPTER):
        raise JobonnxError(
            f"{folder / ADAPTER}: an adapter changes the weights that lie beside it or that it names; merge it into them with "
            "PEFT's merge_and_unload(), save that model, and export the folder"
        )


def _short(value: Any) -> str:
    """Return a value as an error shows it."""
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."


def _inside(folder: Path, name: str, where: Path) -> Path:
    """Return a path below `folder` that the file `where` names; neither system's rules may lead out of it."""
    if name and not is_inside(name):
        raise JobonnxError(f"{where}: path {_short(name)} leads out of the checkpoint; {_AGAIN}")
    return folder / name


def _read_prompts(path: Path) -> tuple[dict[str, str], str | None]:
    """config_sentence_transformers.json -> (prompts, name of the default one)."""
    settings = _read(path, _Prompts, fix="mend it or take it out")
    prompts, default = settings.prompts or {}, settings.default_prompt_name
    if default is not None and default not in prompts:
        raise JobonnxError(
            f"{path}: default_prompt_name {_short(default)} is not among its prompts {_short(sorted(prompts))}; "
            "mend it or take it out"
        )
    return prompts, default


def _read_modules(folder: Path) -> tuple[Path, str, bool, int | None]:
    """modules.json -> (transformer folder, pooling, whether vectors are normalised, length limit or None)."""
    path = folder / MODULES
    modules = [_picked(module, _Module, path) for module in read_json(path, list[dict[str, Any]], _AGAIN)]
    # A module of the checkpoint's own keeps its full name, whatever it is called.
    kinds = [m.type.rsplit(".", 1)[-1] if m.type.startswith("sentence_transformers.") else m.type for m in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise JobonnxError(
            f"{path}: modules {kinds} are not supported; jobonnx runs Transformer, Pooling and Normalize, in that order"
        )
    transformer, pooling, *normalize = (_inside(folder, module.path, path) for module in modules)
    for module in normalize:
        _check_normalize(module / "config.json")
    limits = next((transformer / name for name in _LIMITS if optional(transformer / name)), transformer / _LIMITS[0])
    options = _read(limits, _Limit, fix="mend it")
    if options.do_lower_case:
        raise JobonnxError(f"{limits}: do_lower_case: true is not supported; lower-case the texts yourself or set it to false")
    return transformer, _read_pooling(pooling / "config.json"), len(kinds) == 3, options.max_seq_length


def _check_normalize(path: Path) -> None:
    """Check that a Normalize module brings text vectors to unit length: sentence-transformers 6 can be told another input."""
    settings = read_json(path, dict[str, Any], _AGAIN) if optional(path) else {}
    for key, value in settings.items():
        known = key in ("module_input_name", "module_output_name")
        if not known or value not in ("sentence_embedding", *((None,) if key == "module_output_name" else ())):
            raise JobonnxError(
                f"{path}: {key} {_short(value)} is not supported; jobonnx's Normalize brings sentence_embedding to unit length"
            )


def _read_pooling(path: Path) -> str:
    """Return a Pooling module's config.json -> "cls" or "mean"."""
    config = read_json(_required(path), dict[str, Any], _AGAIN)
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


def read_architecture(path: Path) -> Architecture:
    """Read and check a transformer's config.json.

    Raises:
        JobonnxError: it is no XLM-R encoder's, or a field is missing or out of bounds.
    """
    content = read_json(_required(path), dict[str, Any], _AGAIN)
    supported = {
        "model_type": ("xlm-roberta",),
        "hidden_act": ("gelu",),
        "position_embedding_type": ("absolute", None),
        "type_vocab_size": (1,),
        "is_decoder": (False, None),
    }
    for key, values in supported.items():  # before the rest: another model's file has other fields
        if content.get(key) not in values:
            raise JobonnxError(
                f"{path}: {key} {_short(content.get(key))} is not supported; jobonnx runs XLM-RoBERTa encoders ({values[0]!r})"
            )
    config = _picked(content, _Config, path)
    return Architecture(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        intermediate=config.intermediate_size,
        vocabulary=config.vocab_size,
        positions=config.max_position_embeddings,
        pad_id=config.pad_token_id,
        epsilon=config.layer_norm_eps,
    )


def _tensor_reader(folder: Path, architecture: Architecture) -> TensorReader:
    """Check names and shapes of every tensor now, without reading values, and return a reader of one tensor at a time."""
    shapes, read = _open_weights(folder)
    prefix = _PREFIX if f"{_PREFIX}embeddings.word_embeddings.weight" in shapes else ""
    for name, shape in tensor_shapes(architecture).items():
        found = shapes.get(prefix + name)
        if found is None:
            raise JobonnxError(f"{folder}: tensor {prefix + name} is missing from the weights; {_AGAIN}")
        if found != shape:
            raise JobonnxError(f"{folder}: tensor {prefix + name} has shape {list(found)}, config.json asks for {list(shape)}")
    return lambda name: read(prefix + name)


def _open_weights(folder: Path) -> tuple[dict[str, tuple[int, ...]], TensorReader]:
    """Open a transformer's weights in the order in which transformers looks for them: the reference must hold the same tensors.

    Returns:
        Each tensor's shape, and a reader of one tensor.
    """
    for name, opened in (("model.safetensors", _open_safetensors), ("pytorch_model.bin", _open_pickled)):
        single, index = folder / name, folder / f"{name}.index.json"
        if optional(single):
            return opened([single])
        if optional(index):
            weight_map = read_json(index, dict[str, Any], _AGAIN).get("weight_map")
            shards = set(convert(weight_map, dict[str, str], f"{index}: weight_map", _AGAIN).values())
            return opened(sorted(_required(_inside(folder, shard, index)) for shard in shards))
    raise JobonnxError(f"{folder}: neither model.safetensors nor pytorch_model.bin is there; {_AGAIN}")


def _open_safetensors(files: list[Path]) -> tuple[dict[str, tuple[int, ...]], TensorReader]:
    import torch  # noqa: F401 - safetensors imports it itself, but only when a tensor is read
    from safetensors import safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    owner: dict[str, tuple[Path, Any]] = {}
    for file in files:
        with native(f"{file} is broken or cut short", _AGAIN):
            handle: Any = safe_open(file, framework="pt")
            for name in handle.keys():  # noqa: SIM118 - not a dict
                shapes[name] = tuple(handle.get_slice(name).get_shape())
                owner[name] = file, handle

    def read(name: str) -> Floats:
        file, handle = owner[name]
        with native(f"{file}: tensor {name} cannot be read", _AGAIN):
            return _float32(handle.get_tensor(name), file, name)

    return shapes, read


def _open_pickled(files: list[Path]) -> tuple[dict[str, tuple[int, ...]], TensorReader]:
    import torch

    shapes: dict[str, tuple[int, ...]] = {}
    owner: dict[str, tuple[Path, Any]] = {}
    for file in files:
        with native(f"{file} cannot be loaded as plain weights", "convert it to safetensors"):
            # Files from before torch 1.6 are no zip files, and cannot be mapped.
            state = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
            for name, tensor in state.items():
                shapes[str(name)] = tuple(tensor.shape)
                owner[str(name)] = file, tensor

    def read(name: str) -> Floats:
        file, tensor = owner[name]
        with native(f"{file}: tensor {name} cannot be read", _AGAIN):
            return _float32(tensor, file, name)

    return shapes, read


def _float32(tensor: Any, where: Path, name: str) -> Floats:
    """Return a tensor's values, of whatever real type; a parameter's without its gradient."""
    if str(tensor.layout) != "torch.strided" or tensor.is_complex() or tensor.is_quantized or tensor.is_meta:
        raise JobonnxError(
            f"{where}: tensor {name} is sparse, complex, quantized or without values ({tensor.dtype}, {tensor.layout}); "
            "save it as plain float32"
        )
    values: Floats = tensor.detach().float().numpy()
    return values
