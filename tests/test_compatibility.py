"""`Encoder` beside the installed `SentenceTransformer`: every argument is taken or refused by name; clients find its surface."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer, SimilarityFunction

from helpers.checkpoints import ROOT
from jobonnx import Encoder
from jobonnx.arrays import Floats
from jobonnx.compatibility import CallOptions, Device, Options

CHECKPOINT = ROOT / "training" / "checkpoint"
TITLES = ["nurse", "Krankenschwester", "software developer", "nurse", ""]
# Where `encode` is not as it is there: vectors do not depend on the batch here, so that its size is left to the token budget.
OTHER_DEFAULTS = {"batch_size": None}


@pytest.fixture(scope="module")
def peer() -> SentenceTransformer:
    return SentenceTransformer(str(CHECKPOINT), device="cpu")


@pytest.fixture
def encoder() -> Encoder:
    return Encoder(provider="cpu")


def parameters(function: Any) -> dict[str, inspect.Parameter]:
    found = inspect.signature(function).parameters
    return {name: p for name, p in found.items() if name != "self" and p.kind is not p.VAR_KEYWORD}


# Signatures


@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
def test_calls_take_the_same_arguments_in_the_same_order(method: str) -> None:
    theirs, ours = parameters(getattr(SentenceTransformer, method)), parameters(Encoder.encode)
    positional = [name for name, p in ours.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == list(theirs)
    for name, parameter in theirs.items():
        assert ours[name].default == OTHER_DEFAULTS.get(name, parameter.default), name


def test_queries_and_documents_hand_on_what_encode_takes(encoder: Encoder) -> None:
    """They name the first three and pass on the rest in order."""
    more = [16, False, "sentence_embedding", "float32", True, False, "cpu", False, 32, None, 7]
    for call in (encoder.encode_query, encoder.encode_document):
        np.testing.assert_array_equal(call(TITLES, None, None, *more), encoder.encode(TITLES, truncate_dim=32))


def test_the_constructor_takes_every_argument() -> None:
    theirs, ours = parameters(SentenceTransformer.__init__), parameters(Encoder)
    assert next(iter(theirs)) == "model_name_or_path"  # our `bundle`, first in both
    assert next(iter(ours)) == "bundle"
    shared = [name for name in theirs if name in ours]
    assert shared == [name for name in theirs if name != "model_name_or_path"]
    assert {name: ours[name].default for name in shared} == {name: theirs[name].default for name in shared}
    assert all(theirs[name].kind is ours[name].kind is inspect.Parameter.KEYWORD_ONLY for name in shared)


def test_both_names_of_an_argument_are_taken(tmp_path: Path) -> None:
    with Encoder(model_name_or_path=None) as other, Encoder(bundle=None) as one:
        expected = one.encode(inputs=TITLES)
        np.testing.assert_array_equal(other.encode(sentences=TITLES), expected)  # type: ignore[call-arg]
        np.testing.assert_array_equal(other.encode_query(sentences=TITLES), expected)  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="inputs and sentences are the same; give inputs alone"):
            other.encode(inputs=TITLES, sentences=TITLES)
    with pytest.raises(TypeError, match="bundle and model_name_or_path are the same"):
        Encoder(bundle=None, model_name_or_path=tmp_path)


def test_an_unknown_argument_is_a_type_error(encoder: Encoder) -> None:
    with pytest.raises(TypeError, match="varient"):
        Encoder(varient="int8")
    with pytest.raises(TypeError, match="batchsize"):
        encoder.encode(TITLES, batchsize=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"modules": [1]}, r"modules=\[1\] has no meaning for an exported graph; export the checkpoint"),
        ({"model_kwargs": {"torch_dtype": "float16"}}, r"model_kwargs=.*; name the precision and the provider: variant="),
        ({"processor_kwargs": {"max_length": 3}}, "processor_kwargs=.*; the tokenizer is the bundle's"),
        ({"tokenizer_kwargs": {"max_length": 3}}, "tokenizer_kwargs=.*; the tokenizer is the bundle's"),
        ({"config_kwargs": {"a": 1}}, "config_kwargs=.*; the configuration is part of the exported graph"),
        ({"model_card_data": object()}, "model_card_data=.*; a bundle's card is written at export"),
        ({"backend": "jax"}, "backend='jax' is unknown here; name a provider instead"),
        ({"device": "xla:1"}, r"device='xla:1' is not where provider 'cpu' runs \('cpu'\); name a provider of that device"),
        (
            {"similarity_fn_name": "jaccard"},
            "similarity_fn_name='jaccard' is unknown; it is one of cosine, dot, euclidean, manhattan",
        ),
        ({"default_prompt_name": "passage"}, r"default_prompt_name='passage' is unknown; there are \['document', 'query'\]"),
        ({"token": "a", "use_auth_token": "b"}, "token and use_auth_token are the same"),
    ],
)
def test_what_has_no_meaning_is_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Encoder(**arguments)


def test_what_is_asked_for_by_default_or_by_nothing_is_taken() -> None:
    empty: dict[str, Any] = {
        "model_kwargs": {},
        "config_kwargs": None,
        "backend": "onnx",
        "trust_remote_code": True,
        "device": "cpu",
    }
    with Encoder(local_files_only=True, cache_folder="/nowhere", token=False, **empty) as encoder:
        assert encoder.encode("nurse").shape == (256,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"output_value": "token_embeddings"},
            "output_value='token_embeddings' is not in a graph that ends with the pooled vector",
        ),
        ({"output_value": None}, "output_value=None is not in a graph"),
        ({"precision": "int4"}, "precision='int4' is unknown; it is one of float32, int8, uint8, binary, ubinary"),
        ({"device": ["cpu", "cpu"]}, "asks for a process per device; an Encoder can be pickled"),
        ({"device": "xla"}, "device='xla' is not where provider 'cpu' runs"),
        ({"pool": {"input": 1}}, "pool= is a pool of sentence-transformers' processes; an Encoder can be pickled"),
        ({"processing_kwargs": {"text": {"max_length": 3}}}, "processing_kwargs=.* would change the bundle's tokenizer"),
    ],
)
def test_calls_that_cannot_be_honoured_are_refused_by_name(arguments: dict[str, Any], message: str, encoder: Encoder) -> None:
    with pytest.raises(ValueError, match=message):
        encoder.encode(TITLES, **arguments)
    with pytest.raises(ValueError, match=message):
        encoder.encode_query(TITLES, **arguments)


def test_a_device_that_is_the_providers_own_is_taken(encoder: Encoder) -> None:
    import torch

    for device in ("cpu", "cpu:0", torch.device("cpu"), None):
        assert encoder.encode(TITLES, device=device, task="query", chunk_size=3).shape == (5, 256)
        assert encoder.to(device or "cpu").eval() is encoder
    assert torch.zeros(1).to(encoder.device).device.type == encoder.device.type == "cpu"
    assert (encoder.device, encoder.device.index, Device("cpu:3").index) == ("cpu", None, 3)


# Prompts


@pytest.mark.medium
def test_prompts_are_those_of_the_model_and_the_callers(peer: SentenceTransformer) -> None:
    given = {"query": "job: ", "title": "title: "}
    theirs = SentenceTransformer(str(CHECKPOINT), device="cpu", prompts=given, default_prompt_name="title")
    with Encoder(prompts=given, default_prompt_name="title") as ours, Encoder() as plain:
        assert ours.prompts == theirs.prompts == {"query": "job: ", "document": "", "title": "title: "}
        assert (ours.default_prompt_name, plain.default_prompt_name) == ("title", None)
        assert plain.prompts == peer.prompts
        least = plain.graph.parity.min_cosine  # of the export's texts, the empty one among them
        assert least is not None
        for call, before in (("encode", "title: "), ("encode_query", "job: "), ("encode_document", "")):
            texts = [before + title for title in TITLES]
            expected = plain.encode(texts)
            np.testing.assert_array_equal(getattr(ours, call)(TITLES), expected)
            cosines = (getattr(theirs, call)(TITLES) * expected).sum(axis=1)
            assert all(cosine > (0.998 if text else least - 1e-5) for text, cosine in zip(texts, cosines, strict=True))
        ours.default_prompt_name = None
        np.testing.assert_array_equal(ours.encode(TITLES), plain.encode(TITLES))
        ours.prompts["query"] = "Q: "
        np.testing.assert_array_equal(ours.encode_query("cook"), plain.encode("Q: cook"))
        with pytest.raises(ValueError, match="default_prompt_name='none' is unknown"):
            ours.default_prompt_name = "none"
        with pytest.raises(TypeError, match=r"prompts\['query'\] is int"):
            ours.prompts = {"query": 3}  # type: ignore[dict-item]


# Attributes


def test_clients_find_what_they_read(encoder: Encoder, peer: SentenceTransformer) -> None:
    names = ("max_seq_length", "similarity_fn_name", "truncate_dim", "default_prompt_name", "prompts")
    assert {name: getattr(encoder, name) for name in names} == {name: getattr(peer, name) for name in names}
    assert encoder.get_embedding_dimension() == encoder.get_sentence_embedding_dimension() == peer.get_embedding_dimension()
    assert encoder.get_max_seq_length() == peer.get_max_seq_length()
    assert str(encoder.device) == str(peer.device)
    assert encoder.get_backend() == "onnx"
    shown = "Encoder('jobonnx-small', variant='int8', provider='cpu', dimension=256, max_seq_length=128)"
    assert repr(encoder) == shown


def test_the_maximum_length_may_be_set_and_is_part_of_the_fingerprint(encoder: Encoder) -> None:
    text, before = "nurse " * 50, encoder.fingerprint
    whole = encoder.encode(text)
    encoder.max_seq_length = 8
    assert encoder.max_seq_length == 8
    assert len(encoder.tokenize([text])[0]) == 8
    assert encoder.fingerprint != before
    assert np.abs(encoder.encode(text) - whole).max() > 1e-3
    encoder.max_seq_length = 128
    assert encoder.fingerprint == before
    np.testing.assert_array_equal(encoder.encode(text), whole)
    wrongs: list[Any] = [129, 0, 2.5, "8"]
    for wrong in wrongs:
        with pytest.raises((ValueError, TypeError), match=f"max_seq_length={wrong!r}"):
            encoder.max_seq_length = wrong


def test_truncation_on_the_object_is_checked_and_ends_with_its_block(encoder: Encoder) -> None:
    whole = encoder.encode(TITLES)
    with encoder.truncate_embeddings(32), encoder.truncate_sentence_embeddings(16):
        assert encoder.encode(TITLES).shape == (5, 16)
        assert encoder.get_sentence_embedding_dimension() == 16
    encoder.truncate_dim = 32
    assert encoder.encode(TITLES).shape == (5, 32)
    encoder.truncate_dim = None
    np.testing.assert_array_equal(encoder.encode(TITLES), whole)
    wrongs: list[Any] = [257, 0, -1, 1.5]
    for wrong in wrongs:
        with pytest.raises((ValueError, TypeError), match=f"truncate_dim={wrong}"):
            encoder.truncate_dim = wrong


@pytest.mark.parametrize("name", ["variant", "provider", "dimension", "fingerprint", "device", "tokenizer", "engine", "bundle"])
def test_what_was_chosen_at_load_cannot_be_set(name: str, encoder: Encoder) -> None:
    before = getattr(encoder, name)
    with pytest.raises(AttributeError, match=rf"{name} of an Encoder cannot be set; make another one"):
        setattr(encoder, name, before)


@pytest.mark.parametrize("name", ["max_length", "batch_size", "normalize_embeddings", "model_card_data"])
def test_setting_what_would_change_nothing_is_an_error(name: str, encoder: Encoder) -> None:
    with pytest.raises(AttributeError, match=f"an Encoder has no '{name}', so setting it would change nothing"):
        setattr(encoder, name, 3)
    assert not hasattr(encoder, name)


def test_what_is_not_here_says_what_to_use(encoder: Encoder) -> None:
    for name, fix in {
        "start_multi_process_pool": "can be pickled",
        "save_pretrained": "a bundle is a folder: copy it",
        "half": "export another variant",
        "model_card_data": "jobonnx.sentence_transformers.load",
    }.items():
        with pytest.raises(AttributeError, match=f"no attribute '{name}'; .*{fix}"):
            getattr(encoder, name)
    with pytest.raises(AttributeError, match=r"^'Encoder' has no attribute 'no_such_thing'$"):
        getattr(encoder, "no_such" + "_thing")


def test_a_class_made_of_it_has_attributes_of_its_own() -> None:
    class Mine(Encoder):
        def __init__(self) -> None:
            super().__init__()
            self.cache = {"nurse": 1}

    with Mine() as mine:
        assert mine.cache == {"nurse": 1}
        assert mine.encode("nurse").shape == (256,)


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarities_are_those_of_sentence_transformers(name: str, encoder: Encoder, peer: SentenceTransformer) -> None:
    a, b = 3 * encoder.encode(TITLES), encoder.encode(["cook", "engineer", "nurse"])
    try:
        encoder.similarity_fn_name = SimilarityFunction(name)
        peer.similarity_fn_name = name
        assert encoder.similarity_fn_name == name
        close = 2e-3 if name == "euclidean" else 1e-5  # torch.cdist loses digits of small distances in a product
        np.testing.assert_allclose(encoder.similarity(a, b), np.asarray(peer.similarity(a, b)), rtol=1e-6, atol=close)
        np.testing.assert_allclose(
            encoder.similarity_pairwise(a[:3], b), np.asarray(peer.similarity_pairwise(a[:3], b)), rtol=1e-6, atol=1e-5
        )
        assert encoder.similarity(a[0], b).shape == (1, 3)
    finally:
        peer.similarity_fn_name = None
    with pytest.raises(ValueError, match="compares row by row, and got 5 and 3 rows"):
        encoder.similarity_pairwise(a, b)


# Waiting


def test_cancelling_a_task_stops_the_work_at_the_next_batch(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    run = encoder.engine.session.run

    def slow(ids: Any, mask: Any) -> Floats:
        runs.append(len(ids))
        time.sleep(0.05)
        return run(ids, mask)

    monkeypatch.setattr(encoder.engine._stream, "run", slow)

    async def main() -> None:
        task = asyncio.create_task(encoder.encode_async([f"nurse {i}" for i in range(400)], batch_size=1))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    start = time.monotonic()
    asyncio.run(main())  # waits for the thread, too
    assert time.monotonic() - start < 5
    assert 0 < len(runs) < 60
    assert threading.active_count() < 20
    vectors = asyncio.run(encoder.encode_async(TITLES, truncate_dim=32))
    np.testing.assert_array_equal(vectors, encoder.encode(TITLES, truncate_dim=32))


def test_every_argument_stands_on_the_page_of_clients() -> None:
    page = (ROOT / "docs" / "integrations.md").read_text("utf-8")
    names = [*parameters(SentenceTransformer.encode), *parameters(SentenceTransformer.__init__), *(f.name for f in fields(Options))]
    names += [f.name for f in fields(CallOptions)]
    assert [name for name in names if f"`{name}`" not in page] == []
