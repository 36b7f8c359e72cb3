"""The one place that knows execution providers, their options and threads. Arrays in, arrays out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jobonnx.bundle.manifest import Model
from jobonnx.errors import JobonnxError, ProviderUnavailableError
from jobonnx.runtime.providers.device import Device
from jobonnx.runtime.providers.tensorrt import engine_options, largest_shape, load_libraries
from jobonnx.text.batching import LAUNCH_TOKENS, Integers, plan, plan_buckets

Floats = np.ndarray[Any, np.dtype[np.float32]]
Item = TypeVar("Item")
_HEAVY = {"Gemm", "MatMul", "FusedMatMul", "Attention", "MultiHeadAttention"}  # where these run is where the graph runs
_OVERFLOW = Path(__file__).parent / "overflow.onnx"  # these are made by a test: test_session.py
_OVERFLOW_QDQ = Path(__file__).parent / "overflow-qdq.onnx"
_ROUNDING = Path(__file__).parent / "rounding.onnx"


@dataclass(frozen=True)
class Provider:
    """An execution provider: ONNX Runtime's name for it, the graphs written for it, and what brings it."""

    onnxruntime_name: str
    target: str
    install: str
    options: dict[str, str] = field(default_factory=dict)
    device: str | None = None  # onnxruntime's name of where inputs and outputs are bound; None for host memory
    token_budget: int = 2048  # padded tokens of a batch: full GEMM speed, and activations that stay in a CPU's cache

    def plan(self, lengths: Sequence[int], token_budget: int, max_rows: int | None = None) -> list[Integers]:
        """Cut rows into batches as the provider runs them: as they are, or padded to one of few shapes on a device."""
        return (plan_buckets if self.device else plan)(lengths, token_budget, max_rows)


PROVIDERS: dict[str, Provider] = {
    "cpu": Provider("CPUExecutionProvider", "cpu", 'pip install "jobonnx[cpu]"'),
    "openvino": Provider(
        "OpenVINOExecutionProvider",
        "openvino",
        'pip install "jobonnx[openvino]" on a machine with an Intel CPU, onnxruntime-openvino in place of onnxruntime on another',
    ),
    # TF32 would round fp32 inputs to 10 bits: another precision than the variant's name.
    # Strict: a LayerNorm fused with the sum before it adds up in float32.
    "cuda": Provider(
        "CUDAExecutionProvider",
        "cuda",
        'pip install "jobonnx[gpu]"',
        {"use_tf32": "0", "enable_skip_layer_norm_strict_mode": "1"},
        device="cuda",
        token_budget=8 * LAUNCH_TOKENS,
    ),
    "tensorrt": Provider(
        "TensorrtExecutionProvider",
        "tensorrt",
        'pip install "jobonnx[gpu]" "tensorrt-cu13<11"',
        device="cuda",
        token_budget=8 * LAUNCH_TOKENS,
    ),
    "coreml": Provider("CoreMLExecutionProvider", "coreml", 'pip install "jobonnx[cpu]" on macOS'),
    "directml": Provider("DmlExecutionProvider", "directml", "pip install onnxruntime-directml on Windows"),
}


class Session:
    """A loaded graph on one provider. `run` may be called from many threads at once."""

    def __init__(self, session: Any, provider: str, threads: int, device: Device | None = None) -> None:
        self._session = session
        self._device = device
        self._outputs = [output.name for output in session.get_outputs()][:1]
        self.provider = provider
        self.threads = threads

    def run(self, input_ids: Integers, attention_mask: Integers) -> Floats:
        """int64 [batch, sequence] ids and mask -> the graph's first output, float32; [batch, dimension] for engine graphs."""
        if self._device is not None:
            return self._device.run(input_ids, attention_mask)
        result: Floats = self._session.run(self._outputs, {"input_ids": input_ids, "attention_mask": attention_mask})[0]
        return result

    @property
    def nodes(self) -> dict[str, int]:
        """How many graph nodes each provider took, after optimisation, by ONNX Runtime's names."""
        counts: dict[str, int] = {}
        for part in self._session.get_provider_graph_assignment_info():
            counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
        return counts


def side_by_side(run: Callable[[Item], Floats], batches: Sequence[Item], streams: int) -> Iterator[Floats]:
    """What `run` gives for each batch, in order, so many of them at a time."""
    if streams == 1 or len(batches) == 1:
        yield from map(run, batches)
        return
    with ThreadPoolExecutor(streams) as pool:
        yield from pool.map(run, batches)


