"""A bank of training clips on the device: drawn from often, refreshed a batch at a time, rebuilt exactly on resume.

Rendering a clip costs more than a training step with it, so each one serves several steps, well mixed with others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from guidedvd_ns.data.clips import ClipBatch
from guidedvd_ns.training.processes import Processes

MAX_REFRESH_EVERY = 1000

MAX_EMPTY_BATCHES = 50
"""In a row, after which a source is taken to have nothing to give."""


class ClipSource(Protocol):
    """Numbered batches of clips, each a function of its number (`room_clips.RoomClips` is one)."""

    def batch(self, index: int) -> ClipBatch: ...


class BankConfig(Protocol):
    """What a stage's configuration says about its bank; see the stages for what each means."""

    @property
    def bank_clips(self) -> int: ...

    @property
    def refresh_every(self) -> int: ...

    @property
    def refresh_share(self) -> float: ...


class ClipBank:
    """A ring of encoded clips, of one or several sizes; those that are drawn together have the same.

    Args:
        source: Where clips come from.
        encode: Turns n clips into tensors [n, ...] that are kept; called without gradients.
        capacity: Most clips kept; the oldest are overwritten.
        refresh_every: Training steps between two batches of new clips.
        refresh_share: Most of the time that refreshing may take: batches come less often where they would take more.
            None: they come exactly every `refresh_every` steps, and a resume restores the bank to the bit.
        first_batch: Number of the first batch taken from the source.
        stride: Distance between the batches taken (with several processes: their number, each its own first batch).
        agree: With several processes, turns a number of this one into one that all share (`Processes.agree`): those
            that refreshed at different steps would wait for each other all the time.
    """

    def __init__(
        self,
        source: ClipSource,
        encode: Callable[[ClipBatch], dict[str, Tensor]],
        capacity: int,
        *,
        refresh_every: int = 1,
        refresh_share: float | None = None,
        first_batch: int = 0,
        stride: int = 1,
        agree: Callable[[float], float] = float,
    ) -> None:
        self._source, self._encode = source, encode
        self._capacity, self._stride = capacity, stride
        self._next_batch = first_batch
        self._next_slot = 0
        self._refresh_every, self._refresh_share = refresh_every, refresh_share
        self._agree = agree
        self._next_refresh = refresh_every
        self._last_refresh_end: float | None = None
        self._clips: list[dict[str, Tensor]] = []
        self._slots_by_size: dict[tuple[torch.Size, ...], list[int]] = {}
        # Batch and item that each slot was filled from: all that a checkpoint needs to know.
        self._origin = torch.full((capacity, 2), -1, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._clips)

    def refresh(self) -> int:
        """Take the next batch in and return how many clips it had; the oldest give way when the bank is full."""
        batch = self._next_batch
        self._next_batch += self._stride
        items = self._encoded(batch)
        count = min(len(next(iter(items.values()))), self._capacity)
        slots = (torch.arange(count) + self._next_slot) % self._capacity
        self._write(slots, items, torch.arange(count))
        self._origin[slots] = torch.stack([torch.full((count,), batch), torch.arange(count)], dim=1)
        self._next_slot = (self._next_slot + count) % self._capacity
        return count

    def refresh_when_due(self, step: int) -> None:
        """Call before training step `step`: refreshes the bank as often as it was asked to."""
        if step < self._next_refresh:
            return
        if self._refresh_share is not None:
            self._refresh_measured(self._refresh_share)
        else:
            self.refresh()
        self._next_refresh = step + self._refresh_every

    def _refresh_measured(self, share: float) -> None:
        started = self._clock()
        self.refresh()
        ended = self._clock()
        if self._last_refresh_end is not None:
            step_seconds = (started - self._last_refresh_end) / self._refresh_every
            wanted = (ended - started) * (1 - share) / share / max(step_seconds, 1e-6)
            # Half the way at a time, since single measurements are off by compilations and checkpoints.
            every = round(self._agree((self._refresh_every + wanted) / 2))
            self._refresh_every = min(max(1, every), MAX_REFRESH_EVERY)
        self._last_refresh_end = ended

    def _clock(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.monotonic()

    def fill(self, count: int) -> None:
        """Refresh until the bank holds at least `count` clips (or is full).

        Raises:
            ValueError: The source's batches are empty.
        """
        empty = 0
        while len(self) < min(count, self._capacity):
            empty = 0 if self.refresh() else empty + 1
            if empty == MAX_EMPTY_BATCHES:
                raise ValueError(
                    f"{empty} batches in a row had no clip with holes of a usable size: widen the clips'"
                    " min_hole_fraction and max_hole_fraction."
                )

    def draw(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """`count` clips of one size picked at random, with repetition; each clip of the bank is equally likely.

        Args:
            generator: Seeded generator on the device of the contents.
        """
        first, *others = torch.rand(1 + count, generator=generator, device=generator.device).tolist()
        slots = self._slots_by_size[_size(self._clips[int(first * len(self))])]
        clips = [self._clips[slots[int(other * len(slots))]] for other in others]
        return {name: torch.stack([clip[name] for clip in clips]) for name in clips[0]}

    def state_dict(self) -> dict[str, Any]:
        """Which clips the bank holds, not the clips."""
        return {
            "origin": self._origin,
            "next_batch": self._next_batch,
            "next_refresh": self._next_refresh,
            "next_slot": self._next_slot,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Render and encode anew the clips that the bank held, into the same slots.

        Under a `refresh_share` a resume is not worth that time: the bank goes on with clips that it never held.
        """
        self._next_batch, self._next_refresh = state["next_batch"], state["next_refresh"]
        if self._refresh_share is not None:
            return
        self._origin, self._next_slot = state["origin"].cpu(), state["next_slot"]
        self._clips = [{} for _ in range(int((self._origin[:, 0] >= 0).sum()))]
        for batch in sorted(set(self._origin[:, 0].tolist()) - {-1}):
            slots = (self._origin[:, 0] == batch).nonzero()[:, 0]
            self._write(slots, self._encoded(batch), self._origin[slots, 1])

    @torch.no_grad()
    def _encoded(self, batch: int) -> dict[str, Tensor]:
        return self._encode(self._source.batch(batch))

    def _write(self, slots: Tensor, items: dict[str, Tensor], picked: Tensor) -> None:
        for slot, index in zip(slots.tolist(), picked.tolist(), strict=True):
            # Copies, so that the rest of the batch can go.
            clip = {name: value[index].clone() for name, value in items.items()}
            if slot == len(self._clips):
                self._clips.append(clip)
            else:
                self._clips[slot] = clip
        self._slots_by_size = {}
        for slot, clip in enumerate(self._clips):
            self._slots_by_size.setdefault(_size(clip), []).append(slot)


def _size(clip: dict[str, Tensor]) -> tuple[torch.Size, ...]:
    return tuple(value.shape for value in clip.values())


def bank_of_stage(
    source: ClipSource,
    encode: Callable[[ClipBatch], dict[str, Tensor]],
    config: BankConfig,
    processes: Processes,
    *,
    reproducible: bool,
) -> ClipBank:
    """The bank of a training stage: each process takes batches of its own, as often as the main one does.

    Args:
        source: Where clips come from.
        encode: What is kept of them.
        config: How many, and how often new ones come.
        processes: Those that train together.
        reproducible: Whether they come exactly every `refresh_every` steps, whatever they cost.
    """
    return ClipBank(
        source,
        encode,
        config.bank_clips,
        refresh_every=config.refresh_every,
        refresh_share=None if reproducible else config.refresh_share,
        first_batch=processes.rank,
        stride=processes.count,
        agree=processes.agree,
    )
