"""A part of the output: a Parquet file with ids, titles and vectors, and what made them in its schema."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobonnx.arrays import Bools
from jobonnx.bulk.records import Bytes, Records


def schema(records: Records, id_type: Any, facts: Mapping[str, str]) -> Any:
    """Return the schema of a part.

    Args:
        records: the layout of the vectors.
        id_type: Arrow's type of the ids.
        facts: what made the vectors; each is metadata of the schema, its name after "jobonnx.".
    """
    import pyarrow as pa

    metadata = {f"jobonnx.{name}": value for name, value in facts.items()}
    return pa.schema({"id": id_type, "title": pa.string(), **records.fields()}, metadata)


def write_part(path: Path, made: Any, ids: Any, titles: Any, records: Bytes, valid: Bools, layout: Records) -> None:
    """Write a part and force it to the disk.

    Args:
        path: the file.
        made: the schema.
        ids: pyarrow array [n].
        titles: pyarrow string array [n].
        records: uint8 [n, width].
        valid: bool [n]: where it is False there is no vector.
        layout: of the records.

    Raises:
        OSError: the disk refuses; no file is left.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"id": ids, "title": titles, **layout.columns(records, valid)}
    table = pa.table([columns[name] for name in made.names], schema=made)
    try:
        with path.open("wb") as file:
            # Vectors do not get smaller by compression, only slower to write and read.
            compression = {"id": "zstd", "title": "zstd"}
            packed = {name: compression.get(name, "none") for name in _leaves(made)}
            pq.write_table(table, file, compression=packed, use_dictionary=["title"], write_statistics=["id"], store_schema=True)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _leaves(made: Any) -> list[str]:
    """Name the columns as Parquet does."""
    return ["vector.list.element" if name == "vector" else name for name in made.names]