def open_session(
    graph: Path,
    provider: str,
    threads: int | None = None,
    spin: bool = True,
    *,
    cuda_graph: bool = False,
    model: Model | None = None,
) -> Session:
    """Load a graph on the provider asked for, or fail: there is no fallback.

    Args:
        graph: the graph file; its external data lies beside it.
        provider: a key of `PROVIDERS`.
        threads: threads within one run; None for `available_threads()`.
        spin: whether threads without work wait for it in a loop, which answers sooner and keeps cores busy between calls.
        cuda_graph: capture small shapes as CUDA graphs; provider "cuda" only.
        model: what the graph was made of; GPUs need it.

    Raises:
        JobonnxError: no onnxruntime, two clashing ones, the provider is not there, or the graph does not load.
    """
    ort = import_onnxruntime()
    wanted = _known(provider)
    if reason := why_not(provider):
        raise ProviderUnavailableError(reason)
    if cuda_graph and wanted.target != "cuda":
        raise JobonnxError(f"cuda_graph is for provider 'cuda', not {provider!r}; leave it out")
    if wanted.device and model is None:
        raise ValueError(f"provider {provider!r} needs the model, as bundle.model")
    threads = threads or available_threads()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1  # the graph is a chain: nothing to run side by side
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if integers_overflow():  # then u8 x u8, which computes exactly; slower, and where nothing overflows a waste of VNNI or AMX
        options.add_session_config_entry("session.x64quantprecision", "1")
    # Scalar kernels, slower than the Add and LayerNormalization they replace; see docs/decisions.md.
    disabled = ["SkipLayerNormFusion", "BiasSkipLayerNormFusion"] if provider == "cpu" else []
    shapes = [] if provider == "cpu" else ["CPUExecutionProvider"]  # for shape arithmetic; `Session.nodes` shows what went there
    own = dict(wanted.options)
    if provider == "openvino":  # without it OpenVINO ran at less than half its speed
        own["num_of_threads"] = str(threads)
    if cuda_graph:
        own["enable_cuda_graph"] = "1"
    if wanted.target == "tensorrt" and model is not None:
        load_libraries()
        own |= engine_options(graph, model, ort.__version__)
    names: list[Any] | None = [(wanted.onnxruntime_name, own), *shapes]
    if provider == "openvino" and (devices := _openvino_devices(ort)):
        options.add_provider_for_devices(devices, own)  # where a plug-in's devices belong
        names = None
    try:
        # Its own fallback would print to stdout and go on with the CPU.
        session = ort.InferenceSession(str(graph), options, providers=names, disabled_optimizers=disabled, enable_fallback=0)
    except Exception as error:  # onnxruntime's own exception types are not public
        reason = " ".join(str(error).split())[:300]
        message = f"{graph} does not load on provider {provider!r}: {reason}"
        if wanted.device:  # most often a library or the driver is missing
            raise ProviderUnavailableError(f"{message}; what it needs comes with: {wanted.install}") from None
        raise JobonnxError(message) from None
    session.disable_fallback()
    got = session.get_providers()
    if got[0] != wanted.onnxruntime_name:
        raise ProviderUnavailableError(
            f"provider {provider!r} was asked for, onnxruntime gave {got[0]}; a library it needs is missing: {wanted.install}"
        )
    if not wanted.device or model is None:
        return Session(session, provider, threads)
    if strayed := _left_to_others(session, wanted.onnxruntime_name):
        raise ProviderUnavailableError(
            f"provider {provider!r} left {', '.join(strayed)} of {graph} to the CPU; export the bundle again with this jobonnx"
        )
    max_rows = largest_shape(model.max_tokens)[0] if wanted.target == "tensorrt" else None
    return Session(session, provider, threads, Device(ort, session, wanted.device, model.pad_id, max_rows, cuda_graph))


def _left_to_others(session: Any, onnxruntime_name: str) -> list[str]:
    """Kinds of heavy nodes that another provider than this one took: a fallback that onnxruntime does not report."""
    parts = [part for part in session.get_provider_graph_assignment_info() if part.ep_name != onnxruntime_name]
    return sorted({node.op_type for part in parts for node in part.get_nodes()} & _HEAVY)


def why_not(provider: str, variant: str | None = None) -> str | None:
    """Why a provider, or a variant on it, cannot be had here: a sentence that says what to do; None if it can.

    Raises:
        JobonnxError: there is no provider of that name.
    """
    wanted = _known(provider)
    if not is_available(provider):
        there = f"this onnxruntime {import_onnxruntime().__version__} (it has {', '.join(available())})"
        return f"provider {provider!r} is not in {there}; install it: {wanted.install}"
    if provider == "openvino" and variant == "bf16" and not openvino_rounds():
        return "variant 'bf16' needs a CPU with bf16, such as one with AMX, and OpenVINO computes in fp32 on this one; use int8"
    if provider == "openvino" and variant == "fp32" and openvino_rounds():
        return "OpenVINO computes variant 'fp32' in bf16 on this CPU; use provider cpu, or variant bf16"
    if provider == "openvino" and variant == "int8-static" and openvino_overflows():
        return "OpenVINO's int8 products overflow on this CPU, as they do without VNNI; use provider cpu, whose products are exact"
    return None


@cache
def openvino_rounds() -> bool:
    """Whether OpenVINO computes an fp32 graph in bf16 here, which it does by itself on a CPU that has it.

    Found by trying (rounding.onnx: rows of 1 + 2^-12, which bf16 rounds to 1, summed), as asking for a type is not getting it: an
    AMD EPYC without bf16 was told bf16 and computed in fp32.
    """
    return bool((_on_openvino(_ROUNDING, 1 + 2**-12) == 64).all())


