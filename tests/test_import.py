"""What gets imported, and when: nothing heavy by `import jobonnx`, and never what only exporting needs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

NEVER = {"torch", "transformers", "optimum", "sentence_transformers", "onnx", "jobonnx_export", "jobonnx_bench", "jobonnx_train"}
WHERE_USED = {"onnxruntime", "tokenizers", "click", "rich", "huggingface_hub", "requests", "httpx", "msgspec", "faiss"}


def imported_by(code: str, *arguments: str) -> set[str]:
    """List the top-level modules that a fresh Python has after running `code`."""
    show = "\nimport json, sys; sys.stdout.write('\\n' + json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code + show, *arguments], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_jobonnx_imports_nothing_heavy() -> None:
    """Not even numpy: the command line has to handle Ctrl-C before anything that takes time is loaded."""
    modules = imported_by("import jobonnx")
    assert "jobonnx" in modules
    assert modules & (NEVER | WHERE_USED | {"numpy"}) == set()


def test_a_public_name_imports_numpy_and_no_more() -> None:
    modules = imported_by("from jobonnx import Bundle, Encoder, JobonnxError")
    assert "numpy" in modules
    assert modules & (NEVER | WHERE_USED) == set()


def test_encoding_and_matching_import_nothing_of_the_export(bundle: Path) -> None:
    modules = imported_by(
        "import sys, jobonnx\n"
        "encoder = jobonnx.Encoder(sys.argv[1])\n"
        "vectors = encoder.encode(['Koch', 'Köchin'])\n"
        "assert encoder.similarity(vectors, vectors).shape == (2, 2)",
        str(bundle),
    )
    assert {"onnxruntime", "tokenizers"} <= modules
    assert modules & (NEVER | (WHERE_USED - {"onnxruntime", "tokenizers", "msgspec"})) == set()


def test_verifying_imports_nothing_of_the_export(bundle: Path) -> None:
    code = "import sys; from jobonnx import Bundle; from jobonnx.parity.verify import verify; verify(Bundle.open(sys.argv[1]))"
    assert imported_by(code, str(bundle)) & NEVER == set()


def test_the_command_line_imports_what_a_command_needs() -> None:
    modules = imported_by("from jobonnx.cli.main import main\nmain(['--help'], standalone_mode=False)")
    assert "click" in modules
    assert modules & (NEVER | (WHERE_USED - {"click"})) == set()
