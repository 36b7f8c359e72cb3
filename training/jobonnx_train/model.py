"""The small XLM-RoBERTa: built fresh, trained without padding, saved in fp16."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Normalize, Pooling, Transformer
from torch import Tensor, nn
from transformers import AutoTokenizer, XLMRobertaConfig, XLMRobertaModel

from jobonnx.errors import JobonnxError
from jobonnx.files import new_folder

OTHER_POOLING = ("mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")


def build(folder: Path, tokenizer: Path, size: dict[str, Any], max_length: int) -> SentenceTransformer:
    """Build a fresh model with CLS pooling and L2 normalisation.

    Args:
        folder: for the files from which sentence-transformers loads the model.
        tokenizer: folder of the tokenizer.
        size: XLMRobertaConfig fields (num_hidden_layers, hidden_size, ...).
        max_length: tokens that a title may have.
    """
    words = AutoTokenizer.from_pretrained(tokenizer)
    words.save_pretrained(folder)
    config = XLMRobertaConfig(
        vocab_size=len(words),
        max_position_embeddings=max_length + 2,  # positions start at pad_token_id + 1
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        **size,
    )
    XLMRobertaModel(config).save_pretrained(folder)
    transformer = Transformer(str(folder), max_seq_length=max_length)
    return SentenceTransformer(modules=[transformer, Pooling(config.hidden_size, pooling_mode="cls"), Normalize()], device="cpu")


def start_as_mean(model: SentenceTransformer) -> None:
    """Make the fresh model begin as a bag of its subwords: the vector of the CLS token starts as the mean of its tokens' vectors.

    In the first layer queries and keys are near zero, so attention is uniform, and values and output are the identity. The other
    layers add next to nothing to the residual. A contrastive loss then has something to sharpen from its first step, where random
    layers first spend many steps on learning to average.
    """
    encoder = model[0].auto_model
    with torch.no_grad():
        for index, layer in enumerate(encoder.encoder.layer):
            attention = layer.attention
            attention.self.query.weight.mul_(0.5)
            if index == 0:
                nn.init.eye_(attention.self.value.weight)
                nn.init.eye_(attention.output.dense.weight)
                attention.output.dense.weight.mul_(2.0)
            else:
                attention.output.dense.weight.mul_(0.2)
            layer.output.dense.weight.mul_(0.2)
        encoder.embeddings.position_embeddings.weight.mul_(0.2)
        encoder.embeddings.word_embeddings.weight[0].zero_()


def carry_over(model: SentenceTransformer, start: SentenceTransformer) -> None:
    """Let the fresh model begin as another one of the same size with another vocabulary.

    Layers and positions are copied. A subword gets the mean of the vectors of the pieces that `start` would cut it into, in lower
    case or with a capital, whichever takes fewer pieces; a subword that `start` cannot spell gets the mean of all its vectors, half
    as long as theirs are, in a random direction. Special tokens keep theirs.

    Args:
        model: changed in place.
        start: the trained model.

    Raises:
        JobonnxError: the models differ in size.
    """
    ours, theirs = model[0].auto_model, start[0].auto_model
    for size in ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads"):
        has, wanted = getattr(theirs.config, size), getattr(ours.config, size)
        if has != wanted:
            raise JobonnxError(f"the start has {size} {has} where the recipe has {wanted}; give one of the recipe's size, or none")
    weights = theirs.state_dict()
    words = weights.pop("embeddings.word_embeddings.weight").float()
    weights = {name: value.float() for name, value in weights.items() if value.shape == ours.state_dict()[name].shape}
    ours.load_state_dict(weights, strict=False)
    cut, known = start.tokenizer.backend_tokenizer.model.tokenize, start.tokenizer.get_vocab()
    unknown = start.tokenizer.unk_token_id
    noise = nn.functional.normalize(torch.randn(len(model.tokenizer), words.shape[1])) * words.norm(dim=1).mean() / 2
    rows = words.mean(0) + noise
    for piece, index in model.tokenizer.get_vocab().items():
        if piece in model.tokenizer.all_special_tokens:
            rows[index] = words[known[piece]]
            continue
        marked, stem = ("▁", piece[1:]) if piece[0] == "▁" else ("", piece)
        cuts = [[token.id for token in cut(marked + form)] for form in {stem, stem[:1].upper() + stem[1:]}]
        spelt = [ids for ids in cuts if ids and unknown not in ids]
        if spelt:
            fewest = min(map(len, spelt))
            rows[index] = torch.stack([words[ids].mean(0) for ids in spelt if len(ids) == fewest]).mean(0)
    with torch.no_grad():
        ours.embeddings.word_embeddings.weight.copy_(rows)


def _heads(states: Tensor, heads: int) -> Tensor:
    """Split [batch, tokens, hidden] into [batch, heads, tokens, hidden / heads]."""
    return states.view(*states.shape[:-1], heads, -1).transpose(1, 2)


def _padded(flat: Tensor, mask: Tensor) -> Tensor:
    """Put the rows of real tokens, [tokens, hidden], back into [batch, longest, hidden] with zeros as padding."""
    padded = flat.new_zeros(*mask.shape, flat.shape[-1])
    padded[mask] = flat
    return padded


def cls_states(encoder: XLMRobertaModel, input_ids: Tensor, mask: Tensor) -> Tensor:
    """Compute the last hidden state of the first token, with the encoder's weights.

    The arithmetic is that of `XLMRobertaModel.forward` without two kinds of work: padding (linear layers and LayerNorms see the
    real tokens alone, as one list) and, in the last layer, every token but the first.

    Args:
        encoder: the model.
        input_ids: int64 [batch, tokens], padded on the right.
        mask: int64 or bool [batch, tokens], 1 for real tokens.

    Returns:
        float32 or bf16 [batch, hidden].
    """
    config, embed = encoder.config, encoder.embeddings
    mask = mask.bool()
    positions = (mask.cumsum(1) + config.pad_token_id)[mask]
    states = embed.word_embeddings(input_ids[mask]) + embed.position_embeddings(positions)
    states = embed.dropout(embed.LayerNorm(states + embed.token_type_embeddings.weight[0]))
    first = torch.cumsum(mask.sum(1), 0) - mask.sum(1)
    allowed = mask[:, None, None, :]
    last = len(encoder.encoder.layer) - 1
    for index, layer in enumerate(encoder.encoder.layer):
        attention, heads = layer.attention, config.num_attention_heads
        key = _heads(_padded(attention.self.key(states), mask), heads)
        value = _heads(_padded(attention.self.value(states), mask), heads)
        if index == last:
            states = states[first]
            query = _heads(attention.self.query(states)[:, None, :], heads)
        else:
            query = _heads(_padded(attention.self.query(states), mask), heads)
        dropout = config.attention_probs_dropout_prob if encoder.training else 0.0
        # Written out: on a CPU the fused kernel's backward pass takes longer than the rest of a step this small.
        scores = (query @ key.transpose(2, 3)) / query.shape[-1] ** 0.5
        weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1).to(value.dtype)
        mixed = nn.functional.dropout(weights, dropout) @ value
        mixed = mixed.transpose(1, 2).flatten(2)
        mixed = mixed[:, 0] if index == last else mixed[mask]
        states = attention.output(mixed, states)
        states = layer.output(layer.intermediate(states), states)
    result: Tensor = states
    return result


def train_unpadded(model: SentenceTransformer) -> None:
    """Let the model's transformer run through `cls_states` while it is in training mode; saving stays as it is."""
    transformer = model[0]
    padded_forward = transformer.forward

    def forward(self: Transformer, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        if not self.training:
            padded: dict[str, Any] = padded_forward(features, **kwargs)
            return padded
        states = cls_states(self.auto_model, features["input_ids"], features["attention_mask"])
        features["token_embeddings"] = states[:, None, :]
        return features

    transformer.forward = types.MethodType(forward, transformer)


def save_half(model: SentenceTransformer, folder: Path) -> None:
    """Write the checkpoint in fp16, in the folder layout of the card's model.

    Module names and pooling settings are written as every sentence-transformers since version 2 reads them.

    Args:
        model: loses its fp32 weights: the rounded ones are the model from here on.
        folder: a new folder, which appears when it is complete.

    Raises:
        JobonnxError: `folder` exists or cannot be written.
    """
    with new_folder(folder) as making:
        model.half().save_pretrained(str(making), create_model_card=False)
        modules = [
            {
                "idx": index,
                "name": str(index),
                "path": "" if index == 0 else f"{index}_{name}",
                "type": f"sentence_transformers.models.{name}",
            }
            for index, name in enumerate(("Transformer", "Pooling", "Normalize"))
        ]
        mode = "pooling_mode_cls_token"
        modes = (mode, *(f"pooling_mode_{name}" for name in OTHER_POOLING))
        pooling = {"word_embedding_dimension": model[0].auto_model.config.hidden_size}
        pooling |= {name: name == mode for name in modes} | {"include_prompt": True}
        _write(making / "modules.json", modules)
        _write(making / "sentence_bert_config.json", {"max_seq_length": model.max_seq_length, "do_lower_case": False})
        _write(making / "1_Pooling" / "config.json", pooling)
        (making / "2_Normalize").mkdir(exist_ok=True)
        (making / "model.safetensors").chmod(0o644)  # safetensors writes 0600


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
