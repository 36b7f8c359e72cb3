"""Judge a model on occupations that training held out: per language, across languages, and in other ways of writing.

    python -m jobonnx_train.judge training/checkpoint --esco DIR --esco-more DIR --onet DIR --csco FILE --output scores.json

Prints one table for the card and writes every score. MODEL is a checkpoint or a bundle; `--beside` judges a second one in the same
table. Models are chosen by these scores alone.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jobonnx.errors import JobonnxError
from jobonnx.evaluation.metrics import ranking_metrics
from jobonnx.evaluation.ranking import Prompted, TitleEncoder, rank
from jobonnx.evaluation.tfidf import Tfidf
from jobonnx.markdown import table
from jobonnx.strict_json import write_json
from jobonnx_train.cli import add_sources, show_log
from jobonnx_train.readers import LANGUAGES, WRITTEN_LANGUAGES
from jobonnx_train.recipe import small_recipe
from jobonnx_train.tasks import Retrieval, validation_sets
from jobonnx_train.validation import CachingEncoder, Quiet, score
from jobonnx_train.writing import CASES, NOISE, TESTING

DEPTH = 20

log = logging.getLogger(__name__)


def load(path: Path, prompt: str | None = None) -> TitleEncoder:
    """Load a bundle, or a sentence-transformers checkpoint in fp32, with a text before every title if there is one."""
    if (path / "manifest.json").exists():
        from jobonnx import Encoder

        return Prompted(Encoder(path), prompt=prompt)
    from sentence_transformers import SentenceTransformer

    return Quiet(SentenceTransformer(str(path), device="cpu").float(), prompt)


def form_scores(encoder: TitleEncoder, task: Retrieval, language: str, seed: int) -> dict[str, float]:
    """Score the queries of a task in every form of writing, over their scores in the form given.

    Args:
        encoder: the model.
        task: within one language.
        language: of its titles.
        seed: of the draws of what is added to a title.

    Returns:
        Form -> mean nDCG@20 of the queries that have this form, over the mean of the same queries as they are. `noise` is over all
        forms of `writing.NOISE` together. A form that no query has is left out.
    """
    rng = random.Random(seed)
    written = {
        (form, query): text
        for form, write in (CASES | NOISE).items()
        for query, title in task.queries.items()
        if (text := write(title, language, TESTING, rng)) is not None
    }
    queries = {f"{form}|{query}": text for (form, query), text in written.items()}
    queries |= {f"|{query}": text for query, text in task.queries.items()}
    found = {}
    for ranking in rank(encoder, queries, task.corpus, DEPTH):
        relevant = task.relevant[ranking.query_id.partition("|")[2]]
        hits = np.array([[document in relevant for document in ranking.document_ids]])
        metrics = ranking_metrics(hits, np.array([len(relevant)]), cutoffs=(DEPTH,), map_cutoffs=(DEPTH,))
        found[ranking.query_id] = float(metrics[f"ndcg@{DEPTH}"][0])

    def ratio(forms: Sequence[str]) -> float:
        pairs = [(found[f"{form}|{query}"], found[f"|{query}"]) for form, query in written if form in forms]
        given = sum(score for _, score in pairs)
        return sum(score for score, _ in pairs) / given if given else float("nan")

    ratios = {form: ratio([form]) for form in CASES | NOISE} | {"noise": ratio(list(NOISE))}
    return {form: value for form, value in ratios.items() if value == value}  # a number is equal to itself, NaN is not


def judge(encoder: TitleEncoder, tasks: Mapping[str, Retrieval], seed: int) -> dict[str, float]:
    """Score a model on every task, and its queries in every form: task -> score, `task form` -> ratio."""
    cached = CachingEncoder(encoder)
    scores: dict[str, float] = {}
    for name, task in tasks.items():
        scores[name] = score(cached, name, task)
        if name.startswith("full_"):
            ratios = form_scores(cached, task, name.removeprefix("full_"), seed)
            scores |= {f"{name} {form}": value for form, value in ratios.items()}
        log.info("%s %.3f", name, scores[name])
    return scores


def report(tasks: Mapping[str, Retrieval], tfidf: Mapping[str, float], models: Mapping[str, Mapping[str, float]]) -> str:
    """Write the table: a row per language, and for each model its scores and its ratios in per cent."""
    header = ["language", "queries", "TF-IDF"]
    header += [f"{name} {what}" for name in models for what in ("MAP@200", "over TF-IDF", "recall@10 from en", "capitals", "noise")]
    rows = []
    for language in (*LANGUAGES, *WRITTEN_LANGUAGES):
        full, mix = f"full_{language}", f"mix_{language}"
        asked = tasks.get(full, tasks.get(mix))
        if asked is None:
            continue
        cells = [language, str(len(asked.queries)), f"{tfidf[full]:.3f}" if full in tfidf else ""]
        for scores in models.values():
            cells += [f"{scores[full]:.3f}", f"{scores[full] / tfidf[full]:.2f}"] if full in scores else ["", ""]
            cells.append(f"{scores[mix]:.3f}" if mix in scores else "")
            cells += [f"{scores[name]:.1%}" if (name := f"{full} {form}") in scores else "" for form in ("capitals", "noise")]
        rows.append(cells)
    return table(header, rows, align="lr")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m jobonnx_train.judge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="checkpoint or bundle")
    parser.add_argument("--beside", type=Path, help="a second checkpoint or bundle")
    parser.add_argument("--beside-prompt", help="text before every title that the second one gets")
    parser.add_argument("--output", type=Path, required=True, help="a JSON file for all scores")
    add_sources(parser, required=True)
    options = parser.parse_args(arguments)
    # Here, as training needs libraries that judging a bundle does not.
    from jobonnx_train.runs import Sources

    show_log()
    recipe = small_recipe()
    seed = recipe.arguments["seed"]
    try:
        corpus = Sources(options.esco, options.onet, options.csco, options.esco_more).corpus(recipe.held_out)
        tasks = {name: task for name, task in validation_sets(corpus, seed).items() if task.queries}
        encoders = {"model": load(options.model)}
        if options.beside:
            encoders["beside"] = load(options.beside, options.beside_prompt)
        tfidf = {name: score(Tfidf(task.corpus.values()), name, task) for name, task in tasks.items()}
        models = {name: judge(encoder, tasks, seed) for name, encoder in encoders.items()}
        write_json(options.output, {"tfidf": tfidf, **models})
    except (JobonnxError, OSError) as error:
        sys.exit(str(error))
    print(report(tasks, tfidf, models))  # noqa: T201 # what was asked for


if __name__ == "__main__":
    main()
