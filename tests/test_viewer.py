"""The viewer's panel: silent without a viewer, frames at their cameras with one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import viser
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO

from guidedvd_ns.viewer import GenerationPanel
from tests.scenes import cameras


def _show(panel: GenerationPanel, kept: bool = True) -> None:
    panel.show(3, cameras(9), torch.rand(9, 12, 16, 3), kept)


class _Viewer:
    def __init__(self, server: viser.ViserServer) -> None:
        self.viser_server = server


@pytest.fixture
def panel():
    server = viser.ViserServer(port=0, verbose=False)
    panel = GenerationPanel()
    for element in (panel.status, panel.show_frames):
        element.install(server)
    panel.control._setup(_Viewer(server))  # type: ignore[arg-type]
    yield panel
    server.stop()


def test_without_a_viewer_nothing_happens():
    panel = GenerationPanel()
    panel.say("hello")
    _show(panel)
    assert panel.handles == [] and list(panel.parameters()) == []


def test_frames_stand_at_their_cameras(panel):
    _show(panel)
    assert len(panel.handles) == 2  # frames 4 and 8
    expected = np.array([0.4, 0.0, 0.0]) * VISER_NERFSTUDIO_SCALE_RATIO
    np.testing.assert_allclose(panel.handles[0].position, expected, atol=1e-5)
    np.testing.assert_allclose(np.abs(panel.handles[0].wxyz), [0, 1, 0, 0], atol=1e-6)


def test_checkbox_hides_frames_and_new_ones_stay_hidden(panel):
    _show(panel)
    panel.show_frames.value = False
    panel._toggle(panel.show_frames)
    assert not any(handle.visible for handle in panel.handles)
    _show(panel, kept=False)
    assert not any(handle.visible for handle in panel.handles)


def test_status_is_shown(panel):
    panel.say("2 of 3 sequences kept")
    assert panel.status.value == "2 of 3 sequences kept"
