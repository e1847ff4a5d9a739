"""The ray caster against geometry that can be worked out by hand."""

import math
from dataclasses import replace

import pytest
import torch

from guidedvd_ns.data.rooms import Room, is_free, look_at, render, stack_rooms
from guidedvd_ns.data.rooms.dice import Dice
from guidedvd_ns.data.rooms.lighting import develop
from guidedvd_ns.data.rooms.parts import Lights, Material, Piece, pack
from guidedvd_ns.data.rooms.tracing import distance_to_primitives, is_occluded, nearest_hit

SIZE = (4.0, 6.0, 3.0)
LENS = (20.0, 20.0, 10.5, 8.5)  # the ray through pixel (10, 8) is the optical axis


def hand_made_room(piece: Piece, ambient: float = 0.4, lamp: float = 1.0) -> Room:
    lights = Lights(
        positions=[(0.0, 0.0, 2.8), (0.0, 0.0, 2.8)],
        axes=[((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))] * 2,
        colors=[(lamp, lamp, lamp), (0.0, 0.0, 0.0)],
        ambient=((ambient, ambient, ambient), (ambient, ambient, ambient), (0.0, 0.0, 0.0)),
    )
    return pack(SIZE, piece.parts, [Material()] * 6, lights, Dice(0))


def view_along_y(y: float = -2.0, z: float = 1.0) -> torch.Tensor:
    return look_at(torch.tensor([[[0.0, y, z]]]), torch.tensor([[[0.0, 5.0, z]]]))


def test_empty_room_and_a_box_have_the_depths_and_normals_of_their_faces():
    piece = Piece()
    piece.box((0.0, 1.0, 1.0), (0.6, 0.4, 0.6), Material())
    out = render(hand_made_room(piece), view_along_y(), LENS, 17, 21)
    assert out.depth[0, 0, 8, 10, 0] == pytest.approx(2.8, abs=1e-5)  # from y = -2 to the box's face at y = 0.8
    torch.testing.assert_close(out.normal[0, 0, 8, 10], torch.tensor([0.0, -1.0, 0.0]))
    # Beside the box the wall at y = 3; the pixel's x = (1 - 10) / 20 * 5 = -2.25 lies beyond the wall at x = -2.
    assert out.depth[0, 0, 8, 4, 0] == pytest.approx(5.0, abs=1e-5)
    assert out.depth[0, 0, 8, 1, 0] == pytest.approx(2.0 / (9 / 20), abs=1e-5)
    torch.testing.assert_close(out.normal[0, 0, 8, 1], torch.tensor([1.0, 0.0, 0.0]))
    # Seven rows below the axis: the floor, one metre down.
    assert out.depth[0, 0, 15, 10, 0] == pytest.approx(1.0 / (7 / 20), abs=1e-5)
    torch.testing.assert_close(out.normal[0, 0, 15, 10], torch.tensor([0.0, 0.0, 1.0]))


def test_turned_box_is_hit_where_its_corner_is():
    piece = Piece()
    piece.box((0.0, 1.0, 1.0), (0.5, 0.5, 0.5), Material(), yaw=math.pi / 4)
    origin, forward = torch.tensor([[[0.001, -2.0, 1.0]]]), torch.tensor([[[0.0, 1.0, 0.0]]])
    hit = nearest_hit(hand_made_room(piece), origin, forward)
    assert hit.t.item() == pytest.approx(3.0 - 0.25 * math.sqrt(2) + 0.001, abs=1e-5)
    torch.testing.assert_close(hit.normal[0, 0], torch.tensor([math.sqrt(0.5), -math.sqrt(0.5), 0.0]))


def test_sphere_and_ellipsoid_depth_and_normal():
    piece = Piece()
    piece.ellipsoid((0.0, 1.0, 1.0), (0.5, 0.5, 0.5), Material())
    room = hand_made_room(piece)
    origin = torch.tensor([[[0.3, -2.0, 1.0], [0.0, -2.0, 1.0]]])
    hit = nearest_hit(room, origin, torch.tensor([[[0.0, 2.0, 0.0], [0.0, 1.0, 0.0]]]))
    torch.testing.assert_close(hit.t, torch.tensor([[(3.0 - 0.4) / 2, 2.5]]))
    torch.testing.assert_close(hit.normal[0, 0], torch.tensor([0.6, -0.8, 0.0]))

    stretched = Piece()
    stretched.ellipsoid((0.0, 1.0, 1.0), (0.5, 0.2, 0.8), Material(), yaw=math.pi / 2)
    hit = nearest_hit(hand_made_room(stretched), origin[:, 1:], torch.tensor([[[0.0, 1.0, 0.0]]]))
    assert hit.t.item() == pytest.approx(2.5, abs=1e-5)  # turned by 90 degrees: the half axis of 0.5 lies along y


