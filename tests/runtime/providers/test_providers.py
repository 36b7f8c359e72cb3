"""Providers: what is asked for is what runs, or an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from helpers import gpu
from jobonnx import Bundle, JobonnxError
from jobonnx.errors import ProviderUnavailableError
from jobonnx.runtime.providers import PROVIDERS, available, find_provider, openvino, providers_for
from jobonnx.runtime.providers.coreml import CoreMl
from jobonnx.runtime.providers.openvino import OpenVino
from jobonnx.runtime.providers.standard_operators import StandardProvider
from jobonnx.runtime.providers.tensorrt import engine_options
from jobonnx.runtime.session import Session, Settings


@pytest.fixture
def graph(bundle: Path) -> Path:
    return bundle / "engine" / "int8-cpu.onnx"


def opened(graph: Path, provider: str, model: Any = None, threads: int = 1, **how: Any) -> Session:
    return find_provider(provider).open_session(graph, model, Settings(provider, threads, **how))


def test_runs_arrays_to_arrays_and_shows_what_took_the_nodes(graph: Path) -> None:
    session = opened(graph, "cpu", threads=2)
    ids = np.array([[0, 9, 2], [0, 2, 1]], dtype=np.int64)
    vectors = session.run(ids, (ids != 1).astype(np.int64))
    assert vectors.shape == (2, 128)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    assert session.provider == "cpu"
    assert list(session.nodes) == ["CPUExecutionProvider"]
    assert session.nodes["CPUExecutionProvider"] > 50


def test_threads_and_spinning_are_as_asked(graph: Path) -> None:
    session = opened(graph, "cpu", threads=3, spin=False)
    options = session._session.get_session_options()
    assert session.threads == options.intra_op_num_threads == 3
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert opened(graph, "cpu")._session.get_session_options().get_session_config_entry("session.intra_op.allow_spinning") == "1"


def test_an_unknown_provider_is_named_with_those_there_are() -> None:
    with pytest.raises(JobonnxError, match=r"provider 'cdua' is unknown; it is auto or one of cpu, openvino, cuda"):
        find_provider("cdua")


@pytest.mark.parametrize(
    ("provider", "install"),
    [
        ("openvino", r"jobonnx\[openvino\]"),
        ("cuda", r"jobonnx\[gpu\]"),
        ("tensorrt", "tensorrt"),
        ("coreml", "macOS"),
        ("directml", "onnxruntime-directml"),
        ("migraphx", "onnxruntime-migraphx"),
    ],
)
def test_a_provider_that_is_not_installed_says_what_to_install(
    provider: str, install: str, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(openvino, "plugin_devices", lambda ort: [])
    assert available() == ["cpu"]
    assert not find_provider(provider).is_here()
    said = rf"provider '{provider}' is not in onnxruntime .*\(it has CPUExecutionProvider\); install it: .*{install}"
    with pytest.raises(ProviderUnavailableError, match=said):
        opened(graph, provider)


def test_every_provider_offered_has_graphs_written_for_it(bundle: Path) -> None:
    written = {graph.target for graph in Bundle.open(bundle).graphs}
    assert {provider.target for provider in PROVIDERS.values()} <= written
    assert [provider.name for provider in providers_for("standard")] == ["openvino", "coreml", "directml", "migraphx"]
    assert [name for name, provider in PROVIDERS.items() if not provider.untested] == ["cpu", "openvino", "cuda"]


# Standard operators: what a provider computes in another precision is refused


class Tried(OpenVino):
    """OpenVINO as it would be found on some machine."""

    def __init__(self, rounds: bool, overflows: bool) -> None:
        self.rounds, self.overflows = rounds, overflows  # in place of the products

    def is_here(self) -> bool:
        return True


@pytest.mark.parametrize("rounds", [True, False])
@pytest.mark.parametrize("overflows", [True, False])
def test_openvino_is_refused_what_it_computes_in_another_type(rounds: bool, overflows: bool) -> None:
    provider = Tried(rounds, overflows)
    reasons = {variant: provider.unavailable_reason(variant) for variant in ("bf16", "fp32", "int8-static")}
    assert reasons["bf16"] is None if rounds else "needs a CPU with bf16" in str(reasons["bf16"])
    assert reasons["fp32"] is None if not rounds else "in a shorter type here; use provider cpu" in str(reasons["fp32"])
    assert reasons["int8-static"] is None if not overflows else "overflow on this machine" in str(reasons["int8-static"])


@pytest.mark.parametrize(("variant", "asked"), [("fp32", "f32"), ("int8-static", "f32"), ("bf16", "bf16")])
def test_openvino_is_asked_for_the_precision_of_the_variant(variant: str, asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One graph is fp32's and bf16's: 1.24.1 computes it in fp32 even on a CPU with bf16, unless it is asked."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["OpenVINOExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(openvino, "plugin_devices", lambda ort: [])
    provider = find_provider("openvino").for_variant(variant)
    (name, options), _ = provider.configure(onnxruntime.SessionOptions(), Path("x.onnx"), None, Settings("openvino", 2)) or []
    assert (name, options["num_of_threads"]) == ("OpenVINOExecutionProvider", "2")
    assert json.loads(options["load_config"]) == {"CPU": {"INFERENCE_PRECISION_HINT": asked}}


def test_each_precision_is_tried_as_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["OpenVINOExecutionProvider", "CPUExecutionProvider"])
    plain, asked = Tried(rounds=False, overflows=False), openvino._IN_BF16
    monkeypatch.setitem(vars(asked), "rounds", True)
    assert plain.unavailable_reason("fp32") is None
    assert plain.unavailable_reason("bf16") is None
    monkeypatch.setitem(vars(asked), "rounds", False)
    assert "needs a CPU with bf16" in str(plain.unavailable_reason("bf16"))


class OnTheCpu(CoreMl):
    """A provider of standard graphs with the CPU's kernels in place of its own."""

    ort_name = "CPUExecutionProvider"

    def configure(self, options: Any, graph: Path, model: Any, settings: Settings) -> list[Any]:
        return PROVIDERS["cpu"].configure(options, graph, model, settings) or []


