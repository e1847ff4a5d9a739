"""The degraded clip: what must stay as it is, and that everything grows with the strength."""

import torch

from guidedvd_ns.data.degradation import degrade


def _clip(batch: int = 3, frames: int = 4):
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(batch * frames, 3, 6, 8, generator=generator)
    images = torch.nn.functional.interpolate(coarse, (48, 64), mode="bilinear").clamp(0, 1)
    target = images.permute(0, 2, 3, 1).reshape(batch, frames, 48, 64, 3)
    visible = torch.ones(batch, frames, 48, 64, 1, dtype=torch.bool)
    visible[:, :, :, 40:] = False
    return target, visible


def _degraded(strength: float, seed: int = 0):
    target, visible = _clip()
    result = degrade(target, visible, torch.full((3,), strength), torch.Generator().manual_seed(seed))
    return target, visible, *result


def test_reference_frame_is_clean_and_known():
    target, _, condition, known = _degraded(1.0)
    assert torch.equal(condition[:, 0], target[:, 0])
    assert (known[:, 0] == 1).all()


def test_unknown_pixels_are_black_and_never_visible_ones_alone():
    _, visible, condition, known = _degraded(1.0)
    assert ((known == 0) | (known == 1)).all()
    assert (condition * (1 - known) == 0).all()
    assert not (known[:, 1:].bool() & ~visible[:, 1:]).any()
    assert condition.min() >= 0 and condition.max() <= 1


def test_strength_zero_changes_nothing_but_the_holes():
    target, visible, condition, known = _degraded(0.0)
    inner = visible[:, 1:].clone()
    inner[..., 36:, :] = False  # the mask's border is rounded off within its smoothing window
    assert known[:, 1:][inner].all()
    torch.testing.assert_close(condition, target * known, atol=2e-3, rtol=0)


def test_defects_grow_with_strength():
    errors, holes = [], []
    for strength in (0.1, 0.5, 1.0):
        target, _, condition, known = _degraded(strength)
        errors.append(float(((condition - target).abs() * known).sum() / known.sum()))
        holes.append(float(1 - known.mean()))
    assert errors[0] < errors[1] < errors[2]
    assert holes[0] < holes[2]


def test_seed_decides():
    assert torch.equal(_degraded(0.8, 1)[2], _degraded(0.8, 1)[2])
    assert not torch.equal(_degraded(0.8, 1)[2], _degraded(0.8, 2)[2])
