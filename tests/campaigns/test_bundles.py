"""Bundles that were cut, swapped, altered or forged: refused in one sentence, or the right vectors."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from campaigns import campaign
from campaigns.mutations import spoil_bytes, spoil_json, stand_in
from jobonnx import Encoder, JobonnxError
from jobonnx.bundle.integrity import with_checksum
from jobonnx.bundle.manifest import MANIFEST, Bundle
from jobonnx.cli.main import main
from jobonnx.files import cache_folder
from jobonnx.parity.verify import verify
from jobonnx.runtime.tuning_cache import path_of, this_machine

pytestmark = pytest.mark.medium

SMALL = Bundle.open().folder
FILES = sorted(path.relative_to(SMALL).as_posix() for path in SMALL.rglob("*") if path.is_file())
TEXTS = ["Koch", "Krankenschwester", "软件工程师", "", "Koch " * 100]


def sentence(error: BaseException) -> None:
    """Hold an error to what is promised: one line that says something."""
    message = str(error)
    assert isinstance(error, JobonnxError), f"{type(error).__name__}: {message}"
    assert 10 < len(message) < 3000, f"{len(message)} characters: {message[:500]}"
    assert "\n" not in message, repr(message)
    assert "\r" not in message, repr(message)
    message.encode()  # no half of a surrogate pair


def copied(folder: Path) -> Path:
    """Copy the small model as hard links, which is quick; a file has to be unlinked before it is written."""
    made = folder / "bundle"
    shutil.copytree(SMALL, made, copy_function=os.link)
    return made


def rewrite(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


def manifest() -> Any:
    return json.loads((SMALL / MANIFEST).read_text(encoding="utf-8"))


def any_file(chances: random.Random, folder: Path) -> None:
    """Bytes of a file."""
    name = chances.choice(FILES)
    rewrite(folder / name, spoil_bytes(chances, (SMALL / name).read_bytes()))


def two_files(chances: random.Random, folder: Path) -> None:
    """Two files swapped, or one in the place of another."""
    a, b = chances.sample(FILES, 2)
    rewrite(folder / a, (SMALL / b).read_bytes())
    if chances.random() < 0.5:
        rewrite(folder / b, (SMALL / a).read_bytes())


def no_file(chances: random.Random, folder: Path) -> None:
    """Something else where a file was."""
    stand_in(chances, folder / chances.choice([*FILES, "engine", "1_Pooling"]))


def another_manifest(chances: random.Random, folder: Path) -> None:
    """The manifest's values, without the checksum that belongs to them."""
    rewrite(folder / MANIFEST, json.dumps(spoil_json(chances, manifest())).encode("utf-8", "surrogatepass"))


def forged_manifest(chances: random.Random, folder: Path) -> None:
    """The manifest's values, sealed again as if it were an export's."""
    spoilt = spoil_json(chances, manifest())
    sealed = with_checksum(spoilt) if isinstance(spoilt, dict) else spoilt
    rewrite(folder / MANIFEST, json.dumps(sealed, ensure_ascii=chances.random() < 0.5).encode("utf-8", "surrogatepass"))


