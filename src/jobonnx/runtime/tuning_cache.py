"""Settings that were measured on this machine, kept in the user's cache: bundles never change, and read-only ones can be tuned."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

from jobonnx.bundle.manifest import MANIFEST, Bundle
from jobonnx.errors import JobonnxError
from jobonnx.files import cache_folder, sha256
from jobonnx.runtime.machine import available_threads, cpu
from jobonnx.runtime.providers import PROVIDERS, find_provider
from jobonnx.runtime.providers.wheel import import_onnxruntime
from jobonnx.runtime.session import Settings
from jobonnx.strict_json import read_json, write_json


@dataclass(frozen=True)
class Machine:
    """The machine that settings are valid for: a different CPU, thread count or ONNX Runtime version invalidates them."""

    cpu: str
    threads: int
    onnxruntime: str


@dataclass(frozen=True)
class _Kept:
    """The content of the file."""

    machine: Machine
    settings: Settings


def this_machine() -> Machine:
    """Describe this machine, as settings are keyed by it."""
    return Machine(cpu().name, available_threads(), import_onnxruntime().__version__)


def default_settings(provider: str, threads: int) -> Settings:
    """How a variant runs where nothing was measured."""
    return Settings(provider, threads, token_budget=find_provider(provider).token_budget)


def path_of(bundle: Bundle, variant: str) -> Path:
    """Where a variant's settings are kept: in the user's cache, under the hash of the bundle's manifest.

    Raises:
        JobonnxError: the user has no home.
    """
    try:
        folder = cache_folder()
    except RuntimeError:
        raise JobonnxError("this user has no home to keep settings in; set XDG_CACHE_HOME to a folder of your own") from None
    return folder / _file_name(bundle, variant)


def load(bundle: Bundle, variant: str) -> tuple[Settings | None, str | None]:
    """Return a variant's settings for this machine, or None; and a sentence where there are some that cannot be used."""
    again = f"measure again: jobonnx tune {bundle.folder}"
    try:
        folder = cache_folder()
    except RuntimeError:  # no home, so nothing was ever kept
        return None, None
    try:
        path = folder / _file_name(bundle, variant)
        if not path.exists():
            return None, None
        kept = read_json(path, _Kept, again)
    except JobonnxError as error:
        return None, f"{error} (ignored)"
    there, here = asdict(kept.machine), asdict(this_machine())
    if there != here:
        different = ", ".join(f"{key} {there[key]!r}, here {here[key]!r}" for key in here if there[key] != here[key])
        return None, f"{path} was measured elsewhere ({different}) and is ignored; {again}"
    provider = PROVIDERS.get(kept.settings.provider)
    reason = provider.unavailable_reason(variant) if provider else "it is unknown"
    if reason:
        return None, f"{path} asks for provider {kept.settings.provider!r}, which does not run here ({reason}); {again}"
    return kept.settings, None


def save(bundle: Bundle, variant: str, settings: Settings) -> Path:
    """Keep a variant's settings for this machine; return the file.

    Raises:
        JobonnxError: the cache cannot be written.
    """
    path = path_of(bundle, variant)
    check_writable(path)
    write_json(path, asdict(_Kept(this_machine(), settings)))
    return path


def check_writable(path: Path) -> None:
    """Make the folder that settings are kept in, before anything is measured.

    Raises:
        JobonnxError: it cannot be made or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / f".{path.name}.try").touch()
        (path.parent / f".{path.name}.try").unlink()
    except OSError as error:
        fix = "mend that, or set XDG_CACHE_HOME to a folder of your own"
        raise JobonnxError(f"{path.parent} cannot be written to ({error.strerror}); {fix}") from None


def _file_name(bundle: Bundle, variant: str) -> Path:
    key = hashlib.sha256(f"{sha256(bundle.folder / MANIFEST)} {variant}".encode()).hexdigest()
    return Path("tuned", f"{key}.json")
