"""The two recipes: the card's, field by field, and the small model's, with what it changes and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

DATASETS = ("full_en", "full_de", "full_es", "full_zh", "mix")


@dataclass(frozen=True)
class Recipe:
    """Everything a training run is made of besides its texts.

    `arguments` are SentenceTransformerTrainingArguments by name; `shares` and `sources` say how many pairs each set
    takes from where (see data.training_sets); `size` are XLMRobertaConfig fields, None for training from a base.
    """

    name: str
    arguments: dict[str, Any]
    loss: dict[str, Any]
    max_seq_length: int
    size: dict[str, Any] | None = None
    pieces: int = 0
    sampling: float = 0.0
    distil: float = 0.0
    shares: dict[str, float] = field(default_factory=dict)
    sources: dict[str, dict[str, float]] = field(default_factory=dict)


CARD = Recipe(
    name="card",
    arguments={
        "overwrite_output_dir": False,
        "eval_strategy": "steps",
        "eval_steps": 200,
        "logging_steps": 100,
        "per_device_train_batch_size": 64,
        "per_device_eval_batch_size": 128,
        "gradient_accumulation_steps": 2,
        "learning_rate": 5e-5,
        "weight_decay": 0.0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "max_grad_norm": 1.0,
        "num_train_epochs": 5,
        "max_steps": -1,
        "lr_scheduler_type": "linear",
        "warmup_ratio": 0.05,
        "log_on_each_node": False,
        "seed": 42,
        "bf16": False,
        "fp16": True,
        "dataloader_drop_last": True,
        "dataloader_num_workers": 4,
        "ddp_find_unused_parameters": True,
        "optim": "adamw_torch",
        "batch_sampler": "no_duplicates",
        "multi_dataset_batch_sampler": "proportional",
    },
    loss={"temperature": 0.01, "margin_strategy": "absolute", "margin": 0.0},
    max_seq_length=512,
)

SMALL = Recipe(
    name="small",
    arguments={
        **CARD.arguments,
        "per_device_train_batch_size": 256,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-3,
        "num_train_epochs": 1,
        "bf16": True,
        "fp16": False,
        "dataloader_num_workers": 0,
    },
    loss={"temperature": 0.05, "margin_strategy": "absolute", "margin": 0.0},
    max_seq_length=128,
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
    shares={"full_en": 0.24, "full_de": 0.2, "full_es": 0.17, "full_zh": 0.2, "mix": 0.19},
    sources={
        "full_en": {"esco": 0.5, "onet": 0.35, "lexicon": 0.15},
        "full_de": {"esco": 0.75, "lexicon": 0.25},
        "full_es": {"esco": 0.8, "lexicon": 0.2},
        "full_zh": {"lexicon": 0.4, "linked": 0.15, "csco": 0.25, "siblings": 0.2},
        "mix": {"esco": 0.45, "lexicon": 0.4, "linked": 0.15},
    },
)
