"""The processes that train one network together, each with clips and a GPU of its own, as `accelerate` starts them.

All take the same steps with the same averaged gradients, so their weights stay equal to the bit. What depends on a
clock is decided by the main process (rank 0) for all: one that stopped or saved alone would wait for ever.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from types import TracebackType
from typing import Any

import numpy as np
import torch
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor, nn

PATIENCE = timedelta(hours=1)
"""How long processes wait for one that renders, compiles or saves."""


class Processes:
    """One process alone: what it finds and decides is what all find and decide."""

    rank: int = 0
    """Number of this process."""
    count: int = 1
    """How many there are."""

    @property
    def is_main(self) -> bool:
        """Whether this process logs, draws and writes files."""
        return self.rank == 0

    def generator(self, device: torch.device | str, seed: int) -> torch.Generator:
        """A generator whose draws differ between the processes; the main process's is seeded by `seed` alone."""
        own = seed if self.is_main else int(np.random.SeedSequence((seed, self.rank)).generate_state(1)[0])
        return torch.Generator(device).manual_seed(own)

    def agree(self, value: float) -> float:
        """The main process's value, in every process; to be called by all."""
        return value

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes by rank, in the main process; elsewhere nothing. To be called by all."""
        return [value]

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace the gradients in `.grad` by their means over the processes; to be called by all."""

    def share_weights(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace the weights by the main process's; to be called by all."""

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Part; nothing may be agreed upon any more."""


class ConnectedProcesses(Processes):
    """One of several processes, connected through `torch.distributed`.

    Decisions travel through the CPU (gloo), so that they wait for no kernel; gradients through the default group.

    Raises:
        RuntimeError: There is no default process group.
    """

    def __init__(self) -> None:
        if not torch.distributed.is_initialized():
            raise RuntimeError("Processes that train together need a process group; start them with accelerate launch.")
        self.rank = torch.distributed.get_rank()
        self.count = torch.distributed.get_world_size()
        self._decisions: Any = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)

    def agree(self, value: float) -> float:
        """See `Processes.agree`."""
        shared = torch.tensor([value], dtype=torch.float64)
        torch.distributed.broadcast(shared, 0, group=self._decisions)
        return float(shared)

    def gather(self, value: Any) -> list[Any]:
        """See `Processes.gather`."""
        gathered: list[Any] | None = [None] * self.count if self.is_main else None
        torch.distributed.gather_object(value, gathered, group=self._decisions)
        return gathered or []

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """See `Processes.average_gradients`."""

        def average(flat: Tensor) -> None:
            torch.distributed.all_reduce(flat)
            flat /= self.count

        _as_one([parameter.grad for parameter in parameters if parameter.grad is not None], average)

    def share_weights(self, parameters: Iterable[nn.Parameter]) -> None:
        """See `Processes.share_weights`."""
        _as_one([parameter.data for parameter in parameters], lambda flat: torch.distributed.broadcast(flat, 0))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Part without waiting for each other, which after an error would take as long as `PATIENCE`."""
        if kind is None:
            torch.distributed.destroy_process_group()


def join_processes(device: str | None) -> tuple[Processes, torch.device]:
    """Join those that `accelerate launch` (or torchrun) started beside this process, if there are any.

    Args:
        device: Where to train; the GPU by default if there is one. With several processes each takes a GPU of its own,
            unless this is the CPU.

    Returns:
        The processes, of which all but the main one are silent from here on, and this one's device, which is the
        current one if it is a GPU.

    Raises:
        ImportError: There are several, but accelerate is not installed.
    """
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        own = torch.device(device or ("cpu" if on_cpu else "cuda"))
        if own.type == "cuda" and own.index is not None:
            # Streams and graphs belong to the current GPU: a graph captured beside another one's work is empty.
            torch.cuda.set_device(own)
        return Processes(), own
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise ImportError("Training in several processes needs accelerate; pip install accelerate.") from error
    state = PartialState(cpu=on_cpu, timeout=PATIENCE)
    processes = ConnectedProcesses()
    CONSOLE.quiet = not processes.is_main
    CONSOLE.log(f"{processes.count} processes train together, each with its own clips.")
    return processes, torch.device("cpu" if on_cpu or state.device is None else state.device)


@torch.no_grad()
def _as_one(tensors: list[Tensor], change: Callable[[Tensor], object]) -> None:
    """Change tensors in place through one flat copy: a message for each would cost its latency each time."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    change(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(tensors, [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)])
