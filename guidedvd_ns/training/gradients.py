"""Losses and gradients of a training step, on CUDA replayed as one graph.

A small network launches thousands of small kernels a step. On an H200 the bundled prior's step of 16 clips kept the
GPU busy for 55 of the 88 ms that the CPU took to launch it; a replayed graph is launched once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

WARM_UP_STEPS = 3
"""Eager steps before the capture: libraries choose their algorithms and allocate their workspaces in them."""

Losses = Callable[[dict[str, Tensor]], dict[str, Tensor]]
"""Inputs -> scalars, of which "loss" is differentiated; no random draw, no transfer to the CPU."""


@dataclass(frozen=True)
class _CapturedStep:
    graph: torch.cuda.CUDAGraph
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    gradients: list[Tensor | None]


class GradientStep:
    """Calls a loss and leaves its gradients in the parameters' `.grad`, those of the last call replaced.

    Args:
        losses: The loss; must do the same work whatever the values of its inputs.
        parameters: What is differentiated; may be changed in place between calls, not replaced.
        use_graph: Whether to capture the work as a CUDA graph in the first call with inputs of a size, for that size;
            parameters on the CPU ignore it.
    """

    def __init__(self, losses: Losses, parameters: Iterable[nn.Parameter], *, use_graph: bool = True) -> None:
        self._losses = losses
        self._parameters = list(parameters)
        self._use_graph = use_graph and self._parameters[0].is_cuda
        self._captured: dict[tuple[torch.Size, ...], _CapturedStep] = {}

    def __call__(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss's scalars, without gradients."""
        if not self._use_graph:
            return self._run(inputs)
        size = tuple(tensor.shape for tensor in inputs.values())
        if size not in self._captured:
            self._captured[size] = self._capture(inputs)
        step = self._captured[size]
        for name, tensor in inputs.items():
            step.inputs[name].copy_(tensor)
        step.graph.replay()
        for parameter, gradient in zip(self._parameters, step.gradients, strict=True):
            parameter.grad = gradient
        return {name: value.clone() for name, value in step.outputs.items()}

    def _run(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        for parameter in self._parameters:
            parameter.grad = None
        losses = self._losses(inputs)
        losses["loss"].backward()
        return {name: value.detach() for name, value in losses.items()}

    def _capture(self, inputs: dict[str, Tensor]) -> _CapturedStep:
        inputs = {name: tensor.clone() for name, tensor in inputs.items()}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                self._run(inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Gradients are absent here, so that the backward pass allocates them in the graph's own memory for good.
        for parameter in self._parameters:
            parameter.grad = None
        # One graph at a time is replayed, and its results are used before the next: they can share their memory.
        pool = next((step.graph.pool() for step in self._captured.values()), None)
        # With several processes NCCL's watchdog asks for events meanwhile, from a thread of its own.
        mode = "thread_local" if torch.distributed.is_initialized() else "global"
        with torch.cuda.graph(graph, pool=pool, capture_error_mode=mode):
            losses = self._losses(inputs)
            losses["loss"].backward()
        outputs = {name: value.detach() for name, value in losses.items()}
        return _CapturedStep(graph, inputs, outputs, [parameter.grad for parameter in self._parameters])
