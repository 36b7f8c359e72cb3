"""Embed a column of titles with Spark: `mapInArrow`, one encoder for each partition.

python examples/spark.py INPUT.parquet OUTPUT

INPUT has the columns `id` and `title`. Needs `pip install pyspark "jobonnx[cpu,bulk]"` and Java. Spark computes every row: where
there are many repeats, drop duplicate titles first and join them again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any


def embed(batches: Iterable[Any]) -> Iterator[Any]:
    """Add the vectors to Arrow's batches. Spark calls this once for each partition, on any machine: a bundle has to be there."""
    import pyarrow as pa

    from jobonnx import Encoder

    encoder = Encoder(threads=1)  # as many as spark.task.cpus; the small model
    for batch in batches:
        vectors = encoder.encode(batch["title"].to_pylist())
        flat = pa.array(vectors.reshape(-1))
        offsets = pa.array(range(0, vectors.size + 1, vectors.shape[1]), pa.int32())
        column = pa.ListArray.from_arrays(offsets, flat)
        yield pa.record_batch({"id": batch["id"], "title": batch["title"], "vector": column})


def main(source: str, output: str) -> None:
    """Read, embed, write."""
    from pyspark.sql import SparkSession

    spark = SparkSession.builder.appName("jobonnx").getOrCreate()
    ads = spark.read.parquet(source).select("id", "title")
    ads.mapInArrow(embed, "id string, title string, vector array<float>").write.parquet(output)
    spark.stop()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
