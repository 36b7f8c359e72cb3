"""What was measured, as data. `Report` is the schema of report.json; all times are seconds, all sizes bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jobonnx.bundle.manifest import Parity
from jobonnx.strict_json import read_json
from jobonnx_bench.environment import Environment
from jobonnx_bench.gemm import CPU, Product
from jobonnx_bench.workload import WorkloadSummary

Schema = Literal["jobonnx.bench/3"]
SCHEMA: Schema = "jobonnx.bench/3"


@dataclass(frozen=True)
class Shape:
    """The encoder's shape, for counting operations. A multiplication and an addition are two operations."""

    layers: int
    hidden: int
    intermediate: int

    def __post_init__(self) -> None:
        for name in ("layers", "hidden", "intermediate"):
            _require(name, getattr(self, name) >= 1, "at least 1")

    @property
    def layer_weights(self) -> int:
        """Weights of one layer's linear maps: query, key, value, attention output, and the feed-forward's two."""
        return 4 * self.hidden**2 + 2 * self.hidden * self.intermediate

    def operations(self, tokens: int, titles: int | None = None) -> int:
        """Count the operations of the linear maps.

        Args:
            tokens: tokens that pass through the encoder.
            titles: if given, the last layer computes only one row per title beyond its keys and values, as with CLS pooling.
        """
        if titles is None:
            return 2 * self.layers * self.layer_weights * tokens
        keys_and_values = 2 * self.hidden**2
        last = keys_and_values * tokens + (self.layer_weights - keys_and_values) * titles
        return 2 * ((self.layers - 1) * self.layer_weights * tokens + last)


@dataclass(frozen=True)
class Round:
    """One turn of one system. Each tuple has one entry per call."""

    bulk: float  # one call with the workload's distinct titles
    bulk_cpu: float  # processor seconds of that call, over all threads
    bulk_computed_tokens: int | None  # tokens it computed, padding included; None: real tokens only
    repeated: float  # one call with titles that appear four times each
    one: tuple[float, ...]
    eight: tuple[float, ...]
    thirty_two: tuple[float, ...]  # mixed lengths
    thirty_two_equal: tuple[float, ...]  # the same number of tokens, in titles of one length
    tokenize: float | None  # tokenising the bulk titles, by itself; None: the system does not offer it

    def __post_init__(self) -> None:
        calls = {name: getattr(self, name) for name in ("one", "eight", "thirty_two", "thirty_two_equal")}
        for name, times in {"bulk": (self.bulk,), "repeated": (self.repeated,), **calls}.items():
            _require(name, bool(times) and _all_positive(times), "times above 0, and at least one of them")
        same = len(self.thirty_two) == len(self.thirty_two_equal)
        _require("thirty_two_equal", same, "as many times as in thirty_two")
        _require("bulk_cpu", self.bulk_cpu >= 0, "at least 0")


@dataclass(frozen=True)
class Batch:
    """One size of the sweep: runs of the model over the same titles of nearly one length."""

    titles: int
    tokens: int  # real tokens, special ones included
    seconds: tuple[float, ...]  # one per run; the first run of a size is left out

    def __post_init__(self) -> None:
        _require("titles", self.titles >= 1, "at least 1")
        _require("tokens", self.tokens >= 1, "at least 1")
        _require("seconds", bool(self.seconds) and _all_positive(self.seconds), "times above 0, and at least one of them")


@dataclass(frozen=True)
class Details:
    """What a system says of itself."""

    dtype: str = ""  # the type its matrix products run in: fp32, bf16, fp16 or int8
    provider: str = ""  # the execution provider that really runs it
    device: str = CPU  # what its products are held against
    threads: int | None = None
    nodes_elsewhere: int | None = None  # nodes of the graph that fell to another provider than the one asked for; None: not known
    last_layer_rows: str = "tokens"  # "titles": the last layer computes one row per title
    notes: dict[str, str | int] = field(default_factory=dict)  # whatever else its adapter says

    @classmethod
    def of(cls, said: dict[str, Any]) -> Details:
        """Sort what an adapter says into fields and notes."""
        fields = {name: said[name] for name in cls.__dataclass_fields__ if name != "notes" and name in said}
        notes = {name: value if isinstance(value, int) else str(value) for name, value in said.items() if name not in fields}
        return cls(**fields, notes=notes)


@dataclass(frozen=True)
class Requested:
    """The variant and the provider that were asked for; what came of it is in `Details`."""

    variant: str
    provider: str


