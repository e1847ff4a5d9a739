"""Random choices among things that are counted, from a seeded generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch

T = TypeVar("T")


def random_index(count: int, generator: torch.Generator) -> int:
    """One of `count` numbers from 0 on, each as likely, drawn from a CPU generator."""
    return int(torch.randint(count, (), generator=generator))


def shuffled(items: Sequence[T], generator: torch.Generator) -> list[T]:
    """The items in an order drawn from a CPU generator."""
    return [items[index] for index in torch.randperm(len(items), generator=generator).tolist()]
