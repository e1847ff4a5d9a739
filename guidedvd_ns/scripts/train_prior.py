"""`gvd-train-prior`: train a prior on procedural rooms or own captures, VAE first, then the diffusion network."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Optional

import torch
import tyro
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from nerfstudio.utils.rich_utils import CONSOLE

from guidedvd_ns.data.capture_clips import CaptureClips
from guidedvd_ns.data.clips import ClipConfig
from guidedvd_ns.priors.base import GuidanceStep, SamplerSettings
from guidedvd_ns.priors.choice import find_prior
from guidedvd_ns.priors.viewcrafter.prior import ViewCrafterPrior
from guidedvd_ns.training.bank import ClipSource
from guidedvd_ns.training.config_file import read_config, write_config
from guidedvd_ns.training.diffusion import DiffusionConfig, DiffusionStage, build_scheduler
from guidedvd_ns.training.files import write_png, write_torch
from guidedvd_ns.training.loop import Budget, Session, train_stage
from guidedvd_ns.training.mixture import MixedClips
from guidedvd_ns.training.prefetch import PrefetchedRooms
from guidedvd_ns.training.processes import join_processes
from guidedvd_ns.training.remote import RemoteClips
from guidedvd_ns.training.vae import VaeConfig, VaeStage, build_vae


@dataclass(frozen=True)
class SamplerConfig:
    """How the finished prior is sampled; the guidance factor is then set by validation."""

    num_steps: int = 2
    """Denoising steps of a sequence; a small network errs in each of them."""
    spacing_power: float = 5.0
    """Time steps are spaced by this power: above 1 most of a run's few steps are nearly free of noise."""
    eta: float = 0.0
    """Share of fresh noise in every step."""
    guidance_step: GuidanceStep = "shrinking"
    """Whether a guidance step has the authors' length or shrinks with the difference to the guide."""
    guidance_factor: float = 0.3
    """Strength of scene-grounding guidance where validation finds no better one."""


@dataclass(frozen=True)
class ValidationConfig:
    """The comparison at the end, on rooms that are never trained on."""

    clips: int = 8
    """Held-out clips, one a room; 0 leaves validation out."""
    minutes: float = 2.0
    """No further setting is tried after this time."""
    steps: tuple[int, ...] = (2, 4, 1)
    """Numbers of denoising steps to try, most interesting first."""
    guidance_factors: tuple[float, ...] = (0.3, 0.0, 0.1)
    """Guidance factors to try at each number of steps, most interesting first."""


