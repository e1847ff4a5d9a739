"""The clip bank: a ring that a checkpoint restores without storing clips."""

import pytest
import torch
from sources import NoiseClips

from guidedvd_ns.training.bank import ClipBank


def _means(clips):
    return {"mean": clips.target.mean(dim=(1, 2, 3, 4))}


def _bank(capacity=7, **options):
    return ClipBank(NoiseClips(), _means, capacity, **options)


def _expected(batch):
    return _means(NoiseClips().batch(batch))["mean"]


def test_the_oldest_clips_are_overwritten():
    bank = _bank()
    assert [bank.refresh() for _ in range(3)] == [3, 3, 3]
    assert len(bank) == 7
    drawn = bank.draw(200, torch.Generator().manual_seed(0))["mean"].unique()
    # Batch 2 wrapped around: its last two clips lie where batch 0 had its first two.
    expected = torch.cat([_expected(0)[2:], _expected(1), _expected(2)])
    torch.testing.assert_close(drawn, expected.sort().values)


def test_clips_that_are_drawn_together_have_one_size():
    class Sizes(NoiseClips):
        def batch(self, index):
            return NoiseClips(count=2, height=(16, 24)[index % 2], width=16 + 8 * (index % 2)).batch(index)

    def whole(clips):
        return {"target": clips.target, "height": torch.full((len(clips),), clips.target.shape[2])}

    bank = ClipBank(Sizes(), whole, capacity=6)
    bank.fill(6)
    draws, heights = torch.Generator().manual_seed(0), []
    for _ in range(300):
        drawn = bank.draw(3, draws)
        assert drawn["target"].shape[2] == drawn["height"].unique().item()
        heights.append(int(drawn["height"][0]))
    # Four of the six clips are of the first size.
    assert 0.58 < heights.count(16) / 300 < 0.75


def test_fill_stops_at_the_capacity():
    bank = _bank(capacity=4)
    bank.fill(100)
    assert len(bank) == 4


def test_fill_gives_up_on_a_source_that_has_nothing():
    class Nothing(NoiseClips):
        def batch(self, index):
            return super().batch(index)[:0]

    with pytest.raises(ValueError, match="50 batches in a row"):
        ClipBank(Nothing(), _means, capacity=3).fill(1)


def test_fill_is_patient_where_clips_come_now_and_then():
    class Sparse(NoiseClips):
        def batch(self, index):
            return super().batch(index)[: int(index % 40 == 39)]

    bank = ClipBank(Sparse(), _means, capacity=3)
    bank.fill(3)
    assert len(bank) == 3


def test_a_restored_bank_draws_the_same_clips():
    bank, restored = _bank(), _bank()
    for _ in range(4):
        bank.refresh()
    restored.load_state_dict(bank.state_dict())
    for each in (bank, restored):
        each.refresh()
    first, second = (each.draw(50, torch.Generator().manual_seed(1))["mean"] for each in (bank, restored))
    assert torch.equal(first, second)


def test_clips_come_every_so_many_steps():
    source = NoiseClips()
    bank = ClipBank(source, _means, 7, refresh_every=3)
    for step in range(10):
        bank.refresh_when_due(step)
    assert len(source.asked_for) == 3


def test_clips_come_less_often_where_they_cost_much(monkeypatch):
    source, now = NoiseClips(), [0.0]
    slow = source.batch

    def batch(index):
        now[0] += 8.0
        return slow(index)

    monkeypatch.setattr(source, "batch", batch)
    bank = ClipBank(source, _means, 7, refresh_every=1, refresh_share=0.5)
    monkeypatch.setattr(bank, "_clock", lambda: now[0])
    for step in range(400):
        bank.refresh_when_due(step)
        now[0] += 0.5
    # Half of the time at 8 s a batch and 0.5 s a step: a batch every 16 steps.
    assert 400 / 16 <= len(source.asked_for) < 400 / 16 + 12


def test_under_a_share_of_time_a_resumed_bank_goes_on_with_new_clips():
    bank, source = _bank(), NoiseClips()
    bank.fill(6)
    restored = ClipBank(source, _means, 7, refresh_share=0.5)
    restored.load_state_dict(bank.state_dict())
    assert len(restored) == 0
    restored.refresh()
    assert source.asked_for == [2]


def test_processes_share_the_batches_out():
    sources = NoiseClips(), NoiseClips()
    for rank, source in enumerate(sources):
        ClipBank(source, _means, 6, first_batch=rank, stride=2).fill(6)
    assert [source.asked_for for source in sources] == [[0, 2], [1, 3]]
