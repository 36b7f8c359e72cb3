"""Make the outlier checkpoint of the tests: the small model with outlier channels as large models have them.

    python -m jobonnx_train.outlier_checkpoint training/checkpoint --run RUN --esco DIR --onet DIR --csco FILE --output DIR

A model of four layers has no hidden channel far larger than the rest. Int8 without smoothing may do it no harm, and a test on it
proves nothing about outliers. Here a few channels of every LayerNorm but the last get a constant offset in place of a signal, as
in trained XLM-R. The weights that read them are divided by the offset. These parameters then stay frozen for a short fine-tuning,
after which the model ranks well. RUN is the folder of the training run: its tokenizer and guide vectors are used again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from transformers import set_seed

from jobonnx.errors import JobonnxError
from jobonnx_train.cli import add_recipe_changes, add_sources, show_log
from jobonnx_train.model import save_half, train_unpadded
from jobonnx_train.recipe import Recipe, adjusted, small_recipe
from jobonnx_train.runs import Checkpoints, Sources, checkpoint_folder, prepare
from jobonnx_train.trainer import RunOptions, train
from jobonnx_train.validation import Validation

GAIN = 0.05
CHANNELS = (17, 101, 203)
OFFSETS = (250.0, -150.0, -100.0)  # sum 0: the mean that the next LayerNorm subtracts stays where it was
STEPS = 450


def layer_norms(encoder: Any) -> Iterator[tuple[nn.LayerNorm, list[nn.Linear]]]:
    """Yield every LayerNorm in the order it runs, with the linear layers that read it; none read the last one."""
    layers = list(encoder.encoder.layer)
    attention = [[layer.attention.self.query, layer.attention.self.key, layer.attention.self.value] for layer in layers]
    yield encoder.embeddings.LayerNorm, attention[0]
    for index, layer in enumerate(layers):
        yield layer.attention.output.LayerNorm, [layer.intermediate.dense]
        yield layer.output.LayerNorm, attention[index + 1] if index + 1 < len(layers) else []


def _spread(model: SentenceTransformer, norm: nn.LayerNorm, titles: Sequence[str]) -> float:
    """Measure the mean standard deviation, over the channels, of what `norm` is given."""
    seen: list[Tensor] = []
    handle = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].std(-1).flatten()))
    model.encode(list(titles), batch_size=len(titles), show_progress_bar=False)
    handle.remove()
    return torch.cat(seen).mean().item()


def add_outliers(model: SentenceTransformer, titles: Sequence[str], channels: Sequence[int], offsets: Sequence[float]) -> None:
    """Put the offsets into `channels` of every LayerNorm but the last, in place.

    There the gain becomes 0.05 and the bias the offset. The columns that read a channel are divided by its offset, and the readers'
    biases take back the constant. An offset also widens what the next LayerNorm normalises, so the other channels' gains grow by
    that factor.

    Args:
        model: changed in place.
        titles: the factor is measured on them.
        channels: indices of hidden channels.
        offsets: one per channel.
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
            gradients = [(norm.weight, 0), (norm.bias, 0), *((reader.weight, 1) for reader in readers)]
            for parameter, dimension in gradients:
                parameter.register_hook(without(dimension))  # type: ignore[no-untyped-call] # torch's


def fine_tuning_recipe(recipe: Recipe, steps: int) -> Recipe:
    """Shorten the small model's recipe to `steps` steps at a lower learning rate, with one validation at the end."""
    batch = recipe.arguments["per_device_train_batch_size"]
    return replace(
        recipe,
        arguments={**recipe.arguments, "learning_rate": 3e-4, "max_steps": steps},
        pairs=steps * batch + 20 * batch,  # the sampler leaves out a pair that would share a batch with its occupation
        eval_steps=steps,
    )


def make_outlier_checkpoint(checkpoint: Path, sources: Sources, recipe: Recipe, run: Path, output: Path) -> None:
    """Put outlier channels into a model, fine-tune it and write it to a new folder.

    Args:
        checkpoint: the trained small model.
        sources: the job titles.
        recipe: of the fine-tuning, see `fine_tuning_recipe`.
        run: folder of the training run; states and scores of the fine-tuning go to its folder `outliers`.
        output: for the outlier checkpoint.

    Raises:
        JobonnxError: `output` exists or cannot be written.
    """
    output = checkpoint_folder(output)
    set_seed(recipe.arguments["seed"])
    material = prepare(sources, recipe, run, Checkpoints())
    model = SentenceTransformer(str(checkpoint), device="cpu").float()
    titles = sorted(material.ids)[:: max(1, len(material.ids) // 512)]
    channels = [channel % model[0].auto_model.config.hidden_size for channel in CHANNELS]
    add_outliers(model, titles, channels, OFFSETS)
    freeze_outliers(model, channels)
    train_unpadded(model)
    options = RunOptions(run / "outliers", save_minutes=60)
    options.output.mkdir(parents=True, exist_ok=True)
    evaluator = Validation(material.tasks, options.output / "validation.jsonl")
    evaluator(model, steps=0)
    train(options, recipe, model, material.loss(model, recipe), material.sets, evaluator, material.collator(recipe))
    save_half(model, output)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m jobonnx_train.outlier_checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="the trained small model")
    parser.add_argument("--run", type=Path, required=True, help="folder of its training run")
    parser.add_argument("--output", type=Path, required=True, help="folder for the outlier checkpoint")
    parser.add_argument("--steps", type=int, default=STEPS)
    add_sources(parser, required=True)
    add_recipe_changes(parser)
    options = parser.parse_args(arguments)
    try:
        recipe = fine_tuning_recipe(adjusted(small_recipe(), options.set), options.steps)
    except ValueError as error:
        parser.error(str(error))
    show_log()
    sources = Sources(options.esco, options.onet, options.csco, options.esco_more)
    try:
        make_outlier_checkpoint(options.checkpoint, sources, recipe, options.run, options.output)
    except (JobonnxError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
