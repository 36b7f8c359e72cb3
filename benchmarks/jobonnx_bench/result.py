"""What a comparison found, as data: one JSON file. The dataclasses below are its schema; all times are seconds, all sizes bytes.

    {"schema": "jobonnx.bench/2", "environment": Environment, "shape": Shape, "workload": Workload.summary(),
     "cells": [Cell + {"summary": Summary or null}], "limits": limits or null, "bundle": BundleFacts or null,
     "recommendations": [Recommendation]}

`summary` is worked out from the rest of its cell when the file is written, for readers that want the figures only; so are the
recommendations (advice.py), which `jobonnx bench` writes and compare.py does not. `limits` is what gemm.py or benchmarks/limits.py
measured in the same run. Schema 1 had no `bundle`, no sweep and less of the environment; it is read as well.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jobonnx.errors import JobonnxError
from jobonnx_bench.environment import Environment
from jobonnx_bench.gemm import CUDA_ENGINE

SCHEMA = "jobonnx.bench/2"
_READ = (SCHEMA, "jobonnx.bench/1")
ON_CUDA = ("cuda", "tensorrt")  # providers whose products are held against CUDA's


@dataclass(frozen=True)
class Shape:
    """The encoder's, for counting operations. A multiplication and an addition are two."""

    layers: int
    hidden: int
    intermediate: int

    @property
    def layer_weights(self) -> int:
        """Weights of one layer's linear maps: query, key, value, attention output, and the feed-forward's two."""
        return 4 * self.hidden**2 + 2 * self.hidden * self.intermediate

    def operations(self, tokens: int, titles: int | None = None) -> int:
        """Operations of the linear maps on so many tokens; with `titles`, the last layer beyond keys and values is theirs alone."""
        if titles is None:
            return 2 * self.layers * self.layer_weights * tokens
        keys_and_values = 2 * self.hidden**2
        last = keys_and_values * tokens + (self.layer_weights - keys_and_values) * titles
        return 2 * ((self.layers - 1) * self.layer_weights * tokens + last)


@dataclass(frozen=True)
class Round:
    """One turn of one system. Each tuple has one entry a call."""

    bulk: float  # one call with the workload's distinct titles
    bulk_cpu: float  # processor seconds of that call, over all threads
    bulk_computed_tokens: int | None  # tokens it computed, padding included; None: real tokens only
    repeated: float  # one call with titles that appear four times each
    one: tuple[float, ...]
    eight: tuple[float, ...]
    thirty_two: tuple[float, ...]  # mixed lengths
    thirty_two_equal: tuple[float, ...]  # as many tokens in titles of one length
    tokenize: float | None  # tokenising the bulk titles, by itself; None: the system does not offer it


@dataclass(frozen=True)
class Batch:
    """One size of the sweep: one run of the model over so many titles of nearly one length, again and again."""

    titles: int
    tokens: int  # real tokens, special ones included
    seconds: tuple[float, ...]  # one a call; the first call of a size is left out


@dataclass(frozen=True)
class Cell:
    """One system: who it is, what came of it, and what was measured."""

    name: str
    family: str  # "jobonnx" or "peer"
    status: str  # "measured"; "failed": `reason` says how, `rounds` has what came before; "absent": `reason` says what to install
    reason: str | None
    details: dict[str, Any]  # what the adapter says: dtype, provider, threads, ...
    versions: dict[str, str]  # of the packages in its environment
    loads: tuple[float, ...]  # importing and loading, files in the page cache; one a start of its process
    first_calls: tuple[float, ...]  # the first title after each
    rounds: tuple[Round, ...]
    peak_bytes: int | None  # the process's high-water mark, mapped files included
    anonymous_peak_bytes: int | None  # without mapped files: highest of a reading every 50 ms
    idle_cpu: float | None  # processor seconds it took while others had their turn
    parity: (
        dict[str, Any] | None
    )  # jobonnx.parity.measure.Parity against the reference system (bulk titles) or the bundle's own vectors
    batch_cosine: float | None  # lowest cosine between a title's vector alone or among 32, and in bulk
    asked: dict[str, str] = field(default_factory=dict)  # {"variant", "provider"}, of ours; what came of it is in `details`
    sweep: tuple[Batch, ...] = ()  # smallest first
    gpu_peak_bytes: int | None = None  # on NVIDIA GPUs, context included: highest of a reading after each command; None: not known


