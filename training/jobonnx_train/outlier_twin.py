"""Make the test twin: the small model with outlier channels as large models have them, fine-tuned until it ranks well.

    python -m jobonnx_train.outlier_twin training/checkpoint --esco DIR --onet DIR --csco FILE --output RUN --twin DIR

A model of four layers has no hidden channel far larger than the rest, so plain int8 may do it no harm and a test on
it proves nothing about outliers. Here a few channels of every LayerNorm but the last get a constant offset in place of
a signal, and the weights that read them are divided by it, as in trained XLM-R. These parameters then stay frozen for a
short fine-tuning. RUN is the folder of the training run: its tokenizer and guide vectors are used again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from transformers import set_seed

from jobonnx_train.model import save_half, train_unpadded
from jobonnx_train.recipe import Recipe, adjusted, small_recipe
from jobonnx_train.train import add_sources, prepare, run
from jobonnx_train.validation import Validation

GAIN = 0.05
CHANNELS = (17, 101, 203)
OFFSETS = (250.0, -150.0, -100.0)  # sum 0: the mean that the next LayerNorm subtracts stays where it was


def layer_norms(encoder: Any) -> Iterator[tuple[nn.LayerNorm, list[nn.Linear]]]:
    """Every LayerNorm in the order it runs, with the linear layers that read it; none read the last one."""
    layers = list(encoder.encoder.layer)
    attention = [[layer.attention.self.query, layer.attention.self.key, layer.attention.self.value] for layer in layers]
    yield encoder.embeddings.LayerNorm, attention[0]
    for index, layer in enumerate(layers):
        yield layer.attention.output.LayerNorm, [layer.intermediate.dense]
        yield layer.output.LayerNorm, attention[index + 1] if index + 1 < len(layers) else []


def _spread(model: SentenceTransformer, norm: nn.LayerNorm, titles: Sequence[str]) -> float:
    """The mean standard deviation of what `norm` is given."""
    seen: list[Tensor] = []
    handle = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].std(-1).flatten()))
    model.encode(list(titles), batch_size=len(titles), show_progress_bar=False)
    handle.remove()
    return torch.cat(seen).mean().item()


def add_outliers(model: SentenceTransformer, titles: Sequence[str], channels: Sequence[int], offsets: Sequence[float]) -> None:
    """Put the offsets into `channels` of every LayerNorm but the last, in place.

    There the gain becomes 0.05 and the bias the offset; the columns that read a channel are divided by its offset and
    the readers' biases take back the constant. An offset also widens what the next LayerNorm normalises, so the other
    channels' gains grow by that factor, measured on `titles`.
    """
    norms = list(layer_norms(model[0].auto_model))
    before = [_spread(model, norm, titles) for norm, _ in norms]
    chosen, offset = torch.tensor(channels), torch.tensor(offsets)
    for (norm, readers), spread in zip(norms, before, strict=True):
        widened = _spread(model, norm, titles) / spread
        with torch.no_grad():
            norm.weight.mul_(widened)
            norm.weight[chosen] = GAIN
            if not readers:  # the last: no offset, and its channels drop the one that reaches them
                continue
            norm.bias[chosen] = offset
            for reader in readers:
                reader.weight[:, chosen] /= offset.abs()
                reader.bias.sub_(reader.weight[:, chosen] @ offset)


def freeze_outliers(model: SentenceTransformer, channels: Sequence[int]) -> None:
    """Keep the offsets, their gains and the columns that read them out of the fine-tuning."""
    chosen = torch.tensor(channels)

    def without(dimension: int) -> Callable[[Tensor], Tensor]:
        return lambda gradient: gradient.index_fill(dimension, chosen, 0)

    for norm, readers in layer_norms(model[0].auto_model):
        if readers:
            norm.weight.register_hook(without(0))
            norm.bias.register_hook(without(0))
            for reader in readers:
                reader.weight.register_hook(without(1))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="the trained small model")
    parser.add_argument("--output", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--twin", type=Path, required=True, help="folder for the twin")
    parser.add_argument("--steps", type=int, default=450)
    add_sources(parser)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.NAME=JSON", help="change the recipe")
    options = parser.parse_args(arguments)
    changes = {"learning_rate": 3e-4, "max_steps": options.steps}
    recipe: Recipe = adjusted(small_recipe(), options.set)
    batch = recipe.arguments["per_device_train_batch_size"]
    recipe = replace(
        recipe,
        arguments={**recipe.arguments, **changes},
        pairs=options.steps * batch + 20 * batch,
        eval_steps=options.steps,
    )
    set_seed(recipe.arguments["seed"])
    material = prepare(options, recipe)
    model = SentenceTransformer(options.checkpoint, device="cpu").float()
    titles = sorted(material.ids)[:: max(1, len(material.ids) // 512)]
    channels = [channel % model.get_sentence_embedding_dimension() for channel in CHANNELS]
    add_outliers(model, titles, channels, OFFSETS)
    freeze_outliers(model, channels)
    train_unpadded(model)
    evaluator = Validation(material.tasks, options.output / "twin.jsonl")
    evaluator(model, steps=0)
    options.save_minutes, options.resume, options.output = 60.0, False, options.twin.parent / "outlier_twin_run"
    run(options, recipe, model, material.loss(model, recipe), material.sets, evaluator, material.collator(recipe))
    save_half(model, options.twin)


if __name__ == "__main__":
    main()
