"""What decides a vector and is easily overlooked, each with a checkpoint that has it, against sentence-transformers itself."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from helpers.checkpoints import make_checkpoint
from jobonnx.arrays import Floats
from jobonnx.bundle.manifest import Bundle
from jobonnx.errors import JobonnxError
from jobonnx.text.tokenizer import Tokenizer
from jobonnx_export import independent
from jobonnx_export.checkpoint import open_checkpoint
from jobonnx_export.independent import check_tokenizer, check_vectors, texts_of_added_tokens
from jobonnx_export.pipeline import export
from jobonnx_export.reference import Reference

pytestmark = pytest.mark.medium

TEXTS = ["Koch", "Maler Konditormeister Lackierer", "", "工程师", "a " * 200]
TOKEN = "Konditormeister"


def theirs(folder: Path, texts: list[str] = TEXTS) -> Floats:
    vectors: Floats = SentenceTransformer(str(folder), device="cpu").encode(texts, prompt="")
    return vectors


def ours(folder: Path, texts: list[str] = TEXTS) -> Floats:
    """Read the folder as the exporter does, without its checks of the tokenizer."""
    opened = open_checkpoint(folder)
    return Reference(opened).encode(Tokenizer(folder / "tokenizer.json", opened.max_tokens).encode(texts))


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with embeddings for more tokens than its tokenizer has."""
    return make_checkpoint(tmp_path_factory.mktemp("roomy") / "tiny", vocab_size=3100)


@pytest.fixture
def copy(roomy: Path, tmp_path: Path) -> Path:
    shutil.copytree(roomy, tmp_path / "copy")
    return tmp_path / "copy"


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps((json.loads(path.read_text("utf-8")) if path.exists() else {}) | changes))


# Adapters


