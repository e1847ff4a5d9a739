"""Generation a step at a time: sizes, scores, seeds, and what the prior gets to see."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from guidedvd_ns.generation import (
    GenerationSettings,
    InlineGenerator,
    InpaintingGenerator,
    blend_known,
    close_holes,
    fit_size,
    resize,
    sampling_size,
    score_sequence,
)
from guidedvd_ns.guidance import GuidanceApproximation
from guidedvd_ns.guide import Guide, GuideRender
from guidedvd_ns.orbits import Trajectory
from guidedvd_ns.point_render import PointCloud
from guidedvd_ns.priors.base import SamplerOverrides
from guidedvd_ns.priors.inpainting import OpenCVInpainter
from guidedvd_ns.sequences import GeneratedSequence
from tests.analytic_prior import GreyPrior
from tests.scenes import cameras, wall


def _generator(
    seed: int = 0, prior: GreyPrior | None = None, points: PointCloud | None = None, **settings
) -> InlineGenerator:
    guide = Guide()
    guide.adopt(wall(), sh_degree=0)
    return InlineGenerator(prior or GreyPrior(), guide, GenerationSettings(**settings), seed, points)


def _trajectory() -> Trajectory:
    return Trajectory(
        view=0, scale=1.0, radius=2.0, azimuth=15.0, elevation=0.0, hole_fraction=0.4, cameras=cameras(4, 64, 48)
    )


def _sample(generator: InlineGenerator, number: int = 0) -> GeneratedSequence:
    generator.submit(number, _trajectory(), torch.full((48, 64, 3), 0.3))
    while generator.is_busy:
        generator.advance()
    sequence = generator.poll()
    assert sequence is not None
    return sequence


def test_one_denoising_step_at_a_time():
    generator = _generator()
    assert not generator.is_busy and generator.remaining_steps == 0
    generator.submit(0, _trajectory(), torch.rand(48, 64, 3))
    assert generator.remaining_steps == 5
    generator.advance()
    assert generator.is_busy and generator.remaining_steps == 4 and generator.poll() is None
    generator.advance(4)
    assert not generator.is_busy
    assert generator.poll() is not None and generator.poll() is None


def test_guidance_pulls_known_pixels_to_the_guide_and_leaves_holes_to_the_prior():
    guided = _sample(_generator())
    free = _sample(_generator(guided=False))
    assert guided.scores.agreement > free.scores.agreement + 1
    hole = ~guided.known.expand(-1, -1, -1, 3)
    assert (guided.frames[hole] - 0.5).abs().mean() < 0.01
    assert (free.frames - 0.5).abs().mean() < 0.01


def test_prior_sees_guide_and_photograph_at_its_own_size():
    prior = GreyPrior()
    _sample(_generator(prior=prior))
    assert prior.seen["frames"].shape == (4, 24, 32, 3)
    assert prior.seen["known"].shape == (4, 24, 32, 1)
    torch.testing.assert_close(prior.seen["reference"], torch.full((24, 32, 3), 0.3))


def test_renders_shrink_by_averages_of_what_is_known_or_as_the_authors_resize_them():
    seen = {}
    for antialias in (True, False):
        prior = GreyPrior()
        generator = _generator(prior=prior, antialias=antialias)
        _sample(generator)
        seen[antialias] = prior.seen["frames"], prior.seen["known"]
    view = generator.guide.render(_trajectory().cameras)
    rgb, known = (image.movedim(-1, 1) for image in (view.rgb, view.known(0.9).float()))
    bilinear = torch.nn.functional.interpolate(rgb, (24, 32), mode="bilinear").movedim(1, -1)
    nearest = torch.nn.functional.interpolate(known, (24, 32), mode="nearest").movedim(1, -1)
    torch.testing.assert_close(seen[False][0], bilinear.clamp(0, 1))
    assert torch.equal(seen[False][1].float(), nearest)
    assert not torch.allclose(seen[True][0], seen[False][0], atol=1e-3)


def test_prior_is_shown_points_that_the_input_view_sees_while_the_guide_guides():
    prior = GreyPrior()
    # Seen from the first camera the white point hides the black one, which the last camera would see.
    points = PointCloud(torch.tensor([[0.0, 0.0, -1.0], [0.0, 0.0, -3.0]]), torch.tensor([[1.0] * 3, [0.0] * 3]))
    sequence = _sample(_generator(prior=prior, points=points))
    assert prior.seen["frames"].shape == (4, 24, 32, 3) and prior.seen["known"].shape == (4, 24, 32, 1)
    # 0.1 to the right moves it, at depth 1 and focal length 32, 3.2 pixels to the left.
    pixels = prior.seen["known"][..., 0].nonzero()
    assert pixels.tolist() == [[0, 12, 16], [1, 12, 12], [2, 12, 9], [3, 12, 6]]
    assert torch.equal(prior.seen["frames"], prior.seen["known"].float().expand(-1, -1, -1, 3))
    torch.testing.assert_close(sequence.guide, _sample(_generator()).guide)
    assert torch.equal(sequence.frames, _sample(_generator()).frames)


def test_settings_that_cannot_be_sampled_are_refused_at_once():
    with pytest.raises(ValueError, match="sampling-sizes has 24x30, but this prior samples multiples of 4"):
        _generator(sizes=((24, 32), (24, 30)))
    with pytest.raises(ValueError, match="sampler.num-frames must be at least 2"):
        _generator(prior=GreyPrior(num_frames=1))
    with pytest.raises(ValueError, match="close-holes must be an odd number of pixels, got 4"):
        _generator(close_holes=4)
    with pytest.raises(ValueError, match="latent space has no perceptual term"):
        _generator(perceptual="vgg19", approximation=GuidanceApproximation(space="latents"))


def test_guidance_is_approximated_as_asked():
    exact, seldom = _sample(_generator()), _sample(_generator(approximation=GuidanceApproximation(every=5)))
    free = _sample(_generator(guided=False))
    assert exact.scores.agreement > seldom.scores.agreement + 0.5 > free.scores.agreement + 0.5


def test_portrait_photographs_are_sampled_upright():
    generator = _generator()
    path = Trajectory(
        view=0, scale=1.0, radius=2.0, azimuth=15.0, elevation=0.0, hole_fraction=0.4, cameras=cameras(4, 36, 64)
    )
    generator.submit(0, path, torch.rand(64, 36, 3))
    generator.advance(5)
    sequence = generator.poll()
    assert sequence is not None and sequence.frames.shape == (4, 36, 20, 3)


def test_masked_parts_of_the_photograph_are_unknown():
    prior = GreyPrior()
    generator = _generator(prior=prior)
    mask = torch.ones(48, 64, 1, dtype=torch.bool)
    mask[:, :10] = False
    generator.submit(0, _trajectory(), torch.full((48, 64, 3), 0.3), mask)
    generator.advance(5)
    sequence = generator.poll()
    assert sequence is not None
    assert not sequence.known[0, :, :5].any() and sequence.known[1, :, :5].any()


def test_masked_colours_do_not_bleed_into_the_reference():
    prior = GreyPrior()
    photograph, mask = torch.full((48, 64, 3), 0.3), torch.ones(48, 64, 1, dtype=torch.bool)
    mask[:, :11] = False
    photograph[:, :11] = 1.0
    generator = _generator(prior=prior)
    generator.submit(0, _trajectory(), photograph, mask)
    generator.advance()
    reference = prior.seen["reference"]
    assert (reference[:, 6:] - 0.3).abs().max() < 1e-4
    assert reference[:, :5].max() < 0.85  # the guide's colours, not the masked white


def test_draws_depend_on_seed_and_number_alone():
    first = _sample(_generator(seed=1), number=2)
    again = _generator(seed=1)
    _sample(again, number=0)
    assert torch.equal(_sample(again, number=2).frames, first.frames)
    assert not torch.equal(_sample(_generator(seed=2), number=2).frames, first.frames)


@pytest.mark.parametrize(("threshold", "kept"), [(0.0, True), (90.0, False)])
def test_sequences_that_contradict_the_guide_are_rejected(threshold: float, kept: bool):
    assert _sample(_generator(min_agreement=threshold)).kept is kept


def test_scores_of_known_sequences():
    guide = torch.rand(5, 8, 8, 3)
    known = torch.ones(5, 8, 8, 1, dtype=torch.bool)
    known[:, :, 6:] = False
    shifted = score_sequence(guide + 0.1, guide, known)
    assert shifted.agreement == pytest.approx(20.0, abs=1e-3)
    assert shifted.flicker == pytest.approx(0.0, abs=1e-6)
    assert shifted.hole_fraction == pytest.approx(0.25)
    alternating = guide + 0.1 * torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0]).reshape(5, 1, 1, 1)
    assert score_sequence(alternating, guide, known).flicker == pytest.approx(0.2, abs=1e-6)


def test_sequence_without_known_pixels_is_not_trusted():
    frames, known = torch.rand(3, 8, 8, 3), torch.zeros(3, 8, 8, 1, dtype=torch.bool)
    scores = score_sequence(frames, torch.zeros_like(frames), known)
    assert scores.agreement == 0.0 and scores.hole_fraction == 1.0 and scores.flicker == 0.0


def test_known_pixels_come_from_the_guide_up_to_a_soft_border():
    frames, guide = torch.zeros(1, 8, 20, 3), torch.ones(1, 8, 20, 3)
    known = torch.zeros(1, 8, 20, 1, dtype=torch.bool)
    known[:, :, :10] = True
    row = blend_known(frames, guide, known)[0, 4, :, 0]
    assert row[:8].allclose(torch.ones(8)) and row[10:].abs().max() == 0
    assert row[8].item() == pytest.approx(0.6) and row[9].item() == pytest.approx(0.2)


def _holes(*parts: tuple[slice, slice]) -> torch.Tensor:
    """A frame [1, 24, 32, 1] that is known but for some rectangles."""
    known = torch.ones(1, 24, 32, 1, dtype=torch.bool)
    for rows, columns in parts:
        known[0, rows, columns] = False
    return known


def test_specks_and_lines_are_no_holes_and_larger_ones_stay_to_the_pixel():
    line, speck = (slice(10, 11), slice(0, 32)), (slice(3, 5), slice(4, 6))
    hole = (slice(16, 21), slice(9, 14))
    assert close_holes(_holes(line, speck), 3).all()
    assert torch.equal(close_holes(_holes(line, speck, hole), 3), _holes(hole))
    assert torch.equal(close_holes(_holes(hole), 5), _holes(hole))
    assert close_holes(_holes(hole), 7).all()


def test_a_diagonal_line_is_closed_and_a_line_beside_a_hole_is_cut_off():
    diagonal = ~torch.eye(24, 32, dtype=torch.bool)[None, ..., None]
    assert close_holes(diagonal, 3).all()
    hole, tail = (slice(8, 16), slice(8, 16)), (slice(12, 13), slice(16, 30))
    assert torch.equal(close_holes(_holes(hole, tail), 3), _holes(hole))


def test_holes_go_on_beyond_the_border():
    border = [(slice(0, 24), slice(30, 32)), (slice(0, 2), slice(5, 8)), (slice(22, 24), slice(0, 2))]
    for part in border:
        assert torch.equal(close_holes(_holes(part), 3), _holes(part))


def test_closing_holes_by_a_pixel_changes_nothing_and_twice_is_once():
    known = torch.rand(3, 24, 32, 1) > 0.7
    assert torch.equal(close_holes(known, 1), known)
    closed = close_holes(known, 3)
    assert (closed | ~known).all() and known.sum() < closed.sum() < known.numel()
    assert torch.equal(close_holes(closed, 3), closed)
    for index in range(3):
        assert torch.equal(close_holes(known[index : index + 1], 3), closed[index : index + 1])


class _Striped(Guide):
    """Grey all over; transparent in a square, half transparent and dark in a line two pixels wide."""

    def render(self, cameras: Cameras) -> GuideRender:
        opacity = torch.ones(len(cameras), 24, 32, 1)
        opacity[:, 4:14, 4:14], opacity[:, :, 20:22] = 0.3, 0.5
        return GuideRender(rgb=(0.4 * opacity).repeat(1, 1, 1, 3), opacity=opacity, depth=torch.ones_like(opacity))


def test_a_closed_hole_keeps_its_dark_render_and_an_open_one_is_left_to_the_prior():
    sequences = {}
    for side in (1, 3):
        generator = InlineGenerator(GreyPrior(), _Striped(), GenerationSettings(close_holes=side), 0)
        generator.submit(0, replace(_trajectory(), cameras=cameras(4)), torch.full((24, 32, 3), 0.4))
        generator.advance(5)
        sequences[side] = generator.poll()
    square, line = (slice(4, 14), slice(4, 14)), (slice(0, 24), slice(20, 22))
    assert torch.equal(sequences[1].known, _holes(square, line).expand(4, -1, -1, -1))
    assert torch.equal(sequences[3].known, _holes(square).expand(4, -1, -1, -1))
    torch.testing.assert_close(sequences[3].guide[:, :, 20:22], torch.full((4, 24, 2, 3), 0.2))
    assert torch.equal(sequences[3].guide[:, :, :20], sequences[1].guide[:, :, :20])


@pytest.mark.parametrize(("size", "expected"), [((24, 32), (24, 32)), ((480, 640), (24, 32)), ((640, 360), (36, 20))])
def test_prior_size_keeps_area_and_aspect(size: tuple[int, int], expected: tuple[int, int]):
    assert fit_size(size, GreyPrior()) == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [((480, 640), (320, 448)), ((1168, 1752), (320, 512)), ((1080, 1920), (320, 512)), ((640, 480), (320, 448))],
)
def test_of_several_sizes_the_closest_aspect_ratio_is_sampled(size: tuple[int, int], expected: tuple[int, int]):
    assert sampling_size(size, GreyPrior(), ((320, 448), (320, 512))) == expected
    assert sampling_size(size, GreyPrior()) == fit_size(size, GreyPrior())


def test_a_chosen_size_is_what_the_prior_samples():
    prior = GreyPrior()
    assert _sample(_generator(prior=prior, sizes=((16, 16), (20, 28)))).frames.shape == (4, 20, 28, 3)
    assert prior.seen["reference"].shape == (20, 28, 3)


def test_resizing_keeps_constants():
    assert resize(torch.full((2, 48, 64, 3), 0.25), (24, 32)).allclose(torch.tensor(0.25))


def test_holes_do_not_darken_the_known_pixels_beside_them():
    prior = GreyPrior()
    sequence = _sample(_generator(prior=prior))
    known = sequence.known[0].expand(-1, -1, 3)
    inner = sequence.guide[0, 10:14, 3:8].mean(dim=(0, 1))
    border = sequence.guide[0][known & ~torch.roll(known, -2, dims=1)].reshape(-1, 3)
    assert len(border) > 5
    # Premultiplied by an opacity of at least 0.9, and not averaged with the black beside it.
    assert (border / inner).min() > 0.85


def test_inpainting_takes_the_place_of_a_prior():
    guide = Guide()
    guide.adopt(wall(), sh_degree=0)
    inpainter = OpenCVInpainter("telea")
    inpainter.override(SamplerOverrides(num_frames=4))
    generator = InpaintingGenerator(inpainter, guide, GenerationSettings(known_from_guide=True), seed=0)
    assert generator.steps_per_sequence == 3
    generator.submit(0, _trajectory(), torch.full((48, 64, 3), 0.3))
    generator.advance(2)
    assert generator.is_busy and generator.remaining_steps == 1
    generator.advance()
    sequence = generator.poll()
    assert sequence is not None and sequence.frames.shape == (4, 96, 128, 3) and sequence.kept
    assert sequence.scores.agreement > 60
    hole = ~sequence.known[1:].expand(-1, -1, -1, 3)
    # The wall's colour goes on, where the prior of the other tests would leave grey.
    assert (sequence.frames[1:][hole].reshape(-1, 3) - torch.tensor([0.8, 0.4, 0.2])).abs().mean() < 0.1