def test_a_provider_without_graphs_of_its_own_runs_the_standard_ones(bundle: Path) -> None:
    """CoreML, DirectML and MIGraphX take this way; nobody has run it on theirs."""
    provider = OnTheCpu()
    assert isinstance(provider, StandardProvider)
    assert provider.unavailable_reason("fp32") is None
    assert provider.unavailable_reason("int8-static") is None
    assert "variant 'bf16' is measured for OpenVINO" in str(provider.unavailable_reason("bf16"))
    session = provider.open_session(bundle / "engine" / "fp32-standard.onnx", Bundle.open(bundle).model, Settings("coreml", 1))
    ids = np.array([[0, 9, 2]], dtype=np.int64)
    expected = opened(bundle / "engine" / "fp32-cpu.onnx", "cpu").run(ids, np.ones_like(ids))
    np.testing.assert_allclose(session.run(ids, np.ones_like(ids)), expected, atol=1e-5)


# GPUs


CUDA = {"use_tf32": "0", "enable_skip_layer_norm_strict_mode": "1", "sdpa_kernel": "2"}


class FallenBack:
    """What InferenceSession does where libcudnn is missing: a warning, and the CPU."""

    asked: list[tuple[list[Any], dict[str, Any]]]

    def __init__(self, path: str, options: Any, providers: list[Any], **rest: Any) -> None:
        self.asked.append((providers, rest))

    def disable_fallback(self) -> None:
        pass

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


@pytest.fixture
def fallen_back(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Any], dict[str, Any]]]:
    """An onnxruntime that says it has the GPU providers and uses none; gives providers and other arguments of its sessions."""
    names = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(onnxruntime, "InferenceSession", FallenBack)
    FallenBack.asked = []
    return FallenBack.asked


