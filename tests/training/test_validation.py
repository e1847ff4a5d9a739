"""The comparison's figures on clips whose answers are known."""

import pytest
import torch

from guidedvd_ns.data.clips import ClipBatch, ClipConfig
from guidedvd_ns.data.visibility import Matches
from guidedvd_ns.priors.base import SamplerOverrides
from guidedvd_ns.training.validation import (
    HeldOutClips,
    Score,
    best_guided,
    compare_variants,
    held_out_clips,
    inpaint_telea,
    score,
)
from tests.priors.tiny import tiny_prior


def _clips():
    target = torch.full((2, 3, 32, 32, 3), 0.5)
    known = torch.ones(2, 3, 32, 32, 1)
    known[:, 1:, :, 16:] = 0
    return ClipBatch(target, target * known, known)


def _still(clips: ClipBatch) -> HeldOutClips:
    """The clips with matches of a camera that does not move: each frame's pixels are the next one's."""
    count, frames, height, width, _ = clips.target.shape
    rows, columns = (torch.arange(height) + 0.5) * 2 / height - 1, (torch.arange(width) + 0.5) * 2 / width - 1
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
    pairs = (count, frames - 1, height, width)
    return HeldOutClips(clips, Matches(1, grid.expand(*pairs, 2), torch.ones(*pairs, 1, dtype=torch.bool)))


def test_scores_of_known_errors():
    held_out = _still(_clips())
    clips = held_out.clips
    black = score("black", lambda index: clips.condition[index], held_out)
    # The error is 0.5 in the hole, 0 elsewhere: 20 log10(1 / 0.5) dB, and half the squared error over the whole.
    assert black.psnr_holes == pytest.approx(6.0206, abs=1e-3)
    assert black.psnr == pytest.approx(9.0309, abs=1e-3)
    assert black.known_difference == 0
    shifted = score("shifted", lambda index: clips.condition[index] + 0.1, held_out)
    assert shifted.known_difference == pytest.approx(0.1, abs=1e-5)
    # Frames 1 and 2 are alike, the right half of frame 0 is known and theirs is black: half of one pair differs by 0.5.
    assert black.covisible_difference == pytest.approx(0.125, abs=1e-6)
    assert score("truth", lambda index: clips.target[index], held_out).covisible_difference == pytest.approx(
        0, abs=1e-6
    )


def test_held_out_clips_know_where_their_surfaces_go():
    config = ClipConfig(num_frames=3, height=32, width=48, views_per_room=2, candidates_per_view=2, supersample=1)
    held_out = held_out_clips(config, 2, "cpu")
    assert len(held_out) == 2 and held_out.matches.grid.shape == (2, 1, 32, 48, 2)
    rows = {
        name: score(name, fill, held_out)
        for name, fill in {
            "truth": lambda index: held_out.clips.target[index],
            "black": lambda index: held_out.clips.condition[index],
        }.items()
    }
    assert 0 < rows["truth"].covisible_difference < 0.05
    assert rows["black"].covisible_difference > 1.2 * rows["truth"].covisible_difference


def test_telea_continues_a_plain_wall():
    clips = _clips()
    filled = inpaint_telea(clips.condition[0], clips.known[0])
    torch.testing.assert_close(filled, clips.target[0], atol=0.03, rtol=0)


def test_the_best_setting_is_that_with_the_best_holes():
    def entry(method, steps, psnr):
        return Score(method, steps, 0.1, psnr, 0.0, 0.0, 0.0, 0.0, 0.0)

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
    for entry in compare_variants(prior, _still(ClipBatch(target, target * known, known)), variants):
        scores.append(entry)
        assert prior.settings == own
    assert [entry.method for entry in scores] == ["truth", "black", "telea", "vae", *2 * ["unguided"], *2 * ["guided"]]
    assert [entry.known_kept for entry in scores[4:]] == [False, True, False, True]
    unguided, kept, guided, _ = scores[4:]
    assert (unguided.num_steps, unguided.guidance_step, unguided.restore_detail) == (3, "", False)
    assert (guided.num_steps, guided.guidance_step, guided.restore_detail) == (2, "shrinking", True)
    assert guided.guidance_factor == own.guidance_factor
    assert kept.psnr_holes == pytest.approx(unguided.psnr_holes) and kept.seconds == unguided.seconds
    # Known pixels are a photograph's but for the transition at the hole's border.
    assert kept.known_difference < 0.3 * unguided.known_difference and kept.psnr > unguided.psnr
    # This prior's autoencoder is random: only the restored detail resembles what is known.
    assert guided.known_difference < 0.75 * unguided.known_difference
