"""How well a bundle ranks, beside the character n-gram baseline, in one run; Markdown on stdout.

    python benchmarks/quality.py BUNDLE DATASET_FOLDER... [--json FILE]

Encoders that others trained, with prompts as they want them:

    python benchmarks/trained.py e5 /tmp/e5 && jobonnx export /tmp/e5 -o /tmp/e5-onnx
    python benchmarks/quality.py /tmp/e5-onnx DATASET_FOLDER... --query-prompt-name query --document-prompt-name passage
    python benchmarks/trained.py minilm /tmp/minilm && jobonnx export /tmp/minilm -o /tmp/minilm-onnx
    python benchmarks/quality.py /tmp/minilm-onnx DATASET_FOLDER...

Finished models only: a set that is looked at while training is no evaluation set any more. Log each run in benchmarks/results.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobonnx import Bundle, Encoder, markdown, strict_json
from jobonnx.arrays import Floats
from jobonnx.evaluation.evaluate import Evaluation, compare, evaluate
from jobonnx.evaluation.formats import read_folder
from jobonnx.evaluation.tfidf import Tfidf

METRICS = {"MAP@200": "cosine_map@200", "nDCG@20": "cosine_ndcg@20", "recall@100": "cosine_recall@100"}
REFERENCE, BASELINE = "fp32", "TF-IDF"


@dataclass(frozen=True)
class _Prompted:
    """An encoder that puts one of the model's prompts before each text."""

    encoder: Encoder
    prompt_name: str | None

    def encode(self, texts: Sequence[str]) -> Floats:
        """Encode texts: float32 [texts, dimension]."""
        return self.encoder.encode(texts, prompt_name=self.prompt_name)


def main() -> None:
    """Print one table per metric: a row per dataset, a column per system."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("datasets", nargs="+", type=Path)
    parser.add_argument("--query-prompt-name", metavar="NAME", help="the prompt before queries; the model's default if left out")
    parser.add_argument("--document-prompt-name", metavar="NAME", help="the prompt before the titles of the corpus")
    parser.add_argument("--json", type=Path, help="write the means here too")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    variants = [v for v in bundle.variants if v == "fp16" or bundle.graph(v, "cpu")]  # a CPU runs fp16 too, slowly; never bf16
    encoders = {v: Encoder(options.bundle, variant=v, provider="cpu", force=True) for v in variants}
    results: dict[str, dict[str, Evaluation]] = {}
    for folder in options.datasets:
        dataset = read_folder(folder)
        results[dataset.name] = {BASELINE: evaluate(Tfidf(dataset.corpus.values()), dataset)}
        for variant, encoder in encoders.items():
            queries, documents = (_Prompted(encoder, name) for name in (options.query_prompt_name, options.document_prompt_name))
            results[dataset.name][variant] = evaluate(queries, dataset, documents=documents)
        print(f"{dataset.name} done", file=sys.stderr)
    for title, metric in METRICS.items():
        print(table(title, metric, results), end="\n\n")
    if options.json:
        strict_json.write_json(
            options.json, {name: {system: e.means for system, e in systems.items()} for name, systems in results.items()}
        )


def table(title: str, metric: str, results: dict[str, dict[str, Evaluation]]) -> str:
    """Write one metric's table; the last column is the reference's share of the baseline, where the bundle has the reference."""
    systems = list(next(iter(results.values())))
    compared = REFERENCE in systems
    rows = []
    for name, evaluations in results.items():
        values = {system: evaluation.means[metric] for system, evaluation in evaluations.items()}
        cells = [f"{value:.4f}{_difference(system, evaluations, metric)}" for system, value in values.items()]
        rows.append([name, *cells, *([f"{values[REFERENCE] / values[BASELINE]:.2f}"] if compared else [])])
    return markdown.table([title, *systems, *([f"{REFERENCE} / {BASELINE}"] if compared else [])], rows, "lr")


def _difference(system: str, evaluations: dict[str, Evaluation], metric: str) -> str:
    """Give a variant's mean difference to the reference with its paired bootstrap interval."""
    if system in (BASELINE, REFERENCE) or REFERENCE not in evaluations:
        return ""
    d = compare(evaluations[system], evaluations[REFERENCE])[metric]
    return f" {d.mean:+.4f} [{d.low:+.4f} {d.high:+.4f}]"


if __name__ == "__main__":
    main()
