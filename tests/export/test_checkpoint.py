"""What a checkpoint folder says, and every refusal by name."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.checkpoints import MAX_TOKENS, make_checkpoint
from jobonnx.errors import JobonnxError
from jobonnx.text.tokenizer import Tokenizer
from jobonnx_export.checkpoint import open_checkpoint
from jobonnx_export.reference import Reference

pytestmark = pytest.mark.medium

WORDS = "embeddings.word_embeddings.weight"
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """The checkpoint, to be spoilt."""
    folder = tmp_path / "copy"
    shutil.copytree(checkpoint, folder)
    return folder


@pytest.fixture(scope="module")
def tensors(checkpoint: Path) -> Tensors:
    loaded: Tensors = load_file(checkpoint / "model.safetensors")
    return loaded


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None takes them out."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def save(folder: Path, tensors: Tensors) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"})


def save_bin(folder: Path, content: Any, **options: Any) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin", **options)


def save_sharded(folder: Path, tensors: Tensors) -> None:
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, chosen in shards.items():
        save_file({name: tensors[name] for name in chosen}, folder / file, {"format": "pt"})
    weight_map = {name: file for file, chosen in shards.items() for name in chosen}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_settings_come_from_the_folder(checkpoint: Path) -> None:
    c = open_checkpoint(checkpoint)
    assert (c.pooling, c.normalize, c.max_tokens) == ("cls", True, MAX_TOKENS)
    assert (c.prompts, c.default_prompt_name) == ({"query": "query: ", "document": ""}, None)
    assert (c.architecture.layers, c.architecture.longest) == (3, 256)


def test_limit_is_max_seq_length_not_the_position_table(copy: Path) -> None:
    edit(copy / "sentence_bert_config.json", max_seq_length=40)
    assert open_checkpoint(copy).max_tokens == 40


@pytest.mark.parametrize("name", ["sentence_roberta_config.json", "sentence_xlm-roberta_config.json"])
def test_older_names_of_the_settings_count(copy: Path, name: str) -> None:
    edit(copy / "sentence_bert_config.json", max_seq_length=40)
    (copy / "sentence_bert_config.json").rename(copy / name)
    assert open_checkpoint(copy).max_tokens == 40


@pytest.mark.parametrize("model_max_length", [50, 50.0, 10**30, 1e30])
def test_limit_without_max_seq_length_is_the_tokenizers_within_the_positions(copy: Path, model_max_length: float) -> None:
    edit(copy / "sentence_bert_config.json", max_seq_length=None)
    edit(copy / "tokenizer_config.json", model_max_length=model_max_length)
    assert open_checkpoint(copy).max_tokens == min(model_max_length, 256)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("1_Pooling/config.json", {"pooling_mode_cls_token": False, "pooling_mode_max_tokens": True}, "pooling_mode_max_tokens"),
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": True}, "pooling_mode_cls_token, pooling_mode_mean_tokens"),
        ("1_Pooling/config.json", {"pooling_mode_weightedmean_tokens": True}, "pooling_mode_weightedmean_tokens"),
        ("1_Pooling/config.json", {"pooling_mode_cls_token": False}, "pooling none"),
        ("1_Pooling/config.json", {"pooling_mode": "lasttoken"}, "lasttoken"),
        ("1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]}, "cls, mean"),
        ("1_Pooling/config.json", {"include_prompt": False}, "include_prompt: false"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case: true"),
        ("sentence_bert_config.json", {"max_seq_length": 257}, "max_seq_length 257 does not fit the 256 usable positions"),
        ("sentence_bert_config.json", {"max_seq_length": 2}, "max_seq_length 2"),
        ("sentence_bert_config.json", {"max_seq_length": "many"}, "max_seq_length: expected int | null, got str"),
        ("config.json", {"model_type": "bert"}, "model_type 'bert'"),
        ("config.json", {"hidden_act": "relu"}, "hidden_act 'relu'"),
        ("config.json", {"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ("config.json", {"type_vocab_size": 2}, "type_vocab_size 2"),
        ("config.json", {"is_decoder": True}, "is_decoder True"),
        ("config.json", {"hidden_size": None}, "object missing required field hidden_size"),
        ("config.json", {"num_hidden_layers": "three"}, "num_hidden_layers: expected int, got str"),
        ("config.json", {"num_attention_heads": 5}, "hidden_size 128 does not divide into 5 num_attention_heads"),
        ("config_sentence_transformers.json", {"default_prompt_name": "passage"}, "default_prompt_name 'passage'"),
        (
            "config_sentence_transformers.json",
            {"default_prompt_name": ["query"]},
            "default_prompt_name: expected str | null, got array",
        ),
        ("config_sentence_transformers.json", {"prompts": ["query"]}, "prompts: expected object | null, got array"),
        ("config_sentence_transformers.json", {"prompts": {"query": 7}}, "prompts[...]: expected str, got int"),
        ("1_Pooling/config.json", {"pooling_mode": 3}, "pooling 3 is not supported"),
        ("1_Pooling/config.json", {"pooling_mode": [["cls"]]}, "pooling ['cls'] is not supported"),
        ("config.json", {"hidden_size": float("inf")}, "Infinity is no number in JSON"),
        ("config.json", {"hidden_size": True}, "hidden_size: expected int, got bool"),
        ("config.json", {"hidden_size": 128.0}, "hidden_size: expected int, got float"),
        ("config.json", {"hidden_size": 10**12}, "hidden_size 1000000000000 has to be from 1 to 2147483647"),
        ("config.json", {"num_hidden_layers": 0}, "num_hidden_layers 0 has to be from 1 to 1000"),
        ("config.json", {"num_hidden_layers": -3}, "num_hidden_layers -3 has to be from 1 to 1000"),
        ("config.json", {"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000 has to be from 1 to 1000"),
        ("config.json", {"pad_token_id": -1}, "pad_token_id -1 has to be from 0 to 2147483647"),
        ("config.json", {"layer_norm_eps": float("nan")}, "NaN is no number in JSON"),
        ("config.json", {"layer_norm_eps": -1.0}, "layer_norm_eps -1.0 has to be a small number"),
        ("config.json", {"layer_norm_eps": "small"}, "layer_norm_eps: expected float, got str"),
    ],
)
def test_setting_that_cannot_be_honoured_is_refused_by_name(copy: Path, name: str, changes: dict[str, Any], said: str) -> None:
    edit(copy / name, **changes)
    sentence = refusal(copy)
    assert said in sentence
    assert name.split("/")[0] in sentence or str(copy) in sentence


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (float("inf"), "Infinity is no number in JSON"),
        ([96], "model_max_length: expected int | float | null, got array"),
        ("many", "model_max_length: expected int | float | null, got str"),
        (-5, "model_max_length -5 has to be a whole number of at least 0"),
        (50.5, "model_max_length 50.5 has to be a whole number of at least 0"),
    ],
)
def test_limit_of_the_tokenizer_that_is_no_number(copy: Path, wrong: Any, said: str) -> None:
    edit(copy / "sentence_bert_config.json", max_seq_length=None)
    edit(copy / "tokenizer_config.json", model_max_length=wrong)
    sentence = refusal(copy)
    assert "tokenizer_config.json" in sentence
    assert said in sentence


@pytest.mark.parametrize(
    ("types", "said"),
    [
        (["Transformer", "Pooling", "Dense", "Normalize"], "Dense"),
        (["Transformer", "Normalize", "Pooling"], "['Transformer', 'Normalize', 'Pooling']"),
        (["Transformer"], "['Transformer']"),
        (["WordEmbeddings", "Pooling"], "WordEmbeddings"),
        ([], "[]"),
    ],
)
def test_module_is_refused_by_name(copy: Path, types: list[str], said: str) -> None:
    write_modules(copy, [f"sentence_transformers.models.{kind}" for kind in types])
    assert said in refusal(copy)


def test_module_of_the_checkpoints_own_is_refused_whatever_its_name(copy: Path) -> None:
    write_modules(copy, ["custom_st.Transformer", "sentence_transformers.models.Pooling"])
    assert "custom_st.Transformer" in refusal(copy)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([{"idx": 0, "path": ""}], "missing required field type"),
        ([{"type": "sentence_transformers.models.Transformer"}], "missing required field path"),
        (["Transformer"], "[0]: expected object, got str"),
    ],
)
def test_module_without_type_or_path(copy: Path, content: Any, said: str) -> None:
    (copy / "modules.json").write_text(json.dumps(content))
    assert f"modules.json: {said}" in refusal(copy).replace("object missing", "missing")


@pytest.mark.parametrize("path", ["../elsewhere", "/etc", "a/../../b", "C:\\elsewhere", "..\\elsewhere"])
def test_module_outside_the_checkpoint(copy: Path, path: str) -> None:
    edit_modules = json.loads((copy / "modules.json").read_text())
    edit_modules[1]["path"] = path
    (copy / "modules.json").write_text(json.dumps(edit_modules))
    assert f"modules.json: path {path!r} leads out of the checkpoint" in refusal(copy)


def write_modules(folder: Path, types: list[str]) -> None:
    places = ["", "1_Pooling", *(f"{i}_More" for i in range(2, 9))]
    (folder / "modules.json").write_text(json.dumps([{"path": places[i], "type": kind} for i, kind in enumerate(types)]))


JSON_FILES = (
    "modules.json",
    "1_Pooling/config.json",
    "config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)


@pytest.mark.parametrize("name", JSON_FILES)
@pytest.mark.parametrize(
    "content",
    [b"", b'{"a": ', b"\xff\xfe", b"3", b"[" * 100_000, b"9" * 5000],
    ids=["empty", "cut", "not UTF-8", "a number", "deeply nested", "a long number"],
)
def test_broken_json(copy: Path, name: str, content: bytes) -> None:
    (copy / name).write_bytes(content)
    sentence = refusal(copy)
    assert f"{copy / name} is not valid JSON" in sentence or f"{copy / name}: expected" in sentence
    assert sentence.endswith(("download the checkpoint again", "mend it", "mend it or take it out"))


OPTIONAL_FILES = (
    "modules.json",
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "config_sentence_transformers.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "adapter_config.json",
)


@pytest.mark.parametrize("name", OPTIONAL_FILES)
@pytest.mark.parametrize("kind", ["a link to nothing", "a loop of links", "a folder"])
def test_optional_means_absent_and_nothing_else(copy: Path, tensors: Tensors, name: str, kind: str) -> None:
    """A Hub cache that lost a file holds links to nothing: settings and weights must not be passed over."""
    if name == "sentence_roberta_config.json":
        (copy / "sentence_bert_config.json").unlink()
    if name == "tokenizer_config.json":
        edit(copy / "sentence_bert_config.json", max_seq_length=None)
    if name == "model.safetensors.index.json":
        save_bin(copy, tensors)
    if name.startswith("pytorch_model.bin"):
        (copy / "model.safetensors").unlink()
    path = copy / name
    path.unlink(missing_ok=True)
    if kind == "a folder":
        path.mkdir()
    else:
        path.symlink_to(copy / ("lost" if kind == "a link to nothing" else name))
    said = "no file" if kind == "a folder" else "a link to nothing"
    assert refusal(copy) == f"{path} is {said}; mend it, or remove it if it is not needed"


@pytest.mark.parametrize("prompts", ['{"query": "a \\ud800"}', '{"\\udfff": "a"}'])
def test_prompt_with_half_a_surrogate_pair_is_refused_before_the_work(copy: Path, prompts: str) -> None:
    """No manifest could hold it."""
    (copy / "config_sentence_transformers.json").write_text(f'{{"prompts": {prompts}}}')
    assert "config_sentence_transformers.json holds half of a surrogate pair" in refusal(copy)


def test_prompts_that_are_not_there_or_null_are_none(copy: Path) -> None:
    (copy / "config_sentence_transformers.json").write_text('{"prompts": null, "default_prompt_name": null}')
    assert (open_checkpoint(copy).prompts, open_checkpoint(copy).default_prompt_name) == ({}, None)
    (copy / "config_sentence_transformers.json").unlink()
    assert open_checkpoint(copy).prompts == {}


@pytest.mark.parametrize("name", ["1_Pooling/config.json", "config.json", "tokenizer.json"])
def test_missing_file(copy: Path, name: str) -> None:
    (copy / name).unlink()
    sentence = refusal(copy)
    assert Path(name).name in sentence
    assert "missing" in sentence


def test_missing_weights(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    assert "neither model.safetensors nor pytorch_model.bin" in refusal(copy)


def test_missing_folder(tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "nothing")


@pytest.mark.parametrize("kept", [0, 4, 1000, 0.5, -1])
def test_truncated_safetensors(copy: Path, kept: float) -> None:
    path = copy / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)] if kept == 0.5 else data[: int(kept)])
    assert f"{path} is broken or cut short" in refusal(copy)


def test_missing_tensor(copy: Path, tensors: Tensors) -> None:
    name = "encoder.layer.1.attention.self.key.bias"
    save(copy, {key: value for key, value in tensors.items() if key != name})
    assert f"tensor {name} is missing" in refusal(copy)


def test_tensors_under_a_prefix_transformers_does_not_know_are_missing(copy: Path, tensors: Tensors) -> None:
    """transformers would fill such a model with random weights, and only warn."""
    save(copy, {f"model.{name}": tensor for name, tensor in tensors.items()})
    assert f"tensor {WORDS} is missing" in refusal(copy)


def test_tensor_of_another_shape(copy: Path, tensors: Tensors) -> None:
    name = "encoder.layer.0.output.dense.weight"
    save(copy, tensors | {name: tensors[name].T})
    assert f"tensor {name} has shape [512, 128], config.json asks for [128, 512]" in refusal(copy)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(copy: Path, tensors: Tensors, value: float) -> None:
    name = "encoder.layer.2.output.dense.weight"
    spoilt = tensors[name].clone()
    spoilt[3, 5] = value
    save(copy, tensors | {name: spoilt})
    with pytest.raises(JobonnxError, match=f"tensor {name} holds NaN or infinity"):
        open_checkpoint(copy).tensors_sha256()


def refusal(folder: Path) -> str:
    """The one sentence that opening a folder ends in."""
    with pytest.raises(JobonnxError) as caught:
        open_checkpoint(folder)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_malicious_pickle_is_refused_and_not_run(copy: Path, tmp_path: Path) -> None:
    marker = tmp_path / "was-run"
    save_bin(copy, {WORDS: Malicious(marker)})
    with pytest.raises(JobonnxError, match=r"pytorch_model.bin cannot be loaded as plain weights"):
        open_checkpoint(copy)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Malicious(marker)))
    assert marker.exists(), "the attack does not work: this test proves nothing"


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("content", [[torch.ones(2)], {"state_dict": {WORDS: torch.ones(2)}}, torch.ones(2)])
def test_bin_file_that_is_no_state_dict(copy: Path, content: Any) -> None:
    save_bin(copy, content)
    assert "pytorch_model.bin cannot be loaded as plain weights" in refusal(copy)


def test_bin_file_of_parameters(checkpoint: Path, copy: Path, tensors: Tensors) -> None:
    save_bin(copy, {name: torch.nn.Parameter(tensor) for name, tensor in tensors.items()})
    assert open_checkpoint(copy).tensors_sha256() == open_checkpoint(checkpoint).tensors_sha256()


@pytest.mark.parametrize("kind", [torch.Tensor.to_sparse, lambda t: t.to(torch.complex64)], ids=["sparse", "complex"])
def test_tensor_that_is_not_plain(copy: Path, tensors: Tensors, kind: Callable[[torch.Tensor], torch.Tensor]) -> None:
    save_bin(copy, tensors | {WORDS: kind(tensors[WORDS])})
    with pytest.raises(JobonnxError, match=f"pytorch_model.bin: tensor {WORDS} is sparse, complex, quantized or without values"):
        open_checkpoint(copy).tensors_sha256()


def test_truncated_bin_file(copy: Path, tensors: Tensors) -> None:
    save_bin(copy, tensors)
    path = copy / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:-5000])
    assert f"{path} cannot be loaded as plain weights" in refusal(copy)


FORMATS: dict[str, Callable[[Path, Tensors], None]] = {
    "bin": save_bin,
    "bin from before torch 1.6": lambda folder, tensors: save_bin(folder, tensors, _use_new_zipfile_serialization=False),
    "sharded": save_sharded,
    "prefix": lambda folder, tensors: save(folder, {f"roberta.{name}": tensor for name, tensor in tensors.items()}),
    "prefix in bin": lambda folder, tensors: save_bin(folder, {f"roberta.{name}": tensor for name, tensor in tensors.items()}),
    "with a head": lambda folder, tensors: save(folder, tensors | {"pooler.dense.weight": torch.ones(128, 128)}),
}


@pytest.mark.parametrize("format", FORMATS)
def test_format_does_not_enter_the_hash_and_transformers_reads_the_same(
    checkpoint: Path, copy: Path, tensors: Tensors, format: str
) -> None:
    FORMATS[format](copy, tensors)
    c = open_checkpoint(copy)
    assert c.tensors_sha256() == open_checkpoint(checkpoint).tensors_sha256()
    parameters = Reference(c).model.state_dict()
    for name in (WORDS, "encoder.layer.2.output.dense.bias"):
        np.testing.assert_array_equal(c.tensor(name), parameters[name].numpy())


@pytest.mark.parametrize("name", [WORDS, "encoder.layer.2.output.LayerNorm.bias"])
def test_last_bit_of_one_value_gives_another_hash(checkpoint: Path, copy: Path, tensors: Tensors, name: str) -> None:
    other = tensors[name].clone()
    other.view(-1)[-1:] = torch.nextafter(other.view(-1)[-1:], torch.tensor(torch.inf))
    save(copy, tensors | {name: other})
    assert open_checkpoint(copy).tensors_sha256() != open_checkpoint(checkpoint).tensors_sha256()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_float32(copy: Path, tensors: Tensors, dtype: torch.dtype) -> None:
    halves = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    save(copy, halves)
    stored = open_checkpoint(copy)
    assert stored.tensor(WORDS).dtype == np.float32
    hash_of_halves = stored.tensors_sha256()
    save(copy, {name: tensor.float() for name, tensor in halves.items()})
    assert open_checkpoint(copy).tensors_sha256() == hash_of_halves


def save_sharded_bin(folder: Path, tensors: Tensors) -> None:
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, chosen in shards.items():
        torch.save({name: tensors[name] for name in chosen}, folder / file)
    weight_map = {name: file for file, chosen in shards.items() for name in chosen}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_bin_file_in_shards_is_read_as_transformers_reads_it(checkpoint: Path, copy: Path, tensors: Tensors) -> None:
    save_sharded_bin(copy, tensors)
    stored = open_checkpoint(copy)
    assert stored.tensors_sha256() == open_checkpoint(checkpoint).tensors_sha256()
    rows = [[0, 5, 6, 7, 2]]
    np.testing.assert_array_equal(Reference(stored).encode(rows), Reference(open_checkpoint(checkpoint)).encode(rows))


def test_whole_bin_file_comes_before_its_shards(copy: Path, tensors: Tensors) -> None:
    save_sharded_bin(copy, {name: tensor + 1 for name, tensor in tensors.items()})
    torch.save(tensors, copy / "pytorch_model.bin")
    np.testing.assert_array_equal(open_checkpoint(copy).tensor(WORDS), tensors[WORDS].numpy())


def test_missing_shard_of_a_bin_file(copy: Path, tensors: Tensors) -> None:
    save_sharded_bin(copy, tensors)
    (copy / "pytorch_model-00002-of-00002.bin").unlink()
    assert "pytorch_model-00002-of-00002.bin is missing; the checkpoint is incomplete" in refusal(copy)


def test_missing_shard(copy: Path, tensors: Tensors) -> None:
    save_sharded(copy, tensors)
    (copy / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors" in refusal(copy)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"weight_map": null}', "weight_map: expected object, got null"),
        ('{"weight_map": []}', "weight_map: expected object, got array"),
        ('{"weight_map": 7}', "weight_map: expected object, got int"),
        ("{}", "weight_map: expected object, got null"),
        ('{"weight_map": {"a": 7}}', "weight_map: [...]: expected str, got int"),
        ('{"weight_map": {"a": "../elsewhere.safetensors"}}', "path '../elsewhere.safetensors' leads out of the checkpoint"),
    ],
)
def test_weight_map_that_is_none(copy: Path, content: str, said: str) -> None:
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").write_text(content)
    assert f"model.safetensors.index.json: {said}" in refusal(copy)


def test_weight_map_of_nothing_does_not_lead_to_the_bin_file(copy: Path, tensors: Tensors) -> None:
    """transformers would take the map too."""
    save_bin(copy, tensors)
    (copy / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    assert "is missing from the weights" in refusal(copy)


def test_single_file_comes_before_shards_as_in_transformers(copy: Path, tensors: Tensors) -> None:
    save_sharded(copy, {name: tensor + 1 for name, tensor in tensors.items()})
    save(copy, tensors)
    np.testing.assert_array_equal(open_checkpoint(copy).tensor(WORDS), tensors[WORDS].numpy())


def test_huge_header_is_not_believed(copy: Path) -> None:
    (copy / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    assert "is broken or cut short" in refusal(copy)


def plain(folder: Path) -> Path:
    """What is left of a sentence-transformers folder in a plain transformers one."""
    for name in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "1_Pooling")
    return folder


def test_plain_folder_takes_the_pooling_it_is_told(copy: Path) -> None:
    c = open_checkpoint(plain(copy), pooling="cls")
    assert (c.pooling, c.normalize, c.max_tokens, c.prompts) == ("cls", False, MAX_TOKENS, {})


def test_told_pooling_may_not_contradict_the_folder(checkpoint: Path) -> None:
    with pytest.raises(JobonnxError, match="its pooling is 'cls', not 'mean'"):
        open_checkpoint(checkpoint, pooling="mean")
    assert open_checkpoint(checkpoint, pooling="cls").pooling == "cls"


KINDS: dict[str, Callable[[Path], Path]] = {
    "cls": lambda folder: make_checkpoint(folder),
    "mean": lambda folder: make_checkpoint(folder, pooling="mean"),
    "no Normalize": lambda folder: make_checkpoint(folder, normalize=False),
    "plain": lambda folder: plain(make_checkpoint(folder)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_folder_is_read_as_sentence_transformers_reads_it(tmp_path: Path, kind: str) -> None:
    """And so is the same model as the installed sentence-transformers saves it, in its own names."""
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(KINDS[kind](tmp_path / "ours")), device="cpu")
    theirs.save(str(tmp_path / "theirs"))
    texts = ["Koch", "Oberbürgermeister der Landeshauptstadt", "", "工程师", "a " * 200]
    expected = theirs.encode(texts)
    for folder in (tmp_path / "ours", tmp_path / "theirs"):
        c = open_checkpoint(folder)
        assert c.max_tokens == theirs.max_seq_length
        vectors = Reference(c).encode(Tokenizer(folder / "tokenizer.json", c.max_tokens).encode(texts))
        np.testing.assert_allclose(vectors, expected, atol=2e-6)
    unit = np.allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-5)
    assert unit is (kind in ("cls", "mean"))
