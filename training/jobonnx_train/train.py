"""Train the small model from job titles, or fine-tune a base model by the card's recipe: one script for both.

The small model, from the public files that README.md names:

    python -m jobonnx_train --esco DIR --onet DIR --csco FILE --output DIR

The seed's own run, from TalentCLEF's training files:

    python -m jobonnx_train --base BAAI/bge-m3 --data TALENTCLEF_FOLDER --output DIR

Both write DIR/checkpoint, a sentence-transformers folder, and DIR/validation.jsonl, the log table; `--resume` goes on
from the last complete state in DIR/steps, or starts afresh if there is none. `--dry-run` prints the card's configuration
and what the small model changes in it.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.losses import GISTEmbedLoss, MultipleNegativesRankingLoss
from torch import nn
from transformers import TrainerCallback, set_seed

from jobonnx_train.baseline import Tfidf
from jobonnx_train.data import (
    LEXICON,
    Pair,
    Retrieval,
    load_csco,
    load_esco,
    load_lexicon,
    load_onet,
    load_talentclef,
    split,
    talentclef_tasks,
    training_sets,
    validation_sets,
)
from jobonnx_train.guide import GuidedLoss, GuideTable, guide_vectors, load_guide
from jobonnx_train.model import build, save_half, start_as_mean, train_unpadded
from jobonnx_train.recipe import Recipe, adjusted, card, changed, seed_recipe, small_recipe
from jobonnx_train.tokenizer import subword_sampler, train_tokenizer, vary_case
from jobonnx_train.validation import Validation, score

PAD = 1


class TitleCollator:
    """Rows of anchor, positive and group -> padded, sampled token ids and the `text_id` that a GuideTable wants.

    The `group` column is for the no_duplicates sampler alone: through it two pairs of one occupation never meet in a
    batch, where each would be the other's false negative.
    """

    def __init__(self, encode: Callable[[str], list[int]], ids: dict[str, int], longest: int, seed: int) -> None:
        self.encode, self.ids, self.longest = encode, ids, longest
        self.rng = random.Random(seed)
        self.valid_label_columns: list[str] = []  # the trainer looks for it

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = {}
        for column in ("anchor", "positive"):
            texts = [row[column] for row in rows]
            tokens = [self.encode(vary_case(text, self.rng))[: self.longest] for text in texts]
            width = max(map(len, tokens))
            batch[f"{column}_input_ids"] = torch.tensor([ids + [PAD] * (width - len(ids)) for ids in tokens])
            batch[f"{column}_attention_mask"] = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in tokens])
            batch[f"{column}_text_id"] = torch.tensor([self.ids.get(text, 0) for text in texts])
        if "dataset_name" in rows[0]:
            batch["dataset_name"] = rows[0]["dataset_name"]
        return batch


class SaveByTheClock(TrainerCallback):
    """Asks for a checkpoint whenever `minutes` have passed since the last one."""

    def __init__(self, minutes: float) -> None:
        self.seconds, self.last = minutes * 60, time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if time.monotonic() - self.last >= self.seconds:
            self.last = time.monotonic()
            control.should_save = True


def as_dataset(pairs: Sequence[Pair]) -> Dataset:
    """Pairs as a table of anchor, positive and group."""
    anchors, positives, groups = zip(*pairs, strict=True)
    return Dataset.from_dict({"anchor": anchors, "positive": positives, "group": groups})


def training_arguments(recipe: Recipe, output: Path) -> SentenceTransformerTrainingArguments:
    """The recipe's arguments for the installed libraries and this machine; what has to give way is said.

    Names that the installed transformers no longer knows (the card lists a few such) are left out, and fp16, which
    needs a GPU, becomes bf16 arithmetic on a CPU.
    """
    known = {field.name for field in fields(SentenceTransformerTrainingArguments)}
    arguments = {name: value for name, value in recipe.arguments.items() if name in known}
    if unknown := sorted(set(recipe.arguments) - known):
        print("not known to the installed transformers, left out:", ", ".join(unknown), flush=True)
    if not torch.cuda.is_available():
        if arguments["fp16"]:
            print("fp16 training needs a GPU; bf16 here", flush=True)
        arguments |= {"use_cpu": True, "fp16": False, "bf16": True, "dataloader_pin_memory": False}
    return SentenceTransformerTrainingArguments(
        **{
            **arguments,
            "output_dir": str(output / "steps"),
            "eval_steps": recipe.eval_steps,
            "logging_steps": recipe.logging_steps,
            "logging_first_step": True,
            "save_strategy": "no",  # by the clock, see SaveByTheClock
            "save_total_limit": 2,
            "report_to": [],
        }
    )


def last_state(steps: Path) -> Path | None:
    """The newest complete state in `steps`, the trainer's folder; None, where there is none. Torn states after it are removed.

    A kill while a state was being saved leaves it torn: the trainer writes trainer_state.json last. Left where it is, it would
    count among the two newest that the trainer keeps, and a complete one would go in its place.
    """
    states = {int(folder.name.rpartition("-")[2]): folder for folder in steps.glob("checkpoint-*")}
    for _, folder in sorted(states.items(), reverse=True):
        try:
            json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            print(f"{folder} is incomplete, removed", flush=True)
            shutil.rmtree(folder)
        else:
            return folder
    return None


def run(
    options: argparse.Namespace,
    recipe: Recipe,
    model: SentenceTransformer,
    loss: nn.Module,
    sets: dict[str, Dataset],
    evaluator: Validation,
    collator: TitleCollator | None,
) -> None:
    """The training itself, the same for both models: the trainer, a state every few minutes, the log of the loss."""
    arguments = training_arguments(recipe, options.output)
    if not evaluator.tasks:
        arguments.eval_strategy = "no"
    print("pairs:", ", ".join(f"{name} {len(rows):,}" for name, rows in sets.items()), flush=True)
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=DatasetDict(sets),
        loss=loss,
        evaluator=evaluator if evaluator.tasks else None,
        data_collator=collator,
        callbacks=[SaveByTheClock(options.save_minutes)],
    )
    state = last_state(options.output / "steps") if options.resume else None
    if options.resume:
        print(f"going on from {state}" if state else f"no state in {options.output / 'steps'} yet, starting afresh", flush=True)
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=str(state) if state else None)
    print(f"trained in {(time.monotonic() - started) / 60:.1f} minutes", flush=True)
    history = [row for row in trainer.state.log_history if "loss" in row]
    losses = [{"epoch": row["epoch"], "step": row["step"], "loss": row["loss"]} for row in history]
    (options.output / "loss.jsonl").write_text("".join(json.dumps(row) + "\n" for row in losses), encoding="utf-8")


@dataclass(frozen=True)
class Material:
    """What a run from job titles needs besides a model."""

    sets: dict[str, Dataset]
    tasks: dict[str, Retrieval]
    pieces: Path  # the SentencePiece model
    vectors: torch.Tensor  # the guide's, see guide_vectors
    ids: dict[str, int]

    def loss(self, model: SentenceTransformer, recipe: Recipe) -> GuidedLoss:
        """The recipe's loss for `model`, with the guide looked up."""
        guide = GuideTable(self.vectors, model.tokenizer, recipe.max_seq_length)
        return GuidedLoss(model, guide, **recipe.loss, distil=recipe.distil)

    def collator(self, recipe: Recipe) -> TitleCollator:
        """The recipe's sampled subwords."""
        seed = recipe.arguments["seed"]
        return TitleCollator(subword_sampler(self.pieces, recipe.sampling, seed), self.ids, recipe.longest, seed)


