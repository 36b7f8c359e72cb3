"""The encoder against sentence-transformers on the same checkpoint, and the habits it shares with it."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

from helpers.checkpoints import MAX_TOKENS, make_checkpoint, measure_few_texts
from jobonnx import Encoder, JobonnxError
from jobonnx.arrays import Floats
from jobonnx.bundle.integrity import with_checksum
from jobonnx.bundle.manifest import MANIFEST
from jobonnx.data.titles import read_titles
from jobonnx.errors import ProviderUnavailableError
from jobonnx.parity.measure import TOLERANCES, measure, tolerance_violations
from jobonnx.runtime.providers.base import Provider
from jobonnx.runtime.providers.openvino import OpenVino
from jobonnx.runtime.session import Settings
from jobonnx.text.tokenizer import TooLongError

pytestmark = pytest.mark.medium

HOSTILE = [
    "",
    " \n\t ",
    "a" * 10_000,
    "👩🏽‍🚒 Feuerwehrfrau",
    "I\u0301nge\u0301nieur",
    "مهندس",
    "Koch\x00Köchin",
    "<s> Koch </s>",
    "\ufeff",
]
ANY_TEXT = st.text(max_size=60) | st.sampled_from([*read_titles()[::97], *HOSTILE])


@pytest.fixture(scope="module")
def peer(checkpoint: Path) -> SentenceTransformer:
    return SentenceTransformer(str(checkpoint), device="cpu")


@pytest.fixture(scope="module")
def exact(bundle: Path) -> Encoder:
    """fp32, where equality with PyTorch is to be had."""
    return Encoder(bundle, variant="fp32", provider="cpu")


@pytest.fixture(scope="module")
def text_of(exact: Encoder) -> Callable[[int], str]:
    """Makes a text of so many tokens, special ones included, of words that are one token each."""
    unlimited = exact.tokenizer.with_limit(1 << 20)
    words = [w for title in read_titles() for w in title.split() if w.isalpha()]
    words = [w for w in dict.fromkeys(words) if len(unlimited.encode([w])[0]) == 3][:50]
    return lambda tokens: " ".join(words[i % len(words)] for i in range(tokens - 2))


def cosines(a: Floats, b: Floats) -> Floats:
    x, y = a.astype(np.float64), b.astype(np.float64)
    found: Floats = np.einsum("ij,ij->i", x, y) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    return found


def assert_within_tolerance(variant: str, reference: Floats, vectors: Floats) -> None:
    """Bounds that hold for each text by itself; centred ones need a set."""
    assert cosines(reference, vectors).min(initial=1) >= {"fp32": 0.999999, "bf16": 0.999, "fp16": 0.9999}.get(variant, 0.99)
    assert np.abs(reference - vectors).max(initial=0) <= TOLERANCES[variant].get("max_abs", np.inf)


# Against sentence-transformers


def test_agrees_with_sentence_transformers_on_titles(
    encoder: Encoder, peer: SentenceTransformer, text_of: Callable[[int], str]
) -> None:
    lengths = [MAX_TOKENS // 2, MAX_TOKENS - 1, MAX_TOKENS, MAX_TOKENS + 1, 4 * MAX_TOKENS]
    texts = [*read_titles()[::37], *HOSTILE, *map(text_of, lengths)]
    assert len(texts) > 200
    reference, vectors = peer.encode(texts), encoder.encode(texts)
    assert vectors.shape == (len(texts), 128)
    assert vectors.dtype == np.float32
    assert tolerance_violations(encoder.variant, measure(reference, vectors)) == []
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)


@settings(deadline=None, max_examples=25)
@given(texts=st.lists(ANY_TEXT, max_size=12))
def test_agrees_with_sentence_transformers_on_any_text(texts: list[str], encoder: Encoder, peer: SentenceTransformer) -> None:
    vectors = encoder.encode(texts)
    if texts:
        assert_within_tolerance(encoder.variant, peer.encode(texts), vectors)
    else:
        assert vectors.shape == (0, 128)


@settings(deadline=None, max_examples=25)
@given(data=st.data(), texts=st.lists(ANY_TEXT, min_size=1, max_size=30), budget=st.integers(1, 3000))
def test_order_and_batching_do_not_matter(data: st.DataObject, texts: list[str], budget: int, encoder: Encoder) -> None:
    order = data.draw(st.permutations(range(len(texts))))
    batch_size = data.draw(st.none() | st.integers(1, 40))
    plain = encoder.encode(texts)
    shuffled = encoder.encode([texts[i] for i in order], batch_size=batch_size, token_budget=budget)
    assert cosines(plain[list(order)], shuffled).min() >= 0.99999


@settings(deadline=None, max_examples=25)
@given(text=ANY_TEXT, mates=st.lists(ANY_TEXT, min_size=64, max_size=64), place=st.integers(0, 64))
def test_batch_mates_and_padding_do_not_matter(text: str, mates: list[str], place: int, encoder: Encoder) -> None:
    rows = encoder.tokenize([text, *mates])
    alone = encoder.encode_batch(rows[:1])
    together = encoder.encode_batch([*rows[1 : place + 1], rows[0], *rows[place + 1 :]])
    assert len(together) == 65
    assert cosines(alone, together[place : place + 1])[0] >= 0.99999


def test_titles_padded_to_the_limit_keep_their_vectors(encoder: Encoder, text_of: Callable[[int], str]) -> None:
    rows = encoder.tokenize([text_of(MAX_TOKENS), *read_titles()[::211][:60]])
    assert len(rows[0]) == MAX_TOKENS > 3 * max(map(len, rows[1:]))
    alone = np.concatenate([encoder.encode_batch([row]) for row in rows])
    assert cosines(alone, encoder.encode_batch(rows)).min() >= 0.99999


@pytest.mark.parametrize("tokens", [MAX_TOKENS - 1, MAX_TOKENS, MAX_TOKENS + 1])
def test_positions_are_right_at_the_limit_and_one_past_it(
    tokens: int, exact: Encoder, peer: SentenceTransformer, text_of: Callable[[int], str]
) -> None:
    text = text_of(tokens)
    assert len(exact.tokenizer.with_limit(1000).encode([text])[0]) == tokens
    np.testing.assert_allclose(exact.encode(text), peer.encode(text), atol=1e-5)
    kept = exact.encode(text_of(min(tokens, MAX_TOKENS)))
    np.testing.assert_allclose(exact.encode(text), kept, atol=1e-6)  # one past the limit, the last word is gone


def test_truncation_left_keeps_the_end_and_error_refuses(bundle: Path, peer: SentenceTransformer, text_of: Any) -> None:
    texts = ["Koch", f"Bäcker {text_of(MAX_TOKENS)}"]
    peer.tokenizer.truncation_side = "left"
    try:
        expected = peer.encode(texts)
    finally:
        peer.tokenizer.truncation_side = "right"
    left = Encoder(bundle, variant="fp32", provider="cpu", truncation="left")
    np.testing.assert_allclose(left.encode(texts), expected, atol=1e-5)
    assert np.abs(expected[1] - peer.encode(texts)[1]).max() > 1e-3
    strict = Encoder(bundle, variant="fp32", provider="cpu", truncation="error")
    with pytest.raises(TooLongError, match=r"text 1 has \d+ tokens, the limit is 96"):
        strict.encode(texts)
    assert strict.encode([text_of(MAX_TOKENS)]).shape == (1, 128)
    assert len({e.fingerprint for e in (left, strict)}) == 2


# Habits of sentence-transformers


def test_a_single_string_gives_a_vector_and_a_list_a_matrix(encoder: Encoder) -> None:
    vector = encoder.encode("Koch")
    assert vector.shape == (128,)
    np.testing.assert_array_equal(encoder.encode(["Koch"]), vector[None])
    np.testing.assert_array_equal(encoder.encode(("Koch",)), vector[None])
    np.testing.assert_array_equal(encoder.encode(np.array(["Koch"])), vector[None])


def test_nothing_gives_an_empty_matrix(exact: Encoder) -> None:
    for empty in (exact.encode([]), exact.encode([], truncate_dim=7), exact.encode_tokens([])):
        assert empty.dtype == np.float32
    assert exact.encode([]).shape == (0, 128)
    assert exact.encode([], truncate_dim=7).shape == (0, 7)
    assert exact.similarity(exact.encode([]), exact.encode(["Koch"])).shape == (0, 1)


def test_similarity_is_the_cosine_of_every_pair(exact: Encoder, peer: SentenceTransformer) -> None:
    a, b = exact.encode(["Volksvertreter", "Parlamentarier"]), exact.encode(["Oberbürgermeister", "Koch", "Volksvertreter"])
    expected = np.asarray(peer.similarity(a, b))
    np.testing.assert_allclose(exact.similarity(a, b), expected, atol=1e-6)
    np.testing.assert_allclose(exact.similarity(3 * a, 0.1 * b), expected, atol=1e-6)
    np.testing.assert_allclose(exact.similarity(a[0], b), expected[:1], atol=1e-6)
    assert exact.similarity(a, b)[0, 2] == pytest.approx(1)


def test_prompts_by_name_and_by_text(exact: Encoder, peer: SentenceTransformer) -> None:
    texts = ["Koch", "Oberbürgermeister"]
    plain = exact.encode(texts)
    by_name = exact.encode(texts, "query")
    np.testing.assert_allclose(by_name, peer.encode(texts, prompt_name="query"), atol=1e-5)
    np.testing.assert_array_equal(exact.encode(texts, prompt="query: "), by_name)
    np.testing.assert_array_equal(exact.encode([f"query: {text}" for text in texts]), by_name)
    np.testing.assert_array_equal(exact.encode(texts, prompt_name="document"), plain)
    np.testing.assert_array_equal(exact.encode("Koch", prompt_name="query"), exact.encode(["Koch"], prompt_name="query")[0])
    assert np.abs(by_name - plain).max() > 1e-3
    with pytest.raises(ValueError, match=r"prompt_name='passage' is unknown; this model has \['document', 'query'\]"):
        exact.encode(texts, prompt_name="passage")


def test_truncate_dim_cuts_and_renormalises(bundle: Path, exact: Encoder, peer: SentenceTransformer) -> None:
    texts = ["Koch", "Oberbürgermeister", ""]
    expected = peer.encode(texts, truncate_dim=32, normalize_embeddings=True)
    assert np.linalg.norm(peer.encode(texts)[:, :32], axis=1).max() < 0.9
    np.testing.assert_allclose(exact.encode(texts, truncate_dim=32), expected, atol=1e-5)
    short = Encoder(bundle, variant="fp32", provider="cpu", truncate_dim=32)
    np.testing.assert_array_equal(short.encode(texts), exact.encode(texts, truncate_dim=32))
    assert short.encode(texts, truncate_dim=16).shape == (3, 16)
    assert (short.dimension, exact.dimension) == (32, 128)
    assert short.fingerprint != exact.fingerprint


@pytest.mark.parametrize("wrong", [0, -1, 129])
def test_impossible_dimensions_are_refused(wrong: int, bundle: Path, exact: Encoder) -> None:
    with pytest.raises(ValueError, match=rf"truncate_dim={wrong} has to be between 1 and 128"):
        exact.encode("Koch", truncate_dim=wrong)
    with pytest.raises(ValueError, match=rf"truncate_dim={wrong} has to be between 1 and 128"):
        Encoder(bundle, truncate_dim=wrong)


@pytest.mark.parametrize("wrong", [129, 2.5])
def test_an_impossible_dimension_runs_nothing(wrong: Any, exact: Encoder, batches: list[tuple[int, int]]) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"truncate_dim={wrong} "):
        exact.encode("Koch", truncate_dim=wrong)
    assert batches == []


def test_tensors_and_precisions_are_those_of_the_peer(exact: Encoder, peer: SentenceTransformer) -> None:
    texts = ["Koch", "Oberbürgermeister", "", "Koch"]
    for call in (texts, "Koch"):
        tensor: Any = exact.encode(call, convert_to_tensor=True)
        expected = peer.encode(call, convert_to_tensor=True)
        assert (type(tensor), tensor.dtype, tensor.shape) == (type(expected), expected.dtype, expected.shape)
        np.testing.assert_allclose(tensor, expected, atol=1e-5)
        for precision in ("binary", "ubinary"):
            bits, theirs = (np.atleast_2d(model.encode(call, precision=precision)) for model in (exact, peer))
            assert bits.dtype == theirs.dtype
            assert (bits != theirs).mean() < 0.05  # of bytes: a component near zero may fall on either side
    listed: Any = exact.encode(texts, convert_to_numpy=False)
    assert [vector.shape for vector in listed] == [(128,)] * 4


@pytest.fixture(scope="module")
def unlike(tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, SentenceTransformer]:
    """A model in the way of multilingual-e5 before its last module: mean pooling, a default prompt, no normalisation."""
    from jobonnx_export.pipeline import export

    folder = tmp_path_factory.mktemp("unlike")
    checkpoint = make_checkpoint(folder / "e5", pooling="mean", normalize=False, num_hidden_layers=1)
    settings = {"prompts": {"query": "query: ", "passage": "passage: "}, "default_prompt_name": "query"}
    (checkpoint / "config_sentence_transformers.json").write_text(json.dumps(settings))
    with pytest.MonkeyPatch.context() as patch:
        measure_few_texts(patch)
        export(str(checkpoint), folder / "bundle", ("fp32",))
    return Encoder(folder / "bundle", provider="cpu"), SentenceTransformer(str(checkpoint), device="cpu")


@pytest.mark.parametrize("method", ["encode_query", "encode_document"])
def test_queries_and_documents_get_their_prompts(method: str, exact: Encoder, peer: SentenceTransformer) -> None:
    texts = ["Koch", "Oberbürgermeister"]
    ours, theirs = getattr(exact, method), getattr(peer, method)
    asks: list[dict[str, Any]] = [{}, {"prompt_name": "query"}, {"prompt_name": "document"}, {"prompt": "job: "}, {"prompt": ""}]
    for asked in asks:
        np.testing.assert_allclose(ours(texts, **asked), theirs(texts, **asked), atol=1e-5)
    np.testing.assert_array_equal(ours(texts, "query"), exact.encode(texts, "query"))
    np.testing.assert_array_equal(ours(texts, "query", "job: "), exact.encode(texts, prompt="job: "))
    np.testing.assert_array_equal(ours("Koch", truncate_dim=16), ours(["Koch"], truncate_dim=16, batch_size=1)[0])
    with pytest.raises(ValueError, match="prompt_name='passage' is unknown"):
        ours(texts, prompt_name="passage")
    with pytest.raises(TypeError, match="no_such_option"):
        ours(texts, no_such_option=1)


def test_queries_and_documents_of_a_model_that_has_other_prompts(
    unlike: tuple[Encoder, SentenceTransformer], caplog: pytest.LogCaptureFixture
) -> None:
    """sentence-transformers gives every model an empty prompt "document", so it never comes to "passage", nor to the default."""
    encoder, peer = unlike
    texts = ["Koch", "Oberbürgermeister"]
    np.testing.assert_allclose(encoder.encode_query(texts), peer.encode_query(texts), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_document(texts), peer.encode_document(texts), atol=1e-5)
    np.testing.assert_array_equal(encoder.encode_document(texts), encoder.encode(texts, prompt=""))
    assert np.abs(encoder.encode_document(texts) - encoder.encode_document(texts, "passage")).max() > 1e-3
    (said,) = caplog.messages
    assert "has a prompt 'passage' but none named 'document'" in said


def test_queries_and_documents_of_a_model_whose_prompts_are_empty() -> None:
    with Encoder() as small:
        assert not any(small.bundle.model.prompts.values())
        for vectors in (small.encode_query(["Koch"]), small.encode_document(["Koch"])):
            np.testing.assert_array_equal(vectors, small.encode(["Koch"]))


def test_mean_pooling_without_normalisation_and_with_a_default_prompt(unlike: tuple[Encoder, SentenceTransformer]) -> None:
    encoder, peer = unlike
    assert encoder.variant == "fp32"  # no int8 to prefer
    texts = [*read_titles()[::400], *HOSTILE]
    reference = peer.encode(texts)
    assert np.linalg.norm(reference, axis=1).min() > 1.5
    for ours, theirs in (
        (encoder.encode(texts), reference),
        (encoder.encode(texts, prompt_name="passage"), peer.encode(texts, prompt_name="passage")),
        (encoder.encode(texts, normalize_embeddings=True), peer.encode(texts, normalize_embeddings=True)),
        (encoder.encode(texts, truncate_dim=16), peer.encode(texts, truncate_dim=16)),
        (
            encoder.encode(texts, truncate_dim=16, normalize_embeddings=True),
            peer.encode(texts, truncate_dim=16, normalize_embeddings=True),
        ),
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.abs(reference - encoder.encode(texts, prompt="")).max() > 1e-3
    np.testing.assert_allclose(
        encoder.similarity(reference, reference), np.asarray(peer.similarity(reference, reference)), atol=1e-6
    )


@pytest.mark.parametrize("show", [True, None, False])
def test_no_progress_bar_in_a_pipe(show: bool | None, exact: Encoder, capfd: pytest.CaptureFixture[str]) -> None:
    exact.encode([str(i) for i in range(1500)], show_progress_bar=show)
    assert tuple(capfd.readouterr()) == ("", "")


@pytest.mark.parametrize(("show", "texts", "shown"), [(True, 2, True), (None, 2, False), (None, 1500, True), (False, 1500, False)])
def test_a_progress_bar_on_a_terminal_where_asked_for_or_worth_it(
    show: bool | None, texts: int, shown: bool, exact: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    exact.encode([str(i) for i in range(texts)], show_progress_bar=show)
    assert (f"{texts}/{texts}" in terminal.getvalue()) == shown
    assert bool(terminal.getvalue()) == shown


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["Koch", None], "text 1 is NoneType"),
        ([b"Koch"], "text 0 is bytes"),
        (["Koch", "", 7.0], "text 2 is float"),
        ([["Koch", "Bäcker"]], "text 0 is list"),
        (7, "not iterable"),
    ],
)
def test_what_is_not_a_string_is_a_type_error(wrong: Any, message: str, exact: Encoder) -> None:
    for prompt in (None, "query: "):
        with pytest.raises(TypeError, match=message):
            exact.encode(wrong, prompt=prompt)


# Work


@pytest.fixture
def batches(exact: Encoder, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Shapes of what `exact` has its session run."""
    shapes: list[tuple[int, int]] = []
    run = exact.engine.session.run

    def counted(ids: Any, mask: Any) -> Any:
        shapes.append(ids.shape)
        return run(ids, mask)

    monkeypatch.setattr(exact.engine.session, "run", counted)
    return shapes


