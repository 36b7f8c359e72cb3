"""What the tests of graphs and recipes share: a checkpoint of each pooling, calibrated once."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.calibrated import Calibrated, calibrated_of
from helpers.checkpoints import make_checkpoint


@pytest.fixture(scope="session")
def calibrated(checkpoint: Path) -> Calibrated:
    """The CLS checkpoint."""
    return calibrated_of(checkpoint)


@pytest.fixture(scope="session")
def calibrated_mean(tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    """The same tensors with mean pooling."""
    return calibrated_of(make_checkpoint(tmp_path_factory.mktemp("mean") / "tiny", pooling="mean"))