@cache
def openvino_overflows() -> bool:
    """Whether OpenVINO's u8 x s8 products overflow here; see `integers_overflow`. It has no option that would help.

    Found by trying (overflow-qdq.onnx: rows of 127, which become bytes 255 less 128, by weights of 127).
    """
    return bool((_on_openvino(_OVERFLOW_QDQ, 127) != 64 * 127 * 127).any())


def _on_openvino(graph: Path, value: float) -> Floats:
    x = np.full((4, 64), value, np.float32)
    product: Floats = open_session(graph, "openvino", threads=1)._session.run(None, {"x": x})[0]
    return product


@cache
def integers_overflow() -> bool:
    """Whether ONNX Runtime's u8 x s8 products overflow on this CPU: x86 without VNNI adds pairs of them in 16 bits.

    Found by trying the largest ones (overflow.onnx: 4 rows of bytes 255 by weights 127), as no list of CPU features is at hand
    everywhere.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(_OVERFLOW), options, providers=["CPUExecutionProvider"])
    product = session.run(None, {"x": np.full((4, 64), 255, np.uint8)})[0]
    return not bool((product == 64 * 255 * 127).all())


def available() -> list[str]:
    """The providers that can be asked for here, by our names."""
    return [name for name in PROVIDERS if is_available(name)]


def is_available(provider: str) -> bool:
    """Whether the installed onnxruntime has a provider, built in or as a plug-in that finds a device here.

    Libraries that it needs may still be missing; loading tells.
    """
    ort = import_onnxruntime()
    built_in = _known(provider).onnxruntime_name in ort.get_available_providers()
    return built_in or (provider == "openvino" and bool(_openvino_devices(ort)))


@cache
def _openvino_devices(ort: Any) -> list[Any]:
    """The CPU devices of the plug-in onnxruntime-ep-openvino, registered once; none without it, or on a CPU it does not take.

    It takes Intel's CPUs only: on an AMD EPYC it registered and offered no device (1.8.1). The package onnxruntime-openvino has the
    provider built in and takes that EPYC too (1.24.1).
    """
    try:
        import onnxruntime_ep_openvino as plugin
    except ImportError:
        return []
    name = PROVIDERS["openvino"].onnxruntime_name
    ort.register_execution_provider_library(name, plugin.get_library_path())
    cpu = ort.OrtHardwareDeviceType.CPU
    return [d for d in ort.get_ep_devices() if d.ep_name.startswith(name) and d.device.type == cpu]


def _known(provider: str) -> Provider:
    if provider not in PROVIDERS:
        raise JobonnxError(f"provider {provider!r} is unknown; it is auto or one of {', '.join(PROVIDERS)}")
    return PROVIDERS[provider]


def import_onnxruntime() -> Any:
    """The onnxruntime module, after making sure that there is one, and one only."""
    from importlib.metadata import PackageNotFoundError, version

    installed = []
    for package in ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml"):
        try:
            installed.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    if len(installed) > 1:
        both = " and ".join(installed)
        raise JobonnxError(f"{both} overwrite each other; uninstall both, then install one extra of jobonnx again")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it reports to its makers otherwise, and keeps an id in the home
    try:
        import onnxruntime
    except ImportError as error:
        if installed:
            raise JobonnxError(f"{installed[0]} does not import ({error}); reinstall it") from None
        raise JobonnxError('no onnxruntime is installed; run: pip install "jobonnx[cpu]" (or [openvino], [gpu])') from None
    if "onnxruntime-gpu" in "".join(installed) and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # finds the CUDA libraries that pip installed
    return onnxruntime


def available_threads() -> int:
    """Threads this process may keep busy: the least of cgroup quota, affinity mask and physical cores, and at least 1."""
    return max(1, min(_quota(), _affinity(), _physical_cores()))


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _physical_cores() -> int:
    """Physical cores behind the allowed logical ones: hyper-threads share the units that matrix products need."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = set()
    for cpu in os.sched_getaffinity(0):
        try:
            siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
        except OSError:
            siblings = str(cpu)
        cores.add(siblings)
    return len(cores)


def _quota(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """CPUs the cgroup's quota grants (v2 `cpu.max`, v1 `cpu.cfs_quota_us`), rounded up; a large number without a quota."""
    try:
        groups = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:
        groups = []
    limits = []
    for _, controllers, path in (group for group in groups if len(group) == 3):
        # v1 mounts "cpu,cpuacct" under that name or its reverse, and links each controller's own name to it.
        for name in {controllers, *controllers.split(",")}:
            base = root / name
            folder = base / path.lstrip("/")
            for place in (folder, *folder.parents):  # a parent's quota binds too
                limits.extend(_read_quota(place))
                if place == base:
                    break
    limits.extend(_read_quota(root))  # inside a container the own group is mounted at the root
    return min(limits, default=1 << 30)


def _read_quota(folder: Path) -> list[int]:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return []
    if quota in ("max", "-1") or not quota.isdigit() or not period.isdigit() or period == "0":
        return []
    return [max(1, -(-int(quota) // int(period)))]
