"""The recipes: the card's, read from card.json, and those of our own models, which say what they change."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

CARD_FILE = Path(__file__).with_name("card.json")


@dataclass(frozen=True)
class Recipe:
    """Everything a training run is made of besides its texts.

    Attributes:
        arguments: SentenceTransformerTrainingArguments by name.
        loss: arguments of GISTEmbedLoss.
        max_seq_length: tokens that a title may have in the finished model.
        eval_steps: optimizer steps between two validations.
        logging_steps: optimizer steps between two lines of the loss.
        size: XLMRobertaConfig fields of a model made from scratch; empty for training from a base.
        vocabulary_size: entries of the tokenizer made with it.
        sampling: smoothing of subword sampling, see `tokenizer.subword_sampler`.
        distil: weight of the guide's similarities as soft targets, see `guide.GuidedLoss`.
        teachers: teacher -> weight of its similarities in the guide, see `runs.Checkpoints`.
        rewritten: share of the titles that are written in another form in training, see `writing.rewritten`.
        longest: tokens that a title may have during training.
        pairs: training pairs in all, once through.
        held_out: share of the occupations held out for validation.
        shares: set -> its part of the pairs.
        sources: set -> source -> the source's part of the set's pairs, see `pairs.training_sets`.
    """

    arguments: dict[str, Any]
    loss: dict[str, Any]
    max_seq_length: int
    eval_steps: int
    logging_steps: int
    size: dict[str, Any] = field(default_factory=dict)
    vocabulary_size: int = 0
    sampling: float = 0.0
    distil: float = 0.0
    teachers: dict[str, float] = field(default_factory=dict)
    rewritten: float = 0.0
    longest: int = 0
    pairs: int = 0
    held_out: float = 0.0
    shares: dict[str, float] = field(default_factory=dict)
    sources: dict[str, dict[str, float]] = field(default_factory=dict)


def card() -> dict[str, Any]:
    """Read the model card's configuration, under the card's names."""
    configuration: dict[str, Any] = json.loads(CARD_FILE.read_text(encoding="utf-8"))
    return configuration


def card_recipe() -> Recipe:
    """Return the card's recipe, which fine-tunes a base model."""
    config = card()
    return Recipe(
        arguments=config["arguments"],
        loss=config["loss_arguments"],
        max_seq_length=config["max_seq_length"],
        eval_steps=config["logged"]["evaluation_every"],
        logging_steps=config["logged"]["loss_every"],
    )


def small_recipe() -> Recipe:
    """Return the small model's recipe: the card's with the changes that 22 languages on two cores need.

    README.md gives the reason for each.
    """
    base = card_recipe()
    return replace(
        base,
        arguments={
            **base.arguments,
            "per_device_train_batch_size": 256,
            "gradient_accumulation_steps": 1,
            "learning_rate": 7e-4,
            "num_train_epochs": 1,
            "optim": "adamw_torch_fused",
            "fp16": False,
            "dataloader_num_workers": 0,
            "dataloader_pin_memory": False,
        },
        loss={**base.loss, "temperature": 0.05},
        max_seq_length=128,
        eval_steps=1200,
        logging_steps=50,
        size={
            "num_hidden_layers": 4,
            "hidden_size": 256,
            "num_attention_heads": 4,
            "intermediate_size": 1024,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
        vocabulary_size=32_000,
        sampling=0.3,
        distil=1.0,
        teachers={"start": 0.3, "minilm": 0.2, "e5_en": 0.1, "e5": 0.4},
        rewritten=0.45,
        longest=24,
        pairs=1_200_000,
        held_out=0.06,
        shares={
            "full_en": 0.14,
            "full_de": 0.05,
            "full_es": 0.07,
            "full_zh": 0.08,
            "full_ja": 0.02,
            "full_ko": 0.02,
            "full_more": 0.28,
            "mix": 0.11,
            "mix_more": 0.18,
            "mix_ja_ko": 0.05,
        },
        sources={
            "full_en": {"esco": 0.5, "onet": 0.35, "lexicon": 0.15},
            "full_de": {"esco": 0.75, "lexicon": 0.25},
            "full_es": {"esco": 0.8, "lexicon": 0.2},
            "full_zh": {"lexicon": 0.4, "linked": 0.15, "csco": 0.25, "siblings": 0.2},
            "full_ja": {"written": 1.0},
            "full_ko": {"written": 1.0},
            "mix": {"esco": 0.45, "lexicon": 0.4, "linked": 0.15},
            "mix_ja_ko": {"written": 1.0},
        },
    )


def base_recipe() -> Recipe:
    """Return the recipe of a larger model on the same data, for a GPU: 8 layers, hidden 512, from scratch."""
    small = small_recipe()
    return replace(
        small,
        arguments={**small.arguments, "per_device_train_batch_size": 512, "learning_rate": 5e-4},
        size={**small.size, "num_hidden_layers": 8, "hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 2048},
        vocabulary_size=48_000,
        pairs=8_000_000,
    )


RECIPES = {"small": small_recipe, "base": base_recipe}
TOKENS = 8.5
"""Tokens per training title, special ones included, over the 22 languages."""


def cost(recipe: Recipe) -> dict[str, float]:
    """Estimate what a run from job titles costs: parameters, steps, and petaflop of matrix products.

    A step forward and back takes 6 operations per weight of the layers and token (Kaplan et al. 2020, arXiv:2001.08361). Divide by
    the petaflop per second that a machine really does: training/README.md says how many that were on what was measured.
    """
    hidden, layers = recipe.size["hidden_size"], recipe.size["num_hidden_layers"]
    weights = layers * (4 * hidden**2 + 2 * hidden * recipe.size["intermediate_size"])
    return {
        "parameters": weights + recipe.vocabulary_size * hidden,
        "steps": recipe.pairs // recipe.arguments["per_device_train_batch_size"],
        "petaflop": round(6 * weights * 2 * recipe.pairs * TOKENS / 1e15, 2),
    }


def changed(recipe: Recipe) -> dict[str, Any]:
    """List what `recipe` sets otherwise than the card's, section by section."""
    base, fields = asdict(card_recipe()), asdict(recipe)
    for section in ("arguments", "loss"):
        fields[section] = {name: value for name, value in fields[section].items() if value != base[section].get(name)}
    return {name: value for name, value in fields.items() if value != base[name]}


def adjusted(recipe: Recipe, changes: list[str]) -> Recipe:
    """Apply changes such as `arguments.max_steps=2` to a recipe.

    Args:
        recipe: stays as it is.
        changes: each SECTION.NAME=JSON or NAME=JSON.

    Raises:
        ValueError: a change has no `=`, names no field of the recipe, or its value is not JSON.
    """
    for change in changes:
        path, equals, text = change.partition("=")
        section, _, name = path.partition(".")
        if not equals or section not in Recipe.__dataclass_fields__:
            raise ValueError(f"--set {change}: write SECTION.NAME=JSON, with a field of the recipe as SECTION")
        try:
            value = json.loads(text)
        except ValueError as error:
            raise ValueError(f"--set {change}: {text!r} is not JSON ({error}); put text into double quotes") from None
        changed_fields: dict[str, Any] = {section: {**getattr(recipe, section), name: value} if name else value}
        recipe = replace(recipe, **changed_fields)
    return recipe
