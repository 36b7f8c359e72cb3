"""The two recipes: the card's, read from card.json, and the small model's, with what it changes and why."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

CARD_FILE = Path(__file__).with_name("card.json")
DATASETS = ("full_en", "full_de", "full_es", "full_zh", "mix")


@dataclass(frozen=True)
class Recipe:
    """Everything a training run is made of besides its texts.

    Attributes:
        arguments: SentenceTransformerTrainingArguments by name.
        loss: Arguments of GISTEmbedLoss.
        max_seq_length: Tokens a title may have in the finished model.
        eval_steps: Optimizer steps between two validations.
        logging_steps: Optimizer steps between two lines of the loss.
        size: XLMRobertaConfig fields of a model made from scratch; empty for training from a base.
        pieces: Entries of the tokenizer made with it.
        sampling: Smoothing of subword sampling, see tokenizer.subword_sampler.
        distil: Weight of the guide's similarities as soft targets, see guide.GuidedLoss.
        longest: Tokens a title may have during training.
        pairs: Training pairs in all, once through.
        held_out: Share of the occupations held out for validation.
        shares: Each set's part of the pairs.
        sources: Within a set, each source's part of its pairs, see data.training_sets.
    """

    arguments: dict[str, Any]
    loss: dict[str, Any]
    max_seq_length: int
    eval_steps: int
    logging_steps: int
    size: dict[str, Any] = field(default_factory=dict)
    pieces: int = 0
    sampling: float = 0.0
    distil: float = 0.0
    longest: int = 0
    pairs: int = 0
    held_out: float = 0.0
    shares: dict[str, float] = field(default_factory=dict)
    sources: dict[str, dict[str, float]] = field(default_factory=dict)


def card() -> dict[str, Any]:
    """The model card's whole configuration, under its own names."""
    return json.loads(CARD_FILE.read_text(encoding="utf-8"))


def seed_recipe() -> Recipe:
    """The card's recipe: fine-tunes a base model."""
    config = card()
    return Recipe(
        arguments=config["arguments"],
        loss=config["loss_arguments"],
        max_seq_length=config["max_seq_length"],
        eval_steps=config["logged"]["evaluation_every"],
        logging_steps=config["logged"]["loss_every"],
    )


def small_recipe() -> Recipe:
    """The small model's recipe: the card's with the changes that a model without any training needs.

    README.md gives the reason of each.
    """
    seed = seed_recipe()
    return replace(
        seed,
        arguments={
            **seed.arguments,
            "per_device_train_batch_size": 256,
            "gradient_accumulation_steps": 1,
            "learning_rate": 1e-3,
            "num_train_epochs": 1,
            "bf16": True,
            "fp16": False,
            "dataloader_num_workers": 0,
            "dataloader_pin_memory": False,
        },
        loss={**seed.loss, "temperature": 0.05},
        max_seq_length=128,
        eval_steps=700,
        logging_steps=50,
        size={
            "num_hidden_layers": 4,
            "hidden_size": 256,
            "num_attention_heads": 4,
            "intermediate_size": 1024,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
        pieces=12_000,
        sampling=0.3,
        distil=1.0,
        longest=24,
        pairs=1_800_000,
        held_out=0.06,
        shares={"full_en": 0.24, "full_de": 0.2, "full_es": 0.17, "full_zh": 0.2, "mix": 0.19},
        sources={
            "full_en": {"esco": 0.5, "onet": 0.35, "lexicon": 0.15},
            "full_de": {"esco": 0.75, "lexicon": 0.25},
            "full_es": {"esco": 0.8, "lexicon": 0.2},
            "full_zh": {"lexicon": 0.4, "linked": 0.15, "csco": 0.25, "siblings": 0.2},
            "mix": {"esco": 0.45, "lexicon": 0.4, "linked": 0.15},
        },
    )


def changed(recipe: Recipe) -> dict[str, Any]:
    """What `recipe` sets otherwise than the card's, section by section."""
    seed, own = asdict(seed_recipe()), asdict(recipe)
    for section in ("arguments", "loss"):
        own[section] = {name: value for name, value in own[section].items() if value != seed[section].get(name)}
    return {name: value for name, value in own.items() if value != seed[name]}


def adjusted(recipe: Recipe, changes: list[str]) -> Recipe:
    """The recipe with `SECTION.NAME=JSON` or `NAME=JSON` applied, as in `arguments.max_steps=2`.

    Raises:
        ValueError: A change has no `=`, names no field of the recipe, or its value is not JSON.
    """
    for change in changes:
        path, equals, text = change.partition("=")
        section, _, name = path.partition(".")
        if not equals or section not in Recipe.__dataclass_fields__:
            raise ValueError(f"--set {change}: write SECTION.NAME=JSON, with a field of the recipe as SECTION.")
        value = json.loads(text)
        recipe = replace(recipe, **{section: {**getattr(recipe, section), name: value} if name else value})
    return recipe
