"""A bundle: a folder with a manifest that says what model it is, which graphs it has, what they measured, and every file's hash."""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from jobonnx.errors import JobonnxError

FORMAT = 1  # of the manifest; a newer one is refused
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
REFERENCE_TEXTS = "reference.json"  # texts of the parity set ...
REFERENCE_VECTORS = "reference.npy"  # ... and their vectors, float32 [texts, dimension], from PyTorch
_SEAL = "sha256"  # the manifest's key for the hash of its other keys; bundles from before it lack the key, and load
_ALWAYS_HASHED = 1 << 20  # bytes; larger files are hashed on first load, then known by size, mtime and inode
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_BUNDLED = Path(__file__).parents[1] / "data" / "small"


@dataclass(frozen=True)
class Model:
    """What decides a vector, apart from the numerics."""

    source: str  # Hub id or folder name it was exported from
    revision: str | None  # the Hub commit, 40 hex digits; None for a folder
    dimension: int
    max_tokens: int  # special tokens included
    pad_id: int
    pooling: str  # "cls" or "mean"
    normalize: bool  # whether the graph's output has unit length
    prompts: dict[str, str]
    default_prompt_name: str | None
    tensors_sha256: str  # names, shapes and float32 values of the source tensors; heads, epsilon
    tokenizer_sha256: str  # of the tokenizer's meaning: padding and truncation settings left out
    note: str | None = None  # a sentence shown to whoever loads it


@dataclass(frozen=True)
class Graph:
    """One graph file: the numerics it computes in, what it is written for, and what it measured."""

    variant: str  # fp32, bf16, fp16, int8, int8-static
    target: str  # cpu, openvino, cuda, ...; "portable" is optimum's, which leaves pooling to the caller
    path: str  # below the bundle, with forward slashes
    recipe: str  # what the numerics are made of; enters the fingerprint
    parity: dict[str, Any]  # see jobonnx.parity.measure.Parity
    degraded: bool = False  # missed its tolerance and was kept with --allow-degraded
    data: str | None = None  # the file with its large tensors, shared by graphs of the same numbers; None in older bundles


