"""Job titles to vectors: sentence-transformers checkpoints in ONNX, without PyTorch.

>>> from jobonnx import Encoder
>>> encoder = Encoder()
>>> encoder.encode(["Volksvertreter", "Parlamentarier"]).shape[0]
2
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobonnx.bundle.manifest import Bundle
    from jobonnx.encoder import Encoder
    from jobonnx.errors import JobonnxError

__version__ = "0.1.0"
__all__ = ["Bundle", "Encoder", "JobonnxError"]
_HOMES = {"Bundle": "jobonnx.bundle.manifest", "Encoder": "jobonnx.encoder", "JobonnxError": "jobonnx.errors"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: the command line handles Ctrl-C before numpy loads."""
    if name not in _HOMES:
        raise AttributeError(f"module 'jobonnx' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
