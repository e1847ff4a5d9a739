"""Losses and gradients of a training step, on CUDA replayed as one graph.

A small network launches thousands of small kernels a step. On an H200 the bundled prior's step of 16 clips kept the
GPU busy for 55 of the 88 ms that the CPU took to launch it; a replayed graph is launched once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

WARM_UP_STEPS = 3
"""Eager steps before the capture: libraries choose their algorithms and allocate their workspaces in them."""

Losses = Callable[[dict[str, Tensor]], dict[str, Tensor]]
"""Inputs -> scalars, of which "loss" is differentiated; no random draw, no transfer to the CPU."""


class GradientStep:
    """Calls a loss and leaves its gradients in the parameters' `.grad`, those of the last call replaced.

    Args:
        losses: The loss; must do the same work whatever the values of its inputs.
        parameters: What is differentiated; may be changed in place between calls, not replaced.
        use_graph: Whether to capture the work as a CUDA graph in the first call; parameters on the CPU ignore it.
    """

    def __init__(self, losses: Losses, parameters: Iterable[nn.Parameter], *, use_graph: bool = True) -> None:
        self._losses = losses
        self._parameters = list(parameters)
        self._use_graph = use_graph and self._parameters[0].is_cuda
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: dict[str, Tensor] = {}
        self._outputs: dict[str, Tensor] = {}

    def __call__(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss's scalars, without gradients.

        Raises:
            ValueError: A captured step got inputs of another shape.
        """
        if not self._use_graph:
            return self._run(inputs)
        if self._graph is None:
            self._capture(inputs)
        assert self._graph is not None
        for name, tensor in inputs.items():
            if tensor.shape != self._inputs[name].shape:
                raise ValueError(
                    f"The input '{name}' of a captured training step has shape {tuple(tensor.shape)} but had"
                    f" {tuple(self._inputs[name].shape)}: keep the shapes, or train without a graph."
                )
            self._inputs[name].copy_(tensor)
        self._graph.replay()
        return {name: value.clone() for name, value in self._outputs.items()}

    def _run(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        for parameter in self._parameters:
            parameter.grad = None
        losses = self._losses(inputs)
        losses["loss"].backward()
        return {name: value.detach() for name, value in losses.items()}

    def _capture(self, inputs: dict[str, Tensor]) -> None:
        self._inputs = {name: tensor.clone() for name, tensor in inputs.items()}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                self._run(self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # Gradients are absent here, so that the backward pass allocates them in the graph's own memory for good.
        for parameter in self._parameters:
            parameter.grad = None
        with torch.cuda.graph(self._graph):
            losses = self._losses(self._inputs)
            losses["loss"].backward()
        self._outputs = {name: value.detach() for name, value in losses.items()}
