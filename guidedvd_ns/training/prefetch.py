"""Rooms laid out ahead of the renderer by worker processes: furnishing a room is Python, rendering it is not."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from types import TracebackType

import numpy as np
import torch
from nerfstudio.utils.rich_utils import CONSOLE

from guidedvd_ns.data.clips import ClipBatch, ClipConfig
from guidedvd_ns.data.room_clips import RoomClips, lay_out_rooms
from guidedvd_ns.data.rooms import Room


class PrefetchedRooms(RoomClips):
    """`RoomClips` whose next batches' rooms are laid out by other processes; the clips are the same to the bit.

    Args:
        config: Sizes and ranges.
        device: Where rooms are rendered and batches live.
        seed: Seed of everything but the rooms themselves.
        workers: Number of processes; with 0, or where they fail, rooms are laid out on demand.
        ahead: Batches that are laid out in advance.
        stride: Distance between the numbers of the batches that will be asked for.
    """

    def __init__(
        self,
        config: ClipConfig,
        device: torch.device | str,
        *,
        seed: int = 0,
        workers: int = 4,
        ahead: int = 8,
        stride: int = 1,
    ) -> None:
        super().__init__(config, device, seed=seed)
        self._ahead, self._stride = ahead, stride
        self._pool = None
        self._pending: OrderedDict[int, Future] = OrderedDict()
        if workers:
            self._pool = ProcessPoolExecutor(workers, get_context("spawn"), _one_thread)

    def __enter__(self) -> PrefetchedRooms:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def batch(self, index: int) -> ClipBatch:
        """See `RoomClips.batch`; consecutive numbers profit from the workers."""
        try:
            self._request(index)
        except BrokenProcessPool:
            self._give_up()
        return super().batch(index)

    def rooms(self, index: int) -> tuple[Room, torch.Tensor]:
        """See `RoomClips.rooms`."""
        future = self._pending.pop(index, None)
        if future is None:
            return super().rooms(index)
        try:
            room, views = future.result()
            tensors = {name: torch.from_numpy(array) for name, array in room.items()}
            return Room(**tensors), torch.from_numpy(views)  # pyright: ignore[reportArgumentType]
        except BrokenProcessPool:
            self._give_up()
            return super().rooms(index)

    def _request(self, index: int) -> None:
        if self._pool is None:
            return
        for passed in [number for number in self._pending if number < index]:
            self._pending.pop(passed).cancel()
        for number in range(index, index + self._ahead * self._stride, self._stride):
            if number not in self._pending:
                self._pending[number] = self._pool.submit(_arrays, self.room_seeds(number), self.config)

    def _give_up(self) -> None:
        CONSOLE.log("[yellow]A worker that lays out rooms died; rooms are laid out on demand from here on.")
        self._pool = None
        self._pending.clear()


def _arrays(seeds: list[int], config: ClipConfig) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """`lay_out_rooms` as arrays: tensors would travel through shared memory and file descriptors, which may run out."""
    room, views = lay_out_rooms(seeds, config)
    return {name: tensor.numpy() for name, tensor in room.tensors().items()}, views.numpy()


def _one_thread() -> None:
    torch.set_num_threads(1)
