"""A frozen network's forward and backward pass as two CUDA graphs, replayed at every denoising step.

A step launches thousands of kernels, many of them shorter than their launch from Python; a graph is launched once. What
the forward pass keeps stays in the graphs' own memory, which nothing else can use while they exist.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

WARM_UP_PASSES = 2
"""Passes before the capture: kernels are compiled and loaded in them, and libraries allocate their workspaces."""


class CapturedNetwork:
    """Replays `network(x, *others)` and the gradient of `x`, for inputs of the shapes that it was captured with.

    Each forward pass overwrites what the last one kept, so its gradient must be taken before the next.

    Args:
        network: does the same work whatever the values of its inputs; nothing in it is random or waits for the GPU.
        x: an input on CUDA, whose gradient can be asked for.
        others: further inputs, without gradient.
    """

    def __init__(self, network: Callable[..., Tensor], x: Tensor, *others: Tensor):
        self.shapes = _shapes(x, *others)
        self.others = [other.clone() for other in others]
        self.x = x.detach().clone(memory_format=torch.contiguous_format).requires_grad_(True)
        with torch.enable_grad():
            stream = torch.cuda.Stream(x.device)
            stream.wait_stream(torch.cuda.current_stream(x.device))
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP_PASSES):
                    output = network(self.x, *self.others)
                    torch.autograd.grad(output, self.x, torch.zeros_like(output))
                    del output
            torch.cuda.current_stream(x.device).wait_stream(stream)
            # The graphs allocate anew: what the passes above left cached would be of use to nobody.
            torch.cuda.synchronize(x.device)
            torch.cuda.empty_cache()
            reserved = torch.cuda.memory_reserved(x.device)
            self._forward, self._backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._forward):
                output = network(self.x, *self.others)
            self.grad_output = torch.zeros_like(output)
            with torch.cuda.graph(self._backward, pool=self._forward.pool()):
                (self.grad_x,) = torch.autograd.grad(output, self.x, self.grad_output)
        self.output = output.detach()
        self.bytes: int = torch.cuda.memory_reserved(x.device) - reserved
        """Memory of the graphs."""

    def fits(self, x: Tensor, *others: Tensor) -> bool:
        """Whether the inputs have the captured shapes and types."""
        return self.shapes == _shapes(x, *others)

    def __call__(self, x: Tensor, *others: Tensor) -> Tensor:
        """The network's output, differentiable in x.

        Raises:
            ValueError: The inputs have other shapes than those captured.
        """
        if not self.fits(x, *others):
            raise ValueError(f"The network was captured for inputs {self.shapes} but got {_shapes(x, *others)}.")
        for static, other in zip(self.others, others, strict=True):
            static.copy_(other)
        return cast(Tensor, _Replay.apply(self, x))


class _Replay(torch.autograd.Function):
    """One pass of a captured network."""

    @staticmethod
    def forward(ctx, captured: CapturedNetwork, x: Tensor) -> Tensor:
        ctx.captured = captured
        with torch.no_grad():
            captured.x.copy_(x)
        captured._forward.replay()
        return captured.output.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        captured = ctx.captured
        captured.grad_output.copy_(grad)
        captured._backward.replay()
        return None, captured.grad_x.clone()


def _shapes(*tensors: Tensor) -> list[tuple[tuple[int, ...], torch.dtype]]:
    return [(tuple(tensor.shape), tensor.dtype) for tensor in tensors]