@pytest.mark.parametrize(("capture", "more"), [(False, {}), (True, {"enable_cuda_graph": "1"})])
def test_a_provider_that_onnxruntime_replaces_in_silence_is_an_error(
    capture: bool, more: dict[str, str], graph: Path, bundle: Path, fallen_back: list[Any]
) -> None:
    said = r"'cuda' was asked for, onnxruntime gave CPUExecutionProvider; .*jobonnx\[gpu\]"
    with pytest.raises(ProviderUnavailableError, match=said):
        opened(graph, "cuda", Bundle.open(bundle).model, capture=capture)
    ((providers, rest),) = fallen_back
    assert providers == [("CUDAExecutionProvider", CUDA | more), "CPUExecutionProvider"]
    assert rest == {"disabled_optimizers": [], "enable_fallback": 0}


def test_tensorrt_gets_its_options_and_is_never_replaced_either(graph: Path, bundle: Path, fallen_back: list[Any]) -> None:
    model = Bundle.open(bundle).model
    with pytest.raises(ProviderUnavailableError, match=r"'tensorrt' was asked for, .*gave CPU.*pip install .*tensorrt-cu13<11"):
        opened(graph, "tensorrt", model)
    ((providers, _),) = fallen_back
    assert providers == [
        ("TensorrtExecutionProvider", engine_options(graph, model, onnxruntime.__version__)),
        "CPUExecutionProvider",
    ]


def test_a_library_that_is_missing_says_where_it_comes_from(graph: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("Please install TensorRT libraries\nas mentioned")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["TensorrtExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", fails)
    said = r"does not load on provider 'tensorrt': Please install TensorRT .*comes with: pip"
    with pytest.raises(ProviderUnavailableError, match=said):
        opened(graph, "tensorrt", Bundle.open(bundle).model)


def test_heavy_nodes_that_a_gpu_leaves_to_the_cpu_are_an_error(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime lists the provider that was asked for first, whatever it took."""
    gpu.pretend(monkeypatch, strays=True)
    said = r"'cuda' left .*MatMul, MultiHeadAttention of .*fp16-cuda\.onnx to the CPU; export"
    with pytest.raises(ProviderUnavailableError, match=said):
        opened(bundle / "engine" / "fp16-cuda.onnx", "cuda", Bundle.open(bundle).model)


def test_gpus_need_the_model_and_only_cuda_captures(graph: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.pretend(monkeypatch)
    for provider in ("cuda", "tensorrt"):
        with pytest.raises(ValueError, match=rf"'{provider}' needs the model"):
            opened(graph, provider)
    for provider in ("cpu", "tensorrt"):
        with pytest.raises(JobonnxError, match=f"provider '{provider}' cannot capture batches; leave capture out"):
            opened(graph, provider, Bundle.open(bundle).model, capture=True)


@pytest.mark.parametrize("content", [b"", b"not a graph"])
def test_a_broken_graph_is_one_sentence(content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(JobonnxError, match=r"broken\.onnx does not load on provider 'cpu'") as caught:
        opened(path, "cpu")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")  # no log of onnxruntime's own, with colour codes


def test_a_graph_whose_data_is_cut_off_is_one_sentence(bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("fp32-cpu.onnx", "fp32.data"):
        (tmp_path / name).write_bytes((bundle / "engine" / name).read_bytes()[: None if name.endswith("onnx") else 5000])
    with pytest.raises(JobonnxError, match=r"fp32-cpu\.onnx does not load on provider 'cpu'") as caught:
        opened(tmp_path / "fp32-cpu.onnx", "cpu")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_names_are_onnxruntimes_own() -> None:
    """Read from onnxruntime's list of all providers, built in or not."""
    assert {provider.ort_name for provider in PROVIDERS.values()} <= set(onnxruntime.get_all_providers())
    assert all(name == provider.name for name, provider in PROVIDERS.items())
