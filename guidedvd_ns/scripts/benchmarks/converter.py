"""`gvd-benchmark converter`: time and memory of converting a checkpoint of ViewCrafter's true size, made of zeros."""

from __future__ import annotations

import resource
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Optional

if TYPE_CHECKING:
    from torch import nn

    from guidedvd_ns.priors.viewcrafter.sizes import ViewCrafterFacts


@dataclass(frozen=True)
class Measurement:
    """What a conversion took; memory is that of the whole process, its libraries included."""

    seconds: float
    resident: int
    """Most bytes in memory at a time, with pages of the mapped file, which the system may drop whenever it likes."""
    anonymous: int
    """Most bytes in memory at a time that are no pages of a file; 0 where the system does not tell."""


def benchmark_converter(*, dtype: Literal["bf16", "fp32"] = "bf16", folder: Optional[Path] = None) -> None:
    """Convert a checkpoint with the keys and shapes of the published one; its zeros take no room on most disks.

    The converter will warn of its noise schedule, which is zero too.

    Args:
        dtype: precision of the written weights; the disk needs 5.2 GB for bf16 and 10.4 GB for fp32.
        folder: where the files are written, and removed afterwards; a temporary folder by default.
    """
    from nerfstudio.utils.rich_utils import CONSOLE

    from guidedvd_ns.priors.viewcrafter.layout import expected_shapes
    from guidedvd_ns.priors.viewcrafter.scheduler import ViewCrafterScheduler

    shapes = expected_shapes(published_parts(), ViewCrafterScheduler())
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        checkpoint = Path(scratch) / "model.ckpt"
        write_sparse_checkpoint(checkpoint, shapes)
        found = measure_conversion(checkpoint, Path(scratch) / "prior", dtype)
        size = checkpoint.stat().st_size
    CONSOLE.print(
        f"{len(shapes)} keys, {size / 1e9:.2f} GB, to {dtype} in {found.seconds:.0f} s; peak of resident memory"
        f" {found.resident / 1e9:.2f} GB, of anonymous memory {found.anonymous / 1e9:.2f} GB."
    )


def published_parts() -> dict[str, nn.Module]:
    """The published model's parts, on the meta device (viewcrafter-architecture.md, sections 2 to 4)."""
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

    from guidedvd_ns.priors.viewcrafter.projector import ImageProjector
    from guidedvd_ns.priors.viewcrafter.unet import ViewCrafterUNet

    text: dict[str, Any] = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16)
    image: dict[str, Any] = dict(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, patch_size=14)
    with torch.device("meta"):
        return {
            "unet": ViewCrafterUNet(),
            "vae": AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),  # pyright: ignore[reportArgumentType]
                layers_per_block=2,
                down_block_types=("DownEncoderBlock2D",) * 4,  # pyright: ignore[reportArgumentType]
                up_block_types=("UpDecoderBlock2D",) * 4,  # pyright: ignore[reportArgumentType]
            ),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**text, projection_dim=1024)),
            "image_encoder": CLIPVisionModel(CLIPVisionConfig(**image, num_attention_heads=16, projection_dim=1024)),
            "image_projector": ImageProjector(),
        }


def write_sparse_checkpoint(file: Path, shapes: Mapping[str, Sequence[int]]) -> None:
    """A Lightning checkpoint of float32 zeros that are never written (torch 2.6 or later)."""
    import torch

    # Memory that is asked for and not touched is not taken.
    weights = {key: torch.empty(tuple(shape)) for key, shape in shapes.items()}
    with torch.serialization.skip_data():
        torch.save({"state_dict": weights}, file)


def measure_conversion(
    checkpoint: Path, folder: Path, dtype: Literal["bf16", "fp32"], facts: ViewCrafterFacts | None = None
) -> Measurement:
    """Convert in this process and watch its memory."""
    from guidedvd_ns.priors.viewcrafter.convert import convert_checkpoint
    from guidedvd_ns.scripts.convert_viewcrafter import DTYPES

    anonymous, done = [_anonymous_bytes()], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            anonymous.append(_anonymous_bytes())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.perf_counter()
    try:
        convert_checkpoint(checkpoint, folder, dtype=DTYPES[dtype], facts=facts)
    finally:
        done.set()
        watcher.join()
    seconds = time.perf_counter() - start
    # The unit is a kibibyte, on macOS a byte.
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Measurement(seconds, resident, max(anonymous))


def _anonymous_bytes() -> int:
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
