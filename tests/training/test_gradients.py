"""Gradients of a step: those of plain autograd, fresh in every call, and the same from a CUDA graph."""

import pytest
import torch
from torch import nn

from guidedvd_ns.training.gradients import GradientStep


def _step(device: str, use_graph: bool):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 3, 3)).to(device)

    def losses(inputs):
        error = (network(inputs["images"]) - inputs["target"]).square()
        return {"loss": error.mean(), "largest": error.max().detach()}

    return network, GradientStep(losses, network.parameters(), use_graph=use_graph), losses


def _expected(losses, inputs, network):
    """Values and gradients by plain autograd; no graph outlives the call, which would reach into the capture."""
    values = losses(inputs)
    gradients = torch.autograd.grad(values["loss"], list(network.parameters()))
    return {name: value.detach() for name, value in values.items()}, gradients


def _inputs(device: str, seed: int):
    draws = torch.Generator().manual_seed(seed)
    # Two sizes, in an order in which each follows itself and the other.
    edge = (8, 8, 12, 12, 8)[seed]
    shapes = {"images": (2, 3, edge, 8), "target": (2, 3, edge - 2, 6)}
    return {name: torch.randn(shape, generator=draws).to(device) for name, shape in shapes.items()}


@pytest.mark.parametrize(("device", "use_graph"), [("cpu", True), pytest.param("cuda", True, marks=pytest.mark.gpu)])
def test_every_call_leaves_the_gradients_of_its_own_inputs(device, use_graph):
    network, step, losses = _step(device, use_graph)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    kept = []
    for seed in range(5):
        inputs = _inputs(device, seed)
        expected, gradients = _expected(losses, inputs, network)
        found = step(inputs)
        torch.testing.assert_close(found, expected)
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)
        optimizer.step()
        kept.append(found["loss"])
    assert len({float(loss) for loss in kept}) == len(kept)
