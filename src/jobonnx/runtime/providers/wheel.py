"""The onnxruntime module: found, one only, and quiet."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from functools import cache
from typing import Any

from jobonnx.errors import JobonnxError

# Wheels that install the same module over each other.
_WHEELS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-migraphx")
_METADATA = re.compile(r"(onnxruntime\w*)-(\S+)\.(?:dist|egg)-info")  # the name of a wheel's folder beside its module
_FATAL = 4  # severity of the log; below it are lines with colour codes about what is an exception anyway


def import_onnxruntime() -> Any:
    """Import onnxruntime, after making sure that there is one, and one only.

    Raises:
        JobonnxError: there is none, there are two, or it does not import.
    """
    installed = installed_wheels()
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
    if hasattr(onnxruntime, "preload_dlls") and "onnxruntime-gpu" in "".join(installed):
        onnxruntime.preload_dlls()  # finds the CUDA libraries that pip installed
    if hasattr(onnxruntime, "set_default_logger_severity"):
        onnxruntime.set_default_logger_severity(_FATAL)
    return onnxruntime


@cache
def installed_wheels() -> tuple[str, ...]:
    """List the installed wheels of onnxruntime with their versions; looked up once per process.

    By names of folders: importing importlib.metadata, which knows them too, takes about as long as importing onnxruntime.
    """
    versions: dict[str, str] = {}
    for folder in sys.path:
        with suppress(OSError):  # a zip file, or nothing
            for name in os.listdir(folder or "."):
                if match := _METADATA.fullmatch(name):
                    versions.setdefault(match[1].replace("_", "-"), match[2])
    return tuple(f"{package} {versions[package]}" for package in _WHEELS if package in versions)
