"""The image projector against recordings of the original one."""

import pytest
import torch

from guidedvd_ns.priors.viewcrafter.projector import ImageProjector
from tests.priors.recordings import fixture_json, fixture_tensors, norms_of, original_projector, relative_error


def test_output_and_gradient_match_the_original():
    projector, recorded = original_projector(), fixture_tensors("resampler.io")
    x = recorded["x"].clone().requires_grad_(True)
    out = projector(x)
    assert relative_error(out, recorded["out"]) < 1e-5
    (grad,) = torch.autograd.grad((out * recorded["R"]).sum(), x)
    assert relative_error(grad, recorded["grad_x"]) < 1e-5


def test_every_norm_is_the_original_one():
    assert norms_of("image_projector", original_projector()) == fixture_json("resampler")["norms"]


def test_default_is_the_published_size():
    with torch.device("meta"):
        projector = ImageProjector()
    assert sum(parameter.numel() for parameter in projector.parameters()) == 48_787_456
    assert projector(torch.empty(2, 257, 1280, device="meta")).shape == (2, 256, 1024)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_projector_loads_again(tmp_path, dtype):
    torch.manual_seed(0)
    projector = ImageProjector(
        embed_dims=12, output_dims=8, hidden_dims=16, depth=1, dim_head=4, heads=3, num_queries=5, ffn_ratio=2
    )
    projector.save_pretrained(tmp_path)
    loaded = ImageProjector.from_pretrained(tmp_path, torch_dtype=dtype)
    assert loaded.config == {**projector.config, "_name_or_path": tmp_path}
    tokens = torch.randn(2, 7, 12)
    tolerance = {} if dtype == torch.float32 else dict(rtol=0.05, atol=0.05)
    torch.testing.assert_close(loaded(tokens.to(dtype)).float(), projector(tokens), **tolerance)
