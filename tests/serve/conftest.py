from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers.service import Running, running
from jobonnx import Encoder


@pytest.fixture(scope="session")
def small() -> Encoder:
    """Load the small model as the service does."""
    return Encoder()


@pytest.fixture(scope="session")
def service() -> Iterator[Running]:
    """Start a service with the small model and every default, for tests that do it no harm."""
    with running() as started:
        yield started
