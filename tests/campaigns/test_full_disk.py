"""Commands whose disk fills up, or whose file may grow no further: the old file stays, nothing half-made is left, one sentence."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from campaigns import campaign
from helpers.checkpoints import make_checkpoint
from helpers.reports import measured, report
from jobonnx import Encoder
from jobonnx.bundle.manifest import Bundle
from jobonnx.cli.main import main
from jobonnx.errors import JobonnxError
from jobonnx.files import new_folder
from jobonnx.runtime.session import Settings
from jobonnx.runtime.tuning_cache import save
from jobonnx.search.corpus import cached_index
from jobonnx.search.index import Index
from jobonnx_bench.render.folder import write_report

pytestmark = [pytest.mark.medium, pytest.mark.skipif(sys.platform == "win32", reason="a limit on file size is POSIX's")]

_DISK = 12 << 20  # bytes of the small disk


@dataclass(frozen=True)
class Place:
    """Where a trial works.

    Attributes:
        inputs: a folder that has room; see the fixture.
        outputs: a folder on the disk that fills up.
    """

    inputs: Path
    outputs: Path

    def command(self, *words: object) -> str:
        """Run a command: nothing if it went well, or the one sentence that it prints."""
        result = CliRunner().invoke(main, [str(word) for word in words])
        assert "Traceback" not in result.stderr
        if result.exception is None:
            return ""
        assert isinstance(result.exception, SystemExit), repr(result.exception)
        assert result.exit_code == 1, result.stderr
        *steps, error = result.stderr.splitlines()
        assert error.startswith("Error: "), result.stderr
        assert not any(step.startswith("Error") for step in steps), result.stderr
        return error


# Each makes its output, given room, and gives the sentence that it ends with otherwise.


def encode_npy(place: Place) -> str:
    return place.command("encode", "--file", place.inputs / "titles.txt", "-o", place.outputs / "out.npy", "--threads", 1)


def encode_jsonl(place: Place) -> str:
    return place.command("encode", "--file", place.inputs / "titles.txt", "-o", place.outputs / "out.jsonl", "--threads", 1)


def rank(place: Place) -> str:
    files = place.inputs / "queries.tsv", place.inputs / "corpus.tsv"
    return place.command("rank", *files, "-o", place.outputs / "run.trec", "--threads", 1)


def index_create(place: Place) -> str:
    return place.command("index", "create", place.outputs / "new", "--file", place.inputs / "titles.txt", "--threads", 1)


def index_add(place: Place) -> str:
    return place.command("index", "add", place.outputs / "index", "--file", place.inputs / "titles.txt", "--threads", 1)


def index_continued(place: Place) -> bool:
    """Add what `index create` had no room for; False if there is no index yet."""
    return not place.command("index", "add", place.outputs / "new", "--file", place.inputs / "titles.txt", "--threads", 1)


def index_remove(place: Place) -> str:
    return place.command("index", "remove", place.outputs / "index", "--file", place.inputs / "few.txt")


def tuned(place: Place) -> str:
    """What `tune` does once it has measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place.outputs / "cache"))
        return sentence(lambda: save(Bundle.open(), "int8", Settings("cpu", 1)))


def corpus_kept(place: Place) -> str:
    """What `match` does with a large corpus: without room, it keeps nothing."""
    titles = (place.inputs / "titles.txt").read_text().splitlines()
    with pytest.MonkeyPatch.context() as patch, Encoder(threads=1) as encoder:
        patch.setenv("XDG_CACHE_HOME", str(place.outputs / "cache"))
        index = cached_index(titles, encoder)
        if index is None:
            return "free some space"
        with index:
            assert list(index) == titles
    return ""


def bench_report(place: Place) -> str:
    """What `bench` does once it has measured."""

    def write() -> None:
        with new_folder(place.outputs / "report") as folder:
            write_report(report(measured("fp32"), measured("int8")), folder)

    return sentence(write)


def sentence(call: Callable[[], object]) -> str:
    try:
        call()
    except JobonnxError as error:
        return str(error)
    return ""


def complete(place: Place, command: Callable[[Place], str]) -> None:
    """Check that the output is all there, and nothing else."""
    titles = (place.inputs / "titles.txt").read_text().splitlines()
    outputs = place.outputs
    indexes = {"index_create": ("new", titles), "index_add": ("index", titles), "index_remove": ("index", titles[60:80])}
    if command is encode_npy:
        assert np.load(outputs / "out.npy").shape[0] == len(titles)
    elif command is encode_jsonl:
        assert [json.loads(line)["text"] for line in (outputs / "out.jsonl").read_text().splitlines()] == titles
    elif command is rank:
        assert len((outputs / "run.trec").read_text().splitlines()) == 20 * len(titles)
    elif command is tuned:
        assert [len(path.read_text()) > 100 for path in (outputs / "cache" / "jobonnx" / "tuned").iterdir()] == [True]
    elif command is corpus_kept:
        assert len(list((outputs / "cache" / "jobonnx" / "corpora").iterdir())) == 1
    elif command is bench_report:
        assert sorted(path.name for path in (outputs / "report").iterdir()) == ["report.html", "report.json", "report.md"]
    else:
        name, held = indexes[command.__name__]
        with Index.open(outputs / name) as index:
            assert list(index) == held
        assert len(list((outputs / name).iterdir())) == 2
    assert not [path for path in outputs.rglob("*") if path.name.startswith(".")]