def forged_file(chances: random.Random, folder: Path) -> None:
    """A file, listed in the manifest with its new hash, as if it were an export's."""
    name = chances.choice(("tokenizer.json", "tokenizer.json", "engine/int8-cpu.onnx", "reference.json", "reference.npy"))
    content = (SMALL / name).read_bytes()
    if name == "tokenizer.json" and chances.random() < 0.8:  # its settings, which are few beside its 16,000 pieces
        parsed = json.loads(content)
        vocabulary = parsed["model"].pop("vocab")
        parsed = spoil_json(chances, parsed)
        if isinstance(parsed, dict) and isinstance(parsed.get("model"), dict):
            parsed["model"].setdefault("vocab", vocabulary if chances.random() < 0.8 else spoil_json(chances, vocabulary[:10]))
        content = json.dumps(parsed).encode("utf-8", "surrogatepass")
    elif name == "reference.json" and chances.random() < 0.5:
        content = json.dumps(spoil_json(chances, json.loads(content))).encode("utf-8", "surrogatepass")
    else:
        content = spoil_bytes(chances, content)
    rewrite(folder / name, content)
    sealed = manifest()
    sealed["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite(folder / MANIFEST, json.dumps(with_checksum(sealed)).encode())


def spoilt_cache(chances: random.Random, folder: Path) -> None:
    """What the user's cache holds about the bundle: stamps of its files, and tuned settings."""
    Encoder(folder, provider="cpu")
    bundle = Bundle.open(folder)
    tuned = path_of(bundle, "int8")
    tuned.parent.mkdir(parents=True, exist_ok=True)
    machine = asdict(this_machine())
    settings = {"provider": "cpu", "threads": 2, "streams": 1, "token_budget": 2048, "spin": True, "capture": False}
    tuned.write_text(json.dumps({"machine": machine, "settings": settings}))
    for path in [tuned, *(cache_folder() / "verified").iterdir()]:
        match chances.randrange(4):
            case 0:
                rewrite(path, spoil_bytes(chances, path.read_bytes()))
            case 1 | 2:
                rewrite(path, json.dumps(spoil_json(chances, json.loads(path.read_text()))).encode("utf-8", "surrogatepass"))
            case 3:
                stand_in(chances, path)


ATTACKS: dict[Callable[[random.Random, Path], None], int] = {
    any_file: 3,
    two_files: 1,
    no_file: 1,
    another_manifest: 1,
    forged_manifest: 4,
    forged_file: 2,
    spoilt_cache: 1,
}


@pytest.fixture(scope="module")
def intact() -> Encoder:
    return Encoder(provider="cpu", threads=1)


def one_attack(intact: Encoder, folder: Path, chances: random.Random, patch: pytest.MonkeyPatch) -> None:
    """Attack a copy, load it, and use it as the commands do."""
    patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    bundle = copied(folder)
    attack = chances.choices(list(ATTACKS), list(ATTACKS.values()))[0]
    attack(chances, bundle)
    try:
        encoder = Encoder(bundle, threads=None if attack is spoilt_cache else 1, provider="auto")
        vectors = encoder.encode(TEXTS, prompt="")
    except Exception as error:
        sentence(error)
        if attack is spoilt_cache:
            raise AssertionError(f"a cache is no reason to refuse: {error}") from None
    else:
        right = vectors.shape == (len(TEXTS), intact.dimension) and np.array_equal(vectors, intact.encode(TEXTS, prompt=""))
        # Who forges a file and its hash gets what the file says; no checksum can tell.
        forged = attack is forged_file or (attack is forged_manifest and encoder.fingerprint != intact.fingerprint)
        assert right or forged, f"other vectors in silence after: {attack.__doc__}"
        if attack in (forged_manifest, forged_file) and chances.random() < 0.5:
            _verified(bundle)
    if chances.random() < 0.2:
        _said(bundle, [["info"], ["info", "--json"], ["verify"], ["verify", "--json"]][chances.randrange(4)])


def _verified(bundle: Path) -> None:
    try:
        verify(Bundle.open(bundle, verify=True))
    except Exception as error:
        sentence(error)


def _said(bundle: Path, command: list[str]) -> None:
    done = CliRunner().invoke(main, [*command, str(bundle)])
    assert done.exception is None or isinstance(done.exception, SystemExit), f"{command}: {done.exception!r}"
    assert done.exit_code in (0, 1), done.output
    if done.exit_code and done.stderr:
        assert len(done.stderr.splitlines()) == 1, done.stderr


def attack(intact: Encoder, chances: random.Random) -> None:
    notes = _Notes()
    logger = logging.getLogger("jobonnx")
    logger.addHandler(notes)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(logger, "propagate", False)
        one_attack(intact, Path(folder), chances, patch)
    logger.removeHandler(notes)
    assert not any("\n" in note for note in notes.said), notes.said


class _Notes(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def test_some_broken_bundles(intact: Encoder) -> None:
    campaign.run("broken bundles", lambda chances: attack(intact, chances), trials=60)


@pytest.mark.campaign
def test_broken_bundles(intact: Encoder) -> None:
    campaign.run("broken bundles", lambda chances: attack(intact, chances))