def test_repeats_are_computed_once(exact: Encoder, batches: list[tuple[int, int]]) -> None:
    vectors = exact.encode(["Koch", "Bäcker", "Koch", "Koch", "Bäcker"] * 20)
    assert sum(rows for rows, _ in batches) == 2
    assert np.unique(vectors, axis=0).shape == (2, 128)
    np.testing.assert_array_equal(vectors[::5], np.repeat(vectors[:1], 20, axis=0))


def test_batches_keep_to_batch_size_and_token_budget(exact: Encoder, batches: list[tuple[int, int]]) -> None:
    titles = read_titles()[:200]
    exact.encode(titles, batch_size=7)
    assert {rows for rows, _ in batches[:-1]} == {7}
    batches.clear()
    exact.encode(titles, token_budget=100)
    assert all(rows * length <= 100 or rows == 1 for rows, length in batches)
    assert sum(rows for rows, _ in batches) == 200
    assert [length for _, length in batches] == sorted((length for _, length in batches), reverse=True)
    with pytest.raises(ValueError, match="batch_size=0 has to be at least 1"):
        exact.encode(titles, batch_size=0)


def test_nothing_to_encode_runs_nothing(exact: Encoder, batches: list[tuple[int, int]]) -> None:
    exact.encode([])
    assert batches == []


