"""Providers, wheels and threads: what is asked for is what runs, or an error."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from jobonnx import Bundle, JobonnxError
from jobonnx.errors import ProviderUnavailableError
from jobonnx.runtime import session
from jobonnx.runtime.providers.tensorrt import engine_options
from jobonnx.runtime.session import PROVIDERS, _quota, available, available_threads, import_onnxruntime, is_available, open_session

NO_QUOTA = 1 << 30


@pytest.fixture
def graph(bundle: Path) -> Path:
    return bundle / "engine" / "int8-cpu.onnx"


def test_runs_arrays_to_arrays_and_shows_what_took_the_nodes(graph: Path) -> None:
    opened = open_session(graph, "cpu", threads=2)
    ids = np.array([[0, 9, 2], [0, 2, 1]], dtype=np.int64)
    vectors = opened.run(ids, (ids != 1).astype(np.int64))
    assert vectors.shape == (2, 128)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    assert opened.provider == "cpu"
    assert list(opened.nodes) == ["CPUExecutionProvider"]
    assert opened.nodes["CPUExecutionProvider"] > 50


def product_graph(kind: str, *extra: str, domain: str = "") -> bytes:
    """u8 [rows, 64] by s8 weights [64, 16], all 127."""
    from onnx import TensorProto, helper, numpy_helper

    constants = {
        "weight": np.full((64, 16), 127, np.int8),
        "scale": np.float32(1),
        "scales": np.ones(16, np.float32),
        "zero": np.uint8(128),
        "weight_zero": np.int8(0),
    }
    whole = TensorProto.INT32 if kind == "MatMulInteger" else TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(kind, ["x", "weight", *extra], ["y"], domain=domain)],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["rows", 64])],
        [helper.make_tensor_value_info("y", whole, ["rows", 16])],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items() if name in ("weight", *extra)],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return model


def test_the_graph_that_tries_for_overflow_is_the_one_made_here() -> None:
    assert session._OVERFLOW.read_bytes() == product_graph("MatMulInteger")


def float_graph(nodes: list[Any], constants: dict[str, Any]) -> bytes:
    """fp32 [rows, 64] to fp32 [rows, 16]."""
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 16])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    return model


def rounding_graph() -> bytes:
    """By weights [64, 16], all 1."""
    from onnx import helper

    return float_graph([helper.make_node("MatMul", ["x", "weight"], ["y"])], {"weight": np.ones((64, 16), np.float32)})


def overflow_qdq_graph() -> bytes:
    """To bytes with step 1 and zero point 128, by s8 weights [64, 16], all 127, in standard operators."""
    from onnx import helper

    return float_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["bytes"]),
            helper.make_node("DequantizeLinear", ["bytes", "step", "zero"], ["left"]),
            helper.make_node("DequantizeLinear", ["weight", "scales", "zeros"], ["right"], axis=1),
            helper.make_node("MatMul", ["left", "right"], ["y"]),
        ],
        {
            "step": np.float32(1),
            "zero": np.uint8(128),
            "weight": np.full((64, 16), 127, np.int8),
            "scales": np.ones(16, np.float32),
            "zeros": np.zeros(16, np.int8),
        },
    )


def test_the_graphs_that_openvino_is_tried_with_are_the_ones_made_here() -> None:
    assert session._ROUNDING.read_bytes() == rounding_graph()
    assert session._OVERFLOW_QDQ.read_bytes() == overflow_qdq_graph()


def test_the_cpu_provider_neither_rounds_nor_overflows_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    real = open_session
    monkeypatch.setattr(session, "open_session", lambda path, provider, threads: real(path, "cpu", threads))
    assert (session._on_openvino(session._ROUNDING, 1 + 2**-12) == 64 * (1 + 2**-12)).all()
    assert (session._on_openvino(session._OVERFLOW_QDQ, 127) == 64 * 127 * 127).all()


@pytest.mark.parametrize("rounds", [True, False])
@pytest.mark.parametrize("overflows", [True, False])
def test_openvino_is_refused_what_it_computes_in_another_type(
    rounds: bool, overflows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider is replaced at the seam."""
    found = {session._ROUNDING: 64 if rounds else 64 * (1 + 2**-12), session._OVERFLOW_QDQ: 8160 if overflows else 64 * 127 * 127}
    monkeypatch.setattr(session, "is_available", lambda name: True)
    monkeypatch.setattr(session, "_on_openvino", lambda graph, value: np.full((4, 16), found[graph], np.float32))
    for tried in (session.openvino_rounds, session.openvino_overflows):
        tried.cache_clear()
    try:
        reasons = {variant: session.why_not("openvino", variant) for variant in ("bf16", "fp32", "int8-static")}
    finally:
        for tried in (session.openvino_rounds, session.openvino_overflows):
            tried.cache_clear()
    assert reasons["bf16"] is None if rounds else "needs a CPU with bf16" in str(reasons["bf16"])
    assert reasons["fp32"] is None if not rounds else "in bf16 on this CPU; use provider cpu" in str(reasons["fp32"])
    assert reasons["int8-static"] is None if not overflows else "overflow on this CPU" in str(reasons["int8-static"])


