"""optimum's graph: token ids to hidden states, for whoever runs sentence-transformers or optimum with ONNX.

Run as a program, so that the gigabytes that tracing takes go back to the system when it ends:
`python -m jobonnx_export.portable CHECKPOINT_FOLDER OUTPUT_FOLDER`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from jobonnx.errors import JobonnxError

_MISSING = re.compile(
    r"(?:ModuleNotFoundError: No module named|PackageNotFoundError: No package metadata was found for) '?([\w.-]+)"
)


def export_portable(transformer: Path, folder: Path) -> None:
    """Write model.onnx (and its external data, if any) into `folder`, from a transformers folder, with optimum.

    Raises:
        JobonnxError: optimum failed; its last line says why.
        ModuleNotFoundError: optimum, or what it needs, is not installed.
    """
    done = subprocess.run(  # -P: nothing in the current folder is imported
        [sys.executable, "-P", "-m", "jobonnx_export.portable", str(transformer), str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        if missing := _MISSING.search(last):
            raise ModuleNotFoundError(last, name=missing[1])
        raise JobonnxError(f"{transformer}: optimum could not export it ({last[:300]})")


def _main(transformer: str, folder: str) -> None:
    from optimum.exporters.onnx import main_export

    try:
        main_export(
            transformer,
            output=folder,
            task="feature-extraction",
            library_name="transformers",
            framework="pt",
            do_validation=False,  # jobonnx measures every graph itself, more strictly
            no_post_process=True,
            monolith=True,
        )
    except Exception as error:  # whatever it is, its message has to fit the last line
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")


if __name__ == "__main__":
    _main(*sys.argv[1:])
