"""Budget, learning rate, moving average, and that a stopped training goes on where it was."""

import pytest
import torch

from guidedvd_ns.training.loop import Budget, Ema, Session, learning_rate_factor, train_stage


def test_budget_counts_steps_or_minutes():
    assert Budget(steps=4).progress(3, 1e9) == 0.75
    assert Budget(minutes=2).progress(10**9, 30) == 0.25
    assert Budget(steps=0).progress(0, 0) == 1
    with pytest.raises(ValueError, match="either steps or minutes"):
        Budget()
    with pytest.raises(ValueError, match="either steps or minutes"):
        Budget(steps=1, minutes=1)


def test_learning_rate_rises_then_falls_to_a_hundredth():
    assert learning_rate_factor(0, 0.0, 10) == pytest.approx(0.1)
    assert learning_rate_factor(9, 0.0, 10) == pytest.approx(1.0)
    assert learning_rate_factor(500, 0.5, 10) == pytest.approx(0.505)
    assert learning_rate_factor(999, 1.0, 10) == pytest.approx(0.01)


def test_moving_average_follows_its_formula():
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(layer.weight, 1.0)
    ema = Ema(layer, decay=0.5)
    torch.nn.init.constant_(layer.weight, 3.0)
    ema.update(step=0)  # weight of the past is 1 / 10
    assert float(ema.average["weight"]) == pytest.approx(2.8)
    ema.update(step=1000)  # and later the decay
    assert float(ema.average["weight"]) == pytest.approx(2.9)


class _Counter:
    """A stage whose state is the sum of the progress it was given."""

    name = "counter"

    def __init__(self) -> None:
        self.total = torch.zeros(())

    def train_step(self, step, progress):
        self.total += progress
        return {"loss": self.total}

    def state_dict(self):
        return {"total": self.total}

    def own_state(self):
        return {}

    def load_state_dict(self, state):
        self.total = state["total"]

    def preview(self):
        return torch.zeros(3, 2, 2)


class EndsAfter(Session):
    """A session that ends after some steps."""

    steps = 2

    @property
    def seconds_left(self) -> float:
        self.steps -= 1
        return float(self.steps + 1)


def test_a_stopped_stage_goes_on_where_it_was(tmp_path):
    device = torch.device("cpu")
    stopped, resumed, whole = _Counter(), _Counter(), _Counter()
    assert not train_stage(stopped, Budget(steps=5), EndsAfter(tmp_path / "a", device))
    assert train_stage(resumed, Budget(steps=5), Session(tmp_path / "a", device))
    assert train_stage(whole, Budget(steps=5), Session(tmp_path / "b", device))
    assert 0 < stopped.total < resumed.total == whole.total
    assert list((tmp_path / "a").glob(".*")) == []


def test_a_finished_stage_takes_no_further_step(tmp_path):
    session = Session(tmp_path, torch.device("cpu"))
    train_stage(_Counter(), Budget(steps=3), session)
    again = _Counter()
    assert train_stage(again, Budget(steps=3), session)
    assert again.total == pytest.approx(1.0)
