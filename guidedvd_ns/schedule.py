"""Where a run stands: its two phases, the step inside each, and the method's step counts at this run's length."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from torch.optim import Optimizer, lr_scheduler

REFERENCE_STEPS = 10_000
"""Length of a phase in the paper; every step count of the method is stated for a phase of this length."""


@dataclass(frozen=True)
class Schedule:
    """The two phases of a run: `guide_steps` fit the guide, the `scene_steps` after them fit the final scene."""

    guide_steps: int
    scene_steps: int

    @classmethod
    def split(cls, total_steps: int, guide_fraction: float) -> Schedule:
        """Divide a run of `total_steps` steps; `guide_fraction` in [0, 1) of them go to the guide.

        Raises:
            ValueError: if a phase would be left without a step.
        """
        if not 0.0 <= guide_fraction < 1.0:
            raise ValueError(
                f"guide_fraction must be in [0, 1), got {guide_fraction}: the second phase needs steps too."
            )
        guide_steps = round(total_steps * guide_fraction)
        if guide_fraction > 0 and guide_steps == 0 or guide_steps >= total_steps:
            raise ValueError(
                f"max_num_iterations = {total_steps} is too short for two phases: give the run at least 2 steps."
            )
        return cls(guide_steps=guide_steps, scene_steps=total_steps - guide_steps)

    @property
    def total_steps(self) -> int:
        return self.guide_steps + self.scene_steps

    def fits_guide(self, step: int) -> bool:
        """Whether training step `step` belongs to the first phase."""
        return step < self.guide_steps

    def phase_step(self, step: int) -> int:
        """Step counted from the beginning of the phase that `step` lies in."""
        return step if self.fits_guide(step) else step - self.guide_steps

    def scaled(self, reference_count: int) -> int:
        """A step count of the method (for a phase of `REFERENCE_STEPS` steps) at the length of the second phase."""
        return max(1, round(reference_count * self.scene_steps / REFERENCE_STEPS))


class PhaseDecay:
    """Learning-rate factor that decays exponentially from 1 to `final_ratio` over each phase of a `Schedule`.

    A class and not a closure, so that `LambdaLR` keeps its attributes in checkpoints. It returns Python floats:
    numpy scalars in a checkpoint cannot be read with `weights_only=True` (nerfstudio #3683).
    """

    def __init__(self, final_ratio: float) -> None:
        self.final_ratio = float(final_ratio)
        self.guide_steps = 0
        self.scene_steps = REFERENCE_STEPS

    def follow(self, schedule: Schedule) -> None:
        """Take over the phase lengths of `schedule`."""
        self.guide_steps, self.scene_steps = schedule.guide_steps, schedule.scene_steps

    def __call__(self, step: int) -> float:
        in_guide = step < self.guide_steps
        position = step / self.guide_steps if in_guide else (step - self.guide_steps) / self.scene_steps
        return math.exp(math.log(self.final_ratio) * min(position, 1.0))


@dataclass
class PhaseDecaySchedulerConfig(SchedulerConfig):
    """Exponential decay that restarts with the second phase of the run."""

    _target: type = field(default_factory=lambda: PhaseDecayScheduler)
    """target class to instantiate"""
    lr_final: float = 1.6e-6
    """Learning rate at the end of each phase; the optimizer's own rate stands at its beginning."""


class PhaseDecayScheduler(Scheduler):
    """Builds the `LambdaLR` of a `PhaseDecay`; the pipeline tells it the phase lengths of the run."""

    config: PhaseDecaySchedulerConfig

    def get_scheduler(self, optimizer: Optimizer, lr_init: float) -> lr_scheduler.LRScheduler:
        return lr_scheduler.LambdaLR(optimizer, lr_lambda=PhaseDecay(self.config.lr_final / lr_init))


def follow_schedule(schedulers: dict[str, Any], schedule: Schedule) -> None:
    """Hand the phase lengths of `schedule` to every `PhaseDecay` among `schedulers`."""
    for scheduler in schedulers.values():
        for factor in getattr(scheduler, "lr_lambdas", []):
            if isinstance(factor, PhaseDecay):
                factor.follow(schedule)
