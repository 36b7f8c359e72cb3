"""Files: whole or not at all, never over an input."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from jobonnx import files
from jobonnx.errors import JobonnxError, Stopped
from jobonnx.evaluation.lines import numbered_lines

resource = pytest.importorskip("resource", reason="the limits and FIFOs of these tests are POSIX's")


# replaced


def test_a_file_appears_whole_with_usual_permissions(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    with files.replaced(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    (tmp_path / "usual").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), Stopped(15), OSError(28, "No space left on device")])
def test_a_failed_write_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "out.txt"
    path.write_bytes(b"old")

    def write() -> None:
        with files.replaced(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises((type(error), JobonnxError)):
        write()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out.txt"]


@pytest.mark.parametrize("make", ["same", "symlink", "hardlink", "dots"])
def test_an_output_that_is_an_input_is_refused_and_kept(tmp_path: Path, make: str) -> None:
    source = tmp_path / "in.tsv"
    source.write_bytes(b"precious")
    output = tmp_path / "out.tsv"
    if make == "same":
        output = source
    elif make == "symlink":
        output.symlink_to(source)
    elif make == "hardlink":
        output.hardlink_to(source)
    else:
        output = tmp_path / "x" / ".." / "in.tsv"
        (tmp_path / "x").mkdir()
    inputs = [tmp_path / "other.tsv", source]
    with pytest.raises(JobonnxError, match=r"is the input .* too and would be lost"), files.replaced(output, inputs):
        pytest.fail("opened")
    assert source.read_bytes() == b"precious"


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")
    with files.replaced(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


def test_a_fifo_is_written_directly(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_bytes()))
    reader.start()
    with files.replaced(fifo) as file:
        file.write(b"through")
    reader.join(10)
    assert read == [b"through"]


@pytest.mark.parametrize("name", ["absent/out", "nul\0", "x" * 300])
def test_a_path_that_cannot_be_is_known_before_the_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(JobonnxError, match="could not be written"), files.replaced(tmp_path / name):
        pytest.fail("opened")
    with pytest.raises(JobonnxError, match="could not be written"), files.replaced(tmp_path):
        pytest.fail("opened")


@pytest.mark.parametrize("name", ["x" * 300, "é" * 128, "absent/" + "x" * 300, "nul\0"])
def test_a_folder_of_a_name_that_cannot_be_is_known_before_the_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(JobonnxError, match="could not be written"), files.new_folder(tmp_path / name):
        pytest.fail("opened")
    assert os.listdir(tmp_path) == []


def test_a_link_to_a_name_that_cannot_be_is_known_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("x" * 300)
    with pytest.raises(JobonnxError, match="could not be written"), files.replaced(tmp_path / "link"):
        pytest.fail("opened")


def test_a_long_name_that_fits_the_disk_is_written(tmp_path: Path) -> None:
    with files.replaced(tmp_path / ("é" * 127)) as file:
        file.write(b"1")
    assert os.listdir(tmp_path) == ["é" * 127]


def test_a_full_disk_says_so(tmp_path: Path) -> None:
    """The limit on file sizes gives the error of a full disk without one."""

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    code = "import sys, pathlib, jobonnx.files as f\nwith f.replaced(pathlib.Path(sys.argv[1])) as file: file.write(b'x' * 5000)"
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited, check=False)
    assert "could not be written (File too large); free some space" in done.stderr
    assert os.listdir(tmp_path) == []


# new_folder


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    output = tmp_path / "a" / "b" / "bundle"
    with files.new_folder(output) as folder:
        (folder / "file").write_text("1")
        assert not output.exists()
    assert (output / "file").read_text() == "1"
    assert os.listdir(output.parent) == ["bundle"]
    (tmp_path / "usual").mkdir()
    assert stat.S_IMODE(output.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


@pytest.mark.parametrize("error", [RuntimeError("no"), Stopped(15), OSError(28, "No space left on device")])
def test_a_failed_folder_leaves_nothing_not_even_parents(tmp_path: Path, error: BaseException) -> None:

    def make() -> None:
        with files.new_folder(tmp_path / "a" / "b" / "bundle") as folder:
            (folder / "file").write_text("1")
            raise error

    with pytest.raises((type(error), JobonnxError)):
        make()
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_there_or_a_dangling_link_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nothing")
    for taken in (tmp_path, tmp_path / "link"):
        with pytest.raises(JobonnxError, match="exists already; remove it or name another folder"), files.new_folder(taken):
            pytest.fail("opened")
    (tmp_path / "file").touch()
    with pytest.raises(JobonnxError, match="could not be written"), files.new_folder(tmp_path / "file" / "x"):
        pytest.fail("opened")


# optional


def test_optional_means_absent(tmp_path: Path) -> None:
    assert files.optional(tmp_path / "absent") is False
    (tmp_path / "there").touch()
    assert files.optional(tmp_path / "there") is True
    (tmp_path / "good link").symlink_to("there")
    assert files.optional(tmp_path / "good link") is True
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    for name, said in {"dangling": "a link to nothing", "loop": "a link to nothing", "folder": "no file"}.items():
        with pytest.raises(JobonnxError, match=rf"{name} is {said}; mend it"):
            files.optional(tmp_path / name)


# lines


def test_lines_are_cut_at_line_feeds_alone() -> None:
    content = "\ufeffKoch\r\nDachdecker\u2028in\n\nKöchin\x0bA\n".encode()
    assert files.split_lines(content, "f") == ["Koch", "Dachdecker\u2028in", "", "Köchin\x0bA"]
    assert files.split_lines(b"", "f") == []
    with pytest.raises(JobonnxError, match="f, line 2 is not UTF-8"):
        files.split_lines(b"a\n\xff\n", "f")


def test_a_device_without_an_end_is_not_read() -> None:
    for device in ("/dev/zero", "/dev/full"):
        with pytest.raises(JobonnxError, match=rf"{device} is a device, which may have no end; name a file"):
            files.read_lines(Path(device))
        with pytest.raises(JobonnxError, match=rf"{device} is a device, which may have no end; name a file"):
            list(numbered_lines(Path(device), Counter()))
    assert files.read_lines(Path(os.devnull)) == []
    assert list(numbered_lines(Path(os.devnull), Counter())) == []