def test_token_ids_to_vectors_for_callers_with_their_own_schedule(exact: Encoder, batches: list[tuple[int, int]]) -> None:
    texts = ["Koch", "Oberbürgermeister der Stadt", ""]
    rows = exact.tokenize(texts)
    assert [(row[0], row[-1]) for row in rows] == [(0, 2)] * 3
    assert len({len(row) for row in rows}) == 3
    expected = exact.encode(texts)
    np.testing.assert_allclose(exact.encode_tokens(rows), expected, atol=1e-6)
    batches.clear()
    np.testing.assert_allclose(exact.encode_batch(rows), expected, atol=1e-6)
    assert batches == [(3, max(map(len, rows)))]
    short = exact.encode_tokens(rows[::-1], batch_size=1)
    np.testing.assert_allclose(short[::-1], expected, atol=1e-6)
    assert short.shape == (3, exact.bundle.model.dimension)


def test_no_rows_give_an_empty_matrix(exact: Encoder, batches: list[tuple[int, int]]) -> None:
    empty = exact.encode_batch([])
    assert empty.shape == (0, 128)
    assert empty.dtype == np.float32
    assert batches == []


@pytest.mark.parametrize("wrong", [-1, 10**6, 2**63, -(2**63) - 1])
def test_token_ids_that_the_model_does_not_have_are_named(wrong: int, encoder: Encoder) -> None:
    rows = [[0, 9, 2], [0, 9, wrong, 2]]
    for call in (encoder.encode_batch, encoder.encode_tokens):
        with pytest.raises(ValueError, match=rf"row \d holds token id {wrong}, which the model does not have"):
            call(rows)
    with pytest.raises(ValueError, match="row 1 holds"):
        encoder.encode_batch(rows)