def prepare(options: argparse.Namespace, recipe: Recipe) -> Material:
    """Read the titles, make the tokenizer and the guide's vectors unless the output folder has them, draw the pairs."""
    groups = load_esco(options.esco) + load_onet(options.onet) + load_csco(options.csco) + load_lexicon(options.lexicon)
    corpus = split(groups, recipe.held_out)
    seed = recipe.arguments["seed"]
    pieces = options.output / "tokenizer" / "sentencepiece.bpe.model"
    if not pieces.exists():
        train_tokenizer(corpus.texts(), pieces.parent, recipe.pieces, seed, recipe.max_seq_length)
    vectors, ids = guide_vectors(corpus, options.output / "guide.npz")
    pairs = training_sets(corpus, recipe.pairs, recipe.shares, recipe.sources, seed)
    sets = {name: as_dataset(rows) for name, rows in pairs.items()}
    tasks = {name: task for name, task in validation_sets(corpus, seed).items() if task.queries}
    return Material(sets, tasks, pieces, vectors, ids)


def train_small(options: argparse.Namespace, recipe: Recipe) -> None:
    """Make the small model: tokenizer, guide vectors, pairs, model, training, checkpoint."""
    material = prepare(options, recipe)
    if options.baseline:
        scores = {name: score(Tfidf(task.corpus.values()), name, task) for name, task in material.tasks.items()}
        print("TF-IDF baseline:", *(f"{name} {value:.3f}" for name, value in scores.items()), flush=True)
        (options.output / "baseline.json").write_text(json.dumps(scores) + "\n", encoding="utf-8")
    model = build(options.output / "fresh", material.pieces.parent, recipe.size, recipe.max_seq_length)
    start_as_mean(model)
    train_unpadded(model)
    print(f"parameters: {sum(parameter.numel() for parameter in model.parameters()):,}", flush=True)
    evaluator = Validation(material.tasks, options.output / "validation.jsonl")
    loss = material.loss(model, recipe)
    run(options, recipe, model, loss, material.sets, evaluator, material.collator(recipe))
    save_half(model, options.output / "checkpoint")


