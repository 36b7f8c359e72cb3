"""Job titles to vectors: sentence-transformers checkpoints in ONNX, without PyTorch.

>>> from jobonnx import Encoder
>>> encoder = Encoder()
>>> encoder.encode(["Volksvertreter", "Parlamentarier"]).shape[0]
2
"""

from jobonnx.bundle.manifest import Bundle
from jobonnx.encoder import Encoder
from jobonnx.errors import JobonnxError

__all__ = ["Bundle", "Encoder", "JobonnxError"]