@pytest.mark.parametrize("wrong", [0.5, True, None, "9", 2.0])
def test_what_is_no_token_id_is_a_type_error(wrong: Any, exact: Encoder) -> None:
    for call in (exact.encode_batch, exact.encode_tokens):
        with pytest.raises(TypeError, match=r"row 1 holds .*, which is no token id"):
            call([[0, 9, 2], [0, wrong, 2]])
    np.testing.assert_array_equal(exact.encode_tokens([np.array([0, 9, 2]).tolist()]), exact.encode_tokens([[0, 9, 2]]))


@pytest.mark.parametrize("name", ["batch_size", "token_budget"])
@pytest.mark.parametrize("wrong", [1.5, float("nan"), True, "7", 0, -3])
def test_limits_that_are_no_whole_numbers_are_refused(name: str, wrong: Any, exact: Encoder) -> None:
    with pytest.raises((TypeError, ValueError), match=f"{name}="):
        exact.encode(["Koch"], **{name: wrong})


@pytest.mark.parametrize("wrong", [20_000, 999_999_999])
def test_more_threads_than_any_machine_has_are_refused(wrong: int, bundle: Path) -> None:
    with pytest.raises(ValueError, match=f"threads={wrong} has to be between 1 and 1,024"):
        Encoder(bundle, threads=wrong)