def test_int8_products_are_exact_on_every_cpu(tmp_path: Path) -> None:
    """Without VNNI an x86 CPU adds pairs of u8 x s8 products in 16 bits; the largest ones would overflow there."""
    path = tmp_path / "product.onnx"
    operands = ("scale", "scales", "zero", "weight_zero")
    path.write_bytes(product_graph("MatMulIntegerToFloat", *operands, domain="com.microsoft"))
    x = np.array([[255] * 64, [1] * 64, [0, 255] * 32], np.uint8)
    expected = (x.astype(np.int64) - 128) @ np.full((64, 16), 127)
    (found,) = open_session(path, "cpu")._session.run(None, {"x": x})
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_slow_exact_products_only_where_the_fast_ones_overflow() -> None:
    """With VNNI or AMX the option would take the kernels that need them away."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        pytest.skip("needs /proc/cpuinfo to know the CPU's features")
    exact_ones = {"avx512_vnni", "avx_vnni", "amx_int8", "asimd"}
    assert session.integers_overflow() == (not flags & exact_ones)


def test_threads_are_as_asked_or_as_many_as_this_process_may_use(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = open_session(graph, "cpu", threads=3)
    assert asked.threads == asked._session.get_session_options().intra_op_num_threads == 3
    monkeypatch.setattr(session, "available_threads", lambda: 5)
    found = open_session(graph, "cpu")
    assert found.threads == found._session.get_session_options().intra_op_num_threads == 5


def test_an_unknown_provider_is_named_with_those_there_are() -> None:
    with pytest.raises(JobonnxError, match=r"provider 'cdua' is unknown; it is auto or one of cpu, openvino, cuda"):
        open_session(Path("any.onnx"), "cdua")


@pytest.mark.parametrize(
    ("provider", "install"),
    [("openvino", r"jobonnx\[openvino\]"), ("cuda", r"jobonnx\[gpu\]"), ("tensorrt", "tensorrt"), ("coreml", "macOS")],
)
def test_a_provider_that_is_not_installed_says_what_to_install(
    provider: str, install: str, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(session, "_openvino_devices", lambda ort: [])
    assert available() == ["cpu"]
    assert not is_available(provider)
    with pytest.raises(
        ProviderUnavailableError, match=rf"provider '{provider}' is not in this onnxruntime .*\(it has cpu\); .*{install}"
    ):
        open_session(graph, provider)


CUDA = {"use_tf32": "0", "enable_skip_layer_norm_strict_mode": "1"}


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
    monkeypatch.setattr(session, "integers_overflow", lambda: False)
    FallenBack.asked = []
    return FallenBack.asked


@pytest.mark.parametrize(("cuda_graph", "more"), [(False, {}), (True, {"enable_cuda_graph": "1"})])
def test_a_provider_that_onnxruntime_replaces_in_silence_is_an_error(
    cuda_graph: bool, more: dict[str, str], graph: Path, bundle: Path, fallen_back: list[Any]
) -> None:
    with pytest.raises(
        ProviderUnavailableError, match=r"'cuda' was asked for, onnxruntime gave CPUExecutionProvider; .*jobonnx\[gpu\]"
    ):
        open_session(graph, "cuda", cuda_graph=cuda_graph, model=Bundle.open(bundle).model)
    ((providers, rest),) = fallen_back
    assert providers == [("CUDAExecutionProvider", CUDA | more), "CPUExecutionProvider"]
    assert rest == {"disabled_optimizers": [], "enable_fallback": 0}


def test_tensorrt_gets_its_options_and_is_never_replaced_either(graph: Path, bundle: Path, fallen_back: list[Any]) -> None:
    model = Bundle.open(bundle).model
    with pytest.raises(ProviderUnavailableError, match=r"'tensorrt' was asked for, .*gave CPU.*pip install .*tensorrt-cu13<11"):
        open_session(graph, "tensorrt", model=model)
    ((providers, _),) = fallen_back
    assert providers == [
        ("TensorrtExecutionProvider", engine_options(graph, model, onnxruntime.__version__)),
        "CPUExecutionProvider",
    ]


def test_a_library_that_is_missing_says_where_it_comes_from(graph: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("Please install TensorRT libraries\nas mentioned")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["TensorrtExecutionProvider"])
    session.integers_overflow()
    monkeypatch.setattr(onnxruntime, "InferenceSession", fails)
    with pytest.raises(
        ProviderUnavailableError, match=r"does not load on provider 'tensorrt': Please install TensorRT .*comes with: pip"
    ):
        open_session(graph, "tensorrt", model=Bundle.open(bundle).model)


def test_heavy_nodes_that_a_gpu_leaves_to_the_cpu_are_an_error(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime lists the provider that was asked for first, whatever it took."""
    monkeypatch.setitem(PROVIDERS, "cuda", replace(PROVIDERS["cuda"], onnxruntime_name="CPUExecutionProvider", device="cpu"))
    found = session._left_to_others
    monkeypatch.setattr(session, "_left_to_others", lambda opened, name: found(opened, "CUDAExecutionProvider"))
    with pytest.raises(
        ProviderUnavailableError, match=r"'cuda' left .*MatMul, MultiHeadAttention of .*fp16-cuda\.onnx to the CPU; export"
    ):
        open_session(bundle / "engine" / "fp16-cuda.onnx", "cuda", model=Bundle.open(bundle).model)


