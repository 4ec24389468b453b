"""How long a run is and what its learning rate is at each step: functions of the settings and the data's size."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jr_dist.config import TrainConfig
from jr_dist.data.order import steps_per_epoch
from jr_dist.errors import InputError

#: the cosine ends at this share of the learning rate
FINAL_SHARE = 0.01


@dataclass(frozen=True)
class Schedule:
    """Steps of a run."""

    steps_per_epoch: int
    epochs: int
    warmup_steps: int
    learning_rate: float
    cosine: bool

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        return self.steps_per_epoch * self.epochs

    def is_warm_up(self, step: int) -> bool:
        """Whether candidates are still uniform; the warm-up is part of the budget."""
        return step < self.warmup_steps

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        if not self.cosine:
            return self.learning_rate
        share = 0.5 * (1 + math.cos(math.pi * step / self.num_steps))
        return self.learning_rate * (FINAL_SHARE + (1 - FINAL_SHARE) * share)

    def ends_period(self, step: int, epochs: int) -> bool:
        """Whether `step` is the last of every `epochs`-th epoch, or of the run."""
        done = step + 1
        return done % (self.steps_per_epoch * epochs) == 0 or done == self.num_steps


def make_schedule(settings: TrainConfig, num_targets: int, world_size: int) -> Schedule:
    """The schedule of a run on `num_targets` training targets. Raises `InputError` where they do not fill one batch."""
    steps = steps_per_epoch(num_targets, settings.batch_size, world_size)
    if steps < 1:
        raise InputError(
            f"train.batch_size is {settings.batch_size} for {max(world_size, 1)} worker(s), but the dataset has "
            f"{num_targets} training targets; allowed is at most {num_targets // max(world_size, 1)}; lower it"
        )
    return Schedule(
        steps_per_epoch=steps,
        epochs=settings.epochs,
        warmup_steps=steps * settings.warmup_epochs,
        learning_rate=settings.learning_rate,
        cosine=settings.schedule == "cosine",
    )
