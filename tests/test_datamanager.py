"""When sequences are sampled: the first at once, each other one evenly over the steps before its turn."""

from types import SimpleNamespace

import pytest
import torch

from guidedvd_ns.datamanager import GuidedVDDataManager, GuidedVDDataManagerConfig
from guidedvd_ns.schedule import Schedule


class _CountingGenerator:
    """Takes denoising steps that do nothing."""

    def __init__(self, steps_per_sequence: int) -> None:
        self.steps_per_sequence = steps_per_sequence
        self.remaining_steps = 0
        self.finished = False

    @property
    def is_busy(self) -> bool:
        return self.remaining_steps > 0

    def submit(self, *_) -> None:
        self.remaining_steps = self.steps_per_sequence

    def advance(self, steps: int) -> None:
        assert steps <= self.remaining_steps
        self.finished = self.finished or 0 < self.remaining_steps == steps
        self.remaining_steps -= steps

    def poll(self):
        done, self.finished = self.finished, False
        return SimpleNamespace() if done else None


def _manager(steps_per_sequence: int, monkeypatch) -> GuidedVDDataManager:
    manager = GuidedVDDataManager.__new__(GuidedVDDataManager)
    torch.nn.Module.__init__(manager)
    manager.config = GuidedVDDataManagerConfig(max_sequences=10)
    manager.generator = _CountingGenerator(steps_per_sequence)  # pyright: ignore
    manager.pool = SimpleNamespace(is_empty=False)  # pyright: ignore
    manager.num_attempts = 0

    def submit() -> None:
        manager.generator.submit()  # pyright: ignore
        manager.num_attempts += 1

    monkeypatch.setattr(manager, "_submit", submit)
    monkeypatch.setattr(manager, "_take_in", lambda sequence: None)
    return manager


@pytest.mark.parametrize("steps_per_sequence", [1, 2, 15, 50])
def test_a_sequence_is_ready_right_before_its_turn(steps_per_sequence, monkeypatch):
    manager, schedule = _manager(steps_per_sequence, monkeypatch), Schedule(guide_steps=2000, scene_steps=2000)
    interval, count = manager.generation_interval(schedule)
    ready = [step for step in range(2000) if manager.advance_generation(step, schedule) is not None]
    # The scene waits for the first; whichever is newer than the last one is looked at for a whole interval.
    assert ready == [steps_per_sequence - 1, *(number * interval - 1 for number in range(1, count))]


def test_a_sequence_of_many_steps_is_sampled_evenly(monkeypatch):
    manager, schedule = _manager(50, monkeypatch), Schedule(guide_steps=2000, scene_steps=2000)
    interval, _ = manager.generation_interval(schedule)
    left = []
    for step in range(2 * interval):
        manager.advance_generation(step, schedule)
        left.append(manager.generator.remaining_steps)  # pyright: ignore
    assert left[interval + interval // 2] == pytest.approx(25, abs=1)