def test_cone_frustum_side_and_cap():
    piece = Piece()
    piece.cylinder((0.0, 1.0, 0.5), 0.4, 1.0, Material(), top=0.2)
    origin = torch.tensor([[[0.0, -2.0, 1.0], [0.1, 1.0, 2.9]]])
    hit = nearest_hit(hand_made_room(piece), origin, torch.tensor([[[0.0, 1.0, 0.0], [0.0, 0.0, -1.0]]]))
    torch.testing.assert_close(hit.t, torch.tensor([[2.7, 1.4]]))  # half way up the radius is 0.3; the top is at 1.5
    slope = torch.tensor([0.0, -1.0, 0.2])
    torch.testing.assert_close(hit.normal[0], torch.stack([slope / slope.norm(), torch.tensor([0.0, 0.0, 1.0])]))


def test_distance_and_freedom():
    piece = Piece()
    piece.box((0.0, 1.0, 1.0), (0.6, 0.4, 0.6), Material(), yaw=0.3)
    piece.ellipsoid((-1.0, -1.0, 1.0), (0.3, 0.3, 0.3), Material())
    piece.cylinder((1.0, -1.0, 0.0), 0.2, 1.0, Material())
    room = hand_made_room(piece)
    points = torch.tensor([[[0.0, 1.0, 1.8], [0.0, 1.0, 1.0], [-1.0, -1.5, 1.0], [1.0, -1.5, 0.5], [1.0, -1.0, 1.4]]])
    distances = distance_to_primitives(room, points)
    torch.testing.assert_close(distances, torch.tensor([[0.5, -0.2, 0.2, 0.3, 0.4]]), atol=1e-5, rtol=0)
    assert is_free(room, points, 0.25).tolist() == [[True, False, False, True, True]]
    near_wall = torch.tensor([[[1.8, 0.0, 1.5], [0.0, 0.0, 0.1], [2.5, 0.0, 1.5], [0.0, -0.3, 1.5]]])
    assert is_free(room, near_wall, 0.25).tolist() == [[False, False, False, True]]


def test_a_box_casts_a_shadow_and_nothing_shades_itself():
    piece = Piece()
    piece.box((0.0, 0.0, 1.5), (1.0, 1.0, 0.1), Material())
    room = hand_made_room(piece)
    lamp = torch.tensor([0.0, 0.0, 2.8]).expand(1, 3, 3)
    points = torch.tensor([[[0.0, 0.0, 0.01], [1.8, 0.0, 0.01], [0.0, 0.0, 1.56]]])
    assert is_occluded(room, lamp, points).tolist() == [[True, False, False]]

    floor = look_at(torch.tensor([[[1.5, 0.0, 1.2]]]), torch.tensor([[[0.0, 0.01, 0.0]]]))
    lit = render(hand_made_room(Piece()), floor, LENS, 17, 21).rgb[0, 0, 8, 10]
    dark = render(room, floor, LENS, 17, 21).rgb[0, 0, 8, 10]
    unlit = render(hand_made_room(Piece(), lamp=0.0), floor, LENS, 17, 21).rgb[0, 0, 8, 10]
    assert (lit - dark).min() > 0.1
    torch.testing.assert_close(dark, unlit)


def test_a_rounded_box_turns_its_normal_at_the_edges_only():
    piece = Piece()
    piece.box((0.0, 1.0, 1.0), (0.6, 0.4, 0.6), Material(), rounded=0.1)
    # In the middle of the face, 0.05 m from its right edge, and on that edge.
    origins = torch.tensor([[[0.0, -2.0, 1.0], [0.25, -2.0, 1.0], [0.29999, -2.0, 1.0]]])
    hit = nearest_hit(hand_made_room(piece), origins, torch.tensor([0.0, 1.0, 0.0]).expand(1, 3, 3))
    torch.testing.assert_close(hit.t, torch.full((1, 3), 2.8))
    slopes = torch.tensor([[0.0, -1.0, 0.0], [0.25, -1.0, 0.0], [1.0, -1.0, 0.0]])
    torch.testing.assert_close(hit.normal[0], torch.nn.functional.normalize(slopes, dim=-1), atol=1e-3, rtol=0)


