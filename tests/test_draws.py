"""Random choices: each as likely, none twice, and the same again from the same seed."""

from __future__ import annotations

import torch

from guidedvd_ns.draws import random_index, shuffled


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_index_is_drawn_as_often():
    generator = _seeded()
    drawn = torch.tensor([random_index(5, generator) for _ in range(5000)])
    counts = torch.bincount(drawn, minlength=5)
    # Five standard deviations of a count are 141.
    assert len(counts) == 5 and int((counts - 1000).abs().max()) < 141
    assert random_index(1, generator) == 0


def test_shuffling_keeps_the_items_and_puts_each_anywhere():
    generator, items = _seeded(), ["a", "b", "c", "d"]
    orders = [shuffled(items, generator) for _ in range(400)]
    assert all(sorted(order) == items for order in orders)
    assert len({tuple(order) for order in orders}) == 24
    assert items == ["a", "b", "c", "d"] and shuffled([], generator) == []


def test_the_same_seed_draws_the_same():
    def drawn(seed: int) -> tuple[list[int], list[int]]:
        generator = _seeded(seed)
        return [random_index(100, generator) for _ in range(5)], shuffled(range(20), generator)

    before = torch.get_rng_state()
    assert drawn(1) == drawn(1) != drawn(2)
    assert torch.equal(torch.get_rng_state(), before)
