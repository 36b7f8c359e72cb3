"""The training itself: the collator, the trainer's arguments, saved states, and one run."""

from __future__ import annotations

import json
import logging
import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
from torch import nn
from transformers import TrainerCallback

from jobonnx.files import replaced
from jobonnx_train.pairs import Pair
from jobonnx_train.recipe import Recipe
from jobonnx_train.schedule import Schedule, ScheduledTrainer
from jobonnx_train.validation import Validation
from jobonnx_train.writing import TRAINING, rewritten

PAD = 1  # XLM-R's id of <pad>

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunOptions:
    """What a run needs to know besides its recipe.

    Attributes:
        output: folder for everything that the run writes.
        save_minutes: minutes between two saved states.
        resume: go on from the newest complete state in `output`, if there is one.
        minutes: of training, validation included, over all sittings; None for as long as the steps take.
    """

    output: Path
    save_minutes: float = 10.0
    resume: bool = False
    minutes: float | None = None


class TitleCollator:
    """Turns rows of anchor, positive and group into padded, sampled token ids and the `text_id` that a GuideTable wants.

    The `group` column is for the no_duplicates sampler alone: through it two pairs of one occupation never meet in a batch, where
    each would be the other's false negative.

    Args:
        encode: text -> sampled token ids, special ones included.
        ids: title -> row of the guide's table.
        longest: tokens per title that are kept.
        rewritten: share of the titles that are written in another form, see `writing.rewritten`.
        seed: of the forms.
    """

    def __init__(
        self, encode: Callable[[str], list[int]], ids: Mapping[str, int], longest: int, rewritten: float, seed: int
    ) -> None:
        self.encode, self.ids, self.longest, self.rewritten = encode, ids, longest, rewritten
        self.rng = random.Random(seed)
        self.valid_label_columns: list[str] = []  # the trainer looks for it

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Make one batch: input_ids, attention_mask [rows, tokens] and text_id [rows] of each column, int64."""
        batch: dict[str, Any] = {}
        language = rows[0].get("dataset_name", "").partition("full_")[2]
        for column in ("anchor", "positive"):
            texts = [row[column] for row in rows]
            forms = [rewritten(text, language, TRAINING, self.rng, self.rewritten) for text in texts]
            tokens = [self.encode(form)[: self.longest] for form in forms]
            width = max(map(len, tokens))
            batch[f"{column}_input_ids"] = torch.tensor([ids + [PAD] * (width - len(ids)) for ids in tokens])
            batch[f"{column}_attention_mask"] = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in tokens])
            batch[f"{column}_text_id"] = torch.tensor([self.ids.get(text, 0) for text in texts])
        if "dataset_name" in rows[0]:
            batch["dataset_name"] = rows[0]["dataset_name"]
        return batch


class SaveByTheClock(TrainerCallback):  # type: ignore[misc] # transformers is untyped here
    """Asks for a saved state whenever `minutes` have passed since the last one."""

    def __init__(self, minutes: float) -> None:
        self.seconds, self.last = minutes * 60, time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask the trainer to save, if it is time."""
        if time.monotonic() - self.last >= self.seconds:
            self.last = time.monotonic()
            control.should_save = True


def as_dataset(pairs: Sequence[Pair]) -> Dataset:
    """Turn pairs into a table of anchor, positive and group."""
    anchors, positives, groups = zip(*pairs, strict=True)
    return Dataset.from_dict({"anchor": anchors, "positive": positives, "group": groups})


def training_arguments(recipe: Recipe, output: Path) -> SentenceTransformerTrainingArguments:
    """Turn a recipe into arguments for the installed libraries and this machine; the log says what has to give way.

    Names that the installed transformers no longer knows (the card lists a few such) are left out. fp16 training needs a GPU, so on
    a CPU it becomes bf16.
    """
    known = {field.name for field in fields(SentenceTransformerTrainingArguments)}
    arguments = {name: value for name, value in recipe.arguments.items() if name in known}
    if unknown := sorted(set(recipe.arguments) - known):
        log.info("not known to the installed transformers, left out: %s", ", ".join(unknown))
    if not torch.cuda.is_available():
        if arguments["fp16"]:
            log.info("fp16 training needs a GPU; bf16 here")
        arguments |= {"use_cpu": True, "fp16": False, "dataloader_pin_memory": False}
        arguments["bf16"] = arguments["bf16"] or recipe.arguments["fp16"]
    arguments |= {
        "output_dir": str(output / "steps"),
        "eval_steps": recipe.eval_steps,
        "logging_steps": recipe.logging_steps,
        "logging_first_step": True,
        "save_strategy": "no",  # by the clock, see SaveByTheClock
        "save_total_limit": 2,
        "report_to": [],
    }
    return SentenceTransformerTrainingArguments(**arguments)


def last_state(steps: Path) -> Path | None:
    """Find the newest complete state in `steps`, the trainer's folder; None where there is none. Torn states after it are removed.

    A kill while a state was being saved leaves it torn: the trainer writes trainer_state.json last. Left where it is, it would
    count among the two newest that the trainer keeps, and a complete one would go in its place.
    """
    states = {int(folder.name.rpartition("-")[2]): folder for folder in steps.glob("checkpoint-*")}
    for _, folder in sorted(states.items(), reverse=True):
        try:
            json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            log.warning("%s is incomplete, removed", folder)
            shutil.rmtree(folder)
        else:
            return folder
    return None


def train(
    options: RunOptions,
    recipe: Recipe,
    model: SentenceTransformer,
    loss: nn.Module,
    sets: Mapping[str, Dataset],
    evaluator: Validation,
    collator: TitleCollator | None = None,
) -> None:
    """Train a model in place, save a state every few minutes, and write `loss.jsonl`.

    Args:
        options: where, and how often a state is saved.
        recipe: the arguments.
        model: the model that is trained.
        loss: its loss.
        sets: name -> pairs.
        evaluator: the validation; skipped if it has no task.
        collator: makes batches; None for the trainer's own.
    """
    arguments = training_arguments(recipe, options.output)
    if not evaluator.tasks:
        arguments.eval_strategy = "no"
    log.info("pairs: %s", ", ".join(f"{name} {len(rows):,}" for name, rows in sets.items()))
    schedule = Schedule(options.minutes * 60, recipe.arguments["warmup_ratio"]) if options.minutes else None
    trainer = ScheduledTrainer(
        schedule=schedule,
        model=model,
        args=arguments,
        train_dataset=DatasetDict(sets),
        loss=loss,
        evaluator=evaluator if evaluator.tasks else None,
        data_collator=collator,
        callbacks=[SaveByTheClock(options.save_minutes)],
    )
    steps = options.output / "steps"
    state = last_state(steps) if options.resume else None
    if options.resume:
        log.info("going on from %s" if state else "no state in %s yet, starting afresh", state or steps)
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=str(state) if state else None)
    log.info("trained in %.1f minutes", (time.monotonic() - started) / 60)
    if evaluator.tasks and trainer.state.global_step % recipe.eval_steps:  # ended between two validations
        evaluator(model, epoch=trainer.state.epoch, steps=trainer.state.global_step)
    with replaced(options.output / "loss.jsonl") as file:
        for row in trainer.state.log_history:
            if "loss" in row:
                file.write((json.dumps({name: row[name] for name in ("epoch", "step", "loss")}) + "\n").encode())
