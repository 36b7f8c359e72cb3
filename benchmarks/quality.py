"""How well a bundle ranks, beside the character n-gram baseline, in one run; Markdown on stdout.

    python benchmarks/quality.py BUNDLE DATASET_FOLDER... [--json FILE]

Finished models only: a set that is looked at while training is no evaluation set any more. Log each run in benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from jobonnx import Bundle, Encoder
from jobonnx.evaluation.formats import read_folder
from jobonnx.evaluation.metrics import Evaluation, compare, evaluate
from jobonnx_train.baseline import Tfidf

METRICS = {"MAP@200": "cosine_map@200", "nDCG@20": "cosine_ndcg@20", "recall@100": "cosine_recall@100"}
REFERENCE = "fp32"


def main() -> None:
    """Print one table a metric: a row a dataset, a column a system."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("datasets", nargs="+", type=Path)
    parser.add_argument("--json", type=Path, help="write the means here too")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    variants = [v for v in bundle.variants if v == "fp16" or bundle.graph(v, "cpu")]  # a CPU runs fp16 too, slowly; never bf16
    encoders = {v: Encoder(options.bundle, variant=v, provider="cpu", force=True) for v in variants}
    results: dict[str, dict[str, Evaluation]] = {}
    for folder in options.datasets:
        dataset = read_folder(folder)
        systems = {"TF-IDF": Tfidf(dataset.corpus.values()), **encoders}
        results[dataset.name] = {name: evaluate(system, dataset) for name, system in systems.items()}
        print(f"{dataset.name} done", file=sys.stderr)
    for title, metric in METRICS.items():
        print(_table(title, metric, results))
    if options.json:
        means = {name: {system: e.means for system, e in systems.items()} for name, systems in results.items()}
        options.json.write_text(json.dumps(means, indent=1) + "\n")


def _table(title: str, metric: str, results: dict[str, dict[str, Evaluation]]) -> str:
    systems = list(next(iter(results.values())))
    lines = [f"| {title} | {' | '.join(systems)} | {REFERENCE} / TF-IDF |", "|---" * (len(systems) + 2) + "|"]
    for name, evaluations in results.items():
        cells = [f"{e.means[metric]:.4f}{_difference(system, e, evaluations, metric)}" for system, e in evaluations.items()]
        ratio = evaluations[REFERENCE].means[metric] / evaluations["TF-IDF"].means[metric]
        lines.append(f"| {name} | {' | '.join(cells)} | {ratio:.2f} |")
    return "\n".join(lines) + "\n"


def _difference(system: str, evaluation: Evaluation, evaluations: dict[str, Evaluation], metric: str) -> str:
    """A variant's mean difference to fp32 with its paired bootstrap interval."""
    if system in ("TF-IDF", REFERENCE):
        return ""
    d = compare(evaluation, evaluations[REFERENCE])[metric]
    return f" {d.mean:+.4f} [{d.low:+.4f} {d.high:+.4f}]"


if __name__ == "__main__":
    main()
