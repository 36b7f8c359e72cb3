"""The command line against odd arguments, paths and streams, as real processes: one line, the right status, inputs unharmed."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from campaigns import campaign
from jobonnx.cli.main import main

pytestmark = pytest.mark.medium

PROGRAM = [sys.executable, "-c", "from jobonnx.cli import main; main()"]
STATUSES = (0, 1, 2)
#: Words for any argument or option. What exec itself refuses (NUL) goes through CliRunner below.
ODD_WORDS: tuple[bytes, ...] = (
    *(
        b"",
        b" ",
        b"\t",
        b"\n",
        b"-",
        b"--",
        b"-1",
        b"--x",
        b"0",
        b"1",
        b"2",
        b"1.5",
        b"nan",
        b"inf",
        b"-inf",
        b"1e5",
        b"1_0",
        b"0x10",
    ),
    *(
        "١٢".encode(),
        b"9" * 30,
        b"9" * 5000,
        b"1" + b"0" * 400,
        b"true",
        b"null",
        b"None",
        b"cpu",
        b"auto",
        b"fp32",
        b"int8",
        b"all",
    ),
    *(
        b"\xff\xfe",
        b"caf\xe9",
        "ü".encode(),
        b"\xed\xa0\x80",
        "\u202e".encode(),
        b"\x1b[31m",
        b"\r",
        b"a\nb",
        b"%s%n",
        b"$UNSET",
        b"*",
    ),
    *(b".", b"..", b"/", b"~", b"/dev/null", b"/dev/full", b"/dev/stdout", b"/proc/self/mem", b"/proc/1/root/x", b"/etc/passwd"),
    *(
        b"x" * 255,
        b"x" * 256,
        b"x" * 5000,
        b"a/" * 3000 + b"x",
        b"absent",
        b"absent/absent",
        b"a/b",
        b"a/b/c",
        b"http://[::1",
        b"C:\\x",
    ),
)
#: Files and folders of a trial, which a word may name, and outputs that cannot be.
PLACES = (
    *(
        "titles.txt",
        "queries.tsv",
        "corpus.tsv",
        "table.csv",
        "qrels.tsv",
        "run.txt",
        "latin1.txt",
        "empty.txt",
        "broken.json",
        "corpus.jsonl",
    ),
    *(
        "folder",
        "dangling",
        "loop",
        "link.txt",
        "locked/out.npy",
        "out.npy",
        "out.jsonl",
        "out.txt",
        "out",
        "titles.txt/x",
        "folder/new/x.npy",
    ),
    *(
        "dangling.npy",
        "loop.npy",
        "folder.npy",
        "titles.npy",
        "x" * 240 + ".npy",
        "x" * 300 + ".npy",
        "caf\udce9.npy",
        "new\nline.npy",
    ),
)
STREAMS = (
    "",
    "",
    "",
    "<&-",
    ">&-",
    "2>&-",
    "<&- >&-",
    "<&- >&- 2>&-",
    ">/dev/full",
    "2>/dev/full",
    "</dev/null",
    "| head -c 1",
)


def fill(folder: Path) -> None:
    """Inputs of every kind."""
    (folder / "titles.txt").write_text("Koch\nKöchin\n\nKoch\n", encoding="utf-8")
    (folder / "queries.tsv").write_text("q1\tcook\nq2\tnurse\n")
    (folder / "corpus.tsv").write_text("d1\tcook\nd2\tnurse\nd3\tpilot\n")
    (folder / "table.csv").write_text('id,title\n1,"Koch, Küche"\n2,nurse\n', encoding="utf-8")
    (folder / "qrels.tsv").write_text("q1 0 d1 1\nq2 0 d2 1\n")
    (folder / "run.txt").write_text("q1 Q0 d1 1 0.5 x\n")
    (folder / "latin1.txt").write_bytes(b"K\xf6chin\n")
    (folder / "empty.txt").touch()
    (folder / "broken.json").write_text("[" * 5000)
    (folder / "corpus.jsonl").write_text('{"_id": "d1", "text": "cook"}\n')
    (folder / "folder").mkdir()
    (folder / "folder.npy").mkdir()
    for name, target in {"dangling": "lost", "loop": "loop", "dangling.npy": "lost/x", "loop.npy": "loop.npy"}.items():
        (folder / name).symlink_to(target)
    (folder / "link.txt").symlink_to("titles.txt")
    (folder / "titles.npy").symlink_to("titles.txt")
    (folder / "locked").mkdir(0o500)


def commands(group: click.Group = main, before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command, with the words that call it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*before, name))
        yield (*before, name), command


COMMANDS = dict(commands())
# So that no trial takes minutes: no measuring, no export, and a short corpus.
LONG: dict[tuple[str, ...], list[bytes]] = {
    ("bench",): [b"--variant", b"absent"],
    ("tune",): [b"--variant", b"absent"],
    ("export",): [b"--variant", b"absent"],
    ("match",): [b"--corpus", b"titles.txt"],
}
# Comes last, so that nothing else decides: a service that starts never ends.
LAST: dict[tuple[str, ...], list[bytes]] = {("serve",): [b"--variant", b"absent"]}


def likely(chances: random.Random, parameter: click.Parameter) -> bytes:
    """A word that the command may well take, so that a trial comes past the first check."""
    name = parameter.name or ""
    if isinstance(parameter.type, click.Choice):
        return str(chances.choice(list(parameter.type.choices))).encode()
    if isinstance(parameter.type, click.types.IntParamType):
        return str(chances.choice((1, 2, 3, 10))).encode()
    if isinstance(parameter.type, click.Path):
        return os.fsencode(chances.choice(PLACES))
    words = {
        "provider": b"cpu",
        "variant": b"int8",
        "variants": b"int8",
        "prompt_name": b"query",
        "column": b"title",
        "id_column": b"id",
    }
    return words.get(name) or chances.choice((b"Koch", b"nurse", "護士".encode(), os.fsencode(chances.choice(PLACES))))


def word(chances: random.Random, parameter: click.Parameter) -> bytes:
    if chances.random() < 0.35:
        return chances.choice(ODD_WORDS)
    if chances.random() < 0.2:
        return os.fsencode(chances.choice(PLACES))
    return likely(chances, parameter)


def line(chances: random.Random) -> list[bytes]:
    """Words that call a command: some of its options and arguments, and at times one that it has not."""
    name = chances.choice(list(COMMANDS))
    words = [*(part.encode() for part in name), *LONG.get(name, [])]
    for parameter in COMMANDS[name].params:
        required = parameter.required or parameter.name in ("output", "datasets", "texts")
        if not required and chances.random() < 0.75:
            continue
        if isinstance(parameter, click.Option):
            words.append(chances.choice(parameter.opts).encode())
            if parameter.is_flag or parameter.flag_value in ("json", "markdown"):
                continue
        many = chances.choice((0, 1, 1, 2, 5)) if parameter.nargs == -1 else parameter.nargs
        if parameter.required:
            many = max(many, 1)
        words += [word(chances, parameter) for _ in range(many)]
    words += LAST.get(name, [])
    if chances.random() < 0.05:
        words.insert(chances.randrange(len(words)), chances.choice(ODD_WORDS))
    return [part.replace(b"\0", b"") for part in words]


def state(folder: Path) -> dict[str, str]:
    """Every file's content, every link's target."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(root, name)
            inside = str(path.relative_to(folder))
            if path.is_symlink():
                found[inside] = f"-> {os.readlink(path)}"
            else:
                found[inside] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
    return found


