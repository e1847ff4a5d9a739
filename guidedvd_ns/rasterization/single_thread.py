"""Differentiable torch code on one thread in both directions, whatever torch's thread count is.

Projection and spherical harmonics are a few hundred operations on some ten thousand numbers each. Torch shares such
operations out to its OpenMP threads, which wait for each other by spinning: nothing is gained on idle cores, and on
busy ones every operation waits for a time slice (10 000 Gaussians on two cores that five processes wanted: 390 ms for
forward and backward instead of 50).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@contextmanager
def single_thread() -> Iterator[None]:
    """Let torch use one thread for what the calling thread does inside."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def on_single_thread(function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> tuple[Tensor, ...]:
    """function(*inputs), computed and differentiated on one thread.

    Args:
        function: of tensors only; gradients flow to its inputs alone, and from its floating-point outputs.
    """
    if torch.is_grad_enabled():
        return _SingleThread.apply(function, *inputs)
    with single_thread():
        return function(*inputs)


class _SingleThread(torch.autograd.Function):
    """Keeps the graph of the function to itself, so that its backward pass is one node of the graph outside."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> tuple[Tensor, ...]:
        with single_thread(), torch.enable_grad():
            ctx.inputs = [
                tensor.detach().requires_grad_(needed)
                for tensor, needed in zip(inputs, ctx.needs_input_grad[1:], strict=True)
            ]
            ctx.outputs = function(*ctx.inputs)
        results = tuple(output.detach() for output in ctx.outputs)
        ctx.mark_non_differentiable(*(result for result in results if not result.is_floating_point()))
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *output_gradients: Tensor) -> tuple[Any, ...]:
        graph = [
            (output, gradient)
            for output, gradient in zip(ctx.outputs, output_gradients, strict=True)
            if output.requires_grad
        ]
        outputs, gradients = zip(*graph, strict=True)
        wanted = [tensor for tensor in ctx.inputs if tensor.requires_grad]
        with single_thread():
            # Kept for a second backward pass; the graph goes with ctx.
            found = iter(torch.autograd.grad(outputs, wanted, gradients, retain_graph=True, allow_unused=True))
        return None, *(next(found) if tensor.requires_grad else None for tensor in ctx.inputs)
