"""`gvd-convert-viewcrafter` from the command line: a prior that loads, or one sentence."""

import json

import pytest
import torch

from guidedvd_ns.scripts.convert_viewcrafter import main
from tests.priors.checkpoints import RANDOM_FACTS, random_checkpoint

FACTS = [
    f"--facts.{name.replace('_', '-')}={getattr(RANDOM_FACTS, name)}"
    for name in ("text_head_channels", "image_head_channels", "projector_head_channels")
]


@pytest.mark.parametrize(("option", "bytes_each"), [([], 2), (["--dtype", "fp32"], 4)])
def test_command_writes_a_prior(tmp_path, capsys, option, bytes_each):
    torch.save({"state_dict": random_checkpoint()}, tmp_path / "model.ckpt")
    main([str(tmp_path / "model.ckpt"), str(tmp_path / "prior"), *option, *FACTS])
    index = json.loads((tmp_path / "prior" / "model_index.json").read_text())
    assert index["_class_name"] == "ViewCrafterPrior"
    parts = {"unet", "vae", "scheduler", "text_encoder", "image_encoder", "image_projector"}
    assert parts < index.keys() and parts < {path.name for path in (tmp_path / "prior").iterdir()}
    numbers = random_checkpoint()["first_stage_model.encoder.conv_in.weight"].numel()
    vae = (tmp_path / "prior" / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
    header = json.loads(vae[8 : 8 + int.from_bytes(vae[:8], "little")])
    start, end = header["encoder.conv_in.weight"]["data_offsets"]
    assert end - start == bytes_each * numbers
    assert "--pipeline.datamanager.prior" in capsys.readouterr().out


def test_errors_are_one_sentence_and_an_exit_code(tmp_path, capsys):
    for content, message in ((None, "There is no checkpoint file"), ({"a": torch.ones(1)}, "lacks weights")):
        if content is not None:
            torch.save(content, tmp_path / "model.ckpt")
        with pytest.raises(SystemExit) as caught:
            main([str(tmp_path / "model.ckpt"), str(tmp_path / "prior")])
        assert isinstance(caught.value.code, str) and message in caught.value.code and "\n" not in caught.value.code
    (tmp_path / "prior").mkdir()
    with pytest.raises(SystemExit, match="exists already"):
        main([str(tmp_path / "model.ckpt"), str(tmp_path / "prior")])
