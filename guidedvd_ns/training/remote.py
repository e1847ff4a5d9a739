"""Clips rendered by other processes, on another device, while this one trains."""

from __future__ import annotations

import queue
import threading
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from types import TracebackType

import numpy as np
import torch

from guidedvd_ns.data.clips import ClipBatch, ClipConfig
from guidedvd_ns.data.room_clips import RoomClips

PATIENCE = 180.0
"""Seconds without a batch after which the renderers are taken for dead."""


class RemoteClips:
    """Batches of clips in the order in which the renderers finish them.

    Which clips these are depends on the seed alone, their order also on how fast each renderer is: for training under
    a time budget, not for reproducible runs.

    Args:
        config: Sizes and ranges.
        render_device: Where the other processes render.
        device: Where batches are wanted.
        seed: Seed of everything but the rooms themselves.
        renderers: Number of processes.
    """

    def __init__(
        self, config: ClipConfig, render_device: str, device: torch.device | str, *, seed: int = 0, renderers: int = 3
    ) -> None:
        self._context = get_context("spawn")
        self._device = device
        self._batches = self._context.Queue(maxsize=4)
        self._arguments = (config, render_device, seed)
        self._num_renderers = renderers
        self._renderers: list[BaseProcess] = []
        # Unpacked by a thread: a batch is some 90 MB, and training would wait while it comes through the pipe.
        self._received: queue.Queue[tuple[np.ndarray, ...]] = queue.Queue(maxsize=2)
        self._closed = threading.Event()

    def __enter__(self) -> RemoteClips:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closed.set()
        for renderer in self._renderers:
            renderer.terminate()
        self._batches.cancel_join_thread()

    def _start(self, first: int) -> None:
        for number in range(first, first + self._num_renderers):
            arguments = (*self._arguments, number, self._num_renderers, self._batches)
            self._renderers.append(self._context.Process(target=_render, args=arguments, daemon=True))
            self._renderers[-1].start()
        threading.Thread(target=self._receive, daemon=True).start()

    def _receive(self) -> None:
        arrays = None
        while not self._closed.is_set():
            try:
                if arrays is None:
                    arrays = self._batches.get(timeout=1.0)
                self._received.put(arrays, timeout=1.0)
                arrays = None
            except (queue.Empty, queue.Full):
                continue

    def batch(self, index: int) -> ClipBatch:
        """The next finished batch, whatever its number.

        The renderers start with the first call, at its number: a training that is resumed goes on to new rooms.

        Raises:
            RuntimeError: No renderer has delivered anything for three minutes.
        """
        if not self._renderers:
            self._start(index)
        try:
            arrays = self._received.get(timeout=PATIENCE)
        except queue.Empty:
            raise RuntimeError(f"The clip renderers have delivered nothing for {PATIENCE:.0f} s.") from None
        target, condition, known = (torch.from_numpy(array).to(self._device).float() / 255 for array in arrays)
        return ClipBatch(target, condition, known)


def _render(config: ClipConfig, device: str, seed: int, first: int, stride: int, batches) -> None:
    """Put batches `first`, `first + stride`, ... into the queue as bytes, for ever."""
    torch.set_num_threads(1)
    source, number = RoomClips(config, device, seed=seed), first
    while True:
        clips = source.batch(number)
        batches.put(tuple(_bytes(images) for images in (clips.target, clips.condition, clips.known)))
        number += stride


def _bytes(images: torch.Tensor) -> np.ndarray:
    return (255 * images).round().to(torch.uint8).cpu().numpy()