def sunlit_room(square: float) -> Room:
    """The sun shines at 45 degrees through a square at the wall x = 2, 1.5 m up, and there is no other light."""
    lights = Lights(
        positions=[(0.0, 0.0, 2.8), (1.97, 0.0, 1.5)],
        axes=[((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)), ((0.0, square, 0.0), (0.0, 0.0, square))],
        colors=[(0.0, 0.0, 0.0), (1.0, 1.0, 1.0)],
        ambient=((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
        sun=(math.sqrt(0.5), 0.0, math.sqrt(0.5), 1.0),
    )
    return pack(SIZE, [], [Material()] * 6, lights, Dice(0))


def test_the_sun_draws_its_window_on_the_floor():
    # The ray through the square's middle meets the floor at x = 1.97 - 1.5; the square is projected at 45 degrees.
    poses = look_at(torch.tensor([[[0.47, 0.01, 2.5]]]), torch.tensor([[[0.47, 0.0, 0.0]]]))
    lens = (100.0, 100.0, 50.0, 50.0)  # 40 pixels a metre on the floor
    lit = render(sunlit_room(0.4), poses, lens, 100, 100).rgb[0, 0, :, :, 0] > 0.1
    columns, rows = lit.any(0).nonzero(), lit.any(1).nonzero()
    assert columns.min().item() == pytest.approx(50 - 16, abs=1.01)
    assert columns.max().item() == pytest.approx(50 + 15, abs=1.01)
    assert rows.min().item() == pytest.approx(50 - 16, abs=1.01) and rows.max().item() == pytest.approx(65, abs=1.01)
    assert not lit[50, 50]  # the bars cross there
    assert lit[:, 40].sum() > 25


def test_develop_is_the_tone_curve_of_the_room():
    room = replace(hand_made_room(Piece()), look=torch.tensor([[2.0, 1.1, 1.0, 0.9, 0.0, 1.0, 0.5]]))
    light = torch.tensor([[[0.2, 0.3, 0.4]]])
    gains = torch.tensor([1.1, 1.0, 0.9])
    expected = (1 - torch.exp(-2.0 * gains * light / 1.1**2)) ** (1 / 2.2)
    torch.testing.assert_close(develop(room, light, torch.tensor([[0.2]])), expected)
    gray = develop(replace(room, look=torch.tensor([[2.0, 1.1, 1.0, 0.9, 0.0, 0.0, 0.5]])), light, torch.zeros(1, 1))
    assert gray.std() < 1e-6


def test_corners_are_darker_than_open_walls():
    room = hand_made_room(Piece(), lamp=0.0)
    wall = look_at(torch.tensor([[[0.0, 0.0, 1.5]]]), torch.tensor([[[0.0, 3.0, 1.5]]]))
    rgb = render(room, wall, (20.0, 20.0, 20.0, 8.0), 16, 40, supersample=2).rgb[0, 0, 8, :, 0]
    assert rgb[7] < rgb[9] < rgb[11] and rgb[20] - rgb[7] > 0.05


def test_trimmed_rooms_look_the_same_and_refuse_to_be_stacked_with_others():
    piece = Piece()
    piece.box((0.0, 1.0, 1.0), (0.6, 0.4, 0.6), Material())
    piece.ellipsoid((-1.0, 1.0, 1.0), (0.3, 0.3, 0.3), Material())
    room = hand_made_room(piece)
    trimmed = room.trimmed()
    assert trimmed.counts == (1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    origins = torch.tensor([0.0, -2.0, 1.0]).expand(1, 200, 3)
    directions = torch.randn(1, 200, 3, generator=generator)
    whole, small = nearest_hit(room, origins, directions), nearest_hit(trimmed, origins, directions)
    torch.testing.assert_close(whole.t, small.t)
    torch.testing.assert_close(whole.normal, small.normal)
    torch.testing.assert_close(whole.uv, small.uv)
    with pytest.raises(ValueError, match="different sizes"):
        stack_rooms([room, trimmed])
