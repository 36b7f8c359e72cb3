"""How the engine runs beside other processes that want the same cores."""

from __future__ import annotations

from typing import Any

from jobonnx.runtime.machine import available_threads


def shared_cores(threads: int | None) -> dict[str, Any]:
    """Return the encoder's options for cores that are not the service's alone.

    It takes half of them, and at least one. Its threads sleep while they wait for each other, in place of spinning: after every
    operator they wait for the slowest one, which may be off its core beside a busy neighbour, and until it comes back the neighbour
    and the service lose what the others burn.

    Args:
        threads: what the user asked for; None if nothing.
    """
    return {"threads": threads or max(1, available_threads() // 2), "spin": False}
