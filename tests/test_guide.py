"""The guide: what it renders, how it is frozen, saved and taken from another run."""

from __future__ import annotations

import json

import pytest
import torch

from guidedvd_ns.guide import Guide, GuideRender, load_guide
from tests.scenes import cameras, wall

TRANSFORM = torch.eye(4)[:3]


def _guide() -> Guide:
    guide = Guide()
    guide.adopt(wall(), sh_degree=0)
    return guide


def test_known_side_shows_the_wall_and_the_other_is_a_hole():
    view = _guide().render(cameras())
    assert view.rgb.shape == (1, 24, 32, 3) and view.opacity.shape == view.depth.shape == (1, 24, 32, 1)
    known = view.known(0.9)[0, :, :, 0]
    assert known[6:18, 2:12].all() and not known[:, 20:].any()
    patch = view.rgb[0, 10:14, 4:10]
    torch.testing.assert_close(patch, torch.tensor([0.8, 0.4, 0.2]).expand_as(patch), atol=0.02, rtol=0)
    torch.testing.assert_close(view.depth[0, 10:14, 4:10], torch.full((4, 6, 1), 2.0), atol=0.01, rtol=0)


def test_threshold_itself_counts_as_known():
    render = GuideRender(
        torch.zeros(1, 1, 2, 3), torch.tensor([0.9, 0.8999]).reshape(1, 1, 2, 1), torch.zeros(1, 1, 2, 1)
    )
    assert render.known(0.9).flatten().tolist() == [True, False]


def test_freezing_copies():
    gaussians = wall()
    guide = Guide()
    guide.adopt(gaussians, sh_degree=0)
    before = guide.render(cameras()).rgb
    gaussians["means"] += 1
    assert torch.equal(guide.render(cameras()).rgb, before)
    assert not any(buffer.requires_grad for buffer in guide.buffers())


def test_state_dict_round_trip_into_an_unfitted_guide():
    guide, other = _guide(), Guide()
    assert not other.is_fitted
    state = {f"guide.{name}": value for name, value in guide.state_dict().items()}
    other.resize_like(state, prefix="guide.")
    other.load_state_dict(guide.state_dict())
    assert other.is_fitted
    assert torch.equal(other.render(cameras()).rgb, guide.render(cameras()).rgb)


def _run(folder, scale: float = 1.0, prefix: str = "_model.gauss_params."):
    """A finished splatfacto run, as nerfstudio leaves it."""
    (folder / "nerfstudio_models").mkdir(parents=True)
    (folder / "config.yml").write_text("")
    (folder / "dataparser_transforms.json").write_text(json.dumps({"transform": TRANSFORM.tolist(), "scale": scale}))
    state = {prefix + name: value for name, value in wall().items()}
    torch.save({"step": 7, "pipeline": state}, folder / "nerfstudio_models" / "step-000000007.ckpt")
    return folder / "config.yml"


def test_trained_run_serves_as_guide(tmp_path):
    guide = load_guide(_run(tmp_path), TRANSFORM, 1.0, "cpu")
    assert torch.equal(guide.render(cameras()).rgb, _guide().render(cameras()).rgb)
    assert int(guide.sh_degree) == 0


def test_guide_with_harmonics_keeps_its_degree(tmp_path):
    config = _run(tmp_path)
    checkpoint = tmp_path / "nerfstudio_models" / "step-000000007.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    saved["pipeline"]["_model.gauss_params.features_rest"] = torch.zeros(400, 15, 3)
    torch.save(saved, checkpoint)
    assert int(load_guide(config, TRANSFORM, 1.0, "cpu").sh_degree) == 3


def test_guide_renders_as_it_was_fitted(tmp_path):
    config = _run(tmp_path)
    classic = load_guide(config, TRANSFORM, 1.0, "cpu").render(cameras())
    config.write_text("model:\n  rasterize_mode: antialiased\n")
    guide = load_guide(config, TRANSFORM, 1.0, "cpu")
    assert bool(guide.antialiased)
    assert (guide.render(cameras()).opacity - classic.opacity).abs().max() > 1e-4


def test_other_frames_are_refused(tmp_path):
    config = _run(tmp_path, scale=2.0)
    with pytest.raises(ValueError, match="another coordinate frame"):
        load_guide(config, TRANSFORM, 1.0, "cpu")
    turned = TRANSFORM.clone()
    turned[0, 3] = 0.5
    with pytest.raises(ValueError, match="another coordinate frame"):
        load_guide(config, turned, 2.0, "cpu")


def test_runs_that_cannot_serve_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.yml"):
        load_guide(tmp_path / "config.yml", TRANSFORM, 1.0, "cpu")
    with pytest.raises(ValueError, match="no Gaussians"):
        load_guide(_run(tmp_path / "nerfacto", prefix="_model.field."), TRANSFORM, 1.0, "cpu")
    config = _run(tmp_path / "unfinished")
    (tmp_path / "unfinished" / "nerfstudio_models" / "step-000000007.ckpt").unlink()
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_guide(config, TRANSFORM, 1.0, "cpu")
