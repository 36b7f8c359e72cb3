"""JSON that may be hostile, read by one strict reader: a checksum is no reason to trust a field."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from jobonnx.errors import JobonnxError, reason
from jobonnx.files import optional, replaced, unreadable

T = TypeVar("T")
_SHOWN = 300  # characters of what is wrong with a value, which may be a number of 4,000 digits
_LEAVES = frozenset({str, int, float, bool, type(None)})
_MOST_BYTES = 1 << 28  # a tokenizer.json of 250,002 pieces has 17 MB


def read_json(path: Path, kind: type[T], fix: str) -> T:
    """Read a JSON file that may be hostile; see `parse_json`.

    Args:
        path: the file.
        kind: what it has to hold.
        fix: what the user should do if it does not.

    Raises:
        JobonnxError: it cannot be read, or does not hold a `kind`.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe that nobody writes to would be read for ever
            raise JobonnxError(f"{path} is no regular file; {fix}")
        if status.st_size > _MOST_BYTES:
            raise JobonnxError(f"{path} has more than {_MOST_BYTES:,} bytes, too many for this file; {fix}")
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
    return parse_json(content, kind, str(path), fix)


def parse_json(content: str | bytes, kind: type[T], name: str, fix: str) -> T:
    """Parse JSON strictly: UTF-8, no key twice, no NaN or infinity, no lone surrogate, nothing too deep or too long.

    Args:
        content: the JSON text.
        kind: what it has to hold: a type that msgspec converts to, such as `dict[str, int]` or a frozen dataclass. Types are never
            coerced, names that a dataclass does not have are refused, and its `__post_init__` may refuse values with a ValueError.
        name: what errors call it: the file, and the line where it matters.
        fix: what the user should do if it does not hold a `kind`.

    Raises:
        JobonnxError: it is no JSON, or does not hold a `kind`; the field is named.
    """
    try:
        text = content if isinstance(content, str) else content.decode()
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse, parse_float=_finite)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise JobonnxError(f"{name} holds half of a surrogate pair, which is no character; {fix}") from None
    except RecursionError:
        raise JobonnxError(f"{name} is not valid JSON (nested too deeply); {fix}") from None
    except ValueError as error:  # not UTF-8, no JSON, a number of 5,000 digits, and the refusals below
        raise JobonnxError(f"{name} is not valid JSON ({reason(error)}); {fix}") from None
    return convert(value, kind, name, fix)


def convert(value: Any, kind: type[T], name: str, fix: str) -> T:
    """Turn parsed JSON into a `kind`, as `parse_json` does.

    Raises:
        JobonnxError: it does not hold a `kind`; the field is named.
    """
    import msgspec

    try:
        converted = msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message, _, place = str(error).replace("`", "").partition(" - at ")
        where = f"{place.removeprefix('$').removeprefix('.')}: " if place not in ("", "$") else ""
        raise JobonnxError(f"{name}: {where}{message[:1].lower()}{message[1:_SHOWN]}; {fix}") from None
    except RecursionError:
        raise JobonnxError(f"{name} is not valid JSON (nested too deeply); {fix}") from None
    if unknown := next(_unknown(value, converted, ""), None):
        raise JobonnxError(f"{name}: {unknown} is unknown to this version of jobonnx; {fix}")
    return converted


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all; no NaN.

    Raises:
        JobonnxError: the file cannot be written, or something else is in its place.
    """
    optional(path)  # a pipe that nobody reads would take no byte for ever
    with replaced(path) as file:
        file.write(json_text(content).encode())


def json_text(content: Any) -> str:
    """JSON as the project writes it: readable, one final line end, no NaN."""
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} stands there twice")
    return content


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number in JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:20]} is too large a number")
    return number


def _unknown(value: Any, converted: Any, place: str) -> Iterator[str]:
    """Names in parsed JSON that the dataclasses made of it do not have."""
    if is_dataclass(converted) and isinstance(value, Mapping):
        known = {field.name for field in fields(converted)}
        for name, part in value.items():
            here = f"{place}.{name}" if place else name
            if name not in known:
                yield here
            else:
                yield from _unknown(part, getattr(converted, name), here)
    elif isinstance(converted, Mapping) and isinstance(value, Mapping):
        for name, part in value.items():
            yield from _unknown(part, converted.get(name), f"{place}.{name}" if place else name)
    elif isinstance(converted, list | tuple) and isinstance(value, list):
        if _LEAVES.issuperset(map(type, value)):  # most lists; an index has a title per item
            return
        for number, (part, made) in enumerate(zip(value, converted, strict=False)):
            yield from _unknown(part, made, f"{place}[{number}]")