def outputs(words: list[bytes]) -> set[str]:
    """Names that a command may make, or write over, because an option or argument says so."""
    plain = {os.fsdecode(part).removeprefix("-o") for part in words}
    return plain | {part.split("=", 1)[-1] for part in plain}


def trial(chances: random.Random) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "work"
        folder.mkdir()
        fill(folder)
        before = state(folder)
        words, streams = line(chances), chances.choice(STREAMS)
        environment = {
            **os.environ,
            "XDG_CACHE_HOME": f"{temporary}/cache",
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": f"{temporary}/hf",
            "OMP_NUM_THREADS": "1",
        }
        status, said = _run(words, streams, folder, environment)
        shown = f"{words!r} {streams}: status {status}, stderr {said[-1500:]!r}"
        if "head" in streams and not said:  # the reader has gone
            assert status in (*STATUSES, 141), shown
            status = 0
        assert status in STATUSES, shown
        assert "Traceback" not in said, shown
        if status and "2>" not in streams:
            errors = [text for text in said.splitlines() if text.startswith("Error: ")]
            assert len(errors) == 1 or _quiet(words), shown
            assert said.endswith("\n"), shown
        after = state(folder)
        may_change = {str(Path(os.path.normpath(name))) for name in outputs(words)}
        inputs = set(before) - {"locked"}
        lost = [name for name in inputs if after.get(name) != before[name]]
        assert not [name for name in lost if name not in may_change], f"harmed {lost} by {shown}"
        new = [name for name in set(after) - set(before) if ".partial" in Path(name).name]
        assert not new, f"left {new} by {shown}"