def train_seed(options: argparse.Namespace, recipe: Recipe) -> None:
    """The card's run: a base model on TalentCLEF's pairs, with the guide itself and the trainer's own collator."""
    pairs = load_talentclef(options.data)
    model = SentenceTransformer(options.base)
    model.max_seq_length = min(recipe.max_seq_length, model.max_seq_length or recipe.max_seq_length)
    guide = load_guide()
    loss = (
        GISTEmbedLoss(model, guide, **recipe.loss)
        if guide is not None
        else MultipleNegativesRankingLoss(model, scale=1 / recipe.loss["temperature"])
    )
    sets = {name: as_dataset(rows).remove_columns("group") for name, rows in pairs.items()}
    tasks = talentclef_tasks(options.data)
    run(options, recipe, model, loss, sets, Validation(tasks, options.output / "validation.jsonl"), None)
    model.save_pretrained(str(options.output / "checkpoint"), create_model_card=False)


def add_sources(parser: argparse.ArgumentParser) -> None:
    """The options that name the files of job titles."""
    parser.add_argument("--esco", type=Path, help="folder of occupations_{en,de,es}.csv (ESCO 1.2)")
    parser.add_argument("--onet", type=Path, help="folder of O*NET's title files (tab-separated text)")
    parser.add_argument("--csco", type=Path, help="csco22.csv")
    parser.add_argument("--lexicon", type=Path, default=LEXICON, help="titles in en, de, es, zh; the package's own")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="print both configurations as JSON and stop")
    parser.add_argument("--output", type=Path, help="folder for everything the run writes")
    add_sources(parser)
    parser.add_argument("--baseline", action="store_true", help="score the TF-IDF baseline on the validation sets too")
    parser.add_argument("--base", help="fine-tune this sentence-transformers model by the card's recipe instead")
    parser.add_argument("--data", type=Path, help="TalentCLEF Task A folder, with --base")
    parser.add_argument("--resume", action="store_true", help="go on from the last state saved in the output folder, if any")
    parser.add_argument("--save-minutes", type=float, default=10, help="minutes between two saved states")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.NAME=JSON", help="change the recipe")
    options = parser.parse_args(arguments)
    try:
        recipe = adjusted(seed_recipe() if options.base else small_recipe(), options.set)
    except ValueError as error:
        parser.error(str(error))
    if options.dry_run:
        print(json.dumps({"card": card(), "small": changed(small_recipe())}, indent=2, ensure_ascii=False))
        return
    needed = ("data", "output") if options.base else ("esco", "onet", "csco", "output")
    if missing := [name for name in needed if getattr(options, name) is None]:
        parser.error(f"give --{' and --'.join(missing)}; training/README.md says where the files come from.")
    options.output.mkdir(parents=True, exist_ok=True)
    set_seed(recipe.arguments["seed"])
    (train_seed if options.base else train_small)(options, recipe)


if __name__ == "__main__":
    main()
