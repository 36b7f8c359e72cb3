"""What most tests stand on: one small checkpoint and its bundle, made once a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.checkpoints import make_checkpoint
from helpers.hub_server import Hub, serve_hub
from jobonnx import Encoder


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests keep their hands off the user's cache, and off the Hub."""
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    patch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    patch.setenv("TOKENIZERS_PARALLELISM", "true")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A Hub of one's own, on this machine."""
    with serve_hub(tmp_path / "home") as hub:
        yield hub


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small XLM-R with CLS pooling, outlier channels and prompts, random weights."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", prompts={"query": "query: ", "document": ""})


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its export in fp32, fp16 and int8, with the portable graph."""
    from jobonnx_export.pipeline import export

    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    export(str(checkpoint), folder)
    return folder


@pytest.fixture(scope="session", params=["fp32", "fp16", "int8", "int8-static"])
def encoder(request: pytest.FixtureRequest, bundle: Path) -> Encoder:
    """The bundle on the CPU, once in every variant."""
    return Encoder(bundle, variant=request.param, provider="cpu", force=True)
