"""Phases, scaled step counts and learning rates that restart."""

import math

import pytest
import torch

from guidedvd_ns.schedule import PhaseDecay, PhaseDecaySchedulerConfig, Schedule, follow_schedule


def test_paper_run_has_two_phases_of_ten_thousand_steps():
    schedule = Schedule.split(20_000, 0.5)
    assert (schedule.guide_steps, schedule.scene_steps) == (10_000, 10_000)
    assert schedule.fits_guide(9_999) and not schedule.fits_guide(10_000)
    assert schedule.phase_step(9_999) == 9_999 and schedule.phase_step(10_000) == 0
    assert schedule.scaled(260) == 260


@pytest.mark.parametrize(("total", "fraction"), [(7, 0.5), (2, 0.5), (100, 0.0), (1000, 0.3)])
def test_phases_fill_the_run(total: int, fraction: float):
    schedule = Schedule.split(total, fraction)
    assert schedule.total_steps == total
    assert schedule.scene_steps >= 1
    assert (schedule.guide_steps == 0) == (fraction == 0)


def test_step_counts_scale_with_the_second_phase_and_never_vanish():
    schedule = Schedule.split(1_000, 0.5)
    assert schedule.scaled(500) == 25
    assert schedule.scaled(1) == 1


@pytest.mark.parametrize(("total", "fraction"), [(1, 0.5), (0, 0.5), (10, 1.0), (10, -0.1)])
def test_impossible_splits_are_refused(total: int, fraction: float):
    with pytest.raises(ValueError, match=r"too short|guide_fraction"):
        Schedule.split(total, fraction)


def test_learning_rate_decays_over_each_phase_and_restarts():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=1.6e-4)
    scheduler = PhaseDecaySchedulerConfig(lr_final=1.6e-6).setup().get_scheduler(optimizer, lr_init=1.6e-4)
    follow_schedule({"means": scheduler}, Schedule(guide_steps=10, scene_steps=20))
    rates = []
    for _ in range(31):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[0] == rates[10] == pytest.approx(1.6e-4)
    assert rates[5] == pytest.approx(1.6e-5)  # halfway through the first phase, geometrically
    assert rates[20] == pytest.approx(1.6e-5)
    assert rates[30] == pytest.approx(1.6e-6)


def test_rate_stays_at_its_end_after_the_run():
    factor = PhaseDecay(0.01)
    factor.follow(Schedule(guide_steps=0, scene_steps=10))
    assert factor(10) == factor(500) == pytest.approx(0.01)


def test_scheduler_state_holds_plain_floats_and_survives_a_round_trip(tmp_path):
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = PhaseDecaySchedulerConfig(lr_final=0.1).setup().get_scheduler(optimizer, lr_init=1.0)
    follow_schedule({"means": scheduler}, Schedule(guide_steps=3, scene_steps=6))
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    torch.save(scheduler.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    other = PhaseDecaySchedulerConfig(lr_final=0.1).setup().get_scheduler(optimizer, lr_init=1.0)
    other.load_state_dict(state)
    optimizer.step()
    other.step()
    assert other.get_last_lr()[0] == pytest.approx(math.exp(math.log(0.1) * 2 / 6))
