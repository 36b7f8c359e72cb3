"""A bundle: a folder with a manifest that says what model it is, which graphs it has, what they measured, and every file's hash."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jobonnx.bundle.hub import DEFAULT_ACCESS, HUB_ID, HubAccess, download
from jobonnx.bundle.integrity import FileEntry, check_data_file, check_files, describe_file, is_inside, with_checksum
from jobonnx.errors import JobonnxError
from jobonnx.strict_json import convert, json_text, read_json

FORMAT = 1  # of the manifest; a newer one is refused
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
PROMPTS = "config_sentence_transformers.json"  # what may be edited: its prompts
REFERENCE_TEXTS = "reference.json"  # texts of the parity set ...
REFERENCE_VECTORS = "reference.npy"  # ... and their vectors, float32 [texts, dimension], from PyTorch
PORTABLE = "portable"  # the target of the graph that leaves pooling to the caller
DEFAULT = "default"  # stands for the bundle's default variant where nobody named one
WHITE_SPACE = "kept"  # at the ends of a text; sentence-transformers has kept it since 5.4 and stripped it before
_SMALL_MODEL = Path(__file__).parents[1] / "data" / "small"
_AGAIN = "export or download the bundle again"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """What decides a vector, apart from the precision."""

    source: str  # Hub id or folder name it was exported from
    revision: str | None  # the Hub commit, 40 hex digits; None for a folder
    dimension: int
    max_tokens: int  # special tokens included
    vocabulary: int  # rows of the embedding table: token ids are below it
    pad_id: int
    pooling: str  # "cls" or "mean"
    normalize: bool  # whether the graph's output has unit length
    prompts: dict[str, str]
    default_prompt_name: str | None
    tensors_sha256: str  # names, shapes and float32 values of the source tensors; heads, epsilon
    tokenizer_sha256: str  # of the tokenizer's meaning: padding and truncation settings left out
    white_space: str  # what happens to it at the ends of a text: `WHITE_SPACE`
    note: str | None = None  # a sentence shown to whoever loads it

    def __post_init__(self) -> None:
        for name, least in {"dimension": 1, "max_tokens": 1, "vocabulary": 1, "pad_id": 0}.items():
            if not least <= getattr(self, name) < 1 << 31:
                raise ValueError(f"{name} {getattr(self, name)} has to be between {least} and 2**31")
        if self.pooling not in ("cls", "mean"):
            raise ValueError(f"pooling {self.pooling!r} is neither 'cls' nor 'mean'")
        if self.white_space != WHITE_SPACE:
            raise ValueError(f"white_space {self.white_space!r} is not {WHITE_SPACE!r}")
        if self.default_prompt_name not in (None, *self.prompts):
            raise ValueError(f"default_prompt_name {self.default_prompt_name!r} is none of the prompts {sorted(self.prompts)}")


@dataclass(frozen=True)
class Parity:
    """Agreement of vectors with the reference vectors of the same texts; None where a figure is not finite.

    The centred cosines are taken after subtracting the reference's mean vector from both: embeddings crowd into a cone, where plain
    cosine hides ruin.
    """

    texts: int
    min_cosine: float | None
    mean_cosine: float | None
    min_centred: float | None
    mean_centred: float | None
    max_abs: float | None  # largest difference of any component
    top10_overlap: float | None  # mean share of each text's ten nearest texts that stay among its ten nearest
    p5_centred: float | None  # 5th percentile
    ndcg20: float | None  # mean over the texts; the reference's twenty nearest are worth 20, 19, ... 1


@dataclass(frozen=True)
class Graph:
    """One graph file: the precision it computes in, what it is written for, and what it measured."""

    variant: str  # fp32, bf16, fp16, int8, int8-static
    target: str  # what it is written for; `PORTABLE` is optimum's
    path: str  # below the bundle, with forward slashes
    recipe: str  # what the precision is made of; enters the fingerprint
    parity: Parity
    degraded: bool = False  # missed its tolerance and was kept with --allow-degraded
    data: str | None = None  # the file with its large tensors, which graphs of the same precision share; None if it needs none


@dataclass(frozen=True)
class Rejected(Graph):
    """A graph that missed its tolerance and was left out, with what it missed, one phrase each."""

    missed: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Content:
    """The manifest as it is written."""

    format: int
    model: Model
    default_variant: str
    graphs: tuple[Graph, ...]
    rejected: tuple[Rejected, ...]
    tools: dict[str, str]
    unprompted_sha256: str | None
    files: dict[str, FileEntry]
    sha256: str  # of all the rest

    def __post_init__(self) -> None:
        if self.default_variant not in {g.variant for g in self.graphs if g.target != PORTABLE}:
            raise ValueError(f"default_variant {self.default_variant!r} has no graph")
        for name in self.files:
            if not is_inside(name):
                raise ValueError(f"the file {name!r} leaves the bundle's folder")
        for name in (TOKENIZER, *(name for g in self.graphs for name in (g.path, g.data) if name is not None)):
            if name not in self.files:
                raise ValueError(f"the file {name!r} is not among the hashed ones")


@dataclass(frozen=True)
class Bundle:
    """An opened and checked bundle."""

    folder: Path
    model: Model
    graphs: tuple[Graph, ...]
    default_variant: str
    files: dict[str, FileEntry]  # by path below the folder
    rejected: tuple[Rejected, ...]  # variants that missed their tolerance, with their figures
    tools: dict[str, str]  # what it was exported with
    unprompted_sha256: str | None  # of `PROMPTS` without its prompts; None if there is no such file

    @classmethod
    def open(
        cls,
        source: str | os.PathLike[str] | None = None,
        *,
        revision: str | None = None,
        verify: bool = False,
        variant: str | None = None,
        hub: HubAccess = DEFAULT_ACCESS,
    ) -> Bundle:
        """Open a bundle folder, a Hub id that holds one, or (None) the small model that comes with the package.

        Every file asked for is checked: small ones by hash, large ones by hash on first load and by size, mtime and inode after
        that. Files that the manifest does not list, such as README.md, are not looked at. Prompts that were edited in `PROMPTS`
        since the export are taken, and a warning says so.

        Args:
            source: folder or Hub id.
            revision: Hub branch, tag or commit; a folder has none.
            verify: hash large files too, whatever is known of them.
            variant: leave out the graphs of all other variants, and the portable ones: they are neither downloaded nor checked.
                `DEFAULT` for the default variant; None for every file.
            hub: cache folder, token, and whether to stay offline.

        Raises:
            JobonnxError: no bundle there, a file is missing or altered, or the format is newer than this version reads.
        """
        if source is None and revision is not None:
            raise JobonnxError(f"the small model comes with jobonnx and has no revision {revision!r}; leave --revision away")
        folder = _SMALL_MODEL if source is None else _locate(source, revision, variant, hub)
        bundle = _with_edited_prompts(_read(folder))
        files = bundle.files_of(variant)
        check_files(folder, files, folder / MANIFEST, verify)
        for graph in bundle.graphs:
            if graph.path in files:
                check_data_file(folder / graph.path, None if graph.data is None else folder / graph.data)
        return bundle

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of the variants that an engine graph exists for, most exact first."""
        return tuple(dict.fromkeys(g.variant for g in self.graphs if g.target != PORTABLE))

    def graph(self, variant: str, target: str) -> Graph | None:
        """Return the graph of a variant for a target, if the bundle has it."""
        return next((g for g in self.graphs if (g.variant, g.target) == (variant, target)), None)

    def files_of(self, variant: str | None) -> dict[str, FileEntry]:
        """Return the files that a variant needs, those that belong to no graph among them; see `open`."""
        if variant is None:
            return self.files
        name = self.default_variant if variant == DEFAULT else variant
        of_graphs = {path for graph in self.graphs for path in (graph.path, graph.data)}
        chosen = [graph for graph in self.graphs if graph.variant == name and graph.target != PORTABLE]
        needed = {path for graph in chosen for path in (graph.path, graph.data)}
        return {path: entry for path, entry in self.files.items() if path in needed or path not in of_graphs}

    def recipe(self, variant: str) -> str:
        """Tell what a variant's precision is made of; the same for all its targets."""
        return next(g.recipe for g in self.graphs if g.variant == variant)

    def fingerprint(
        self, variant: str, truncation: str = "right", dimension: int | None = None, max_tokens: int | None = None
    ) -> str:
        """Hash of all that decides a vector: 64 hex digits. Vectors may share an index if and only if these are equal.

        Source tensors, tokenizer, pooling, normalisation, length limit, truncation side, white space, output dimension and the
        variant's recipe enter; paths, prompts, revision names and tool versions do not.
        """
        m = self.model
        parts = {
            "tensors": m.tensors_sha256,
            "tokenizer": m.tokenizer_sha256,
            "pooling": m.pooling,
            "normalize": m.normalize,
            "max_tokens": max_tokens or m.max_tokens,
            # Under "error" no text is ever cut, so its vectors are those of either side; they count as the default's.
            "truncation": "left" if truncation == "left" else "right",
            "white_space": m.white_space,
            "dimension": dimension or m.dimension,
            "recipe": self.recipe(variant),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def write_manifest(bundle: Bundle) -> None:
    """Write the manifest into the bundle's folder, flushed to disk: from then on the folder is a bundle."""
    content: dict[str, Any] = {"format": FORMAT, **asdict(bundle)}
    del content["folder"]
    with open(bundle.folder / MANIFEST, "w", encoding="utf-8") as file:
        file.write(json_text(with_checksum(content)))
        file.flush()
        os.fsync(file.fileno())


def tokenizer_sha256(path: Path) -> str:
    """Hash what a tokenizer.json means: its JSON without padding and truncation, which jobonnx sets itself."""
    content = read_json(path, dict[str, Any], _AGAIN)
    content.pop("padding", None)
    content.pop("truncation", None)
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def unprompted_sha256(path: Path) -> str:
    """Hash what a `PROMPTS` file says besides its prompts."""
    content = read_json(path, dict[str, Any], _AGAIN)
    rest = {key: value for key, value in content.items() if key not in ("prompts", "default_prompt_name")}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _with_edited_prompts(bundle: Bundle) -> Bundle:
    """Take the prompts of `PROMPTS` if nothing else was changed in it since the export."""
    path = bundle.folder / PROMPTS
    listed = bundle.files.get(PROMPTS)
    if listed is None or bundle.unprompted_sha256 is None or not path.is_file() or (found := describe_file(path)) == listed:
        return bundle
    try:
        content = read_json(path, dict[str, Any], _AGAIN)
        rest = unprompted_sha256(path)
    except JobonnxError:
        return bundle  # `check_files` refuses it ...
    if rest != bundle.unprompted_sha256:
        return bundle  # ... and this
    edited = {"prompts": content.get("prompts") or {}, "default_prompt_name": content.get("default_prompt_name")}
    model = convert({**asdict(bundle.model), **edited}, Model, str(path), "mend its prompts")
    if (model.prompts, model.default_prompt_name) != (bundle.model.prompts, bundle.model.default_prompt_name):
        _log.warning("%s: its prompts were changed since the export, which measured the model with others", path)
    return replace(bundle, model=model, files=bundle.files | {PROMPTS: found})


def _locate(source: str | os.PathLike[str], revision: str | None, variant: str | None, hub: HubAccess) -> Path:
    if not str(source).strip():
        raise JobonnxError("the bundle's name is empty; give a folder or a Hub id, or leave it out for the small model")
    folder = Path(source)
    if folder.is_dir():
        if revision is not None:
            raise JobonnxError(f"{source} is a folder, which has no revision {revision!r}; leave --revision away")
        return folder
    if isinstance(source, str) and HUB_ID.fullmatch(source) and not folder.exists():
        fix = f"holds a checkpoint, not a bundle; export it first: jobonnx export {source} -o BUNDLE"
        return download(source, revision, MANIFEST, fix, lambda folder: _read(folder).files_of(variant), hub)
    raise JobonnxError(f"{source}: no such bundle folder; make one with: jobonnx export CHECKPOINT -o {source}")


def _read(folder: Path) -> Bundle:
    path = folder / MANIFEST
    if not path.is_file():
        if (folder / "config.json").is_file():
            raise JobonnxError(f"{folder} is a checkpoint, not a bundle; export it first: jobonnx export {folder} -o BUNDLE")
        raise JobonnxError(f"{folder}: {MANIFEST} is missing, so this is no bundle; make one: jobonnx export CHECKPOINT -o BUNDLE")
    raw = read_json(path, dict[str, Any], _AGAIN)
    version = raw.get("format")
    if type(version) is int and version > FORMAT:
        raise JobonnxError(f"{path}: format {version} is newer than this jobonnx reads ({FORMAT}); upgrade jobonnx")
    if version != FORMAT or type(version) is not int:
        raise JobonnxError(f"{path}: format {version!r:.40} is not a manifest's; {_AGAIN}")
    if raw != with_checksum(raw):
        raise JobonnxError(f"{path} is not the manifest that was exported (its sha256 differs); {_AGAIN}")
    content = convert(raw, _Content, str(path), _AGAIN)
    return Bundle(
        folder=folder,
        model=content.model,
        graphs=content.graphs,
        default_variant=content.default_variant,
        files=content.files,
        rejected=content.rejected,
        tools=content.tools,
        unprompted_sha256=content.unprompted_sha256,
    )
