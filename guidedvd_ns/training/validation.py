"""How well a prior fills holes, on clips of rooms never trained on, beside black and OpenCV's Telea inpainting."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from nerfstudio.utils.rich_utils import CONSOLE
from rich.table import Table
from torch import Tensor

from guidedvd_ns.data.clips import ClipBatch, ClipConfig, concatenate_clips
from guidedvd_ns.data.room_clips import RoomClips
from guidedvd_ns.data.visibility import Matches, concatenate_matches, covisible_difference
from guidedvd_ns.generation import blend_known
from guidedvd_ns.guidance import sample_guided
from guidedvd_ns.losses import st_lpips_metric
from guidedvd_ns.priors.base import SamplerOverrides, VideoPrior
from guidedvd_ns.training.bank import MAX_EMPTY_BATCHES
from guidedvd_ns.training.files import write_text

TELEA_RADIUS = 3.0
"""Neighbourhood of OpenCV's inpainting in pixels."""

MATCH_GAP = 4
"""Frames between two that must show a surface alike."""


@dataclass(frozen=True)
class Score:
    """Means over clips of one way to fill holes."""

    method: str
    """truth, black, telea, vae (the truth, encoded and decoded), unguided or guided."""
    num_steps: int
    """Denoising steps, 0 where there are none."""
    guidance_factor: float
    """Strength of scene-grounding guidance."""
    psnr_holes: float
    """PSNR in dB over unknown pixels."""
    psnr: float
    """PSNR in dB over all pixels."""
    known_difference: float
    """Mean absolute difference from the condition on known pixels."""
    covisible_difference: float
    """Mean absolute difference between two frames of a clip, at most `MATCH_GAP` apart, where both show a surface."""
    st_lpips: float
    """Shift-tolerant LPIPS (AlexNet) against the truth."""
    seconds: float
    """Time for one clip."""
    guidance_step: str = ""
    """How long a step of guidance is, constant or shrinking; empty where nothing guides."""
    restore_detail: bool = False
    """Whether frames got back what the autoencoder loses of the condition."""
    known_kept: bool = False
    """Whether known pixels were then taken from the condition, as the method does before it trains on a sequence."""


@dataclass(frozen=True)
class HeldOutClips:
    """Clips of rooms that are never trained on, and where the surfaces of a frame are in later ones."""

    clips: ClipBatch
    """N clips."""
    matches: Matches
    """Those of the same clips, `MATCH_GAP` frames apart, or in shorter clips first and last."""

    def __len__(self) -> int:
        return len(self.clips)


def held_out_clips(config: ClipConfig, count: int, device: torch.device | str, seed: int = 0) -> HeldOutClips:
    """`count` clips of as many rooms that are never trained on.

    Raises:
        ValueError: The rooms have no clips of the wanted holes.
    """
    changes = {"clips_per_room": 1, "mirror": False, "other_sizes": (), "compile_rendering": False}
    single = replace(config, rooms_per_batch=min(count, 8), **changes)
    source = RoomClips(single, device, seed=seed, held_out=True)
    batches, found, index = [], 0, 0
    while found < count:
        batches.append(source.matched_batch(index, min(MATCH_GAP, config.num_frames - 1)))
        found += len(batches[-1][0])
        index += 1
        if index == MAX_EMPTY_BATCHES and found == 0:
            raise ValueError(
                f"{index} batches of held-out clips had none with holes between {config.min_hole_fraction} and"
                f" {config.max_hole_fraction}: widen that range."
            )
    clips, matches = zip(*batches, strict=True)
    return HeldOutClips(concatenate_clips(list(clips))[:count], concatenate_matches(list(matches))[:count])


def inpaint_telea(
    frames: Tensor,  # [L, H, W, 3] in [0, 1]
    known: Tensor,  # [L, H, W, 1]
) -> Tensor:  # [L, H, W, 3]
    """Fill the unknown pixels of each frame by itself with OpenCV's fast marching inpainting (Telea 2004)."""
    images = (255 * frames).round().to(torch.uint8).cpu().numpy()
    holes = (255 * (known[..., 0] < 0.5)).to(torch.uint8).cpu().numpy()
    filled = [
        cv2.inpaint(image, hole, TELEA_RADIUS, cv2.INPAINT_TELEA) for image, hole in zip(images, holes, strict=True)
    ]
    return torch.from_numpy(np.stack(filled)).to(frames) / 255


