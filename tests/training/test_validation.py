"""The comparison's figures on clips whose answers are known."""

import pytest
import torch

from guidedvd_ns.data.clips import ClipBatch
from guidedvd_ns.training.validation import Score, best_guided, inpaint_telea, score


def _clips():
    target = torch.full((2, 3, 32, 32, 3), 0.5)
    known = torch.ones(2, 3, 32, 32, 1)
    known[:, 1:, :, 16:] = 0
    return ClipBatch(target, target * known, known)


def test_scores_of_known_errors():
    clips = _clips()
    black = score("black", lambda index: clips.condition[index], clips)
    # The error is 0.5 in the hole, 0 elsewhere: 20 log10(1 / 0.5) dB, and half the squared error over the whole.
    assert black.psnr_holes == pytest.approx(6.0206, abs=1e-3)
    assert black.psnr == pytest.approx(9.0309, abs=1e-3)
    assert black.known_difference == 0
    shifted = score("shifted", lambda index: clips.condition[index] + 0.1, clips)
    assert shifted.known_difference == pytest.approx(0.1, abs=1e-5)


def test_telea_continues_a_plain_wall():
    clips = _clips()
    filled = inpaint_telea(clips.condition[0], clips.known[0])
    torch.testing.assert_close(filled, clips.target[0], atol=0.03, rtol=0)


def test_the_best_setting_is_that_with_the_best_holes():
    def entry(method, steps, psnr):
        return Score(method, steps, 0.1, psnr, 0.0, 0.0, 0.0, 0.0)

    assert best_guided([entry("telea", 0, 30.0)]) is None
    assert best_guided([entry("telea", 0, 30.0), entry("guided", 4, 20.0), entry("guided", 8, 21.0)]).num_steps == 8
