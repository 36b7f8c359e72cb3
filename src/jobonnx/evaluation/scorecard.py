"""The scorecard: evaluations of several variants on several sets, as a terminal table, as JSON and as Markdown.

One column a dataset, one block a variant. Blocks other than the reference's show the difference to it with its 95 %
paired bootstrap
interval: `0.6805 -0.0017 [-0.0041 +0.0006]`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table

from jobonnx.evaluation.metrics import CONFIDENCE, RESAMPLES, TIE_RULE, Difference, Evaluation, compare

REFERENCE = "fp32"
"""The variant that the others are compared with: the checkpoint's own precision."""

# Characters of a column with its padding and border: "cosine_precision@200" and "[-0.0041 +0.0006]".
_METRIC_WIDTH, _VALUE_WIDTH = 24, 20


@dataclass(frozen=True)
class Scorecard:
    """Evaluations, and the differences to the reference where it was evaluated.

    Attributes:
        evaluations: Variant -> dataset name -> evaluation; every variant has the same datasets, in the order of the
            columns.
        differences: Variant -> dataset name -> metric -> difference to `REFERENCE`; without the reference itself.
    """

    evaluations: Mapping[str, Mapping[str, Evaluation]]
    differences: Mapping[str, Mapping[str, Mapping[str, Difference]]]


def scorecard(evaluations: Mapping[str, Mapping[str, Evaluation]]) -> Scorecard:
    """Compares every variant with `REFERENCE`, if that is among them."""
    reference = evaluations.get(REFERENCE)
    if reference is None:
        return Scorecard(evaluations, {})
    others = {variant: datasets for variant, datasets in evaluations.items() if variant != REFERENCE}
    differences = {
        variant: {name: compare(evaluation, reference[name]) for name, evaluation in datasets.items()}
        for variant, datasets in others.items()
    }
    return Scorecard(evaluations, differences)


def as_json(card: Scorecard) -> dict[str, Any]:
    """Everything but the per-query values, in plain numbers and strings."""
    variants = {variant: {name: _entry(card, variant, name) for name in datasets} for variant, datasets in card.evaluations.items()}
    interval = {"confidence": CONFIDENCE, "method": "paired bootstrap over queries, percentile", "resamples": RESAMPLES}
    reference = REFERENCE if REFERENCE in card.evaluations else None
    return {"ties": TIE_RULE, "reference": reference, "interval": interval, "variants": variants}


def as_markdown(card: Scorecard) -> str:
    """One table a variant, for a model card."""
    blocks = []
    for variant, datasets in card.evaluations.items():
        header = f"| Metric | {' | '.join(_escaped(name) for name in datasets)} |"
        rule = "|:---|" + "---:|" * len(datasets)
        rows = [
            f"| {metric} | {' | '.join(' '.join(_cell(card, variant, name, metric)) for name in datasets)} |"
            for metric in _metrics(datasets)
        ]
        blocks.append("\n".join([f"#### {variant}", "", header, rule, *rows]))
    if card.differences:
        blocks.append(
            f"Differences are to {REFERENCE}, in brackets their {CONFIDENCE:.0%} interval "
            f"(paired bootstrap over queries, {RESAMPLES:,} resamples)."
        )
    return "\n\n".join(blocks) + "\n"


def as_tables(card: Scorecard, width: int) -> list[Table]:
    """Terminal tables of at most `width` characters; a variant with more datasets than fit takes several."""
    columns = max(1, (width - _METRIC_WIDTH) // _VALUE_WIDTH)
    tables = []
    for variant, datasets in card.evaluations.items():
        names = list(datasets)
        for start in range(0, len(names), columns):
            table = Table(title=escape(variant), title_justify="left")
            table.add_column("metric", no_wrap=True)
            for name in names[start : start + columns]:
                table.add_column(escape(name), justify="right")
            for metric in _metrics(datasets):
                table.add_row(metric, *("\n".join(_cell(card, variant, n, metric)) for n in names[start : start + columns]))
            tables.append(table)
    return tables


def _metrics(datasets: Mapping[str, Evaluation]) -> list[str]:
    return list(next(iter(datasets.values())).per_query)


def _entry(card: Scorecard, variant: str, name: str) -> dict[str, Any]:
    evaluation = card.evaluations[variant][name]
    entry: dict[str, Any] = {"queries": len(evaluation.query_ids), "metrics": evaluation.means}
    if variant in card.differences:
        differences = card.differences[variant][name]
        entry["difference"] = {metric: {"mean": d.mean, "low": d.low, "high": d.high} for metric, d in differences.items()}
    return entry


def _cell(card: Scorecard, variant: str, name: str, metric: str) -> tuple[str, ...]:
    """The value, and with it the difference and the interval where there is a reference."""
    value = f"{card.evaluations[variant][name].per_query[metric].mean():.4f}"
    if variant not in card.differences:
        return (value,)
    difference = card.differences[variant][name][metric]
    return f"{value} {_signed(difference.mean)}", f"[{_signed(difference.low)} {_signed(difference.high)}]"


def _signed(value: float) -> str:
    # Adding 0.0 turns a rounded -0.0 into 0.0: no "-0.0000".
    return f"{round(value, 4) + 0.0:+.4f}"


def _escaped(name: str) -> str:
    return name.replace("|", "\\|")