@dataclass(frozen=True)
class SystemResult:
    """One system: what it is, what came of it, and what was measured."""

    name: str
    family: Literal["jobonnx", "peer"]
    status: Literal["measured", "failed", "absent"]
    reason: str | None  # failed: how, and `rounds` has what came before; absent: what to install
    details: Details
    versions: dict[str, str]  # of the packages in its environment
    loads: tuple[float, ...]  # importing and loading, files in the page cache; one per start of its process
    first_calls: tuple[float, ...]  # the first title after each start
    rounds: tuple[Round, ...]
    peak_bytes: int | None  # the process's high-water mark, mapped files included
    anonymous_peak_bytes: int | None  # without mapped files: the highest of a reading every 50 ms
    idle_cpu: float | None  # processor seconds it took while others had their turn
    parity: Parity | None  # against the reference vectors: the bundle's, or another system's of the bulk titles
    batch_cosine: float | None  # lowest cosine between a title's vector alone or among 32, and in bulk
    requested: Requested | None = None  # None: a peer
    sweep: tuple[Batch, ...] = ()  # smallest first
    gpu_peak_bytes: int | None = None  # CUDA context included: the highest of a reading after each command; None: not known

    def __post_init__(self) -> None:
        for name, times in (("loads", self.loads), ("first_calls", self.first_calls)):
            enough = bool(times) or not self.rounds
            _require(name, enough and _all_positive(times), "times above 0, and at least one where there are rounds")

    @property
    def variant(self) -> str:
        """The variant asked for; the name of a peer."""
        return self.requested.variant if self.requested else self.name

    @property
    def provider(self) -> str:
        """The provider asked for; empty for a peer."""
        return self.requested.provider if self.requested else ""


@dataclass(frozen=True)
class Timing:
    """Latency of one kind of call. p50 is the median of the rounds' medians; p95 and p99 are over all calls of all rounds."""

    p50: float
    p95: float
    p99: float
    calls: int


@dataclass(frozen=True)
class Summary:
    """A system's figures: medians over rounds."""

    titles_per_second: float  # bulk, distinct titles
    tokens_per_second: float  # bulk, in real tokens
    repeated_titles_per_second: float
    one: Timing
    eight: Timing
    thirty_two: Timing
    thirty_two_equal: Timing
    mixed_over_equal: float  # time of 32 mixed titles over that of the same tokens in equal lengths, group by group
    load: float
    first_call: float
    cpu_per_1000_titles: float
    tokenize_share: float | None  # time of tokenising over time of bulk
    operations_per_second: float  # bulk; every real token at full depth
    executed_per_second: float  # bulk; what was computed: padding included, rows that the last layer skips left out


@dataclass(frozen=True)
class Rate:
    """The rate of matrix products of one type with so many rows, over the products of one layer."""

    engine: str
    device: str
    dtype: str
    rows: int
    operations_per_second: float

    def __post_init__(self) -> None:
        _require("operations_per_second", self.operations_per_second > 0, "above 0")


@dataclass(frozen=True)
class Reading:
    """Reading a buffer once."""

    bytes: int
    seconds: float
    way: str = ""  # the faster of those tried

    def __post_init__(self) -> None:
        _require("seconds", self.seconds > 0, "above 0")


@dataclass(frozen=True)
class LimitsPass:
    """The limits as measured before one round."""

    products: tuple[Product, ...] = ()
    readings: tuple[Reading, ...] = ()


@dataclass(frozen=True)
class Limits:
    """What the machine can do, measured in the same run by gemm.py or benchmarks/limits.py."""

    weights: int  # of the linear maps of all layers
    rates: tuple[Rate, ...]  # medians over passes, the fastest engine of each kind first
    reading: tuple[Reading, ...]  # medians over passes, smallest first
    missing: tuple[str, ...]  # what an engine could not do
    passes: tuple[LimitsPass, ...]


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
class Recommendation:
    """What to take for one use, and why."""

    use: str  # "single requests", "bulk" or "least memory"
    variant: str
    provider: str
    figure: str  # with its unit
    why: str  # a sentence


@dataclass(frozen=True)
class Report:
    """A report. Summaries and recommendations follow from the rest; they are there for other readers of the file."""

    environment: Environment
    shape: Shape
    workload: WorkloadSummary
    systems: tuple[SystemResult, ...]
    limits: Limits | None = None
    bundle: BundleFacts | None = None
    summaries: dict[str, Summary] = field(default_factory=dict)  # by the system's name, of those that finished a round
    recommendations: tuple[Recommendation, ...] = ()
    schema: Schema = SCHEMA

    def __post_init__(self) -> None:
        names = [system.name for system in self.systems]
        _require("systems", len(names) == len(set(names)), "of distinct names")


def read_report(path: Path) -> Report:
    """Read a report.json.

    Raises:
        JobonnxError: the file cannot be read, or is no report of this version.
    """
    return read_json(path, Report, "give a report.json of this version of jobonnx, or measure again")


def _require(name: str, holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"{name} has to be {what}")


def _all_positive(values: Iterable[float]) -> bool:
    return all(value > 0 and math.isfinite(value) for value in values)
