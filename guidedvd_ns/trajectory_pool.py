"""The kept trajectories, and the order in which generation goes through them."""

from __future__ import annotations

from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from guidedvd_ns.draws import shuffled
from guidedvd_ns.orbits import Placement, Trajectory, trajectory_to

_PLACEMENT = ("view", "scale", "radius", "azimuth", "elevation")
_SAVED = (*_PLACEMENT, "hole_fraction")


class TrajectoryPool:
    """The kept trajectories, drawn in shuffled rounds over the input views and, of each view, over its trajectories."""

    def __init__(self, trajectories: tuple[Trajectory, ...] = ()) -> None:
        self.trajectories = trajectories
        self._views_left: list[int] = []
        self._members_left: dict[int, list[int]] = {}

    @property
    def is_empty(self) -> bool:
        return not self.trajectories

    def __len__(self) -> int:
        return len(self.trajectories)

    def draw(self, generator: torch.Generator) -> Trajectory:
        """The next trajectory. A view comes again only when every view had its turn, likewise a view's trajectories.

        Args:
            generator: CPU generator that shuffles each new round.

        Raises:
            ValueError: The pool is empty.
        """
        if self.is_empty:
            raise ValueError("There is no trajectory to draw: the pool is empty, check TrajectoryPool.is_empty first.")
        if not self._views_left:
            self._views_left = shuffled(sorted({trajectory.view for trajectory in self.trajectories}), generator)
        view = self._views_left.pop()
        members = self._members_left.get(view) or shuffled(
            [index for index, trajectory in enumerate(self.trajectories) if trajectory.view == view], generator
        )
        self._members_left[view] = members
        return self.trajectories[members.pop()]

    def comes_near(self, positions: Tensor, share: float) -> Tensor:  # [N, 3] -> [N] bool
        """Whether a camera of some trajectory stands closer to a position than a share of how far its input view looks.

        How far that is is the depth at the centre of the view's image, about which its trajectories turn.
        """
        near = torch.zeros(len(positions), dtype=torch.bool, device=positions.device)
        for trajectory in self.trajectories:
            centers = trajectory.cameras.camera_to_worlds[:, :, 3].to(positions)
            # The fast way through a matrix product is off by more than small distances are.
            apart = torch.cdist(positions, centers, compute_mode="donot_use_mm_for_euclid_dist")
            near |= (apart < share * trajectory.radius / trajectory.scale).any(dim=1)
        return near

    def state_dict(self) -> dict[str, Any]:
        """Trajectories and drawing state as plain types, fit for a checkpoint read with `weights_only=True`."""
        return {
            "trajectories": [
                {name: getattr(trajectory, name) for name in _SAVED} | {"num_frames": len(trajectory.cameras)}
                for trajectory in self.trajectories
            ],
            "views_left": list(self._views_left),
            "members_left": {view: list(members) for view, members in self._members_left.items()},
        }

    def load_state_dict(self, state: dict[str, Any], cameras: Cameras) -> None:
        """Restore what `state_dict` returned.

        Args:
            state: The saved state.
            cameras: [N] the input cameras that the trajectories were planned from; poses are rebuilt from them.

        Raises:
            ValueError: A saved trajectory belongs to an input view that `cameras` lacks.
        """
        trajectories = []
        for entry in state["trajectories"]:
            if entry["view"] >= len(cameras):
                raise ValueError(
                    f"The checkpoint has a trajectory of input view {entry['view']}, but there are only {len(cameras)} "
                    "input views: resume with the data that the run was started with."
                )
            saved = Placement(*(entry[name] for name in _PLACEMENT))
            trajectories.append(trajectory_to(saved, entry["hole_fraction"], cameras, entry["num_frames"]))
        self.trajectories = tuple(trajectories)
        self._views_left = list(state["views_left"])
        self._members_left = {view: list(members) for view, members in state["members_left"].items()}
