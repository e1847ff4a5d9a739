"""The converter's benchmark converts what the published checkpoint is like, and measures it."""

import pytest
import torch
from safetensors.torch import load_file

from guidedvd_ns.priors.viewcrafter.layout import expected_shapes
from guidedvd_ns.priors.viewcrafter.scheduler import ViewCrafterScheduler
from guidedvd_ns.scripts.benchmarks.converter import measure_conversion, published_parts, write_sparse_checkpoint
from tests.priors.checkpoints import RANDOM_FACTS, published_shapes, random_checkpoint


def test_its_checkpoint_has_the_published_keys():
    ours = expected_shapes(published_parts(), ViewCrafterScheduler())
    assert {key: list(shape) for key, shape in ours.items()} == published_shapes()


@pytest.mark.skipif(not hasattr(torch.serialization, "skip_data"), reason="needs torch 2.6")
def test_zeros_are_converted_and_measured(tmp_path):
    shapes = {key: weight.shape for key, weight in random_checkpoint().items()}
    write_sparse_checkpoint(tmp_path / "model.ckpt", shapes)
    found = measure_conversion(tmp_path / "model.ckpt", tmp_path / "prior", "fp32", RANDOM_FACTS)
    weights = load_file(tmp_path / "prior" / "vae" / "diffusion_pytorch_model.safetensors")
    assert weights and all(not weight.any() for weight in weights.values())
    assert found.seconds > 0 and 0 <= found.anonymous <= found.resident