def test_gpus_need_the_model_and_cuda_graphs_need_cuda(graph: Path, bundle: Path, fallen_back: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"'cuda' needs the model"):
        open_session(graph, "cuda")
    for provider in ("cpu", "tensorrt"):
        with pytest.raises(JobonnxError, match=f"cuda_graph is for provider 'cuda', not '{provider}'; leave it out"):
            open_session(graph, provider, cuda_graph=True, model=Bundle.open(bundle).model)
    assert fallen_back == []


@pytest.mark.parametrize("content", [b"", b"not a graph"])
def test_a_broken_graph_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(JobonnxError, match=r"broken\.onnx does not load on provider 'cpu'") as caught:
        open_session(path, "cpu")
    assert "\n" not in str(caught.value)


def wheels(monkeypatch: pytest.MonkeyPatch, **installed: str) -> None:
    """Pretend that these wheels, and no others, are installed."""

    def version(package: str) -> str:
        try:
            return installed[package.replace("-", "_")]
        except KeyError:
            raise importlib.metadata.PackageNotFoundError(package) from None

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_two_wheels_of_onnxruntime_clash(monkeypatch: pytest.MonkeyPatch) -> None:
    wheels(monkeypatch, onnxruntime="1.32.0", onnxruntime_gpu="1.31.1")
    with pytest.raises(JobonnxError, match=r"onnxruntime 1\.32\.0 and onnxruntime-gpu 1\.31\.1 overwrite each other; uninstall"):
        import_onnxruntime()


def test_no_onnxruntime_names_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    wheels(monkeypatch)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(JobonnxError, match=r'no onnxruntime is installed; run: pip install "jobonnx\[cpu\]"'):
        import_onnxruntime()


def test_a_wheel_that_does_not_import_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wheels(monkeypatch, onnxruntime="1.32.0")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(JobonnxError, match=r"onnxruntime 1\.32\.0 does not import .*; reinstall it"):
        import_onnxruntime()


def test_the_gpu_wheel_alone_loads_the_cuda_libraries_pip_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[bool] = []
    wheels(monkeypatch, onnxruntime_gpu="1.31.1")
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(preload_dlls=lambda: loaded.append(True)))
    import_onnxruntime()
    assert loaded == [True]


