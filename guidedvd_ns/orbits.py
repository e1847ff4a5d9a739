"""Camera paths: from an input view along a sphere around the point that it looks at."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor


@dataclass(frozen=True)
class Placement:
    """Where a trajectory ends: a point on the sphere in front of one input view."""

    view: int
    """Index of the input view among the input cameras."""
    scale: float
    """Radius as a share of the depth at the input view's image centre."""
    radius: float
    """Radius of the sphere in scene units."""
    azimuth: float
    """Offset in degrees about the input camera's own up axis; positive moves the camera to its right."""
    elevation: float
    """Offset in degrees from the input camera's horizontal plane; positive moves the camera up."""


@dataclass(frozen=True, eq=False)  # compared by identity: cameras hold tensors
class Trajectory(Placement):
    """A camera path from an input view to a placement that sees holes."""

    hole_fraction: float
    """Share of hole pixels in the guide's render at the last pose, after erosion."""
    cameras: Cameras
    """[L] cameras with the input view's intrinsics, without distortion and metadata; frame 0 is the input pose."""

    @property
    def name(self) -> str:
        """A name that is unique in a pool and fit for file names."""
        return f"view{self.view:03d}_scale{self.scale:.3g}_az{self.azimuth:+g}_el{self.elevation:+g}"

    @property
    def centre(self) -> Tensor:  # [3]
        """The sphere's centre, which every camera of the trajectory looks at, in scene units."""
        camera_to_world = self.cameras.camera_to_worlds[0]
        return camera_to_world[:, 3] - self.radius * camera_to_world[:, 2]


def orbit(
    camera_to_world: Tensor,  # [3, 4]
    radius: float,
    azimuths: Tensor,  # [L]
    elevations: Tensor,  # [L]
) -> Tensor:  # [L, 3, 4]
    """Poses on a sphere around the point `radius` in front of a camera, all of them pointed at that point.

    The sphere's pole is the input camera's own up axis (robust where a capture's world up is unknown). The camera at
    azimuth a and elevation e lies, seen from the centre and in the input camera's axes (right, up, back), in the
    direction `(cos e sin a, sin e, cos e cos a)`; its right axis stays perpendicular to the pole, so it does not roll.
    At offsets (0, 0) the result equals `camera_to_world` to the last bit.

    Args:
        camera_to_world: Input pose, OpenGL.
        radius: Distance to the sphere's centre in scene units.
        azimuths: Offsets in degrees.
        elevations: Offsets in degrees.

    Returns:
        OpenGL poses, in the input's dtype and on its device.
    """
    rotation, position = camera_to_world[:, :3].double(), camera_to_world[:, 3].double()
    azimuth = torch.deg2rad(azimuths.to(rotation))
    elevation = torch.deg2rad(elevations.to(rotation))
    sin_a, cos_a, sin_e, cos_e = azimuth.sin(), azimuth.cos(), elevation.sin(), elevation.cos()
    zero = torch.zeros_like(sin_a)
    right = torch.stack([cos_a, zero, -sin_a], dim=-1)
    up = torch.stack([-sin_e * sin_a, cos_e, -sin_e * cos_a], dim=-1)
    back = torch.stack([cos_e * sin_a, sin_e, cos_e * cos_a], dim=-1)
    rotations = rotation @ torch.stack([right, up, back], dim=-1)
    # The change of the back axis, not the centre, is added up: exactly zero at zero offsets.
    positions = position + radius * (rotations[..., 2] - rotation[:, 2])
    return torch.cat([rotations, positions[..., None]], dim=-1).to(camera_to_world)


def path_to(
    placement: Placement,
    cameras: Cameras,  # [N] input cameras
    num_frames: int,
) -> Tensor:  # [num_frames, 3, 4]
    """Poses from the input view to a placement, interpolated in the angles so that each lies on the sphere."""
    progress = torch.linspace(0, 1, num_frames, dtype=torch.float64)
    pose = cameras.camera_to_worlds[placement.view]
    return orbit(pose, placement.radius, progress * placement.azimuth, progress * placement.elevation)


def trajectory_to(
    placement: Placement,
    hole_fraction: float,
    cameras: Cameras,  # [N] input cameras
    num_frames: int,
) -> Trajectory:
    """The trajectory of `num_frames` poses, the input view's own one included, that ends at a placement."""
    poses = path_to(placement, cameras, num_frames)
    seen = cameras_at(cameras, placement.view, poses)
    return Trajectory(**asdict(placement), hole_fraction=hole_fraction, cameras=seen)


def cameras_at(
    cameras: Cameras,  # [N] input cameras
    view: int,
    poses: Tensor,  # [L, 3, 4]
) -> Cameras:  # [L]
    """Cameras with the intrinsics of one input view. Distortion and metadata (camera index) stay behind."""
    intrinsics = {
        name: getattr(cameras, name)[view].expand(len(poses), 1).clone()
        for name in ("fx", "fy", "cx", "cy", "width", "height", "camera_type")
    }
    return Cameras(camera_to_worlds=poses, **intrinsics)
