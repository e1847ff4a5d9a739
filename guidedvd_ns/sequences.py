"""Generated sequences and the views drawn from them: the newest one, and a store of all times (local sampling)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from guidedvd_ns.draws import random_index, shuffled
from guidedvd_ns.orbits import Trajectory


@dataclass(frozen=True)
class SequenceScores:
    """How far a sequence can be trusted; scored where the guide knows the scene."""

    agreement: float  # PSNR in dB between guide and result on known pixels
    hole_fraction: float  # in [0, 1], share of hole pixels
    flicker: float  # mean absolute frame-to-frame change on known pixels that the guide does not show


@dataclass(frozen=True)
class GeneratedSequence:
    """What the prior imagined along a trajectory."""

    number: int  # order of generation, from 0
    trajectory: Trajectory
    frames: Tensor  # [L, h, w, 3] at the prior's resolution, in [0, 1]; frame 0 is the input view
    guide: Tensor  # [L, h, w, 3], the guide's renders at the same size
    known: Tensor  # [L, h, w, 1], bool
    scores: SequenceScores
    seconds: float
    kept: bool


@dataclass(frozen=True)
class GeneratedView:
    """One generated frame and the camera that it was imagined for, at the input view's resolution."""

    camera: Cameras  # [1]
    frame: Tensor  # [h, w, 3], in [0, 1]


class SequenceStore:
    """Draws the generated view of a training step.

    With probability `1 - all_time_probability` (eta of the paper) it comes from the newest sequence, else from a store
    that keeps a random `keep_fraction` of the frames of every sequence. Without local sampling, every frame of every
    sequence is equally likely. Frame 0 of a sequence, the input pose, is never drawn.

    Only frames that can still be drawn are held: those of the newest sequence and the all-time store on `device`, and
    without local sampling those of older sequences in main memory.
    """

    def __init__(
        self,
        *,
        all_time_probability: float = 0.5,
        keep_fraction: float = 0.2,
        local_sampling: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        self.all_time_probability = all_time_probability
        self.keep_fraction = keep_fraction
        self.local_sampling = local_sampling
        self.device = device
        self._views: dict[int, dict[int, GeneratedView]] = {}
        """Sequence number -> frame number -> view."""
        self._stored: list[tuple[int, int]] = []
        self._newest: int | None = None

    def __len__(self) -> int:
        return len(self._views)

    @property
    def num_frames(self) -> int:
        """Frames that are held in memory."""
        return sum(len(views) for views in self._views.values())

    def add(self, number: int, cameras: Cameras, frames: Tensor, generator: torch.Generator) -> None:
        """Take in the kept sequence `number`, with cameras [L] and frames [L, h, w, 3]."""
        count = max(1, round(self.keep_fraction * (len(frames) - 1)))
        chosen = shuffled(range(1, len(frames)), generator)[:count]
        self._insert(number, cameras, frames, [(number, frame) for frame in chosen])

    def _insert(self, number: int, cameras: Cameras, frames: Tensor, stored: list[tuple[int, int]]) -> None:
        if self._newest is not None:
            self._views[self._newest] = self._retired(self._newest)
        frames = frames.to(self.device)
        self._views[number] = {f: GeneratedView(cameras[f : f + 1], frames[f]) for f in range(1, len(frames))}
        self._stored.extend(stored)
        self._newest = number

    def _retired(self, number: int) -> dict[int, GeneratedView]:
        """What is held of a sequence that is no longer the newest; copies, so that the rest of its frames goes."""
        views = self._views[number]
        if not self.local_sampling:
            return {f: replace(view, frame=view.frame.cpu()) for f, view in views.items()}
        return {f: replace(views[f], frame=views[f].frame.clone()) for n, f in self._stored if n == number}

    def draw(self, generator: torch.Generator) -> GeneratedView:
        """Draw one view.

        Raises:
            IndexError: if no sequence has been added.
        """
        if self._newest is None:
            raise IndexError("no generated sequence to draw from")
        if not self.local_sampling:
            every = [view for views in self._views.values() for view in views.values()]
            return every[random_index(len(every), generator)]
        if float(torch.rand((), generator=generator)) < self.all_time_probability:
            number, frame = self._stored[random_index(len(self._stored), generator)]
            return self._views[number][frame]
        newest = self._views[self._newest]
        return newest[1 + random_index(len(newest), generator)]

    def state_dict(self) -> dict[str, Any]:
        """Which frames are stored; frames and cameras themselves are restored by whoever kept them."""
        return {"numbers": list(self._views), "stored": [list(entry) for entry in self._stored]}

    def restore(self, state: dict[str, Any], sequences: dict[int, tuple[Cameras, Tensor]]) -> None:
        """Rebuild the store from `state_dict()` and the sequences' cameras and frames; lost sequences are left out."""
        for number in state["numbers"]:
            if number in sequences:
                self._insert(number, *sequences[number], [(n, f) for n, f in state["stored"] if n == number])
