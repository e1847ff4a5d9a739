"""The original file in each of its containers, and one sentence for everything that is no such file."""

import collections
import pickle

import pytest
import torch

from guidedvd_ns.priors.viewcrafter.checkpoint import open_checkpoint

WEIGHTS = {"first_stage_model.quant_conv.bias": torch.arange(3.0), "scale_arr": torch.ones(2)}


def wrapped(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + key: weight for key, weight in WEIGHTS.items()}


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        collections.OrderedDict(WEIGHTS),
        {"state_dict": WEIGHTS, "epoch": 3, "pytorch-lightning_version": "1.9.0"},
        {"module": wrapped("_forward_module."), "optimizer": None},
        {"module": WEIGHTS},
        {"state_dict": wrapped("module._forward_module.")},
        wrapped("_forward_module."),
        {"state_dict": {key: torch.nn.Parameter(weight) for key, weight in WEIGHTS.items()}},
    ],
    ids=["bare", "ordered", "lightning", "deepspeed", "unwrapped", "twice wrapped", "bare wrapped", "parameters"],
)
def test_containers_hold_the_same_weights(tmp_path, content):
    torch.save(content, tmp_path / "model.ckpt")
    opened = open_checkpoint(tmp_path / "model.ckpt")
    assert opened.keys() == WEIGHTS.keys()
    assert all(torch.equal(opened[key], WEIGHTS[key]) and not opened[key].requires_grad for key in WEIGHTS)


def test_a_relative_s_name_of_a_layer_is_the_published_one(tmp_path):
    torch.save({"model.diffusion_model.framestride_embed.0.bias": torch.ones(1)}, tmp_path / "model.ckpt")
    assert list(open_checkpoint(tmp_path / "model.ckpt")) == ["model.diffusion_model.fps_embedding.0.bias"]


def test_weights_stay_in_the_file(tmp_path):
    file = tmp_path / "model.ckpt"
    torch.save({"a": torch.zeros(1000)}, file)
    opened = open_checkpoint(file)
    content = bytearray(file.read_bytes())
    start = content.index(bytes(4000))
    content[start : start + 4] = b"\x00\x00\x80\x3f"
    with file.open("r+b") as stream:
        stream.write(content)
    assert opened["a"][0] == 1


class Callback:
    """Stands for what a training framework may put beside the weights."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": WEIGHTS, "callbacks": Callback()}, "more than weights .*Callback"),
        ([torch.ones(1)], "holds a list"),
        ({}, "no weights"),
        ({"state_dict": {}}, "no weights"),
        ({"betas": torch.ones(1), "epoch": 3}, "`epoch` .* is a int"),
        ({"betas": torch.ones(1, dtype=torch.int64)}, "`betas` .* is a torch.int64 tensor"),
        ({"betas": torch.ones(1), "module.betas": torch.ones(1)}, "`betas` twice, once as `module.betas`"),
    ],
)
def test_other_contents_are_named(tmp_path, content, message):
    torch.save(content, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=message):
        open_checkpoint(tmp_path / "model.ckpt")


def test_other_files_are_told_apart(tmp_path):
    file = tmp_path / "model.ckpt"
    with pytest.raises(FileNotFoundError, match="no checkpoint file .*model.ckpt"):
        open_checkpoint(file)
    with pytest.raises(FileNotFoundError, match="no checkpoint file"):
        open_checkpoint(tmp_path)
    torch.save(WEIGHTS, file)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ValueError, match="cut short after .* GB .*download it again"):
        open_checkpoint(file)
    torch.save(WEIGHTS, file, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="before 1.6.*torch.save"):
        open_checkpoint(file)
    file.write_bytes(pickle.dumps({"a": 1}, protocol=2))
    with pytest.raises(ValueError, match="before 1.6"):
        open_checkpoint(file)
    file.write_text("<html>Not found</html>")
    with pytest.raises(ValueError, match="no PyTorch checkpoint"):
        open_checkpoint(file)
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="no PyTorch checkpoint"):
        open_checkpoint(file)


def test_a_zip_file_of_something_else_is_told_in_one_sentence(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "model.ckpt", "w") as archive:
        archive.writestr("readme.txt", "no weights")
    with pytest.raises(ValueError, match="no PyTorch checkpoint, or a damaged one") as caught:
        open_checkpoint(tmp_path / "model.ckpt")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
