"""A finished output, read back: what made it, and its parts one by one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jobonnx.arrays import Floats
from jobonnx.bulk.journal import JOURNAL
from jobonnx.errors import JobonnxError, reason
from jobonnx.strict_json import parse_json

_FLOATS = ("float32", "float16")


@dataclass(frozen=True)
class Output:
    """A finished output.

    Attributes:
        folder: its folder.
        fingerprint: of the encoder that made it.
        dtype: of its vectors.
        dimension: of its vectors.
        prompt: what stood before every title.
        parts: how many parts it has.
    """

    folder: Path
    fingerprint: str
    dtype: str
    dimension: int
    prompt: str
    parts: int

    @classmethod
    def open(cls, folder: Path) -> Output:
        """Open what `jobonnx embed` made.

        Raises:
            JobonnxError: the folder is no output, or one that is not finished.
        """
        path = folder / JOURNAL
        if not path.is_file():
            raise JobonnxError(f"{folder} is no output of jobonnx embed (it holds no {JOURNAL}); name one")
        try:
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1)) as db:
                values = dict(db.execute("SELECT name, value FROM job"))
                parts = db.execute("SELECT count(*) FROM part").fetchone()[0]
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise JobonnxError(f"{folder} is still being written; wait until that has ended") from None
            raise JobonnxError(f"{path} cannot be read ({reason(error)}); mend that or name another output") from None
        except sqlite3.Error as error:
            raise JobonnxError(f"{path} is damaged ({reason(error)}); embed again into another folder") from None
        if "finished" not in values:
            raise JobonnxError(f"{folder} is not finished ({parts:,} parts are there); give the same jobonnx embed again first")
        made = parse_json(values["identity"], dict[str, Any], str(path), "embed again into another folder")
        return cls(folder, made["fingerprint"], made["dtype"], made["dimension"], made["prompt"], parts)

    def check_floats(self) -> None:
        """Raise JobonnxError unless the vectors are float32 or float16."""
        if self.dtype not in _FLOATS:
            fix = "embed with --dtype float32 or float16"
            raise JobonnxError(f"{self.folder} holds {self.dtype} vectors, from which no exact search can be made; {fix}")

    def read(self) -> Iterator[tuple[list[str], list[str], Floats]]:
        """Read the parts: ids as text, titles, and vectors float32 [n, dimension]; rows without a vector are left out.

        Raises:
            JobonnxError: the vectors are int8 or binary, or a part is damaged.
        """
        import pyarrow.parquet as pq

        self.check_floats()
        for number in range(self.parts):
            path = self.folder / f"part-{number:08d}.parquet"
            try:
                table = pq.read_table(path, columns=["id", "title", "vector"]).combine_chunks()
            except (OSError, ValueError) as error:
                raise JobonnxError(f"{path} cannot be read ({reason(error)}); embed again into another folder") from None
            table = table.filter(table["vector"].is_valid())
            if not len(table):
                continue
            ids = ["" if name is None else str(name) for name in table["id"].to_pylist()]
            flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            yield ids, table["title"].to_pylist(), flat.astype(np.float32).reshape(len(ids), self.dimension)