@dataclass(frozen=True)
class Timing:
    """Latency of one kind of call. p50 is the median of the rounds' medians; p95 and p99 are over all calls of all rounds."""

    p50: float
    p95: float
    p99: float
    calls: int


@dataclass(frozen=True)
class Summary:
    """A cell's figures: medians over rounds."""

    titles_per_second: float  # bulk, distinct titles
    tokens_per_second: float  # the same in real tokens
    repeated_titles_per_second: float
    one: Timing
    eight: Timing
    thirty_two: Timing
    thirty_two_equal: Timing
    mixed_over_equal: float  # time of 32 mixed titles over that of the same tokens in equal lengths, group by group
    load: float
    first_call: float
    cpu_per_1000_titles: float
    tokenize_share: float | None  # tokenising over bulk time
    operations_per_second: float  # bulk; every real token at full depth
    executed_per_second: float  # bulk; what was computed: padding in, skipped rows of the last layer out
    nodes_on_cpu: int | None  # nodes of the graph that fell to the CPU provider though another was asked for; None: not known


@dataclass(frozen=True)
class BundleFacts:
    """The bundle that was measured."""

    model: str  # what it was exported from
    revision: str | None
    dimension: int
    pooling: str
    parity_texts: int  # texts that parity was measured on, against PyTorch fp32
    fingerprints: dict[str, str]  # of each variant, see `Bundle.fingerprint`


