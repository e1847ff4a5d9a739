"""Perceptual distances between images behind one function: ST-LPIPS (offline), LPIPS and the authors' VGG-19 features.

The networks are built at first use, frozen, kept per device, and held outside any module tree, so that no checkpoint
carries them. Files are only ever read with `weights_only=True`.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import pickle
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol, cast, get_args

import torch
import torch.nn.functional as F
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor, nn

PerceptualName = Literal["st-lpips-alex", "st-lpips-vgg", "lpips-alex", "lpips-vgg", "vgg19"]
"""st-lpips-*: shift-tolerant LPIPS, weights ship with its package. lpips-*: Zhang et al. 2018. vgg19: the authors'."""


class Distance(Protocol):
    """The mean distance of a batch of images."""

    def __call__(
        self,
        images: Tensor,  # [B, H, W, 3] in [0, 1]
        targets: Tensor,  # [B, H, W, 3] in [0, 1]
        known: Tensor | None = None,  # [B, H, W, 1] 1 where the images count, else 0
        /,
    ) -> Tensor:  # scalar
        ...


Features = Callable[[Tensor], Sequence[Tensor]]
"""Images [B, 3, H, W] in [0, 1] -> feature maps [B, C, h, w], fine to coarse."""

MIN_SIDE = 32  # the deepest layer of AlexNet has nothing left of smaller images

# Per channel, for images in [0, 1]. LPIPS spells the same numbers for images in [-1, 1].
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# torchvision model and the layers of its `features` that are compared.
_BACKBONES = {
    "lpips-alex": ("alexnet", (1, 4, 7, 9, 11)),
    "lpips-vgg": ("vgg16", (3, 8, 15, 22, 29)),
    "vgg19": ("vgg19", (3, 8, 17, 26, 35)),
}


class WeightsUnavailableError(RuntimeError):
    """The weights of a perceptual network are neither on this machine nor to be had from the network."""


def perceptual_distance(name: PerceptualName, device: torch.device | str, allow_download: bool = True) -> Distance:
    """A frozen perceptual distance, differentiable in both images.

    `lpips-*` and `vgg19` stand on torchvision's ImageNet weights. Where torch hub has not cached them they are
    downloaded: choosing such a name asks for that. Images with a side below 32 pixels are enlarged to it.

    Args:
        name: Which distance. `vgg19` is the sum of the mean squared differences of five feature maps at 224 x 224.
        device: Where the images will be.
        allow_download: Whether missing weights may be downloaded.

    Raises:
        ValueError: There is no distance of that name.
        WeightsUnavailableError: The weights are not on this machine and were not, or could not be, downloaded.
    """
    if name not in get_args(PerceptualName):
        raise ValueError(
            f"There is no perceptual distance '{name}': choose one of {', '.join(get_args(PerceptualName))}."
        )
    if name in _BACKBONES:
        _fetch_backbone(name, allow_download)
    return _build(name, torch.device(device))


def st_lpips_metric(device: torch.device | str) -> Distance:
    """ST-LPIPS (AlexNet) as an evaluation metric, without gradients; needs no network."""
    return torch.no_grad()(perceptual_distance("st-lpips-alex", device))


def lpips_alex_metric(device: torch.device | str, allow_download: bool = False) -> Distance | None:
    """LPIPS (AlexNet), the paper's metric, without gradients, or None where its weights cannot be had.

    An evaluation asks for no download by itself: a missing file is only downloaded with `allow_download`, or with the
    environment variable GUIDEDVD_DOWNLOAD=1. Where the result is None one warning says so, once in a process.
    """
    allow_download = allow_download or os.environ.get("GUIDEDVD_DOWNLOAD") == "1"
    try:
        return torch.no_grad()(perceptual_distance("lpips-alex", device, allow_download))
    except WeightsUnavailableError as error:
        _warn_once(f"LPIPS is left out of the results. {error}")
        return None


@functools.cache
def _warn_once(message: str) -> None:
    CONSOLE.log(f"[bold yellow]Warning: {message}")


@functools.cache
def _build(name: PerceptualName, device: torch.device) -> Distance:
    if name == "vgg19":
        features = _torchvision_features(name, device)
        return functools.partial(_mean_squared_distance, features)
    family, net = name.rsplit("-", 1)
    if family == "st-lpips":
        state = _load(_package_file("stlpips_pytorch", f"weights/vST0.0/{net}_shift_tolerant.pth"))
        features = _shift_tolerant_features(net, state, device)
    else:
        state = _load(_package_file("lpips", f"weights/v0.1/{net}.pth"))
        features = _torchvision_features(name, device)
    channel_weights = [state[f"lin{layer}.model.1.weight"].flatten().to(device) for layer in range(5)]
    return functools.partial(_lpips_distance, features, channel_weights)


def _lpips_distance(
    features: Features, channel_weights: list[Tensor], images: Tensor, targets: Tensor, known: Tensor | None = None
) -> Tensor:
    """Zhang et al. 2018, equation 1: weighted squared differences of unit-length features, averaged over the image.

    What does not count is black in both images.
    """
    if known is not None:
        images, targets = images * known, targets * known
    images, targets = (_at_least_min_side(_channels_first(batch)) for batch in (images, targets))
    distance = images.new_zeros(())
    for ours, theirs, weights in zip(features(images), features(targets), channel_weights, strict=True):
        difference = (_unit_length(ours) - _unit_length(theirs)).square()
        distance = distance + torch.einsum("bchw,c->bhw", difference, weights).mean()
    return distance


