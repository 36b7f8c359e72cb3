"""How the engine runs beside other processes that want the same cores."""

from __future__ import annotations

from dataclasses import replace

from jobonnx.encoder import Encoder
from jobonnx.runtime.engine import Engine
from jobonnx.runtime.machine import available_threads


def shared_threads() -> int:
    """Threads for cores that are not the service's alone: half of them, and at least one."""
    return max(1, available_threads() // 2)


def share_cores(encoder: Encoder) -> None:
    """Let the encoder's threads sleep while they wait for each other, in place of spinning.

    After every operator the threads wait for the slowest one. Beside a busy neighbour that one may be off its core, and the others
    spin until it comes back: the neighbour and the service lose what they burn.
    """
    if encoder.settings.threads == 1 or not encoder.settings.spin:  # one thread waits for nobody
        return
    encoder.settings = replace(encoder.settings, spin=False)
    encoder.engine.close()
    encoder.engine = Engine(encoder.bundle.folder / encoder.graph.path, encoder.bundle.model, encoder.settings)