@dataclass(frozen=True)
class Report:
    """A whole comparison."""

    environment: Environment
    shape: Shape
    workload: dict[str, Any]
    cells: tuple[Cell, ...]
    limits: dict[str, Any] | None = None
    bundle: BundleFacts | None = None

    def as_dict(self) -> dict[str, Any]:
        cells = []
        for cell in self.cells:
            summary = summarise(cell, self.shape, self.workload)
            cells.append({**asdict(cell), "summary": None if summary is None else asdict(summary)})
        return {**asdict(self), "schema": SCHEMA, "cells": cells}

    def write(self, path: Path) -> None:
        """Write the JSON, whole or not at all."""
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        beside.write_text(json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        beside.replace(path)

    @classmethod
    def read(cls, path: Path) -> Report:
        """Read what `write` wrote.

        Raises:
            JobonnxError: the file is no report, or one of another schema.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["schema"] not in _READ:
                raise JobonnxError(f"{path}: its schema is {content['schema']!r}, this version reads {SCHEMA!r}; measure again")
            return cls(
                environment=Environment(**{**content["environment"], "gpus": tuple(content["environment"].get("gpus", ()))}),
                shape=Shape(**content["shape"]),
                workload=content["workload"],
                cells=tuple(_cell(cell) for cell in content["cells"]),
                limits=content["limits"],
                bundle=BundleFacts(**content["bundle"]) if content.get("bundle") else None,
            )
        except OSError as error:
            raise JobonnxError(f"{path} cannot be read ({error.strerror})") from None
        except (ValueError, KeyError, TypeError) as error:
            raise JobonnxError(f"{path} is no report of a comparison ({error})") from None


def summarise(cell: Cell, shape: Shape, workload: dict[str, Any]) -> Summary | None:
    """A cell's figures, or None if no round was finished."""
    rounds = cell.rounds
    if not rounds:
        return None
    titles, tokens = workload["titles"], workload["tokens"]
    bulk = statistics.median(r.bulk for r in rounds)
    computed = rounds[0].bulk_computed_tokens
    last_rows = titles if cell.details.get("last_layer_rows") == "titles" else None
    tokenize = [r.tokenize for r in rounds if r.tokenize is not None]
    return Summary(
        titles_per_second=titles / bulk,
        tokens_per_second=tokens / bulk,
        repeated_titles_per_second=workload["repeated_titles"] / statistics.median(r.repeated for r in rounds),
        one=timing([r.one for r in rounds]),
        eight=timing([r.eight for r in rounds]),
        thirty_two=timing([r.thirty_two for r in rounds]),
        thirty_two_equal=timing([r.thirty_two_equal for r in rounds]),
        mixed_over_equal=statistics.median(_mixed_over_equal(r) for r in rounds),
        load=statistics.median(cell.loads),
        first_call=statistics.median(cell.first_calls),
        cpu_per_1000_titles=1000 * statistics.median(r.bulk_cpu for r in rounds) / titles,
        tokenize_share=statistics.median(tokenize) / bulk if tokenize else None,
        operations_per_second=shape.operations(tokens) / bulk,
        executed_per_second=shape.operations(tokens if computed is None else computed, last_rows) / bulk,
        nodes_on_cpu=_nodes_on_cpu(cell.details),
    )


def timing(rounds: Sequence[Sequence[float]]) -> Timing:
    """Latency from calls by round, in seconds. Percentiles are linear between the two nearest calls."""
    calls = [seconds for r in rounds for seconds in r]
    p95, p99 = np.percentile(calls, [95, 99])
    return Timing(statistics.median(statistics.median(r) for r in rounds), float(p95), float(p99), len(calls))


def bulk_ratio(cell: Cell, other: Cell) -> float | None:
    """How many times as fast `cell` is in bulk: the median over rounds of the two calls of one round, taken in turn."""
    if not cell.rounds or not other.rounds:
        return None
    return _ratio_of_rounds(other.rounds, lambda r: r.bulk, cell.rounds, lambda r: r.bulk)


def one_ratio(cell: Cell, other: Cell) -> float | None:
    """Time of one title in `cell` over that in `other`: the median over rounds of the ratio of medians."""
    if not cell.rounds or not other.rounds:
        return None
    return _ratio_of_rounds(cell.rounds, lambda r: statistics.median(r.one), other.rounds, lambda r: statistics.median(r.one))


def gemm_rate(limits: dict[str, Any] | None, details: dict[str, Any]) -> float | None:
    """The best rate of matrix products in a cell's type, in operations/s, over all numbers of rows; None: not measured.

    A cell on the CPU, whatever its provider, is held against the fastest engine there; one on an NVIDIA GPU against ONNX Runtime's
    CUDA provider.
    """
    on_cuda = details.get("provider") in ON_CUDA
    by_rows = (limits or {}).get("gemm", {}).get(details.get("dtype"), {})
    found = [rate for best in by_rows.values() for engine, rate in best["rates"].items() if (engine == CUDA_ENGINE) == on_cuda]
    return max(found, default=None)


def _nodes_on_cpu(details: dict[str, Any]) -> int | None:
    if "nodes" not in details:
        return None
    return 0 if details.get("provider") == "cpu" else int(details["nodes"].get("CPUExecutionProvider", 0))


def _mixed_over_equal(r: Round) -> float:
    return statistics.median(mixed / equal for mixed, equal in zip(r.thirty_two, r.thirty_two_equal, strict=True))


def _ratio_of_rounds(
    a: Iterable[Round], of_a: Callable[[Round], float], b: Iterable[Round], of_b: Callable[[Round], float]
) -> float:
    # A system that failed has fewer rounds; those that both have are compared.
    return statistics.median(of_a(x) / of_b(y) for x, y in zip(a, b, strict=False))


def _cell(content: dict[str, Any]) -> Cell:
    fields = {name: value for name, value in content.items() if name != "summary"}
    rounds = tuple(_round(r) for r in fields.pop("rounds"))
    sweep = tuple(Batch(b["titles"], b["tokens"], tuple(b["seconds"])) for b in fields.pop("sweep", ()))
    loads, first_calls = (tuple(fields.pop(name)) for name in ("loads", "first_calls"))
    return Cell(**fields, rounds=rounds, loads=loads, first_calls=first_calls, sweep=sweep)


def _round(content: dict[str, Any]) -> Round:
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}
    return Round(**values)
