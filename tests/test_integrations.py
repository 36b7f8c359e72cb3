"""Every client of docs/integrations.md runs its block, in an environment of its own, and gets the vectors of `Encoder`."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from helpers.checkpoints import ROOT
from helpers.environments import build_wheel, clean_environment, install

CLIENT = re.compile(r"<!-- client: (\S+); install: (.+?) -->\n```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
CLIENTS = {
    name: (packages, code) for name, packages, code in CLIENT.findall((ROOT / "docs" / "integrations.md").read_text("utf-8"))
}
WITHOUT_TORCH = {"scikit-learn", "polars", "qdrant", "chroma"}
# Every vector that a client returns, beside what `Encoder` gives for the same titles.
CHECK = """
import numpy as np
from jobonnx import Encoder
ours = np.asarray(vectors, dtype=np.float32)
assert ours.shape == (len(titles), 256), ours.shape
difference = np.abs(ours - Encoder().encode(titles)).max()
assert difference < 1e-5, difference
"""


def test_all_clients_have_a_block() -> None:
    assert set(CLIENTS) == WITHOUT_TORCH | {
        "sentence-transformers",
        "mteb",
        "bertopic",
        "keybert",
        "setfit",
        "langchain",
        "llama-index",
        "haystack",
        "txtai",
        "lancedb",
    }


def test_blocks_compile() -> None:
    for name, (_, code) in CLIENTS.items():
        compile(code, name, "exec")
        assert "vectors = " in code
        assert "titles = " in code


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_runs_unmodified(name: str, wheel: Path, tmp_path: Path) -> None:
    packages, code = CLIENTS[name]
    torch = [] if name in WITHOUT_TORCH else ["torch==2.13.0"]
    python = install(tmp_path, f"{wheel}[cpu]", *shlex.split(packages), *torch)
    work = tmp_path / "work"
    work.mkdir()
    environment = clean_environment(HF_HUB_OFFLINE="1", HOME=str(tmp_path), PYTHONUTF8="1", ANONYMIZED_TELEMETRY="False")
    script = work / "client.py"
    guarded = "".join(f"    {line}" for line in (code + CHECK).splitlines(keepends=True))
    script.write_text(f"if __name__ == '__main__':\n{guarded}", "utf-8")
    done = subprocess.run([str(python), str(script)], capture_output=True, text=True, env=environment, cwd=work, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
