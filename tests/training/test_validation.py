"""The comparison's figures on clips whose answers are known."""

import pytest
import torch

from guidedvd_ns.data.clips import ClipBatch
from guidedvd_ns.priors.base import SamplerOverrides
from guidedvd_ns.training.validation import Score, best_guided, compare_variants, inpaint_telea, score
from tests.priors.tiny import tiny_prior


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


def test_variants_are_sampled_as_they_say_and_leave_the_prior_its_own_settings():
    prior, own = tiny_prior(), tiny_prior().settings
    target = torch.rand(1, 3, 16, 24, 3, generator=torch.Generator().manual_seed(0))
    known = torch.ones(1, 3, 16, 24, 1)
    known[:, 1:, :, 12:] = 0
    variants = [
        SamplerOverrides(guidance_factor=0.0),
        SamplerOverrides(num_steps=2, guidance_step="shrinking", restore_detail=True),
    ]
    scores = []
    for entry in compare_variants(prior, ClipBatch(target, target * known, known), variants):
        scores.append(entry)
        assert prior.settings == own
    assert [entry.method for entry in scores] == ["black", "telea", "vae", "unguided", "guided"]
    unguided, guided = scores[3:]
    assert (unguided.num_steps, unguided.guidance_step, unguided.restore_detail) == (3, "", False)
    assert (guided.num_steps, guided.guidance_step, guided.restore_detail) == (2, "shrinking", True)
    assert guided.guidance_factor == own.guidance_factor
    # This prior's autoencoder is random: only the restored detail resembles what is known.
    assert guided.known_difference < 0.75 * unguided.known_difference
