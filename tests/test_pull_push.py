"""Holes of images are filled smoothly, from what is known around them and nothing else."""

import torch

from guidedvd_ns.pull_push import fill_holes


def test_filling_keeps_what_is_known_and_continues_constants():
    frames = torch.rand(2, 3, 20, 28, 3)
    known = (torch.rand(2, 3, 20, 28, 1) > 0.4).float()
    filled = fill_holes(frames * known, known)
    torch.testing.assert_close(filled * known, frames * known)
    constant = torch.full((1, 20, 28, 3), 0.3)
    gap = torch.ones(1, 20, 28, 1)
    gap[:, 3:17, 5:] = 0
    torch.testing.assert_close(fill_holes(constant * gap, gap), constant)


def test_filled_values_stay_between_those_around_them():
    frames = torch.zeros(1, 16, 32, 1)
    frames[..., 16:, :] = 1
    known = torch.ones_like(frames)
    known[:, :, 10:22] = 0
    filled = fill_holes(frames * known, known)[0, 8, :, 0]
    assert 0 <= filled.min() and filled.max() <= 1
    assert filled[11] < 0.3 and filled[20] > 0.7


def test_frame_without_a_known_pixel_is_black():
    assert fill_holes(torch.rand(1, 8, 8, 3), torch.zeros(1, 8, 8, 1)).abs().max() == 0


def test_a_ramp_goes_on_through_a_narrow_gap():
    ramp = torch.linspace(0, 1, 32)[None, None, :, None].expand(1, 16, 32, 1)
    known = torch.ones_like(ramp)
    known[:, :, 14:18] = 0
    filled = fill_holes(ramp * known, known)
    assert (filled - ramp).abs().max() < 0.07  # twice a pixel's step; what stands for the gap is the mean beside it


def test_frames_do_not_see_each_other():
    frames, known = torch.rand(3, 9, 13, 2), (torch.rand(3, 9, 13, 1) > 0.7).float()
    together = fill_holes(frames, known)
    for index in range(3):
        torch.testing.assert_close(
            together[index : index + 1], fill_holes(frames[index : index + 1], known[index : index + 1])
        )