@dataclass(frozen=True)
class TrainPriorConfig:
    """Train a small video prior of the ViewCrafter family on rooms made on the fly.

    Run the same command with --resume to go on with a training that was stopped.

    On own captures: --captures FOLDER ..., with --warm-start bundled to fine-tune. A folder holds a transforms.json
    whose frames have a depth_file_path, or a scene of Replica or ScanNet++. A film's frames are named in its order;
    clips of other photographs pan over them.

    On several GPUs: accelerate launch --num-processes 4 -m guidedvd_ns.scripts.train_prior --output ... Each process
    renders clips of its own and trains on a batch of its own; the gradients are averaged, so the batch is four times as
    large. To resume, start as many processes again.
    """

    output: Path = Path("outputs/prior")
    """Folder for checkpoints, event files, pictures and the finished `prior/`."""
    resume: bool = False
    """Go on with the checkpoints in the output folder."""
    minutes_vae: float = 4.0
    """Training time of the VAE."""
    minutes_diffusion: float = 20.0
    """Training time of the diffusion network, over which its learning rate falls."""
    steps_vae: Optional[int] = None
    """Steps of the VAE, in place of minutes (reproducible)."""
    steps_diffusion: Optional[int] = None
    """Steps of the diffusion network, in place of minutes (reproducible)."""
    session_minutes: Optional[float] = None
    """Stop training after this time, counted from the start of the command; then export and validate as usual."""
    warm_start: Optional[Path] = None
    """Earlier prior to train on, a folder or `bundled`: its VAE stays as it is, and the network's sizes are its own."""
    device: Optional[str] = None
    """Where to train; on the GPU by default if there is one. Several processes take a GPU each, or `cpu`."""
    seed: int = 0
    """Seed of weights and draws."""
    initial_vae: Optional[Path] = None
    """Earlier prior, a folder or `bundled`, whose VAE is the start of the first stage (sizes must agree)."""
    render_device: Optional[str] = None
    """Another device, on which clips are rendered by processes of their own while this one trains (`cuda:1`)."""
    renderers: int = 3
    """Number of those processes."""
    workers: int = 4
    """Processes that lay out rooms ahead of the renderer (for each process that trains); 0: none."""
    captures: tuple[Path, ...] = ()
    """Folders of captures with poses and depth to cut clips from."""
    captures_share: float = 0.5
    """Share of batches that are cut from captures, where there are any; the others are of rooms. 1: no rooms."""
    allow_tf32: bool = True
    """Whether float32 matrix products on a GPU may be rounded to TF32."""
    clips: ClipConfig = field(default_factory=ClipConfig)
    """What the training clips look like."""
    vae: VaeConfig = field(default_factory=VaeConfig)
    """First stage."""
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    """Second stage."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """How the prior is sampled."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """Comparison at the end."""
    precision: Literal["float16", "float32"] = "float16"
    """Precision of the weights that are written."""
    max_shard_size: str = "14MB"
    """Larger weight files are split."""


def train_prior(config: TrainPriorConfig) -> ViewCrafterPrior | None:
    """Train, export to `output/prior` and validate; returns the finished prior, or None but in the main process.

    Raises:
        FileExistsError: The output folder holds checkpoints, and `resume` is not set.
        FileNotFoundError: `warm_start` or `initial_vae` is no prior, or a file of a capture is missing.
        ValueError: `render_device` is set, but several processes train; or a capture, or the prior of
            `warm_start`, cannot be trained on.
    """
    if not config.resume and any(config.output.glob("*.ckpt")):
        raise FileExistsError(f"{config.output} holds checkpoints of a training; add --resume to go on with it.")
    processes, device = join_processes(config.device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.allow_tf32
    # What cannot be compiled runs as it is: a training must not die of an optimisation.
    torch._dynamo.config.suppress_errors = True
    earlier = None
    if config.warm_start is not None:
        earlier = ViewCrafterPrior.from_pretrained(find_prior(config.warm_start, device), device, torch.float32)
        config = dataclasses.replace(config, diffusion=_network_of(earlier, config.diffusion))
    session = Session(config.output, device, config.session_minutes, processes=processes)
    if processes.is_main:
        write_config(config, config.output / "config.yaml")

    with processes, _room_source(config, session) as rooms:
        source = _with_captures(config, rooms, session.device)
        vae = _first_stage(config, source, session, earlier)
        diffusion = DiffusionStage(
            config.diffusion,
            source,
            vae,
            config.seed,
            reproducible=config.steps_diffusion is not None,
            initial_weights=earlier.unet.state_dict() if earlier else None,
            processes=processes,
        )
        train_stage(diffusion, _budget(config.steps_diffusion, config.minutes_diffusion), session)
    if not processes.is_main:
        return None
    prior = export_prior(config, diffusion, vae)
    if config.validation.clips:
        prior = _validated(config, prior)
    return prior


def _network_of(prior: ViewCrafterPrior, config: DiffusionConfig) -> DiffusionConfig:
    """`config` with the network of an earlier prior, and with what it was trained to predict from which condition."""
    network = prior.unet.config
    if network["context_dim"] is not None or not prior.known_mask_channel:
        raise ValueError("The prior of --warm-start was not trained by this command; give one that was, or `bundled`.")
    return dataclasses.replace(
        config,
        model_channels=network["model_channels"],
        channel_mult=tuple(network["channel_mult"]),
        num_res_blocks=network["num_res_blocks"],
        attention_resolutions=tuple(network["attention_resolutions"]),
        num_head_channels=network["num_head_channels"],
        fill_holes=prior.fill_holes,
        residual=prior.residual,
    )


def _room_source(config: TrainPriorConfig, session: Session) -> PrefetchedRooms | RemoteClips:
    device, processes = session.device, session.processes
    if config.render_device is None:
        return PrefetchedRooms(config.clips, device, seed=config.seed, workers=config.workers, stride=processes.count)
    if processes.count > 1:
        raise ValueError("--render-device renders for one training process; leave it out where several train.")
    return RemoteClips(config.clips, config.render_device, device, seed=config.seed, renderers=config.renderers)


def _with_captures(config: TrainPriorConfig, rooms: ClipSource, device: torch.device) -> ClipSource:
    if not config.captures:
        return rooms
    captures = CaptureClips(config.captures, config.clips, device, seed=config.seed)
    return MixedClips(rooms, captures, config.captures_share, seed=config.seed)


def _budget(steps: int | None, minutes: float) -> Budget:
    return Budget(minutes=minutes) if steps is None else Budget(steps=steps)


def _first_stage(
    config: TrainPriorConfig, source: ClipSource, session: Session, earlier: ViewCrafterPrior | None
) -> AutoencoderKL:
    """The finished VAE: an earlier prior's, or this training's, finished once and kept in `vae_finished.pt`."""
    if earlier is not None:
        return earlier.vae
    size, finished = (config.clips.height, config.clips.width), config.output / "vae_finished.pt"
    processes = session.processes
    if processes.agree(finished.exists()):
        vae = build_vae(config.vae, size).to(device=session.device)  # pyright: ignore[reportCallIssue]
        vae.load_state_dict(torch.load(finished, map_location=session.device, weights_only=True))
        return vae.eval().requires_grad_(False)
    initial = None
    if config.initial_vae is not None:
        initial = ViewCrafterPrior.from_pretrained(find_prior(config.initial_vae, "cpu"), "cpu", torch.float32)
    stage = VaeStage(
        config.vae,
        source,
        size,
        session.device,
        seed=config.seed,
        reproducible=config.steps_vae is not None,
        initial_weights=initial.vae.state_dict() if initial else None,
        processes=processes,
    )
    complete = train_stage(stage, _budget(config.steps_vae, config.minutes_vae), session)
    vae = stage.finished()
    if complete and processes.is_main:
        write_torch(finished, vae.state_dict())
    return vae


def export_prior(config: TrainPriorConfig, diffusion: DiffusionStage, vae: AutoencoderKL) -> ViewCrafterPrior:
    """Write the averaged network and the VAE to `output/prior` as a diffusers folder; returns the prior as loaded."""
    dtype = getattr(torch, config.precision)
    settings = SamplerSettings(
        num_frames=config.clips.num_frames,
        height=config.clips.height,
        width=config.clips.width,
        num_steps=config.sampler.num_steps,
        eta=config.sampler.eta,
        guidance_factor=config.sampler.guidance_factor,
        guidance_step=config.sampler.guidance_step,
        restore_detail=config.diffusion.fill_holes,
    )
    prior = ViewCrafterPrior(
        diffusion.averaged_network().to(device="cpu", dtype=dtype),  # pyright: ignore[reportCallIssue]
        copy.deepcopy(vae).to(device="cpu", dtype=dtype),  # pyright: ignore[reportCallIssue]
        build_scheduler(config.sampler.spacing_power),
        settings,
        known_mask_channel=True,
        sample_posterior=False,
        fill_holes=config.diffusion.fill_holes,
        residual=config.diffusion.residual,
    )
    folder = config.output / "prior"
    prior.save_pretrained(folder, max_shard_size=config.max_shard_size)
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    CONSOLE.log(f"The prior is in {folder}: {size / 1e6:.1f} MB of weights.")
    return ViewCrafterPrior.from_pretrained(folder, diffusion.unet.device, torch.float32)


def _validated(config: TrainPriorConfig, prior: ViewCrafterPrior) -> ViewCrafterPrior:
    """Compare on held-out rooms, write what was found, and give the prior the best steps and guidance factor."""
    from guidedvd_ns.training import validation

    held_out = validation.held_out_clips(config.clips, config.validation.clips, prior.device, config.seed)
    settings = [(steps, factor) for steps in config.validation.steps for factor in config.validation.guidance_factors]
    scores = []
    for entry in validation.compare(prior, held_out, settings, seconds=60 * config.validation.minutes):
        scores.append(entry)
        validation.save_scores(scores, config.output / "validation.json")
    CONSOLE.print(validation.table(scores))
    best = validation.best_guided(scores)
    if best is None:
        return prior
    changes = {"num_steps": best.num_steps, "guidance_factor": best.guidance_factor}
    prior.settings = dataclasses.replace(prior.settings, **changes)
    validation.save_settings(prior, config.output / "prior")
    write_png(config.output / "validation.png", validation.contact_sheet(prior, held_out.clips))
    CONSOLE.log(f"Best inside holes: {best.num_steps} steps, guidance factor {best.guidance_factor:g}.")
    return prior


def main(arguments: list[str] | None = None) -> None:
    """Entry point: options from `--config FILE` first, then from the command line."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    default = None
    if "--config" in arguments:
        position = arguments.index("--config")
        if position + 1 == len(arguments) or arguments[position + 1].startswith("--"):
            raise SystemExit("--config needs a file: name the YAML or JSON file with the options.")
        default = read_config(TrainPriorConfig, Path(arguments[position + 1]))
        del arguments[position : position + 2]
    default = default or TrainPriorConfig()
    train_prior(tyro.cli(TrainPriorConfig, default=default, args=arguments, description=_HELP, prog="gvd-train-prior"))


_HELP = inspect.cleandoc(TrainPriorConfig.__doc__ or "") + (
    "\n\n--config FILE reads options from a YAML or JSON file; those given beside it win."
)

if __name__ == "__main__":
    main()