def sample_clip(
    prior: VideoPrior,
    clips: ClipBatch,
    index: int,
) -> Tensor:  # [T, H, W, 3]
    """One clip completed by the prior with its own settings; the seed of its noise is its number."""
    generator = torch.Generator(prior.device).manual_seed(index)
    sampling = sample_guided(
        prior,
        clips.condition[index],
        clips.known[index],
        clips.condition[index, 0],
        generator,
        height=clips.target.shape[2],
        width=clips.target.shape[3],
    )
    while True:
        try:
            next(sampling)
        except StopIteration as stop:
            return stop.value


def score(
    name: str, fill: Callable[[int], Tensor], held_out: HeldOutClips, num_steps: int = 0, factor: float = 0.0
) -> Score:
    """Score a way to fill holes, given as a function from the number of a clip to its frames [T, H, W, 3]."""
    clips, matches = held_out.clips, held_out.matches
    rows, lpips, seconds = [], st_lpips_metric(clips.target.device), 0.0
    for index in range(len(clips)):
        started = time.monotonic()
        filled = fill(index).to(clips.target).clamp(0, 1)
        if filled.device.type == "cuda":
            torch.cuda.synchronize(filled.device)
        seconds += time.monotonic() - started
        consistency = covisible_difference(filled, matches[index : index + 1])
        # Frame 0 is the photograph itself.
        truth, known = clips.target[index, 1:], clips.known[index, 1:]
        filled, condition = filled[1:], clips.condition[index, 1:]
        rows.append(
            [
                _psnr(filled, truth, 1 - known),
                _psnr(filled, truth, torch.ones_like(known)),
                float(((filled - condition).abs() * known).sum() / (3 * known.sum()).clamp(min=1)),
                consistency,
                float(lpips(filled, truth)),
            ]
        )
    holes, whole, known_difference, consistency, st_lpips = np.array(rows).T
    return Score(
        method=name,
        num_steps=num_steps,
        guidance_factor=factor,
        psnr_holes=float(holes.mean()),
        psnr=float(whole.mean()),
        known_difference=float(known_difference.mean()),
        covisible_difference=_mean_of_numbers(consistency),
        st_lpips=float(st_lpips.mean()),
        seconds=seconds / len(clips),
    )


def _mean_of_numbers(values: np.ndarray) -> float:
    """The mean of those that are numbers: in some clips no two frames show the same. 0 where none is."""
    numbers = values[~np.isnan(values)]
    return float(numbers.mean()) if len(numbers) else 0.0


def _psnr(images: Tensor, truth: Tensor, weight: Tensor) -> float:
    error = ((images - truth).square() * weight).sum() / (3 * weight.sum()).clamp(min=1)
    return float(-10 * torch.log10(error.clamp(min=1e-10)))


def compare(
    prior: VideoPrior,
    held_out: HeldOutClips,
    settings: list[tuple[int, float]],
    *,
    seconds: float = float("inf"),
) -> Iterator[Score]:
    """`compare_variants` at each (steps, guidance factor) of `settings`; a factor of 0 samples without guidance."""
    variants = [SamplerOverrides(num_steps=num_steps, guidance_factor=factor) for num_steps, factor in settings]
    return compare_variants(prior, held_out, variants, seconds=seconds)


def compare_variants(
    prior: VideoPrior,
    held_out: HeldOutClips,
    variants: Sequence[SamplerOverrides],
    *,
    seconds: float = float("inf"),
) -> Iterator[Score]:
    """Scores of the truth, black holes, Telea, the VAE alone, and the prior sampled in each of several ways.

    Each way counts twice, with the frames as they are sampled and with their known pixels from the condition.

    Args:
        prior: Sampled with its own settings but for those of the variant; left with its own.
        held_out: Clips on the prior's device.
        variants: What to try, most interesting first.
        seconds: No further variant is begun after this time.
    """
    started, own, clips = time.monotonic(), prior.settings, held_out.clips
    yield score("truth", lambda index: clips.target[index], held_out)
    yield score("black", lambda index: clips.condition[index], held_out)
    yield score("telea", lambda index: inpaint_telea(clips.condition[index], clips.known[index]), held_out)
    with torch.no_grad():
        yield score("vae", lambda index: _through_vae(prior, clips.target[index]), held_out)
    for variant in variants:
        if time.monotonic() - started > seconds:
            CONSOLE.log("Validation stops here: its time is up.")
            return
        try:
            prior.override(variant)
            scores = _scores_of_samples(prior, held_out)
        finally:
            prior.settings = own
        yield from scores


