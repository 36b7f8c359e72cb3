"""The learning rate by steps and by the clock, and a run that ends when its time is spent."""

from __future__ import annotations

import time
from typing import Any

from sentence_transformers import SentenceTransformerTrainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback


class Schedule:
    """A linear warm-up and a linear descent to zero over a run that has a number of steps and a number of seconds.

    The run is as far as the further of the two. Where the machine does all steps in time, they decide, and a second run is the
    same. On a slower or busier machine the descent still ends at zero in time. The scheduler's state holds the seconds spent, so
    a resumed run goes on with what is left. Seconds after the last saved state are not counted: that work is done again.

    Args:
        seconds: of training, validation included.
        warmup: part of the run in which the learning rate rises.
    """

    def __init__(self, seconds: float, warmup: float) -> None:
        self.seconds, self.warmup = seconds, warmup
        self.steps, self.spent, self.since = 1, 0.0, time.monotonic()

    def start(self) -> None:
        """Let the clock go on from here."""
        self.since = time.monotonic()

    def done(self, step: int) -> float:
        """Return which part of the run is over, 0 to 1 and beyond."""
        now = time.monotonic()
        self.spent, self.since = self.spent + now - self.since, now
        return max(step / self.steps, self.spent / self.seconds)

    def __call__(self, step: int) -> float:
        """Return the factor of the learning rate at `step`, 0 to 1."""
        done = self.done(step)
        return min(done / self.warmup, max(0.0, (1 - done) / (1 - self.warmup)))


class EndByTheClock(TrainerCallback):  # type: ignore[misc] # transformers is untyped here
    """Starts a schedule's clock with the training, and ends the training when its time is spent."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock: a state may have been loaded, with the clock of another process in it."""
        self.schedule.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask the trainer to stop, if it is time."""
        if self.schedule.done(state.global_step) >= 1:
            control.should_training_stop = True


class ScheduledTrainer(SentenceTransformerTrainer):  # type: ignore[misc] # sentence-transformers is untyped here
    """The trainer, with a Schedule in the place of its own if it is given one.

    Args:
        schedule: of the learning rate; None for what the arguments say.
        given: the parent's.
    """

    def __init__(self, *, schedule: Schedule | None = None, **given: Any) -> None:
        super().__init__(**given)
        self.schedule = schedule
        if schedule is not None:
            self.add_callback(EndByTheClock(schedule))

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> Any:
        """Make the scheduler of the learning rate."""
        if self.schedule is None:
            return super().create_scheduler(num_training_steps, optimizer)
        self.schedule.steps = num_training_steps
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, self.schedule)
        return self.lr_scheduler
