"""The scorecard: evaluations of several systems on several sets, as a terminal table, as JSON, as Markdown and per query.

A system is a variant of a bundle, or a run. Systems other than the reference show the difference to it with its 95 % paired
bootstrap interval: `0.6805 -0.0017 [-0.0041 +0.0006]`. Where documents tie, a second table shows what other orders would give.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from jobonnx import markdown
from jobonnx.errors import JobonnxError
from jobonnx.evaluation.bootstrap import CONFIDENCE, RESAMPLES
from jobonnx.evaluation.evaluate import Difference, Evaluation, compare
from jobonnx.evaluation.ties import TIE_RULES, Ties
from jobonnx.files import replaced

REFERENCE = "fp32"
"""The variant that the others are compared with: the checkpoint's own precision."""

# Characters of a column with its padding and border: "cosine_precision@200" and "[-0.0041 +0.0006]".
_METRIC_WIDTH, _VALUE_WIDTH = 24, 20


@dataclass(frozen=True)
class Scorecard:
    """Evaluations, and the differences to the reference where it was evaluated.

    Attributes:
        evaluations: system -> dataset name -> evaluation; every system has the same datasets, in the order of the columns.
        reference: the system that the others are compared with, or None.
        differences: system -> dataset name -> metric -> difference to `reference`; without the reference itself.
        ties: the rule that ordered documents of one score.
    """

    evaluations: Mapping[str, Mapping[str, Evaluation]]
    reference: str | None
    differences: Mapping[str, Mapping[str, Mapping[str, Difference]]]
    ties: Ties


def scorecard(evaluations: Mapping[str, Mapping[str, Evaluation]], reference: str = REFERENCE, ties: Ties = "trec") -> Scorecard:
    """Compare every system with `reference`, if that is among them."""
    compared = evaluations.get(reference)
    if compared is None:
        return Scorecard(evaluations, None, {}, ties)
    differences = {
        system: {name: compare(evaluation, compared[name]) for name, evaluation in datasets.items()}
        for system, datasets in evaluations.items()
        if system != reference
    }
    return Scorecard(evaluations, reference, differences, ties)


def as_json(card: Scorecard) -> dict[str, Any]:
    """Give everything but the per-query values, in plain numbers and strings."""
    variants = {system: {name: _entry(card, system, name) for name in datasets} for system, datasets in card.evaluations.items()}
    interval = {"confidence": CONFIDENCE, "method": "paired bootstrap over queries, percentile", "resamples": RESAMPLES}
    ties = {"rule": card.ties, "meaning": TIE_RULES[card.ties]}
    return {"ties": ties, "reference": card.reference, "interval": interval, "variants": variants}


def as_markdown(card: Scorecard) -> str:
    """Write one table per system, for a model card."""
    blocks = []
    for system, datasets in card.evaluations.items():
        rows = [[metric, *(" ".join(_cell(card, system, name, metric)) for name in datasets)] for metric in _metrics(datasets)]
        blocks.append(f"#### {_in_markdown(system)}\n\n{markdown.table(['Metric', *map(_in_markdown, datasets)], rows, 'lr')}")
        if ranges := _ranges(datasets):
            blocks.append(markdown.table([f"Ties ({card.ties})", *map(_in_markdown, datasets)], ranges, "lr"))
    if card.differences:
        blocks.append(
            f"Differences are to {card.reference}, in brackets their {CONFIDENCE:.0%} interval "
            f"(paired bootstrap over queries, {RESAMPLES:,} resamples)."
        )
    return "\n\n".join(blocks) + "\n"


