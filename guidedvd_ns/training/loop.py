"""The loop that every training stage runs in: budget, progress bar, TensorBoard, checkpoints and a deadline."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from guidedvd_ns.training.files import write_torch
from guidedvd_ns.training.processes import Processes


@dataclass(frozen=True)
class Budget:
    """How long a stage trains: a number of steps, which is exactly reproducible, or minutes.

    Raises:
        ValueError: unless exactly one of the two is given.
    """

    steps: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError(
                f"A training budget is either steps or minutes, but got steps={self.steps}, minutes={self.minutes}."
            )

    def progress(self, step: int, seconds: float) -> float:
        """Share of the budget that is spent, at least 1 when the stage is over."""
        if self.steps is not None:
            return step / self.steps if self.steps else 1.0
        assert self.minutes is not None
        return seconds / (60 * self.minutes) if self.minutes else 1.0


@dataclass
class Session:
    """One run of the command: where it writes, and when it has to stop."""

    output: Path
    """Folder for checkpoints, event files and pictures."""
    device: torch.device
    """Where training happens."""
    minutes: float | None = None
    """Training stops, to be resumed later, when the session is this old; None: never."""
    checkpoint_seconds: float = 60.0
    """Time between checkpoints."""
    log_every: int = 20
    """Steps between scalars in TensorBoard."""
    started: float = field(default_factory=time.monotonic)
    """When the session began (`time.monotonic`)."""
    processes: Processes = field(default_factory=Processes)
    """Those that train together; the main one alone writes."""

    def __post_init__(self) -> None:
        self.output.mkdir(parents=True, exist_ok=True)
        self._writer = SummaryWriter(str(self.output / "tensorboard")) if self.processes.is_main else None

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline, infinite where there is none."""
        if self.minutes is None:
            return math.inf
        return 60 * self.minutes - (time.monotonic() - self.started)

    def checkpoint(self, stage: str) -> Path:
        """The checkpoint file of a stage."""
        return self.output / f"{stage}.ckpt"

    def log_scalars(self, scalars: dict[str, float], step: int) -> None:
        """Write the main process's scalars to TensorBoard."""
        if self._writer is not None:
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, step)

    def log_preview(self, stage: Stage, step: int) -> None:
        """Draw the main process's stage for TensorBoard."""
        if self._writer is not None:
            self._writer.add_image(f"{stage.name}/preview", stage.preview(), step)
            self._writer.flush()


class Stage(Protocol):
    """Something that is trained step by step."""

    name: str

    def train_step(self, step: int, progress: float) -> dict[str, Tensor]:
        """Take one optimiser step, `progress` (0 to 1) through the budget; returns scalars to log."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on."""
        ...

    def own_state(self) -> dict[str, Any]:
        """The part of `state_dict` in which processes that train together differ."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def preview(self) -> Tensor:  # [3, H, W]
        """A picture of what the stage does at present, in [0, 1]."""
        ...


def train_stage(stage: Stage, budget: Budget, session: Session) -> bool:
    """Train until the budget is spent or the session ends; goes on from the stage's checkpoint where there is one.

    With several processes the main one's clock counts, and all take the same number of steps.

    Returns:
        Whether the budget is spent.

    Raises:
        ValueError: The checkpoint is that of another number of processes.
    """
    processes = session.processes
    step, seconds = _resume(stage, budget, session)

    def save() -> None:
        others = processes.gather(stage.own_state())[1:]
        if processes.is_main:
            content = {"step": step, "seconds": seconds, "stage": stage.state_dict(), "others": others}
            write_torch(session.checkpoint(stage.name), content)
        session.log_preview(stage, step)

    last = last_saved = time.monotonic()
    first_step, first_time = step, last
    with _progress_bar(stage.name) as bar:
        task = bar.add_task(stage.name, total=1.0, loss="", rate="")
        while (progress := processes.agree(budget.progress(step, seconds))) < 1 and (
            processes.agree(session.seconds_left) > 0
        ):
            metrics = stage.train_step(step, progress)
            step += 1
            if step % session.log_every == 0:
                rate = (step - first_step) / (time.monotonic() - first_time)
                scalars = {name: float(value) for name, value in metrics.items()} | {"steps_per_second": rate}
                session.log_scalars({f"{stage.name}/{name}": value for name, value in scalars.items()}, step)
                bar.update(task, loss=f"loss {scalars['loss']:.4f}", rate=f"{step} steps, {rate:.1f}/s")
            now = time.monotonic()
            seconds, last = seconds + now - last, now
            bar.update(task, completed=min(budget.progress(step, seconds), 1.0))
            if processes.agree(now - last_saved) > session.checkpoint_seconds:
                save()
                CONSOLE.log(f"{stage.name}: step {step}, {seconds:.0f} s, {_summary(metrics)}")
                # Neither saving nor drawing counts as training.
                last = last_saved = time.monotonic()
    save()
    CONSOLE.log(f"{stage.name}: {step} steps in {seconds / 60:.1f} minutes of training.")
    return progress >= 1


def _resume(stage: Stage, budget: Budget, session: Session) -> tuple[int, float]:
    """Load the stage's checkpoint where there is one; returns its step and its seconds of training."""
    path, processes = session.checkpoint(stage.name), session.processes
    if not processes.agree(path.exists()):
        return 0, 0.0
    saved = torch.load(path, map_location=session.device, weights_only=True)
    step, seconds = saved["step"], saved["seconds"]
    # Checkpoints of before there could be several processes say nothing of others.
    states = [{}, *saved.get("others", [])]
    if len(states) != processes.count:
        raise ValueError(
            f"{path} was written by {len(states)} processes, but {processes.count} go on with it; start {len(states)}."
        )
    if budget.progress(step, seconds) < 1:
        CONSOLE.log(f"{stage.name}: going on from step {step} ({seconds / 60:.1f} minutes of training).")
    stage.load_state_dict({**saved["stage"], **states[processes.rank]})
    return step, seconds


def learning_rate_factor(step: int, progress: float, warmup_steps: int) -> float:
    """Linear warm-up over the first steps, then half a cosine down to 1 % at the end of the budget."""
    warmup = min(1.0, (step + 1) / warmup_steps)
    return warmup * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


class Ema:
    """A moving average of a network's parameters, which is what ships.

    Args:
        network: The network that is trained, whose parameters are changed in place and not replaced.
        decay: Weight of the past; smaller during the first steps, so that the random start is soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        # Aliases of the parameters, since walking through a network of many modules takes milliseconds.
        self._current = {name: value.detach() for name, value in network.named_parameters()}
        self.average = {name: value.clone() for name, value in self._current.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the parameters after training step `step`."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.values()), [self._current[name] for name in self.average], weight)


def _summary(metrics: dict[str, Tensor]) -> str:
    return ", ".join(f"{name} {float(value):.4f}" for name, value in metrics.items())


def _progress_bar(name: str) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[loss]}"),
        console=CONSOLE,
    )