@dataclass(frozen=True)
class Bundle:
    """An opened and checked bundle."""

    folder: Path
    model: Model
    graphs: tuple[Graph, ...]
    default_variant: str
    files: dict[str, dict[str, Any]]  # path -> {"size": bytes, "sha256": hex}
    rejected: tuple[dict[str, Any], ...]  # variants that missed their tolerance, with their figures
    tools: dict[str, str]  # what it was exported with

    @classmethod
    def open(cls, source: str | os.PathLike[str] | None = None, *, revision: str | None = None, verify: bool = False) -> Bundle:
        """Open a bundle folder, a Hub id that holds one, or (None) the small model that comes with the package.

        Every file is checked: small ones by hash, large ones by hash on first load and by size, mtime and inode after that.

        Args:
            source: folder or Hub id.
            revision: Hub branch, tag or commit; a folder has none.
            verify: hash large files too, whatever is known of them.

        Raises:
            JobonnxError: no bundle there, a file is missing or altered, or the format is newer than this version reads.
        """
        if source is None and revision is not None:
            raise JobonnxError(f"the small model comes with jobonnx and has no revision {revision!r}; leave --revision away")
        folder = _BUNDLED if source is None else _locate(source, revision)
        bundle = _parse(folder)
        _check_files(bundle, verify)
        return bundle

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of the variants that an engine graph exists for, most exact first."""
        return tuple(dict.fromkeys(g.variant for g in self.graphs if g.target != "portable"))

    def graph(self, variant: str, target: str) -> Graph | None:
        """The graph of a variant for a target, if the bundle has it."""
        return next((g for g in self.graphs if (g.variant, g.target) == (variant, target)), None)

    def recipe(self, variant: str) -> str:
        """What a variant's numerics are made of; the same for all its targets."""
        return next(g.recipe for g in self.graphs if g.variant == variant)

    def fingerprint(self, variant: str, truncation: str = "right", dimension: int | None = None) -> str:
        """Hash of all that decides a vector: 64 hex digits. Vectors may share an index if and only if these are equal.

        Source tensors, tokenizer, pooling, normalisation, length limit, truncation side, output dimension and the variant's recipe
        enter; paths, revision names and tool versions do not.
        """
        m = self.model
        parts = {
            "tensors": m.tensors_sha256,
            "tokenizer": m.tokenizer_sha256,
            "pooling": m.pooling,
            "normalize": m.normalize,
            "max_tokens": m.max_tokens,
            # Under "error" no text is ever cut, so its vectors are those of either side; they count as the default's.
            "truncation": "left" if truncation == "left" else "right",
            "dimension": dimension or m.dimension,
            "recipe": self.recipe(variant),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def write_manifest(bundle: Bundle) -> None:
    """Write the manifest into the bundle's folder, flushed to disk: from then on the folder is a bundle."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "model": asdict(bundle.model),
        "default_variant": bundle.default_variant,
        "graphs": [asdict(graph) for graph in bundle.graphs],
        "rejected": list(bundle.rejected),
        "tools": bundle.tools,
        "files": bundle.files,
    }
    with open(bundle.folder / MANIFEST, "w", encoding="utf-8") as file:
        json.dump(sealed(content), file, indent=1, ensure_ascii=False, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """A manifest's content with the sha256 of all the rest of it, by which a later change of any value is noticed."""
    rest = {key: value for key, value in content.items() if key != _SEAL}
    canonical = json.dumps(rest, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return {**rest, _SEAL: hashlib.sha256(canonical).hexdigest()}


def describe_file(path: Path) -> dict[str, Any]:
    """Size and sha256 of a file, as the manifest lists them."""
    return {"size": path.stat().st_size, "sha256": _sha256(path)}


def tokenizer_sha256(path: Path) -> str:
    """Hash what a tokenizer.json means: its JSON without padding and truncation, which jobonnx sets itself."""
    content = _read_json(path)
    content.pop("padding", None)
    content.pop("truncation", None)
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _locate(source: str | os.PathLike[str], revision: str | None) -> Path:
    folder = Path(source)
    if folder.is_dir():
        if revision is not None:
            raise JobonnxError(f"{source} is a folder, which has no revision {revision!r}; leave --revision away")
        return folder
    if isinstance(source, str) and _HUB_ID.fullmatch(source) and not folder.exists():
        from jobonnx.bundle.hub import download_bundle

        return download_bundle(source, revision)
    raise JobonnxError(f"{source}: no such bundle folder; make one with: jobonnx export CHECKPOINT -o {source}")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, no JSON, a number of 5,000 digits; 100,000 brackets
        raise JobonnxError(f"{path} is not valid JSON ({error}); export or download the bundle again") from None


def _parse(folder: Path) -> Bundle:
    path = folder / MANIFEST
    if not path.is_file():
        if (folder / "config.json").is_file():
            raise JobonnxError(f"{folder} is a checkpoint, not a bundle; export it first: jobonnx export {folder} -o BUNDLE")
        raise JobonnxError(f"{folder}: {MANIFEST} is missing, so this is no bundle; make one: jobonnx export CHECKPOINT -o BUNDLE")
    content = _read_json(path)
    try:
        version = content["format"]
        if type(version) is not int or version < 1:  # True is an int too
            raise TypeError
        if version > FORMAT:
            raise JobonnxError(f"{path}: format {version} is newer than this jobonnx reads ({FORMAT}); upgrade jobonnx")
        if _SEAL in content and content != sealed(content):
            raise JobonnxError(f"{path} is not the manifest that was exported (its sha256 differs); export or download it again")
        bundle = Bundle(
            folder=folder,
            model=Model(**content["model"]),
            graphs=tuple(Graph(**graph) for graph in content["graphs"]),
            default_variant=content["default_variant"],
            files=content["files"],
            rejected=tuple(content["rejected"]),
            tools=content["tools"],
        )
        listed = {TOKENIZER, *(g.path for g in bundle.graphs), *(g.data for g in bundle.graphs if g.data is not None)}
        sane = listed <= bundle.files.keys() and all(
            isinstance(entry["size"], int) and isinstance(entry["sha256"], str) for entry in bundle.files.values()
        )
        sane = sane and all(_stays_below(name) for name in bundle.files)
        sane = sane and bundle.default_variant in bundle.variants and _plausible(bundle.model)
    except (KeyError, TypeError, AttributeError, RecursionError):
        sane = False
    if not sane:
        raise JobonnxError(f"{path} is not a manifest that jobonnx wrote; export or download the bundle again")
    return bundle


def _plausible(m: Model) -> bool:
    """Whether every field has its type: all that guards a manifest without a hash of itself."""
    texts = (m.source, m.pooling, m.tensors_sha256, m.tokenizer_sha256)
    optional = (m.revision, m.default_prompt_name, m.note)
    return (
        all(isinstance(text, str) for text in texts)
        and all(text is None or isinstance(text, str) for text in optional)
        and all(type(number) is int and 0 <= number < 1 << 31 for number in (m.dimension, m.max_tokens, m.pad_id))
        and min(m.dimension, m.max_tokens) > 0
        and m.pooling in ("cls", "mean")
        and isinstance(m.normalize, bool)
        and all(isinstance(prompt, str) for prompt in m.prompts.values())
        and m.default_prompt_name in (None, *m.prompts)
    )


def _stays_below(name: str) -> bool:
    """Whether a listed path stays inside the bundle, read by either system's rules."""
    return not any(p.is_absolute() or p.drive or ".." in p.parts for p in (PurePosixPath(name), PureWindowsPath(name)))


def _check_files(bundle: Bundle, verify: bool) -> None:
    known = {} if verify else _read_stamps(bundle)
    stamps: dict[str, list[int]] = {}
    for name, entry in bundle.files.items():
        path = bundle.folder / name
        if not path.is_file():
            raise JobonnxError(f"{path} is missing from the bundle; export or download it again")
        stat = path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        trusted = stat.st_size > _ALWAYS_HASHED and known.get(name) == stamp
        if stat.st_size != entry["size"] or not (trusted or _sha256(path) == entry["sha256"]):
            raise JobonnxError(f"{path} is not the file that was exported (size or sha256 differs); export or download it again")
        if stat.st_size > _ALWAYS_HASHED:
            stamps[name] = stamp
    if stamps and stamps != known:
        _write_stamps(bundle, stamps)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """Where jobonnx keeps what it can make again; RuntimeError for a user without a home, as in some containers."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jobonnx"


def _stamps_path(bundle: Bundle) -> Path:
    # The manifest is part of the key: another export in the same place starts afresh.
    key = f"{bundle.folder.resolve()}\n{_sha256(bundle.folder / MANIFEST)}"
    return cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()}.json"


def _read_stamps(bundle: Bundle) -> dict[str, list[int]]:
    try:
        stamps = json.loads(_stamps_path(bundle).read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):  # RuntimeError: a user without a home, as in some containers
        return {}
    return stamps if isinstance(stamps, dict) else {}


def _write_stamps(bundle: Bundle, stamps: dict[str, list[int]]) -> None:
    with suppress(OSError, RuntimeError):  # a read-only home, or none, costs the next load a hash, nothing else
        path = _stamps_path(bundle)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}")
        try:
            beside.write_text(json.dumps(stamps), encoding="utf-8")
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
