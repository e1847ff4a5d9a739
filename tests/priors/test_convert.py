"""The tiny original model, converted from each container, computes what was recorded; and nothing is left half done."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors import SafetensorError, safe_open
from transformers import CLIPTextModel, CLIPVisionModel

from guidedvd_ns.priors import load_prior
from guidedvd_ns.priors.viewcrafter import convert
from guidedvd_ns.priors.viewcrafter.convert import convert_checkpoint
from guidedvd_ns.priors.viewcrafter.prior import ViewCrafterPrior
from guidedvd_ns.priors.viewcrafter.projector import ImageProjector
from guidedvd_ns.priors.viewcrafter.scheduler import ViewCrafterScheduler
from guidedvd_ns.priors.viewcrafter.unet import ViewCrafterUNet
from tests.priors.checkpoints import RANDOM_FACTS, random_checkpoint, recorded_checkpoint, recorded_facts
from tests.priors.recordings import fixture_tensors, original_scheduler, relative_error

CONTAINERS = {
    "lightning": lambda weights: {"state_dict": weights, "global_step": 5},
    "deepspeed": lambda weights: {"module": {f"_forward_module.{key}": weight for key, weight in weights.items()}},
    "bare": lambda weights: weights,
}


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A file with random weights."""
    torch.save({"state_dict": random_checkpoint()}, tmp_path / "model.ckpt")
    return tmp_path / "model.ckpt"


def stored(folder: Path) -> dict[str, tuple[str, torch.dtype]]:
    """File and precision of every weight."""
    found = {}
    for file in folder.rglob("*.safetensors"):
        with safe_open(file, "pt") as content:
            assert content.metadata() == {"format": "pt"}
            found |= {
                f"{file.parent.name}/{name}": (file.name, content.get_tensor(name).dtype) for name in content.keys()
            }
    return found


@pytest.mark.parametrize("container", CONTAINERS)
@torch.no_grad()
def test_converted_model_computes_what_the_original_computed(tmp_path, container):
    torch.save(CONTAINERS[container](recorded_checkpoint()), tmp_path / "model.ckpt")
    folder = tmp_path / "prior"
    options: dict[str, Any] = dict(facts=recorded_facts(), scheduler=original_scheduler())
    convert_checkpoint(tmp_path / "model.ckpt", folder, dtype=torch.float32, **options)
    unet, recorded = ViewCrafterUNet.from_pretrained(folder / "unet"), fixture_tensors("unet.io")
    for case in ("split", "repeat"):
        inputs = (recorded[f"{case}/{name}"] for name in ("x", "timesteps", "context", "fs"))
        assert relative_error(unet(*inputs), recorded[f"{case}/out"]) < 1e-5
    vae, recorded = AutoencoderKL.from_pretrained(folder / "vae"), fixture_tensors("vae.io")
    assert relative_error(vae.encode(recorded["x"]).latent_dist.mean, recorded["mean"]) < 1e-5
    assert relative_error(vae.decode(recorded["z"]).sample, recorded["dec"]) < 1e-5
    scaled = vae.config["scaling_factor"] * recorded["sample"]
    assert relative_error(scaled, recorded["sample_scaled"]) < 1e-6
    recorded = fixture_tensors("clip.io")
    text = CLIPTextModel.from_pretrained(folder / "text_encoder")
    assert relative_error(text(recorded["text/ids"]).last_hidden_state, recorded["text/out"]) < 1e-5
    image = CLIPVisionModel.from_pretrained(folder / "image_encoder")
    tokens = image(recorded["image/pixels_normalised"]).last_hidden_state
    assert relative_error(tokens, recorded["image/out"]) < 1e-5
    projector, recorded = ImageProjector.from_pretrained(folder / "image_projector"), fixture_tensors("resampler.io")
    assert relative_error(projector(recorded["x"]), recorded["out"]) < 1e-5
    scheduler = ViewCrafterScheduler.from_pretrained(folder / "scheduler")
    assert scheduler.alphas_cumprod.equal(original_scheduler().alphas_cumprod)