@pytest.fixture(scope="module")
def adapted(roomy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint with a LoRA adapter beside its weights, as PEFT saves one into the same folder."""
    from peft import LoraConfig, get_peft_model
    from transformers import XLMRobertaModel

    folder = tmp_path_factory.mktemp("adapted") / "tiny"
    shutil.copytree(roomy, folder)
    lora = LoraConfig(target_modules=["query", "value"], init_lora_weights=False)
    get_peft_model(XLMRobertaModel.from_pretrained(folder), lora).save_pretrained(str(folder))
    return folder


def test_adapter_beside_the_weights_changes_vectors_and_is_refused(adapted: Path, roomy: Path, tmp_path: Path) -> None:
    changed, base = theirs(adapted), theirs(roomy)
    assert np.einsum("ij,ij->i", changed, base).max() < 0.99
    with pytest.raises(JobonnxError, match=r"adapter_config\.json: .* merge_and_unload\(\)"):
        open_checkpoint(adapted)

    from peft import PeftModel
    from transformers import XLMRobertaModel

    shutil.copytree(roomy, tmp_path / "merged")  # what the sentence asks for
    base_model = XLMRobertaModel.from_pretrained(roomy, add_pooling_layer=False)
    PeftModel.from_pretrained(base_model, adapted).merge_and_unload().save_pretrained(tmp_path / "merged")
    np.testing.assert_allclose(ours(tmp_path / "merged"), changed, atol=1e-5)


@pytest.mark.parametrize("plain", [True, False])
def test_folder_that_holds_an_adapter_alone_is_told_to_merge_it(adapted: Path, tmp_path: Path, plain: bool) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    names = ["adapter_config.json", "adapter_model.safetensors", *([] if plain else ["modules.json", "sentence_bert_config.json"])]
    for name in names:
        shutil.copyfile(adapted / name, folder / name)
    if not plain:
        shutil.copytree(adapted / "1_Pooling", folder / "1_Pooling")
    with pytest.raises(JobonnxError, match=r"merge_and_unload\(\)") as caught:
        open_checkpoint(folder)
    assert "again" not in str(caught.value)


# Tokens that tokenizer.json lacks


def in_tokenizer_config(folder: Path) -> None:
    token = {"content": TOKEN, "lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": False}
    edit(folder / "tokenizer_config.json", added_tokens_decoder={"3001": token})


def in_added_tokens(folder: Path) -> None:
    edit(folder / "added_tokens.json", **{TOKEN: 3001})


def in_special_tokens_map(folder: Path) -> None:
    edit(folder / "special_tokens_map.json", additional_special_tokens=[TOKEN])


PLACES = {"tokenizer_config": in_tokenizer_config, "added_tokens": in_added_tokens, "special_tokens_map": in_special_tokens_map}


@pytest.mark.parametrize("place", PLACES)
def test_added_token_that_tokenizer_json_lacks_is_refused_until_the_tokenizer_is_saved_again(copy: Path, place: str) -> None:
    from transformers import AutoTokenizer

    PLACES[place](copy)
    assert np.abs(theirs(copy) - ours(copy)).max() > 1e-2
    with pytest.raises(JobonnxError, match=f"lacks the added tokens '{TOKEN}' of {place}.json; .*save_pretrained"):
        check_tokenizer(open_checkpoint(copy))
    AutoTokenizer.from_pretrained(copy).save_pretrained(copy)
    check_tokenizer(open_checkpoint(copy))
    np.testing.assert_allclose(ours(copy), theirs(copy), atol=2e-6)


@pytest.mark.parametrize("place", PLACES)
def test_the_class_that_transformers_5_is_asked_by_finds_added_tokens_too(
    copy: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    assert independent._loader() is (PreTrainedTokenizerFast if independent._makes_tokenizers_anew() else AutoTokenizer)
    monkeypatch.setattr(independent, "version", lambda package: "5.17.0")
    assert independent._loader() is PreTrainedTokenizerFast
    check_tokenizer(open_checkpoint(copy))
    PLACES[place](copy)
    with pytest.raises(JobonnxError, match=f"lacks the added tokens '{TOKEN}' of {place}.json"):
        check_tokenizer(open_checkpoint(copy))


def test_export_refuses_it_before_the_work(copy: Path, tmp_path: Path) -> None:
    in_added_tokens(copy)
    steps: list[str] = []
    with pytest.raises(JobonnxError, match="lacks the added tokens"):
        export(str(copy), tmp_path / "out", ["fp16"], progress=steps.append)
    assert steps == ["checking copy"]


def test_tokenizer_class_that_tokenises_otherwise_is_refused(copy: Path) -> None:
    """BertTokenizerFast sets the normalizer's fields by its own options, whatever the file has."""
    content = json.loads((copy / "tokenizer.json").read_text("utf-8"))
    bert = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": False}
    (copy / "tokenizer.json").write_text(json.dumps(content | {"normalizer": bert}))
    edit(copy / "tokenizer_config.json", tokenizer_class="BertTokenizerFast", do_lower_case=True)
    with pytest.raises(JobonnxError, match="AutoTokenizer has another normalizer for this folder"):
        check_tokenizer(open_checkpoint(copy))


def test_special_tokens_in_texts_that_are_to_be_split_are_refused(copy: Path) -> None:
    edit(copy / "tokenizer_config.json", split_special_tokens=True)
    with pytest.raises(JobonnxError, match="split_special_tokens: true"):
        check_tokenizer(open_checkpoint(copy))


def test_tokenizer_that_transformers_cannot_load_is_one_sentence(copy: Path) -> None:
    (copy / "special_tokens_map.json").write_text("[")
    with pytest.raises(JobonnxError, match="transformers cannot load its tokenizer") as caught:
        check_tokenizer(open_checkpoint(copy))
    assert "\n" not in str(caught.value)


# The last module


@pytest.mark.parametrize(
    "settings",
    [
        {"module_input_name": "token_embeddings"},
        {"module_input_name": "sentence_embedding", "module_output_name": "another"},
        {"module_output_name": "token_embeddings"},
        {"p": 1},
    ],
)
def test_normalize_that_does_something_else_is_refused(copy: Path, settings: dict[str, Any]) -> None:
    """sentence-transformers 6.0.0 gives vectors of length 11.3 for the first; 5.7 does not read the file."""
    (copy / "2_Normalize").mkdir()
    edit(copy / "2_Normalize" / "config.json", **settings)
    with pytest.raises(JobonnxError, match=rf"2_Normalize.config\.json: {list(settings)[-1]} .* is not supported"):
        open_checkpoint(copy)


@pytest.mark.parametrize(
    "settings",
    [{}, {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}, {"module_output_name": None}],
)
def test_normalize_as_sentence_transformers_6_writes_it_is_read(copy: Path, settings: dict[str, Any]) -> None:
    (copy / "2_Normalize").mkdir()
    edit(copy / "2_Normalize" / "config.json", **settings)
    assert open_checkpoint(copy).normalize


# The comparison itself


def compare(folder: Path, texts: list[str] = TEXTS, vectors: Floats | None = None) -> None:
    opened = open_checkpoint(folder)
    rows = Tokenizer(folder / "tokenizer.json", opened.max_tokens).encode(texts)
    check_vectors(opened, texts, rows, ours(folder, texts) if vectors is None else vectors)


@pytest.mark.parametrize("options", [{}, {"pooling": "mean", "normalize": False, "prompts": {"query": "query: "}}])
def test_good_checkpoint_passes_with_all_its_added_tokens(tmp_path: Path, options: dict[str, Any]) -> None:
    folder = make_checkpoint(tmp_path / "good", **options)
    added = texts_of_added_tokens(folder / "tokenizer.json")
    assert {"<s>", "<pad>", "</s>", "<unk>", "<mask>"} < set(added)
    assert "<pad> Koch </s> Koch" in added[-1]
    compare(folder, TEXTS + added)


def test_default_prompt_does_not_count(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "good", prompts={"query": "query: "})
    edit(folder / "config_sentence_transformers.json", default_prompt_name="query")
    compare(folder)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_plain_folder_is_compared_with_the_pooling_it_was_told(copy: Path, pooling: str) -> None:
    for name in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        (copy / name).unlink()
    opened = open_checkpoint(copy, pooling)
    rows = Tokenizer(copy / "tokenizer.json", opened.max_tokens).encode(TEXTS)
    check_vectors(opened, TEXTS, rows, Reference(opened).encode(rows))


def test_texts_that_are_cut_on_the_other_side_are_an_error(copy: Path) -> None:
    edit(copy / "tokenizer_config.json", truncation_side="left")
    with pytest.raises(JobonnxError, match=r"tokenizer\.json: sentence-transformers makes 96 ids .* of the text 'a a a"):
        compare(copy, ["Koch", "a " * 200 + "b"])


@pytest.mark.parametrize("spoilt", [0.02, float("nan")])
def test_other_vectors_are_an_error(copy: Path, spoilt: float) -> None:
    vectors = ours(copy)
    vectors[3, 5] += spoilt
    with pytest.raises(JobonnxError, match=f"{copy}: sentence-transformers .* another vector of the text '工程师'"):
        compare(copy, vectors=vectors)


def test_folder_that_sentence_transformers_cannot_load_is_an_error(copy: Path) -> None:
    vectors = ours(copy)
    edit(copy / "sentence_bert_config.json", transformer_task="no such task")
    with pytest.raises(JobonnxError, match="sentence-transformers cannot load it") as caught:
        compare(copy, vectors=vectors)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("here", [True, False])
def test_export_says_whether_it_compared(
    checkpoint: Path, tmp_path: Path, few_texts: None, here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not here:
        monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    steps: list[str] = []
    export(str(checkpoint), tmp_path / "out", ["fp16"], progress=steps.append)
    tools = Bundle.open(tmp_path / "out").tools
    assert ("sentence-transformers" in tools) is here
    assert any(step.startswith("comparing with sentence-transformers") for step in steps) is here
    assert any("is not installed" in step for step in steps) is not here


def test_export_stops_where_the_vectors_differ(
    checkpoint: Path, tmp_path: Path, few_texts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake in our own reading of the files, which the reference and every graph would share."""
    monkeypatch.setattr("jobonnx_export.pipeline.Reference", Negative)
    with pytest.raises(JobonnxError, match="computes another vector"):
        export(str(checkpoint), tmp_path / "out", ["fp16"])
    assert not (tmp_path / "out").exists()


def test_export_stops_where_the_vectors_have_another_length(checkpoint: Path, tmp_path: Path, few_texts: None) -> None:
    """sentence-transformers takes anything that is true for a pooling mode that is on, and joins the modes."""
    folder = shutil.copytree(checkpoint, tmp_path / "joined")
    edit(folder / "1_Pooling" / "config.json", pooling_mode_mean_tokens="yes")
    with pytest.raises(JobonnxError, match="computes vectors of 256 numbers, and jobonnx of 128"):
        export(str(folder), tmp_path / "out", ["fp16"])
    assert not (tmp_path / "out").exists()


class Negative(Reference):
    """Gives the opposite of every vector."""

    def encode(self, *arguments: Any, **options: Any) -> Floats:
        return -super().encode(*arguments, **options)
