"""The learning rate by steps and by the clock."""

from __future__ import annotations

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from jobonnx_train import schedule
from jobonnx_train.schedule import Schedule


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(schedule, "time", clock)
    return clock


def rates(made: Schedule, clock: Clock, seconds: float) -> list[float]:
    found = []
    for step in range(made.steps + 1):
        found.append(made(step))
        clock.now += seconds
    return found


def test_on_a_quiet_machine_the_steps_decide(clock: Clock) -> None:
    made = Schedule(seconds=1000, warmup=0.1)
    made.steps = 20
    found = rates(made, clock, 1.0)
    assert found[:3] == pytest.approx([0, 0.5, 1])
    assert found[11] == pytest.approx(0.5)
    assert found[20] == 0
    slower = Schedule(seconds=1000, warmup=0.1)
    slower.steps = 20
    assert rates(slower, clock, 30.0) == found  # still in time: the same run


def test_on_a_busy_machine_the_descent_ends_in_time(clock: Clock) -> None:
    made = Schedule(seconds=1000, warmup=0.1)
    made.steps = 1000
    found = rates(made, clock, 10.0)
    assert found[:11] == pytest.approx([step / 10 for step in range(11)])
    assert found[55] == pytest.approx(0.5)
    assert found[100] == 0
    assert made.done(101) >= 1


def test_a_resumed_run_has_the_time_that_is_left(clock: Clock) -> None:
    def scheduler(made: Schedule) -> LambdaLR:
        return LambdaLR(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), made)

    made = Schedule(seconds=100, warmup=0.1)
    made.steps = 1000
    before = scheduler(made)
    clock.now += 60
    assert made.done(1) == pytest.approx(0.6)
    state = before.state_dict()
    clock.now = 5.0  # another process on another day, whose clock began anew
    again = Schedule(seconds=100, warmup=0.1)
    again.steps = 1000
    scheduler(again).load_state_dict(state)
    again.start()
    clock.now += 10
    assert again.done(1) == pytest.approx(0.7)