def test_converted_prior_is_sampled_as_the_authors_do(checkpoint, tmp_path):
    folder = tmp_path / "prior"
    convert_checkpoint(checkpoint, folder, facts=RANDOM_FACTS)
    description = json.loads((folder / "prior.json").read_text())
    description["tokenized_prompts"] = [[1, 2, 3], [1, 3]]
    (folder / "prior.json").write_text(json.dumps(description))
    prior = load_prior(folder, "cpu")
    assert isinstance(prior, ViewCrafterPrior)
    settings = prior.settings
    assert (settings.num_frames, settings.height, settings.width) == (25, 320, 448)
    assert (settings.num_steps, settings.eta, settings.cfg_scale) == (50, 1.0, 7.5)
    assert (settings.guidance_rescale, settings.guidance_factor, settings.reconstruction) == (0.7, 0.2, "l2")
    assert prior.sample_posterior and not (prior.known_mask_channel or prior.fill_holes or prior.residual)
    assert prior.scheduler.config["base_scale"] == 0.3
    frames = torch.rand(2, 32, 32, 3)
    conditioning = prior.condition(frames, torch.ones(2, 32, 32, 1), frames[0], torch.Generator().manual_seed(0))
    assert conditioning.context is not None and conditioning.context.shape == (1, 77 + 48, 16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weights_are_rounded_once_and_independent_of_the_shards(checkpoint, tmp_path, monkeypatch, dtype):
    convert_checkpoint(checkpoint, tmp_path / "whole", dtype=dtype, facts=RANDOM_FACTS)
    monkeypatch.setattr(convert, "SHARD_BYTES", 2_000_000)
    convert_checkpoint(checkpoint, tmp_path / "shards", dtype=dtype, facts=RANDOM_FACTS)
    whole, shards = stored(tmp_path / "whole"), stored(tmp_path / "shards")
    assert whole.keys() == shards.keys() and {kind for _, kind in [*whole.values(), *shards.values()]} == {dtype}
    assert len({file for file, _ in shards.values()}) > len({file for file, _ in whole.values()}) == 2
    unets = [
        ViewCrafterUNet.from_pretrained(tmp_path / name / "unet", torch_dtype=dtype) for name in ("whole", "shards")
    ]
    weights = [unet.state_dict() for unet in unets]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    original = random_checkpoint()["model.diffusion_model.out.2.weight"]
    assert torch.equal(weights[0]["conv_out.weight"], original.to(dtype))


def test_names_on_disk_suit_both_versions_of_transformers(checkpoint, tmp_path):
    convert_checkpoint(checkpoint, tmp_path / "prior", facts=RANDOM_FACTS)
    names = stored(tmp_path / "prior")
    assert "text_encoder/text_model.final_layer_norm.weight" in names
    assert "image_encoder/vision_model.pre_layrnorm.weight" in names
    text = CLIPTextModel.from_pretrained(tmp_path / "prior" / "text_encoder").state_dict()
    expected = random_checkpoint()["cond_stage_model.model.ln_final.weight"].to(torch.bfloat16)
    found = next(weight for name, weight in text.items() if name.endswith("final_layer_norm.weight"))
    assert torch.equal(found.bfloat16(), expected)


def test_existing_folders_are_replaced_on_request_only(checkpoint, tmp_path):
    folder = tmp_path / "deep" / "prior"
    convert_checkpoint(checkpoint, folder, facts=RANDOM_FACTS)
    with pytest.raises(FileExistsError, match="prior exists already.*--overwrite"):
        convert_checkpoint(checkpoint, folder, facts=RANDOM_FACTS)
    (folder / "unet" / "stale").touch()
    convert_checkpoint(checkpoint, folder, overwrite=True, facts=RANDOM_FACTS)
    assert not (folder / "unet" / "stale").exists() and (folder / "prior.json").is_file()
    assert [path.name for path in folder.parent.iterdir()] == ["prior"]
    with pytest.raises(FileExistsError, match="is no prior"):
        convert_checkpoint(checkpoint, tmp_path, overwrite=True, facts=RANDOM_FACTS)
    assert checkpoint.is_file()


def test_failure_leaves_the_old_prior_and_nothing_else(checkpoint, tmp_path, monkeypatch):
    folder = tmp_path / "priors" / "prior"
    convert_checkpoint(checkpoint, folder, facts=RANDOM_FACTS)
    before = sorted(folder.rglob("*"))
    monkeypatch.setattr(convert, "write_description", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(checkpoint, folder, overwrite=True, facts=RANDOM_FACTS)
    assert sorted(folder.rglob("*")) == before and list(folder.parent.iterdir()) == [folder]


def test_a_full_disk_is_noticed_before_writing(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(OSError, match=r"needs \S+ GB, but 0.0 GB are free"):
        convert_checkpoint(checkpoint, tmp_path / "prior", facts=RANDOM_FACTS)
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_a_disk_that_fills_up_while_writing_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr(convert, "save_file", fail)
    with pytest.raises(OSError, match=r"unet.*safetensors could not be written: No space left"):
        convert_checkpoint(checkpoint, tmp_path / "prior", facts=RANDOM_FACTS)
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_another_noise_schedule_is_told(checkpoint, tmp_path, capsys):
    convert_checkpoint(checkpoint, tmp_path / "prior", facts=RANDOM_FACTS)
    assert "noise schedule" not in capsys.readouterr().out
    torch.save(random_checkpoint() | {"scale_arr": torch.full((1400,), 0.7)}, checkpoint)
    convert_checkpoint(checkpoint, tmp_path / "other", facts=RANDOM_FACTS)
    assert "`scale_arr`" in capsys.readouterr().out.replace("\n", " ")


def test_a_bad_checkpoint_leaves_nothing(checkpoint, tmp_path):
    weights = random_checkpoint()
    del weights["betas"]
    torch.save(weights, checkpoint)
    with pytest.raises(ValueError, match=r"1 missing \(`betas`\)"):
        convert_checkpoint(checkpoint, tmp_path / "prior", facts=RANDOM_FACTS)
    assert list(tmp_path.iterdir()) == [checkpoint]
