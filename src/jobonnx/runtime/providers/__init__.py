"""The execution providers, one file each. A new one is a class in a file of its own, and a line here."""

from __future__ import annotations

from jobonnx.errors import JobonnxError
from jobonnx.runtime.providers.base import Provider
from jobonnx.runtime.providers.coreml import CoreMl
from jobonnx.runtime.providers.cpu import Cpu
from jobonnx.runtime.providers.cuda import Cuda
from jobonnx.runtime.providers.directml import DirectMl
from jobonnx.runtime.providers.migraphx import MiGraphX
from jobonnx.runtime.providers.openvino import OpenVino
from jobonnx.runtime.providers.tensorrt import TensorRt

PROVIDERS: dict[str, Provider] = {
    provider.name: provider for provider in (Cpu(), OpenVino(), Cuda(), TensorRt(), CoreMl(), DirectMl(), MiGraphX())
}
AUTO = (Cuda.name, Cpu.name, OpenVino.name)  # what "auto" tries, in this order
EVERYWHERE = Cpu.name  # has a kernel, fast or slow, for every graph


def find_provider(name: str) -> Provider:
    """Return the provider that users call `name`.

    Raises:
        JobonnxError: there is none.
    """
    if name not in PROVIDERS:
        raise JobonnxError(f"provider {name!r} is unknown; it is auto or one of {', '.join(PROVIDERS)}")
    return PROVIDERS[name]


def available() -> list[str]:
    """Return the providers that can be asked for here, by our names."""
    return [name for name, provider in PROVIDERS.items() if provider.is_here()]


def providers_for(target: str) -> list[Provider]:
    """Return the providers that run the graphs of a target."""
    return [provider for provider in PROVIDERS.values() if provider.target == target]