def _mean_squared_distance(features: Features, images: Tensor, targets: Tensor, known: Tensor | None = None) -> Tensor:
    """The authors' perceptual term (method.md stage 3): mean squared feature differences, summed over layers.

    The mask is brought to the network's size by nearest neighbour, and what does not count is zero *after* the
    normalisation: the mean colour of ImageNet (viewcrafter-architecture.md, section 7.5).
    """
    size = (224, 224)
    images, targets = (_resized(_channels_first(batch), size) for batch in (images, targets))
    if known is not None:
        counts = F.interpolate(known.float().movedim(-1, 1), size, mode="nearest") > 0.5
        grey = torch.tensor(IMAGENET_MEAN, device=images.device)[:, None, None]
        images, targets = (torch.where(counts, batch, grey) for batch in (images, targets))
    pairs = zip(features(images), features(targets), strict=True)
    return torch.stack([F.mse_loss(ours, theirs) for ours, theirs in pairs]).sum()


def _unit_length(features: Tensor) -> Tensor:
    # The constant is inside the root: where all channels are zero the root alone has an infinite derivative.
    return features * torch.rsqrt(features.square().sum(dim=1, keepdim=True) + 1e-8)


def _channels_first(images: Tensor) -> Tensor:  # [B, H, W, 3] -> [B, 3, H, W]
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"A perceptual distance takes images of shape [B, H, W, 3], got {list(images.shape)}.")
    return images.float().movedim(-1, 1)


def _at_least_min_side(images: Tensor) -> Tensor:  # [B, 3, H, W]
    height, width = images.shape[-2:]
    enlargement = MIN_SIDE / min(height, width)
    if enlargement <= 1:
        return images
    return _resized(images, (round(height * enlargement), round(width * enlargement)))


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def _normalised(network: Features, device: torch.device) -> Features:
    shift = torch.tensor(IMAGENET_MEAN, device=device)[:, None, None]
    scale = torch.tensor(IMAGENET_STD, device=device)[:, None, None]
    return lambda images: network((images - shift) / scale)


def _shift_tolerant_features(net: str, state: dict[str, Tensor], device: torch.device) -> Features:
    """The trunk of ST-LPIPS (Ghildyal and Liu, ECCV 2022) with the weights that its package ships."""
    # The package prints while it builds; parameters on the meta device cost neither time nor global random numbers.
    with contextlib.redirect_stdout(io.StringIO()), torch.device("meta"):
        from stlpips_pytorch import invariant_networks

        make = {"alex": invariant_networks.alexnet, "vgg": invariant_networks.vggnet}[net]
        trunk: nn.Module = make(variant="shift_tolerant", filter_size=3)
    trunk.load_state_dict({key[4:]: value for key, value in state.items() if key.startswith("net.")}, assign=True)
    return _normalised(_frozen(trunk, device), device)


def _torchvision_features(name: str, device: torch.device) -> Features:
    """Activations of an ImageNet classifier after the layers that `_BACKBONES` names."""
    import torchvision

    model_name, taps = _BACKBONES[name]
    with torch.device("meta"):
        layers = cast(nn.Sequential, torchvision.models.get_model(model_name, weights=None).features)[: taps[-1] + 1]
    state = _load(_backbone_path(name))
    layers.load_state_dict({key: state[f"features.{key}"] for key in layers.state_dict()}, assign=True)
    _frozen(layers, device)

    def activations(images: Tensor) -> list[Tensor]:
        kept = []
        for index, layer in enumerate(layers):
            images = layer(images)
            if index in taps:
                kept.append(images)
        return kept

    return _normalised(activations, device)


def _frozen(network: nn.Module, device: torch.device) -> nn.Module:
    return network.to(device).eval().requires_grad_(False)


def _package_file(package: str, path: str) -> Path:
    """A file that an installed package ships, found without importing the package."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise WeightsUnavailableError(f"The package {package.replace('_', '-')} is missing: install it with pip.")
    return Path(spec.origin).parent / path


def _backbone_url(name: str) -> str:
    from torchvision.models import get_model_weights

    return get_model_weights(_BACKBONES[name][0])["IMAGENET1K_V1"].url


def _backbone_path(name: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(_backbone_url(name)).name


def _fetch_backbone(name: str, allow_download: bool) -> None:
    """Put a backbone's weights into torch hub's cache unless they are there."""
    path = _backbone_path(name)
    if path.exists():
        return
    reason = "and downloads were not asked for"
    if allow_download:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Writes to a temporary name, compares the hash that the file's name carries, and renames.
            torch.hub.download_url_to_file(_backbone_url(name), str(path), hash_prefix=path.stem.rsplit("-", 1)[1])
            return
        except (OSError, RuntimeError) as error:
            reason = f"and could not be downloaded ({error})"
    raise WeightsUnavailableError(
        f"The weights of {name} are not at {path} {reason}: put {_backbone_url(name)} there, "
        "or choose st-lpips-alex, which needs no download."
    )


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise WeightsUnavailableError(f"{path} cannot be read: delete it so that it is fetched again.") from error
