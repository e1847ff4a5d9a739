"""What the viewer shows of generation: a status line and the generated frames at their cameras."""

from __future__ import annotations

import numpy as np
import torch
import viser
import viser.transforms
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO
from nerfstudio.viewer.viewer_elements import ViewerCheckbox, ViewerControl, ViewerText
from torch import Tensor, nn

FRAME_STRIDE = 4
KEPT_COLOUR, REJECTED_COLOUR = (40, 160, 60), (200, 60, 40)


class GenerationPanel(nn.Module):
    """Elements of the viewer's control tab; a module, because that is where nerfstudio looks for elements.

    Without a viewer, or before it is up, every call does nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.status = ViewerText("Status", "fitting the guide", disabled=True)
        self.show_frames = ViewerCheckbox(
            "Generated frames", True, cb_hook=self._toggle, hint="Show generated sequences at their cameras"
        )
        self.control = ViewerControl()
        self.handles: list[viser.SceneNodeHandle] = []

    @property
    def server(self) -> viser.ViserServer | None:
        """The viewer's server, once nerfstudio has handed it over."""
        return getattr(self.control, "viser_server", None)

    def say(self, text: str) -> None:
        """Show `text` as the status."""
        if self.server is not None:
            self.status.value = text

    def show(self, number: int, cameras: Cameras, frames: Tensor, kept: bool) -> None:
        """Put every fourth frame of a sequence into the scene, framed green where it was kept, red where rejected.

        Args:
            number: the sequence's number.
            cameras: [L].
            frames: [L, h, w, 3], in [0, 1].
            kept: whether training uses the sequence.
        """
        server = self.server
        if server is None:
            return
        for index in range(FRAME_STRIDE, len(frames), FRAME_STRIDE):
            camera = cameras[index]
            pose = camera.camera_to_worlds.cpu().numpy()
            # viser's frustums follow the OpenCV convention.
            rotation = viser.transforms.SO3.from_matrix(pose[:3, :3]) @ viser.transforms.SO3.from_x_radians(np.pi)
            handle = server.scene.add_camera_frustum(
                name=f"/generated/{number:03d}/{index:02d}",
                fov=float(2 * torch.atan(camera.height / 2 / camera.fy)),
                aspect=float(camera.width / camera.height),
                scale=0.1,
                color=KEPT_COLOUR if kept else REJECTED_COLOUR,
                image=(frames[index].clamp(0, 1) * 255).byte().cpu().numpy(),
                wxyz=rotation.wxyz,
                position=pose[:3, 3] * VISER_NERFSTUDIO_SCALE_RATIO,
                visible=self.show_frames.value,
            )
            self.handles.append(handle)

    def _toggle(self, element: ViewerCheckbox) -> None:
        for handle in self.handles:
            handle.visible = element.value