COMMANDS = (encode_npy, encode_jsonl, rank, index_create, index_add, index_remove, tuned, corpus_kept, bench_report)


@contextlib.contextmanager
def file_limit(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes; Python ignores SIGXFSZ, so that a write is refused."""
    import resource

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


@contextlib.contextmanager
def room_left(disk: Path, size: int) -> Iterator[None]:
    """Fill the small disk up to `size` bytes."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    filler = disk / "filler"
    filler.write_bytes(bytes(max(0, free - size)))
    try:
        yield
    finally:
        filler.unlink()


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path | None]:
    """Mount a small disk; None for a user who may not, who is left with limits on file sizes."""
    place = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        yield None
        return
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write titles, queries, a corpus, and an index of a part of them, which `trial` copies."""
    folder = tmp_path_factory.mktemp("inputs")
    titles = [f"Koch {number}" for number in range(120)]
    (folder / "titles.txt").write_text("\n".join(titles))
    (folder / "few.txt").write_text("\n".join(titles[:60]))
    (folder / "queries.tsv").write_text("".join(f"q{n}\t{title}\n" for n, title in enumerate(titles[:20])))
    (folder / "corpus.tsv").write_text("".join(f"c{n}\t{title}\n" for n, title in enumerate(titles)))
    encoder = Encoder(threads=1)
    with Index.create(folder / "index", encoder.fingerprint, encoder.dimension) as index:
        index.add(titles[:80], encoder.encode(titles[:80], normalize_embeddings=True), fingerprint=encoder.fingerprint)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """Read all files, and the names of all folders, but for the indexes and the cache of verified bundles."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"a folder"
        for path in folder.rglob("*")
        if path.relative_to(folder).parts[0] not in ("index", "new", "cache")
    }


def trial(inputs: Path, disk: Path | None, chances: random.Random) -> None:
    with tempfile.TemporaryDirectory(dir=disk) as folder:
        place = Place(inputs, Path(folder))
        shutil.copytree(inputs / "index", place.outputs / "index")
        for name in ("out.npy", "out.jsonl", "run.trec"):
            if chances.random() < 0.7:
                (place.outputs / name).write_bytes(b"what was there before\n")
        before = content(place.outputs)
        command = chances.choice(COMMANDS)
        size = int(2 ** chances.uniform(0, 20))
        with file_limit(size) if disk is None or chances.random() < 0.5 else room_left(disk, size):
            said = command(place)
        if said:
            assert "free some space" in said, f"{command.__name__}: {said}"
            assert content(place.outputs) == before, f"{command.__name__} left something else"
            assert not list(place.outputs.rglob("*.partial")), f"{command.__name__} left something half-made"
            with Index.open(place.outputs / "index") as index:
                assert list(index) == (inputs / "titles.txt").read_text().splitlines()[:80]
            made = command is index_create and (place.outputs / "new" / "index.sqlite").exists()
            if not (made and index_continued(place)):
                assert command(place) == "", "with room it works"
        complete(place, command)


@pytest.fixture(autouse=True)
def _loaded() -> None:
    """Import what is imported at the first use: compiling it writes files."""
    import matplotlib.figure  # noqa: F401


def test_some_full_disks(inputs: Path, disk: Path | None) -> None:
    campaign.run("full disks", lambda chances: trial(inputs, disk, chances), trials=3)


@pytest.mark.campaign
def test_full_disks(inputs: Path, disk: Path | None) -> None:
    campaign.run("full disks", lambda chances: trial(inputs, disk, chances))


def exported(checkpoint: Path, disk: Path | None, chances: random.Random) -> None:
    with tempfile.TemporaryDirectory(dir=disk) as folder:
        place = Place(checkpoint, Path(folder))
        size = int(2 ** chances.uniform(0, 23))
        with file_limit(size) if disk is None or chances.random() < 0.5 else room_left(disk, size):
            said = place.command(
                "export", checkpoint, "-o", place.outputs / "bundle", "--variant", chances.choice(("fp32", "int8"))
            )
        if said:
            # What optimum and Rust throw has no fix in it, but the cause.
            assert any(cause in said for cause in ("free some space", "No space left on device", "File too large")), said
            assert [path for path in place.outputs.iterdir() if path.name != "filler"] == []
        else:
            Bundle.open(place.outputs / "bundle", verify=True)


@pytest.mark.campaign
def test_full_disks_of_an_export(tmp_path: Path, disk: Path | None) -> None:
    checkpoint = make_checkpoint(tmp_path / "tiny")
    campaign.run("full disks of an export", lambda chances: exported(checkpoint, disk, chances))
