"""What most tests stand on: one small checkpoint and its bundle, made once per session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.checkpoints import make_checkpoint, measure_few_texts
from helpers.hub_server import Hub, serve_hub
from jobonnx import Encoder

EXPORTING = {"checkpoint", "bundle", "encoder", "calibrated", "calibrated_mean", "exported"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need an export: it alone takes about a minute."""
    for item in items:
        if EXPORTING & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.medium)


@pytest.fixture(scope="session", autouse=True)
def _environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give the tests a cache folder of their own, and send the Hub no telemetry."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        patch.setenv("TOKENIZERS_PARALLELISM", "true")
        yield


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """Serve a Hub on this machine, for one test."""
    with serve_hub(tmp_path / "home") as hub:
        yield hub


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a small XLM-R with CLS pooling, outlier channels, prompts and random weights."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", prompts={"query": "query: ", "document": ""})


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export it: every variant, and the portable graph."""
    from jobonnx_export.pipeline import export

    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    export(str(checkpoint), folder)
    return folder


@pytest.fixture
def few_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """For exports whose figures nobody looks at."""
    measure_few_texts(monkeypatch)


# Without bf16: its graphs are for OpenVINO on CPUs that compute in bf16, which the machines that run these tests may lack.
@pytest.fixture(scope="session", params=["fp32", "fp16", "int8", "int8-static"])
def encoder(request: pytest.FixtureRequest, bundle: Path) -> Encoder:
    """Open the bundle on the CPU, once in every variant that runs there."""
    return Encoder(bundle, variant=request.param, provider="cpu", force=True)
