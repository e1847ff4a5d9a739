"""The `guidedvd-data` dataparser: sparse captures from transforms.json or COLMAP, as ideal pinhole views.

Nerfstudio loads this module while its own datamanagers are being imported: nothing here may import them, nor our
datamanager, pipeline or model.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Optional

from nerfstudio.plugins.registry_dataparser import DataParserSpecification
from nerfstudio.utils.rich_utils import CONSOLE

from guidedvd_ns.data.capture_dataparser import CaptureDataParser, CaptureDataParserConfig
from guidedvd_ns.data.captures import Capture, Frame
from guidedvd_ns.data.image_cache import prepare_frames
from guidedvd_ns.data.splits import split_views

_COLMAP_MODELS = (Path("sparse/0"), Path("colmap/sparse/0"))

# Longest side of the images that are used when no downscale factor is given, as in nerfstudio.
_MAX_AUTO_RESOLUTION = 1600


@dataclass
class GuidedVDDataParserConfig(CaptureDataParserConfig):
    """A capture of few photographs: a folder with transforms.json, else one with a COLMAP model."""

    _target: type = field(default_factory=lambda: GuidedVDDataParser)
    """target class to instantiate"""
    data: Path = Path()
    """Folder of the capture (transforms.json, else a COLMAP model in sparse/0 or colmap/sparse/0), or a .json file."""
    train_views: Optional[int] = None
    """How many evenly spaced views, by file name, first and last included, are input; all others become test views.
    If not set, train_filenames, val_filenames and test_filenames of the capture decide, else all views are input."""
    images_path: Path = Path("images")
    """Folder of a COLMAP model's photographs, relative to the capture; transforms.json names its own files."""
    masks_path: Optional[Path] = None
    """Folder of masks for frames without mask_path, relative to the capture; a.png or a.jpg.png belongs to a.jpg.
    Black pixels are ignored; photographs without a mask count fully."""
    colmap_path: Optional[Path] = None
    """Folder of the COLMAP model, relative to the capture; if set, a transforms.json is not looked at."""
    downscale_factor: Optional[int] = None
    """How many times smaller the images are used; if not set, a power of two so that no side exceeds 1600 pixels.
    Folders such as images_4 are used where they exist, else images are resized into the cache."""


class GuidedVDDataParser(CaptureDataParser):
    """Reads a capture in nerfstudio's or in COLMAP's layout and hands out its input and test views."""

    config: GuidedVDDataParserConfig

    def _read_capture(self) -> Capture:
        return _with_masks(_read_capture(self.config), self.config.masks_path)

    def _choose_views(self, capture: Capture) -> dict[str, list[int]]:
        return split_views([frame.name for frame in capture.frames], capture.split_names, self.config.train_views)

    def _prepare(self, frames: list[Frame]) -> list[Frame]:
        return prepare_frames(frames, self.capture.folder, self._cache, self._downscale)

    @cached_property
    def _downscale(self) -> int:
        wanted = self.config.downscale_factor
        if wanted is not None:
            if wanted < 1:
                raise ValueError(f"downscale_factor is {wanted}; it must be 1 or more.")
            return wanted
        longest = max(max(frame.width, frame.height) for frame in self.capture.frames)
        downscale = 1
        while longest > downscale * _MAX_AUTO_RESOLUTION:
            downscale *= 2
        if downscale > 1:
            CONSOLE.log(f"Using images {downscale} times smaller; --downscale-factor 1 uses them as they are")
        return downscale


def _read_capture(config: GuidedVDDataParserConfig) -> Capture:
    from guidedvd_ns.data.colmap import read_colmap
    from guidedvd_ns.data.transforms_json import read_transforms_json

    data = config.data
    if not data.exists():
        raise FileNotFoundError(f"There is no capture at {data}; give its folder with --data.")
    if data.is_file():
        return read_transforms_json(data)
    if config.colmap_path is None and (data / "transforms.json").is_file():
        return read_transforms_json(data / "transforms.json")
    candidates = _COLMAP_MODELS if config.colmap_path is None else (config.colmap_path,)
    for candidate in candidates:
        if (data / candidate).is_dir():
            return read_colmap(data, data / candidate, data / config.images_path)
    looked_for = [*(["transforms.json"] if config.colmap_path is None else []), *map(str, candidates)]
    raise FileNotFoundError(f"{data} is no capture: it has neither of {', '.join(looked_for)}; try ns-process-data.")


def _with_masks(capture: Capture, masks_path: Optional[Path]) -> Capture:
    """`capture` with masks from a folder for those frames that have none."""
    if masks_path is None:
        return capture
    folder = capture.folder / masks_path
    if not folder.is_dir():
        raise FileNotFoundError(f"The folder of masks {folder} does not exist; correct --masks-path.")

    def with_mask(frame: Frame) -> Frame:
        candidates = (folder / f"{frame.name}.png", (folder / frame.name).with_suffix(".png"))
        in_folder = (folder / f"{frame.image_path.name}.png", folder / f"{frame.image_path.stem}.png")
        found = next((path for path in (*candidates, *in_folder) if path.is_file()), None)
        return replace(frame, mask_path=frame.mask_path or found)

    return replace(capture, frames=[with_mask(frame) for frame in capture.frames])


guidedvd_data = DataParserSpecification(
    config=GuidedVDDataParserConfig(),
    description="Sparse captures: transforms.json or COLMAP, undistorted, with random points where there are none.",
)