def as_tables(card: Scorecard, width: int) -> list[Table]:
    """Make terminal tables of at most `width` characters; a system with more datasets than fit takes several."""
    columns = max(1, (width - _METRIC_WIDTH) // _VALUE_WIDTH)
    tables = []
    for system, datasets in card.evaluations.items():
        for start in range(0, len(datasets), columns):
            some = dict(list(datasets.items())[start : start + columns])
            rows = [[metric, *("\n".join(_cell(card, system, name, metric)) for name in some)] for metric in _metrics(some)]
            tables.append(_table(_printable(system), ["metric", *some], rows))
            if ranges := _ranges(some):
                tables.append(_table(f"{_printable(system)}, ties ordered otherwise", ["metric", *some], ranges))
    return tables


def write_per_query(card: Scorecard, path: Path, inputs: Iterable[Path] = ()) -> int:
    """Write the metrics of every query: JSON lines where the file is called `.jsonl`, else tab-separated with a header.

    Args:
        card: the evaluations.
        path: the file.
        inputs: files that may not be overwritten.

    Returns:
        The number of lines, without the header.

    Raises:
        JobonnxError: the file cannot be written, or is tab-separated and an id has a tab or a line end in it.
    """
    lines, header = 0, False
    with replaced(path, inputs) as file:
        for system, name, query, metrics in _queries(card):
            if path.suffix == ".jsonl":
                entry = {"system": system, "dataset": name, "query": query, "metrics": metrics}
                line = json.dumps(entry, allow_nan=False)
            else:
                cells = [_printable(system), _printable(name), query]
                if split := next((cell for cell in cells if set("\t\r\n") & set(cell)), None):
                    raise JobonnxError(f"{path} cannot hold {split!r}, which has a tab or line end in it; write a .jsonl file")
                if not header:
                    file.write("\t".join(["system", "dataset", "query", *metrics]).encode() + b"\n")
                    header = True
                line = "\t".join([*cells, *map(repr, metrics.values())])
            file.write(line.encode() + b"\n")
            lines += 1
    return lines


def _queries(card: Scorecard) -> Iterator[tuple[str, str, str, dict[str, float]]]:
    for system, datasets in card.evaluations.items():
        for name, evaluation in datasets.items():
            values = {metric: column.tolist() for metric, column in evaluation.per_query.items()}
            for row, query in enumerate(evaluation.query_ids):
                yield system, name, query, {metric: column[row] for metric, column in values.items()}


def _metrics(datasets: Mapping[str, Evaluation]) -> list[str]:
    return list(next(iter(datasets.values())).per_query)


def _entry(card: Scorecard, system: str, name: str) -> dict[str, Any]:
    evaluation = card.evaluations[system][name]
    entry: dict[str, Any] = {
        "queries": len(evaluation.query_ids),
        "metrics": evaluation.means,
        "ties": {
            "queries_tied_at": {str(cutoff): count for cutoff, count in evaluation.ties.items()},
            "ranges": {metric: list(bounds) for metric, bounds in evaluation.bounds.items()},
        },
    }
    if system in card.differences:
        differences = card.differences[system][name]
        entry["difference"] = {metric: {"mean": d.mean, "low": d.low, "high": d.high} for metric, d in differences.items()}
    return entry


def _cell(card: Scorecard, system: str, name: str, metric: str) -> tuple[str, ...]:
    """Write the value, and with it the difference and the interval where there is a reference."""
    value = f"{card.evaluations[system][name].per_query[metric].mean():.4f}"
    if system not in card.differences:
        return (value,)
    difference = card.differences[system][name][metric]
    return f"{value} {_signed(difference.mean)}", f"[{_signed(difference.low)} {_signed(difference.high)}]"


def _ranges(datasets: Mapping[str, Evaluation]) -> list[list[str]]:
    """Make a table's rows: queries in which a cutoff cuts through documents of one score, and the metrics that order moves."""
    rows = []
    for cutoff in next(iter(datasets.values())).ties:
        counts = [evaluation.ties[cutoff] for evaluation in datasets.values()]
        if any(counts):
            rows.append([f"queries tied at {cutoff}", *(f"{count:,}" for count in counts)])
    for metric in next(iter(datasets.values())).bounds:
        cells = [tuple(f"{bound:.4f}" for bound in evaluation.bounds[metric]) for evaluation in datasets.values()]
        if any(low != high for low, high in cells):
            rows.append([metric, *(low if low == high else f"{low} to {high}" for low, high in cells)])
    return rows


def _table(title: str, header: list[str], rows: list[list[str]]) -> Table:
    table = Table(title=escape(title), title_justify="left")
    table.add_column(header[0], no_wrap=True)
    for name in header[1:]:
        table.add_column(escape(_printable(name)), justify="right")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _signed(value: float) -> str:
    # Adding 0.0 turns a rounded -0.0 into 0.0: no "-0.0000".
    return f"{round(value, 4) + 0.0:+.4f}"


def _in_markdown(name: str) -> str:
    """Make a name printable, and unable to begin a tag."""
    return _printable(name).replace("<", "&lt;")


def _printable(name: str) -> str:
    """Replace what is not UTF-8 in the name of a file or folder."""
    return name.encode("utf-8", "replace").decode()