def test_no_provider_that_computes_in_tf32_or_by_another_name() -> None:
    assert PROVIDERS["cuda"].options == CUDA
    assert {name: p.onnxruntime_name for name, p in PROVIDERS.items() if p.target != name} == {}


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/job", {"job/cpu.max": "200000 100000"}, 2),
        ("0::/job", {"job/cpu.max": "150000 100000"}, 2),
        ("0::/job", {"job/cpu.max": "1000 100000"}, 1),
        ("0::/job", {"job/cpu.max": "max 100000"}, NO_QUOTA),
        ("0::/pod/job", {"pod/cpu.max": "300000 100000", "pod/job/cpu.max": "max 100000"}, 3),
        ("0::/pod/job", {"pod/cpu.max": "300000 100000", "pod/job/cpu.max": "800000 100000"}, 3),
        ("0::/", {"cpu.max": "400000 100000"}, 4),
        ("0::/../elsewhere", {"cpu.max": "400000 100000"}, 4),
        (
            "4:cpu,cpuacct:/job\n0::/",
            {"cpu,cpuacct/job/cpu.cfs_quota_us": "300000", "cpu,cpuacct/job/cpu.cfs_period_us": "100000"},
            3,
        ),
        ("4:cpu,cpuacct:/job", {"cpu,cpuacct/job/cpu.cfs_quota_us": "-1", "cpu,cpuacct/job/cpu.cfs_period_us": "100000"}, NO_QUOTA),
        ("4:cpu,cpuacct:/docker/ab", {"cpu,cpuacct/cpu.cfs_quota_us": "250000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 3),
        ("4:memory:/job", {"cpu,cpuacct/job/cpu.cfs_quota_us": "100000", "cpu,cpuacct/job/cpu.cfs_period_us": "100000"}, NO_QUOTA),
        ("0::/job", {"job/cpu.max": "100000 0"}, NO_QUOTA),
        ("0::/job", {"job/cpu.max": "nonsense"}, NO_QUOTA),
        ("0::/job", {"job/cpu.cfs_quota_us": "100000"}, NO_QUOTA),
        ("nonsense", {}, NO_QUOTA),
        ("", {}, NO_QUOTA),
    ],
    ids=[
        "v2",
        "v2, rounded up",
        "v2, at least one",
        "v2, unlimited",
        "v2, the parent's quota",
        "v2, the least of both",
        "v2, inside a container",
        "v2, outside its namespace",
        "v1",
        "v1, unlimited",
        "v1, inside a container",
        "v1, another group's",
        "no period",
        "not numbers",
        "half a quota",
        "unreadable membership",
        "no membership",
    ],
)
def test_quota_of_the_cgroup(membership: str, files: dict[str, str], expected: int, tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text(membership + "\n")
    for name, content in files.items():
        (tmp_path / "fs" / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / "root" / name).write_text(content + "\n")
    assert _quota(tmp_path / "fs" / "root", tmp_path / "cgroup") == expected


def test_no_cgroups_is_no_quota(tmp_path: Path) -> None:
    assert _quota(tmp_path / "no root", tmp_path / "no membership") == NO_QUOTA


@pytest.mark.parametrize(
    ("quota", "affinity", "cores", "expected"), [(2, 8, 4, 2), (NO_QUOTA, 3, 4, 3), (NO_QUOTA, 8, 4, 4), (0, 8, 4, 1)]
)
def test_the_least_of_quota_affinity_and_cores_decides(
    quota: int, affinity: int, cores: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_quota", lambda: quota)
    monkeypatch.setattr(session, "_affinity", lambda: affinity)
    monkeypatch.setattr(session, "_physical_cores", lambda: cores)
    assert available_threads() == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks")
def test_the_affinity_mask_binds() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert available_threads() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_hyper_threads_of_one_core_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    siblings = {0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(siblings), raising=False)
    monkeypatch.setattr(
        session, "Path", lambda path: SimpleNamespace(read_text=lambda: siblings[int(path.split("/cpu/cpu")[1].split("/")[0])])
    )
    assert session._physical_cores() == 2
