"""Which folder a prior's name stands for: one that comes along, is in the cache, is given, or is fetched when asked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from nerfstudio.utils.rich_utils import CONSOLE

from guidedvd_ns.cache import cache_folder
from guidedvd_ns.priors.base import Memory

BUNDLED = Path(__file__).parent / "bundled"
CHECKPOINT_REPOSITORY, CHECKPOINT_FILE = "Drexubery/ViewCrafter_25", "model.ckpt"
CHECKPOINT_URL = f"https://huggingface.co/{CHECKPOINT_REPOSITORY}/resolve/main/{CHECKPOINT_FILE}"
NEEDED_GIB: dict[Memory, int] = {"default": 23, "low": 10}
"""GPU memory that sampling ViewCrafter takes: 25 frames of 320x448, guided."""

OPENCV_INPAINTERS = ("telea", "navier-stokes")
DIFFUSION_INPAINTER = "sd-inpaint"
"""Followed by a colon and the model: a folder, or `owner/name` on the hub."""

_OPTION = "--pipeline.datamanager"


def is_inpainter(name: str) -> bool:
    """Whether a prior's name stands for single-image inpainting (see `inpainting`) and for no video prior."""
    return name.partition(":")[0] in (*OPENCV_INPAINTERS, DIFFUSION_INPAINTER)


def find_prior(name: str | Path, device: str | torch.device, memory: Memory = "default") -> Path:
    """The folder of a prior in diffusers' layout; only what is asked for by name is ever downloaded.

    Args:
        name: `auto` (ViewCrafter where a converted copy is in the cache and `device` has room for it, else the bundled
            prior; one line says which and why), `bundled`, `viewcrafter`, a folder, or `owner/name` on the Hugging Face
            hub.
        device: where the prior will run.
        memory: how much of it the prior may take.

    Raises:
        FileNotFoundError: where there is no such prior on this machine and it could not be downloaded.
        OSError: where the cache cannot take ViewCrafter, or holds something else in its place.
        ValueError: where what was downloaded is not ViewCrafter.
    """
    if str(name) == "auto":
        return _choose(torch.device(device), memory)
    if str(name) == "bundled":
        return BUNDLED
    if str(name) in ("viewcrafter", CHECKPOINT_REPOSITORY):
        return viewcrafter_folder() if _is_converted() else _fetch_viewcrafter()
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise FileNotFoundError(
            f"The prior {folder} is a file and no folder: convert it with `gvd-convert-viewcrafter {folder} OUT` if it"
            " is ViewCrafter's checkpoint, and give OUT."
        )
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(name)):
        return _fetch_from_hub(str(name))
    raise FileNotFoundError(
        f"There is no prior '{name}': give auto, bundled, viewcrafter, a folder with a saved prior, or owner/name on"
        f" the Hugging Face hub; {', '.join(OPENCV_INPAINTERS)} or {DIFFUSION_INPAINTER}:MODEL inpaint single images."
    )


def viewcrafter_folder() -> Path:
    """Where the converted ViewCrafter is kept."""
    return cache_folder() / "viewcrafter"


def _is_converted() -> bool:
    return (viewcrafter_folder() / "model_index.json").is_file()


def _choose(device: torch.device, memory: Memory) -> Path:
    """ViewCrafter or the bundled prior, by what this machine has."""
    needed = NEEDED_GIB[memory]
    free = free_gib(device) if device.type == "cuda" else 0.0
    if device.type != "cuda":
        reason = "ViewCrafter needs a CUDA device"
    elif not _is_converted():
        reason = f"{viewcrafter_folder()} holds no converted ViewCrafter ({_OPTION}.prior viewcrafter downloads it)"
    elif free < needed:
        hint = f", or {NEEDED_GIB['low']} with {_OPTION}.memory low" if memory == "default" else ""
        reason = f"{free:.1f} GiB of GPU memory are free and ViewCrafter needs {needed}{hint}"
    else:
        CONSOLE.log(
            f"Prior: ViewCrafter, because a converted copy is in {viewcrafter_folder()} and {free:.1f} GiB of GPU"
            f" memory are free (it needs {needed})."
        )
        return viewcrafter_folder()
    CONSOLE.log(f"Prior: the bundled one, because {reason}.")
    return BUNDLED


def free_gib(device: torch.device) -> float:
    """Memory of a CUDA device that this process can still get, in GiB."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return (torch.cuda.mem_get_info(device)[0] + unused) / 2**30


def _fetch_viewcrafter() -> Path:
    """Download the authors' checkpoint and convert it into the cache; of several processes the first one does."""
    folder = viewcrafter_folder()
    with _alone_in(folder):
        if not _is_converted():
            _download_and_convert(folder)
    return folder


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes from filling the same folder; what would make it fail is said before the download."""
    if folder.exists() and not _is_converted():
        raise FileExistsError(f"{folder} exists but holds no converted ViewCrafter: move it away, so that one can be.")
    lock = FileLock(folder.with_name(folder.name + ".lock"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        CONSOLE.log(f"Prior: another process is putting ViewCrafter into {folder}; waiting for it.")
        lock.acquire()
    except OSError as error:
        raise OSError(
            f"ViewCrafter cannot be kept in {folder.parent} ({error.strerror}): name another folder in the environment"
            " variable GUIDEDVD_CACHE."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _download_and_convert(folder: Path) -> None:
    from huggingface_hub import hf_hub_download

    CONSOLE.log(f"Prior: ViewCrafter is not in {folder} yet; fetching {CHECKPOINT_FILE} (10.4 GB) to convert it, once.")
    try:
        checkpoint = Path(hf_hub_download(CHECKPOINT_REPOSITORY, CHECKPOINT_FILE))
    except Exception as error:  # offline, refused, interrupted: the HTTP library's exceptions depend on its version
        raise FileNotFoundError(
            f"ViewCrafter is not on this machine and could not be downloaded ({_first_sentence(error)}): fetch"
            f" {CHECKPOINT_URL} (10.4 GB) elsewhere, copy it here, and run `gvd-convert-viewcrafter {CHECKPOINT_FILE}"
            f" {folder}`."
        ) from error
    from guidedvd_ns.priors.viewcrafter.convert import convert_checkpoint

    convert_checkpoint(checkpoint, folder)
    # The hub's cache hands out a link, and deleting that would free nothing.
    CONSOLE.log(f"ViewCrafter is converted to {folder}; {checkpoint.resolve()} is no longer needed.")


def _fetch_from_hub(repository: str) -> Path:
    """Download a prior that was saved to the hub; only its JSON and safetensors files."""
    from huggingface_hub import hf_hub_download, snapshot_download

    try:
        # First the small file that tells a prior: no gigabytes of something else.
        hf_hub_download(repository, "model_index.json")
        return Path(snapshot_download(repository, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # see _fetch_viewcrafter
        raise FileNotFoundError(
            f"There is no folder '{repository}', and no prior of that name could be had from the Hugging Face hub"
            f" ({_first_sentence(error)}): check the name, or fetch https://huggingface.co/{repository} elsewhere, copy"
            f" it here, and give its folder as {_OPTION}.prior."
        ) from error


def _first_sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return re.split(r"\.(?:\s|$)", lines[0])[0] if lines else type(error).__name__