def _scores_of_samples(prior: VideoPrior, held_out: HeldOutClips) -> list[Score]:
    """The prior sampled with its present settings; without and with known pixels from the condition."""
    used, clips, samples = prior.settings, held_out.clips, {}
    guided = used.guidance_factor > 0

    def sampled(index: int) -> Tensor:
        samples[index] = sample_clip(prior, clips, index)
        return samples[index]

    def kept(index: int) -> Tensor:
        return blend_known(samples[index], clips.condition[index], clips.known[index].bool())

    name = "guided" if guided else "unguided"
    plain = score(name, sampled, held_out, used.num_steps, used.guidance_factor)
    blended = score(name, kept, held_out, used.num_steps, used.guidance_factor)
    setting = {"guidance_step": used.guidance_step if guided else "", "restore_detail": used.restore_detail}
    return [replace(plain, **setting), replace(blended, **setting, known_kept=True, seconds=plain.seconds)]


def _through_vae(prior: VideoPrior, frames: Tensor) -> Tensor:
    conditioning = prior.condition(frames, torch.ones_like(frames[..., :1]), frames[0], None)
    return prior.decode(conditioning.z, slice(None))


def best_guided(scores: list[Score]) -> Score | None:
    """The guided setting of the prior with the highest PSNR inside holes, or None where there is none."""
    sampled = [entry for entry in scores if entry.num_steps and entry.guidance_factor > 0 and not entry.known_kept]
    return max(sampled, key=lambda entry: entry.psnr_holes, default=None)


def table(scores: list[Score]) -> Table:
    """The scores as a table for the terminal."""
    result = Table(
        "method",
        "steps",
        "factor",
        "step",
        "detail",
        "known",
        "holes dB",
        "whole dB",
        "|S - X| known",
        "co-visible",
        "ST-LPIPS",
        "s / clip",
    )
    for entry in scores:
        result.add_row(
            entry.method,
            str(entry.num_steps or ""),
            f"{entry.guidance_factor:g}" if entry.num_steps else "",
            entry.guidance_step,
            "restored" if entry.restore_detail else "",
            "kept" if entry.known_kept else "",
            f"{entry.psnr_holes:.2f}",
            f"{entry.psnr:.2f}",
            f"{entry.known_difference:.4f}",
            f"{entry.covisible_difference:.4f}",
            f"{entry.st_lpips:.4f}",
            f"{entry.seconds:.2f}",
        )
    return result


def save_scores(scores: list[Score], path: Path) -> None:
    """Write the scores as JSON."""
    write_text(path, json.dumps([asdict(entry) for entry in scores], indent=2) + "\n")


def contact_sheet(prior: VideoPrior, clips: ClipBatch, count: int = 4, columns: int = 6) -> Tensor:  # [H', W', 3]
    """Some frames of the first clips, in four rows each: condition, Telea, the prior's completion, truth."""
    rows = []
    for index in range(min(count, len(clips))):
        sampled = sample_clip(prior, clips, index)
        condition, truth = clips.condition[index], clips.target[index]
        rows += [condition, inpaint_telea(condition, clips.known[index]), sampled.to(truth), truth]
    picked = torch.linspace(1, len(rows[0]) - 1, columns).round().long()
    strips = [torch.cat(list(clip.cpu()[picked]), dim=1) for clip in rows]
    return torch.cat(strips).clamp(0, 1)


def save_settings(prior: VideoPrior, folder: Path) -> None:
    """Write the prior's sampler settings into its folder's `prior.json`."""
    path = folder / "prior.json"
    description = json.loads(path.read_text())
    write_text(path, json.dumps({**description, "settings": asdict(prior.settings)}, indent=2) + "\n")
