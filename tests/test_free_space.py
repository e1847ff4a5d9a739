"""Where a camera may stand, on scenes whose surfaces are planes."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from guidedvd_ns.free_space import SeenSpace
from tests.scenes import cameras, random_pose


def _wall(distance: float = 2.0, view: int = 0) -> tuple:
    """A camera at the origin (or 0.1 * `view` to its right) that looks along -z at a wall across all of its image."""
    camera = cameras(view + 1)[view : view + 1]
    return camera, torch.full((24, 32, 1), distance), torch.ones(24, 32, 1, dtype=torch.bool)


def _space(*views: tuple, **options) -> SeenSpace:
    seen, depths, known = (list(column) for column in zip(*views, strict=True))
    return SeenSpace(seen, depths, known, **options)


def _at(*position: float) -> Tensor:
    return torch.tensor(position)


def test_before_a_wall_is_free_and_behind_it_is_hidden():
    space = _space(_wall(2.0))
    positions = torch.tensor([[0.0, 0.0, -1.0], [0.3, -0.2, -1.99], [0.0, 0.0, -3.0], [0.9, -0.7, -2.5]])
    assert space.hides(positions).tolist() == [False, False, True, True]
    assert space.hides(positions.reshape(2, 2, 3)).tolist() == [[False, False], [True, True]]


def test_hidden_begins_a_margin_behind_the_surface():
    for margin in (0.05, 0.2):
        space = _space(_wall(2.0), margin=margin)
        assert not space.hides(_at(0, 0, -2 * (1 + margin) + 1e-3))
        assert space.hides(_at(0, 0, -2 * (1 + margin) - 1e-3))


def test_what_lies_beside_the_frustum_or_behind_the_camera_is_not_judged():
    space = _space(_wall(2.0))
    # At depth 3 the image's right border is 1.5 to the right, its upper one 1.125 above the middle.
    inner, outer = torch.tensor([[1.49, 0, -3], [0, 1.12, -3]]), torch.tensor([[1.51, 0, -3], [0, 1.13, -3]])
    assert space.hides(inner).all() and space.hides(-inner * _at(1, 1, -1)).all()
    assert not space.hides(outer).any() and not space.hides(-outer * _at(1, 1, -1)).any()
    assert not space.hides(torch.tensor([[0.0, 0.0, 3.0], [0.0, 0.0, 0.0]])).any()


def test_what_another_view_sees_past_is_free():
    past = _wall(5.0, view=1)
    space = _space(_wall(2.0), past)
    assert not space.hides(_at(0.1, 0, -4.0))
    assert space.hides(_at(0.1, 0, -5.5))
    # The second view's image ends 1.9 to the left at depth 4: there the first one's word counts.
    assert space.hides(_at(-1.95, 0, -4.0))


def test_unknown_pixels_say_nothing():
    camera, depth, known = _wall(2.0)
    known[:, :16], depth[:, :16] = False, float("nan")
    space = _space((camera, depth, known))
    assert space.hides(torch.tensor([[-0.5, 0, -3], [0.5, 0, -3]])).tolist() == [False, True]
    assert not _space((camera, depth, torch.zeros_like(known))).hides(_at(0.5, 0, -3))


def test_each_pixel_has_its_own_depth():
    camera, depth, known = _wall(2.0)
    depth[6, 20] = 4.0  # row 6 is above the middle, column 20 to the right of it
    space = _space((camera, depth, known))
    right, up = (20.5 - 16) / 32, (12 - 6.5) / 32
    assert not space.hides(_at(3 * right, 3 * up, -3))
    assert space.hides(torch.tensor([[3 * right, -3 * up, -3], [-3 * right, 3 * up, -3]])).all()


def test_seen_past_is_what_stands_well_before_a_surface_of_some_view():
    space = _space(_wall(2.0), _wall(5.0, view=1), margin=0.1)
    before = torch.tensor([[0, 0, -1.7], [0.1, 0, -4.4]])
    too_close, behind, unseen = [0.1, 0, -4.6], [0, 0, -6], [0, 0, 1.0]
    assert space.sees_past(before).all()
    assert not space.sees_past(torch.tensor([too_close, behind, unseen])).any()
    camera, depth, known = _wall(2.0)
    assert not _space((camera, depth, ~known)).sees_past(_at(0, 0, -1))


@dataclass(frozen=True)
class Seen:
    opacity: Tensor
    depth: Tensor


def test_a_render_counts_where_it_is_opaque_enough():
    near, far = _wall(2.0), _wall(5.0, view=1)
    opacity = torch.full((24, 32, 1), 0.7)
    opacity[:, :16] = 0.69
    depths = {0.0: near[1], float(far[0].camera_to_worlds[0, 0, 3]): far[1]}

    def render(views: Cameras) -> Seen:
        return Seen(opacity[None], depths[float(views.camera_to_worlds[0, 0, 3])][None])

    space = SeenSpace.of([near[0], far[0]], render, threshold=0.7)
    # To the left of both images nothing is known; to the right the first view's word counts behind its own wall
    # unless the second sees past it.
    positions = torch.tensor([[-0.5, 0, -6], [0.5, 0, -6], [0.5, 0, -4]])
    assert space.hides(positions).tolist() == [False, True, False]
    assert space.sees_past(positions).tolist() == [False, False, True]


def test_renders_are_let_go_one_by_one():
    rendered: list[weakref.ref] = []

    def render(views: Cameras) -> Seen:
        # The last one still has its name in the caller.
        assert sum(earlier() is not None for earlier in rendered) <= 1
        seen = Seen(torch.ones(1, 24, 32, 1), torch.ones(1, 24, 32, 1))
        rendered.append(weakref.ref(seen))
        return seen

    SeenSpace.of([_wall(view=number)[0] for number in range(4)], render, threshold=0.7)
    assert len(rendered) == 4


def test_without_views_nothing_is_hidden_or_seen_past():
    space = SeenSpace([], [], [])
    assert not space.hides(torch.rand(4, 3)).any() and not space.sees_past(torch.rand(4, 3)).any()


@pytest.mark.parametrize("seed", range(3))
def test_the_verdict_moves_with_the_world(seed: int):
    generator = torch.Generator().manual_seed(seed)
    pose = random_pose(generator).float()
    positions = 4 * torch.rand(50, 3, generator=generator) - torch.tensor([2.0, 2.0, 4.0])
    camera, depth, known = _wall(2.0)
    expected = _space((camera, depth, known)).hides(positions)
    camera.camera_to_worlds = pose[None]
    moved = _space((camera, depth, known)).hides(positions @ pose[:, :3].T + pose[:, 3])
    assert torch.equal(moved, expected) and 5 < expected.sum() < 45


def test_behind_a_mask_nothing_is_known():
    camera, depth, known = _wall(2.0)
    mask = known.clone()
    mask[:, :16] = False
    space = SeenSpace.of([camera], lambda _: Seen(known[None].float(), depth[None]), 0.5, [mask])
    positions = torch.tensor([[-0.5, 0, -3.0], [0.5, 0, -3.0]])
    assert space.hides(positions).tolist() == [False, True]
    assert space.sees_past(positions / 3).tolist() == [False, True]
