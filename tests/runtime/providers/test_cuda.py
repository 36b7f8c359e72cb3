"""GPU providers end to end, with the CPU provider in their place: the same vectors, few shapes, any number of threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from helpers import gpu
from helpers.checkpoints import MAX_TOKENS, make_checkpoint
from jobonnx import Bundle, Encoder
from jobonnx.data.titles import read_titles
from jobonnx.parity.measure import measure, tolerance_violations
from jobonnx.parity.verify import verify
from jobonnx.runtime.providers import find_provider
from jobonnx.runtime.providers.io_binding import BoundSession
from jobonnx.runtime.providers.shape_buckets import LAUNCH_TOKENS, aligned_bucket, bucket
from jobonnx.runtime.session import Session, Settings

TITLES = [*read_titles()[::60], "", "a" * 2000]


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.pretend(monkeypatch)


@pytest.fixture(params=["cuda", "tensorrt"])
def encoder(request: pytest.FixtureRequest, bundle: Path) -> Encoder:
    return Encoder(bundle, variant="fp16", provider=request.param)


def opened(bundle: Path, **how: Any) -> Session:
    graph, model = bundle / "engine" / "fp16-cuda.onnx", Bundle.open(bundle).model
    return find_provider("cuda").open_session(graph, model, Settings("cuda", 1, **how))


def bound(session: Any) -> BoundSession:
    assert isinstance(session, BoundSession)
    return session


def test_the_whole_way_gives_the_cpus_vectors_in_few_shapes(encoder: Encoder, bundle: Path) -> None:
    expected = Encoder(bundle, variant="fp32", provider="cpu").encode(TITLES)
    vectors = encoder.encode(TITLES, token_budget=700)
    assert vectors.dtype == np.float32
    assert not tolerance_violations("fp16", measure(expected, vectors))
    shapes = {(rows, length) for _, rows, length in bound(encoder.engine.session)._buffers}
    shape_of = aligned_bucket if encoder.provider == "cuda" else bucket
    assert all(shape_of(*shape) == shape for shape in shapes)
    assert all(rows * length <= 700 for rows, length in shapes)
    assert len(shapes) < 20
    np.testing.assert_allclose(encoder.encode(TITLES[3]), vectors[3], atol=2e-3)
    assert encoder.settings.token_budget == 16384


def test_batches_alone_and_as_given(encoder: Encoder) -> None:
    rows = encoder.tokenize(TITLES[:9])
    together = encoder.encode_batch(rows)
    assert together.shape == (9, 128)
    alone = np.concatenate([encoder.encode_batch([row]) for row in rows])
    assert (alone * together).sum(axis=1).min() > 0.9999
    assert encoder.encode_batch([]).shape == (0, 128)


@pytest.mark.medium
def test_mean_pooling_without_normalisation(tmp_path: Path, few_texts: None) -> None:
    from jobonnx_export.pipeline import export

    checkpoint = make_checkpoint(tmp_path / "mean", pooling="mean", normalize=False, num_hidden_layers=1)
    export(str(checkpoint), tmp_path / "bundle", ("fp32", "fp16"))
    expected = Encoder(tmp_path / "bundle", variant="fp32", provider="cpu").encode(TITLES)
    for provider in ("cuda", "tensorrt"):
        vectors = Encoder(tmp_path / "bundle", variant="fp16", provider=provider).encode(TITLES)
        assert not tolerance_violations("fp16", measure(expected, vectors))


def test_verify_takes_the_same_way(bundle: Path) -> None:
    found = {(v.variant, v.target): (v.provider, v.missed) for v in verify(Bundle.open(bundle))}
    assert found["fp16", "cuda"] == ("cuda", ())
    assert found["fp16", "tensorrt"] == ("tensorrt", ())


def test_a_batch_with_more_rows_than_an_engine_takes_runs_in_parts(bundle: Path) -> None:
    session = opened(bundle)
    ids = np.array([[0, 5 + i % 50, 2] for i in range(21)], np.int64)
    device = BoundSession(session._session, Settings("cuda", 1), device="cpu", pad_id=1, max_rows=8)
    np.testing.assert_allclose(device.run(ids, np.ones_like(ids)), session.run(ids, np.ones_like(ids)), atol=1e-3)
    assert {(rows, length) for _, rows, length in device._buffers} == {(8, 4)}


def test_eight_threads_get_the_vectors_of_one_and_two_threads_run_them_all(encoder: Encoder) -> None:
    parts = [TITLES[i : i + 20] for i in range(0, 160, 20)]
    alone = [encoder.encode(part) for part in parts]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            for one, other in zip(alone, pool.map(encoder.encode, parts), strict=True):
                np.testing.assert_array_equal(one, other)
    assert len([t for t in bound(encoder.engine.session)._threads._threads if t.is_alive()]) == 2


def test_results_are_the_callers_to_keep(bundle: Path) -> None:
    session = opened(bundle)
    ids = np.array([[0, 7, 2]], np.int64)
    first = session.run(ids, np.ones_like(ids))
    before = first.copy()
    session.run(ids + 3, np.ones_like(ids))
    np.testing.assert_array_equal(first, before)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_an_error_on_the_device_reaches_the_caller_and_the_next_call_works(provider: str, bundle: Path) -> None:
    encoder = Encoder(bundle, variant="fp16", provider=provider)
    expected = encoder.encode("Koch")
    for wrong in (-1, encoder.bundle.model.vocabulary):
        with pytest.raises(ValueError, match=rf"row 0 holds token id {wrong}, which the model does not have"):
            encoder.encode_batch([[0, wrong, 2]])
    with pytest.raises(Exception, match="out of data bounds"):
        encoder.engine.session.run(np.full((1, 3), 10**6), np.ones((1, 3), np.int64))
    np.testing.assert_array_equal(encoder.encode("Koch"), expected)
    assert encoder.encode("x " * MAX_TOKENS).shape == (128,)


# CUDA graphs


@pytest.fixture
def graph_ids(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, ...], str, int]]:
    """Shape, CUDA graph number and address of the ids in each run that may be captured."""
    seen: list[tuple[tuple[int, ...], str, int]] = []
    run = onnxruntime.InferenceSession.run_with_iobinding

    def spied(self: Any, binding: Any, options: Any = None) -> None:
        ids = binding._bound_inputs["input_ids"]
        seen.append((tuple(ids.shape()), options.get_run_config_entry("gpu_graph_id") if options else "", ids.data_ptr()))
        run(self, binding, options)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", spied)
    return seen


def test_each_small_shape_has_a_cuda_graph_of_its_own_and_large_ones_have_none(bundle: Path, graph_ids: list[Any]) -> None:
    session = opened(bundle, capture=True)
    for rows, length in ((1, 3), (3, 3), (1, 4), (600, 4), (1, 3), (600, 3)):
        ids = np.full((rows, length), 7, np.int64)
        assert session.run(ids, np.ones_like(ids)).shape == (rows, 128)
    assert [(shape, number) for shape, number, _ in graph_ids] == [
        ((1, 8), "1"),
        ((4, 4), "2"),
        ((1, 8), "1"),
        ((1024, 4), ""),
        ((1, 8), "1"),
        ((1024, 4), ""),
    ]
    assert 512 * 4 <= LAUNCH_TOKENS < 1024 * 4
    captured = {(shape, address) for shape, number, address in graph_ids if number}
    assert len(captured) == 2, "a captured graph's buffers must not move"
    session.close()


def test_without_being_asked_for_nothing_is_captured(bundle: Path, graph_ids: list[Any]) -> None:
    opened(bundle).run(np.full((1, 3), 7, np.int64), np.ones((1, 3), np.int64))
    assert [number for _, number, _ in graph_ids] == [""]


def test_threads_of_dropped_encoders_end(bundle: Path) -> None:
    encoder = Encoder(bundle, variant="fp16", provider="cuda")
    encoder.encode("Koch")
    threads = list(bound(encoder.engine.session)._threads._threads)
    assert threads
    assert all(isinstance(thread, threading.Thread) for thread in threads)
    del encoder
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