def test_a_closed_encoder_says_so(bundle: Path) -> None:
    with Encoder(bundle, provider="cpu") as encoder:
        assert encoder.encode("Koch").shape == (128,)
    with pytest.raises(JobonnxError, match="this engine is closed; make a new one"):
        encoder.encode("Koch")
    encoder.close()  # twice is once


def test_eight_threads_at_once_get_the_vectors_of_one(encoder: Encoder) -> None:
    parts = [read_titles()[i : i + 20] for i in range(0, 160, 20)]
    alone = [encoder.encode(part) for part in parts]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            together = list(pool.map(encoder.encode, parts))
            for a, b in zip(alone, together, strict=True):
                np.testing.assert_array_equal(a, b)


# What loads and what does not


def test_the_default_variant_is_the_bundles_and_the_same_everywhere(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    auto = Encoder(bundle)
    assert (auto.variant, auto.max_seq_length, auto.dimension) == ("int8", MAX_TOKENS, 128)
    assert auto.provider == "cpu"
    assert sum(auto.engine.session.nodes.values()) > 0
    assert auto.fingerprint == Encoder(bundle, provider="cpu", threads=1, variant="int8").fingerprint


def test_threads_are_passed_on(bundle: Path) -> None:
    assert Encoder(bundle, threads=1).engine.session.threads == 1


def test_spinning_is_as_asked_and_changes_no_vector(bundle: Path) -> None:
    asleep, default = Encoder(bundle, threads=2, spin=False), Encoder(bundle, threads=2)
    assert (asleep.settings.spin, default.settings.spin, Encoder(bundle, spin=True).settings.spin) == (False, Settings.spin, True)
    assert np.array_equal(asleep.encode(HOSTILE), default.encode(HOSTILE))


@pytest.mark.parametrize("wrong", [-1, 0, 2.5, "2", True])
def test_threads_that_are_no_number_of_threads_are_refused(wrong: Any, bundle: Path) -> None:
    with pytest.raises((ValueError, TypeError), match=f"threads={wrong!r} "):
        Encoder(bundle, threads=wrong)


@pytest.mark.parametrize("provider", ["cpu", "auto"])
def test_fp16_on_a_cpu_is_refused_unless_forced(provider: str, bundle: Path) -> None:
    with pytest.raises(ProviderUnavailableError, match=r"'fp16' is slower than fp32 on a CPU; use int8 or fp32, or force=True"):
        Encoder(bundle, variant="fp16", provider=provider)
    forced = Encoder(bundle, variant="fp16", provider=provider, force=True)
    assert (forced.variant, forced.provider) == ("fp16", "cpu")


def test_force_gives_no_other_variant_another_graph(bundle: Path) -> None:
    with pytest.raises(ProviderUnavailableError, match="provider 'cuda'"):
        Encoder(bundle, variant="int8", provider="cuda", force=True)


def test_a_variant_that_was_not_exported_is_named(bundle: Path) -> None:
    with pytest.raises(
        JobonnxError, match=r"has no variant 'int4' \(it has fp32, bf16, fp16, int8, int8-static\); export it: .*--variant int4"
    ):
        Encoder(bundle, variant="int4")


@pytest.mark.parametrize(
    ("provider", "message"),
    [
        ("gpu", "provider 'gpu' is unknown; it is auto or one of cpu, openvino, cuda"),
        ("openvino", r"has no int8 graph for provider 'openvino' \(it has one for cpu\)"),
    ],
)
def test_a_provider_that_cannot_run_it_is_an_error(
    provider: str, message: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Provider, "is_here", lambda self: True)
    monkeypatch.setattr(OpenVino, "is_here", lambda self: True)
    with pytest.raises(JobonnxError, match=message):
        Encoder(bundle, provider=provider)


def test_a_provider_that_is_not_here_says_what_to_install_first(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Provider, "is_here", lambda self: self.name == "cpu")
    with pytest.raises(ProviderUnavailableError, match=r"provider 'cuda' is not in onnxruntime .*; install it: .*jobonnx\[gpu\]"):
        Encoder(bundle, provider="cuda", variant="int8")


def test_a_provider_of_another_precision_never_stands_in(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the CPU has bf16 OpenVINO would run the fp32 graph in that, so auto takes the CPU provider."""
    monkeypatch.setattr(Provider, "is_here", lambda self: self.name in ("openvino", "cpu"))
    monkeypatch.setattr(OpenVino, "is_here", lambda self: True)
    assert Encoder(bundle, variant="fp32").provider == "cpu"


def test_verify_is_passed_on(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobonnx.bundle.integrity._ALWAYS_HASHED", 0)
    copy = shutil.copytree(bundle, tmp_path / "copy")
    Encoder(copy)
    path = copy / "config.json"
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b"gelu", b"relu"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    Encoder(copy)
    with pytest.raises(JobonnxError, match=r"config\.json is not the file that was exported"):
        Encoder(copy, verify=True)


def test_degraded_graphs_say_so(bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    content = json.loads((copy / MANIFEST).read_text(encoding="utf-8"))
    for graph in content["graphs"]:
        graph["degraded"] = graph["variant"] == "int8"
    (copy / MANIFEST).write_text(json.dumps(with_checksum(content)), encoding="utf-8")
    assert Encoder(copy, variant="int8").graph.degraded
    assert not Encoder(copy, variant="fp32").graph.degraded
