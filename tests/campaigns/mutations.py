"""Ways to break files: bytes, JSON values, and what stands in a file's place."""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: What JSON can hold where something else is expected.
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 1.0, 1.5, -0.0, 1e-300, 1e308, 2**31 - 1, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**4000),
    *(
        "",
        " ",
        "x",
        "0",
        "1",
        "cls",
        "mean",
        "int8",
        "fp32",
        "cpu",
        "\0",
        "a\0b",
        "\n",
        "a\nb",
        "\r\n",
        "ü",
        "\u2028",
        "\ufeff",
        "😀",
    ),
    *("x" * 300, "x" * 70_000, "é" * 200, "0" * 64, "{}", "[]", "null", "NaN", "$UNSET", "~", "%s", "\x1b[31m", "\u202e"),
    *("..", "../x", "/etc/passwd", "C:\\x", "\\\\host\\share", "a/../../x", "./", "/", "//", "/proc/self/mem", "/dev/zero"),
    *("manifest.json", "tokenizer.json", "engine", "engine/../tokenizer.json", "ENGINE/INT8-CPU.ONNX", "con", "nul.txt"),
    *([], {}, [[]], [None], [1, 2], ["x"], {"x": 1}, {"": ""}, [{}], {"a": {"b": {"c": []}}}, [0] * 10_000),
)
#: Text that is no JSON, or that a lenient reader takes.
NO_JSON = (
    *("", " ", "{", "[", '"', "nul", "{}}", "[1,]", '{"a":1,}', "{'a': 1}", "NaN", "Infinity", "-Infinity", '{"a": NaN}', "1e999"),
    *('{"a":1,"a":2}', "[" * 100_000, '{"a":' * 50_000, "9" * 5_000, '"\\ud800"', '{"\\udfff": 1}', "\ufeff{}", "// x\n{}", "\0"),
    *("[] []", "{}\n{}", "<html>", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
)


def spoil_bytes(chances: random.Random, content: bytes) -> bytes:
    """Flip, cut, lengthen, delete, repeat or swap bytes; the result always differs."""
    made = bytearray(content)
    size = max(1, len(made))
    start = chances.randrange(size)
    count = chances.choice((1, 1, 4, 64, 4096, size))
    match chances.randrange(9):
        case 0 if made:  # one bit
            made[start] ^= 1 << chances.randrange(8)
        case 1 if made:  # a run of other bytes
            made[start : start + count] = chances.randbytes(len(made[start : start + count]))
        case 2:  # cut short
            del made[start:]
        case 3:  # a part is gone
            del made[start : start + count]
        case 4:  # longer
            made += chances.choice((b"\0", b"\n", b" ", b"x" * 4096, chances.randbytes(64), bytes(made[:64])))
        case 5:  # something in between
            made[start:start] = chances.choice((b"\0", b"{", b'"', b"\xff", chances.randbytes(8)))
        case 6:  # a part twice
            made[start:start] = made[start : start + count]
        case 7:  # zeros, as a disk that lost a block leaves them
            made[start : start + count] = bytes(len(made[start : start + count]))
        case 8:  # another file altogether
            made = bytearray(chances.choice(NO_JSON).encode())
    return bytes(made) if bytes(made) != content else content + b"\0"


def spoil_json(chances: random.Random, content: Any) -> Any:
    """Change one to three places of parsed JSON: another value, one less, one more, or one under another name."""
    made = copy.deepcopy(content)
    for _ in range(chances.choice((1, 1, 1, 2, 3))):
        places = list(_places(made))
        if not places:
            return chances.choice(ODD)
        parent, key = chances.choice(places)
        match chances.randrange(6):
            case 0 | 1:
                parent[key] = copy.deepcopy(chances.choice(ODD))
            case 2:
                del parent[key]
            case 3 if isinstance(parent, dict):
                parent[chances.choice(("x", "", "é", "\0", "../x", "format", "files", "__class__"))] = chances.choice(ODD)
            case 3:
                parent.insert(key, copy.deepcopy(chances.choice(ODD)))
            case 4:  # a value of another place
                other, name = chances.choice(places)
                parent[key] = copy.deepcopy(other[name]) if _has(other, name) else None
            case 5:
                parent[key] = _near(chances, parent[key])
    return made


def stand_in(chances: random.Random, path: Path) -> str:
    """Put something else in a file's place, or nothing; return what."""
    way = chances.choice(("nothing", "dangling link", "loop", "folder", "empty file", "pipe", "link to a folder"))
    if path.is_dir() and not path.is_symlink():
        path.rename(path.with_name(path.name + "-away"))
    else:
        path.unlink(missing_ok=True)
    make: dict[str, Callable[[], object]] = {
        "nothing": lambda: None,
        "dangling link": lambda: path.symlink_to("blobs/lost"),
        "loop": lambda: path.symlink_to(path.name),
        "folder": path.mkdir,
        "empty file": path.touch,
        "pipe": lambda: os.mkfifo(path),
        "link to a folder": lambda: path.symlink_to(".."),
    }
    make[way]()
    return way


def _near(chances: random.Random, value: Any) -> Any:
    """A value that is almost the right one."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        small = min(max(value, -(2**60)), 2**60)
        return chances.choice((value + 1, value - 1, -value, value * 10, float(small), small + 0.5, str(value)))
    if isinstance(value, float):
        return chances.choice((value * 2, -value, int(value), str(value), value + 1e-9))
    if isinstance(value, str):
        return chances.choice(
            (value + "x", value[1:], value.upper(), f" {value}", f"../{value}", f"./{value}", value[::-1], [value])
        )
    if isinstance(value, list):
        return chances.choice((value[1:], value * 2, value[::-1], dict(enumerate(map(str, value))), {"0": value}))
    return [value]


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) inside a JSON value."""
    found: list[tuple[Any, Any]] = []
    todo = [value]
    while todo:
        container = todo.pop()
        keys = list(container) if isinstance(container, dict) else range(len(container)) if isinstance(container, list) else ()
        for key in keys:
            found.append((container, key))
            todo.append(container[key])
    return found


def _has(container: Any, key: Any) -> bool:
    return key in container if isinstance(container, dict) else key < len(container)