def _quiet(words: list[bytes]) -> bool:
    """Commands that end with status 1 after a result (a graph missed its tolerance), or with the help and status 2."""
    return words[0] in (b"verify", b"export") or words == [b"index"]


def _run(words: list[bytes], streams: str, folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run through a shell, which closes streams; the words go as arguments, so no quoting can change them."""
    error = folder.parent / "stderr"
    script = f'"$@" {streams}' if "2>" in streams else f'"$@" 2>"$ERRORS" {streams}'
    command: list[Any] = ["bash", "-o", "pipefail", "-c", script, "bash", *PROGRAM, *words]
    done = subprocess.run(
        command, cwd=folder, env={**environment, "ERRORS": str(error)}, input=b"Koch\nnurse\n", capture_output=True, timeout=120
    )
    said = error.read_bytes() if error.exists() else done.stderr
    return done.returncode, said.decode("utf-8", "backslashreplace")


#: A word that the program can be given only by Python, as exec cannot carry it.
@pytest.mark.parametrize("odd", ["nul\0", "\ud800", "a\udcffb"])
@pytest.mark.parametrize("name", [name for name in COMMANDS if not isinstance(COMMANDS[name], click.Group)], ids=" ".join)
def test_nul_and_surrogates_in_every_parameter(
    name: tuple[str, ...], odd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    fill(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    chances = random.Random(1)
    parameters = [p for p in COMMANDS[name].params if not (isinstance(p, click.Option) and p.is_flag)]
    for spoilt in parameters:
        words = [*name, *(part.decode() for part in LONG.get(name, []))]
        for parameter in parameters:
            if parameter is not spoilt and not parameter.required:
                continue
            value = odd if parameter is spoilt else os.fsdecode(likely(chances, parameter))
            values = [value] * max(1, parameter.nargs)
            words += [parameter.opts[-1], *values] if isinstance(parameter, click.Option) else values
        words += [part.decode() for part in LAST.get(name, [])]
        done = CliRunner().invoke(main, words, input="Koch\n")
        assert done.exception is None or isinstance(done.exception, SystemExit), f"{words}: {done.exception!r}"
        errors = [text for text in done.stderr.splitlines() if text.startswith("Error: ")]
        assert done.exit_code == 0 or len(errors) == 1, f"{words}: {done.stderr}"


def test_some_abuses_of_the_command_line() -> None:
    campaign.run("command line", trial, trials=12)


@pytest.mark.campaign
def test_abuses_of_the_command_line() -> None:
    campaign.run("command line", trial)
