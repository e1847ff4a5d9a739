"""Which initial points a run starts from, and their place on disk."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Optional

import numpy as np
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from guidedvd_ns.cache import cache_folder
from guidedvd_ns.points.cloud import seen_points
from guidedvd_ns.points.frusta import frusta_depth_range, random_points_in_frusta
from guidedvd_ns.points.monocular import DEFAULT_MODEL, is_at_hand, load_depth_model, monocular_points
from guidedvd_ns.points.sensor import depth_unit, has_sensor_depth, sensor_points
from guidedvd_ns.points.triangulation import Triangulation, triangulate
from guidedvd_ns.points.views import InputViews, load_input_views

PointSource = Literal["auto", "dataset", "triangulate", "depth", "sensor", "random"]

MIN_POINTS = 100
"""`auto` passes over a source that gives fewer."""

_VERSION = 1
"""Part of every cached name: raised when the same views give other points."""
_MAX_VIEWS = 64
"""Points are made from at most this many evenly spaced input views: each is one decoded image."""
_ORDER: tuple[PointSource, ...] = ("dataset", "sensor", "depth", "triangulate", "random")
_NAMES = {
    "dataset": "the data set's own cloud",
    "sensor": "the sensor's depth",
    "depth": "monocular depth",
    "triangulate": "triangulation",
    "random": "random depths in the frusta of the input views",
}


@dataclass(frozen=True)
class InitialPoints:
    """N coloured points and where they come from."""

    xyz: Tensor  # [N, 3] float32, scene units
    rgb: Tensor  # [N, 3] uint8
    source: PointSource

    def __len__(self) -> int:
        return len(self.xyz)

    def metadata(self) -> dict[str, Tensor | str]:
        """As nerfstudio's pipeline reads them from a dataparser's metadata."""
        return {"points3D_xyz": self.xyz, "points3D_rgb": self.rgb, "points3D_source": self.source}


@dataclass(frozen=True)
class PointSettings:
    """What initial points depend on besides the views."""

    source: PointSource = "auto"
    depth_model: str = DEFAULT_MODEL
    max_points: int = 50_000
    """Most points of `depth` and `sensor`."""
    num_random: int = 30_000
    seed: int = 42
    device: str = "cpu"
    """Where the depth model runs."""


def initial_points(outputs: DataparserOutputs, settings: PointSettings) -> InitialPoints:
    """The points of the source that `settings` names, or for `auto` of the best one at hand; one line says which.

    Raises:
        FileNotFoundError: a file of the source is missing.
        ModuleNotFoundError: pycolmap is needed and not installed.
        ValueError: the capture does not have what the source takes.
    """
    sources = _Sources(outputs, settings)
    if settings.source == "auto":
        points, reasons = sources.best()
    else:
        points, reasons = sources.make(settings.source), []
    because = f" ({'; '.join(reasons)})" if reasons else ""
    CONSOLE.log(f"Initial points: {len(points)} from {_NAMES[points.source]}{because}.")
    return points


class _Sources:
    """All sources for one set of input views; what takes long is made at first use."""

    def __init__(self, outputs: DataparserOutputs, settings: PointSettings) -> None:
        self._outputs, self._settings = outputs, settings
        step = -(-len(outputs.image_filenames) // _MAX_VIEWS)
        self._chosen = list(range(0, len(outputs.image_filenames), step))
        self._makers: dict[PointSource, Callable[[], InitialPoints]] = {
            "dataset": self._dataset,
            "sensor": self._sensor,
            "depth": self._depth,
            "triangulate": self._triangulate,
            "random": self._random,
        }

    def make(self, source: PointSource) -> InitialPoints:
        """The points of one source.

        Raises:
            FileNotFoundError, ModuleNotFoundError, ValueError: it cannot be had.
        """
        missing = self._missing(source)
        if missing is not None:
            raise (ModuleNotFoundError if "pycolmap" in missing else ValueError)(
                f"--pipeline.datamanager.points {source}: {missing}."
            )
        points = self._makers[source]()
        if not len(points):
            raise ValueError(
                f"--pipeline.datamanager.points {source} gives no points for these views; choose another source."
            )
        return points

    def best(self) -> tuple[InitialPoints, list[str]]:
        """The points of the first source that is at hand and gives enough, and why those before it were passed over."""
        reasons = []
        for source in _ORDER:
            missing = self._missing(source)
            if missing is None and source == "depth" and not is_at_hand(self._settings.depth_model):
                # Not worth a word: nobody asked for a depth model.
                continue
            if missing is not None:
                reasons += [missing] if source == "triangulate" else []
                continue
            points = self._makers[source]()
            if len(points) >= MIN_POINTS or source == "random":
                return points, reasons
            reasons.append(f"{_NAMES[source]} gave only {len(points)}")
        raise AssertionError("random points can always be had")

    def _missing(self, source: PointSource) -> Optional[str]:
        """What a source lacks, as a clause of a sentence; None where it can be tried."""
        if source in ("triangulate", "depth") and importlib.util.find_spec("pycolmap") is None:
            return "triangulation needs pycolmap, which is not installed (pip install 'pycolmap>=4.2')"
        if source == "dataset" and not _has_cloud(self._outputs):
            return "this capture has no point cloud; name a PLY file as ply_file_path in its transforms.json"
        if source == "sensor" and not has_sensor_depth(self._outputs):
            return "not every input view has a depth map that fits it (depth_file_path in transforms.json)"
        return None

    @cached_property
    def _views(self) -> InputViews:
        return load_input_views(self._outputs, self._chosen)

    def _dataset(self) -> InitialPoints:
        metadata = self._outputs.metadata
        xyz, rgb = metadata["points3D_xyz"].float(), metadata["points3D_rgb"]
        seen = seen_points(self._views.cameras, xyz, may_be_hidden=metadata.get("points3D_source") != "tracks")
        return InitialPoints(xyz[seen], rgb[seen], "dataset")

    def _sensor(self) -> InitialPoints:
        settings = self._settings
        key = [
            settings.max_points,
            settings.seed,
            depth_unit(self._outputs),
            *(_digest_file(path) for path in self._depth_files()),
        ]
        xyz, rgb = self._cached("sensor", key, lambda: sensor_points(
            self._outputs, self._views, self._chosen, settings.max_points, settings.seed))  # fmt: skip
        return _points(xyz, rgb, "sensor")

    def _depth(self) -> InitialPoints:
        settings = self._settings

        def make() -> tuple[np.ndarray, ...]:
            anchors = self._triangulation()
            model = load_depth_model(settings.depth_model, settings.device)
            return monocular_points(self._views, anchors, model, settings.max_points, settings.seed)

        key = [settings.max_points, settings.seed, _model_digest(settings.depth_model)]
        xyz, rgb = self._cached("depth", key, make)
        return _points(xyz, rgb, "depth")

    def _triangulate(self) -> InitialPoints:
        found = self._triangulation()
        return _points(found.xyz, found.rgb, "triangulate")

    def _triangulation(self) -> Triangulation:
        def make() -> tuple[np.ndarray, ...]:
            found = triangulate(self._views)
            return found.xyz, found.rgb, found.observed

        xyz, rgb, observed = self._cached("triangulate", [], make)
        return Triangulation(xyz, rgb, observed)

    def _random(self) -> InitialPoints:
        metadata = self._outputs.metadata
        if metadata.get("points3D_source") == "random":
            # Our dataparsers have drawn them, as many as their own options say.
            return InitialPoints(metadata["points3D_xyz"], metadata["points3D_rgb"], "random")
        views = self._views
        near, far = frusta_depth_range(views.cameras)
        xyz, rgb = random_points_in_frusta(
            views.cameras,
            self._settings.num_random,
            self._settings.seed,
            near=near,
            far=far,
            images=[torch.from_numpy(image) for image in views.images],
            masks=[None if mask is None else torch.from_numpy(mask) for mask in views.masks],
        )
        return InitialPoints(xyz, rgb, "random")

    def _depth_files(self) -> list[Path]:
        return [self._outputs.metadata["depth_filenames"][view] for view in self._chosen]

    def _cached(self, name: str, key: list, make: Callable[[], tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
        """What `make` returns, read from the cache where the same views and `key` have been there before."""
        text = json.dumps([_VERSION, name, key, self._views_digest])
        path = cache_folder() / "points" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.npz"
        if path.is_file():
            with np.load(path) as stored:
                return tuple(stored[f"arr_{number}"] for number in range(len(stored.files)))
        arrays = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{os.getpid()}.{path.name}")
        with partial.open("wb") as file:
            # Positions only: numpy then names them arr_0, arr_1, ...
            np.savez_compressed(file, *arrays)
        os.replace(partial, path)
        return arrays

    @cached_property
    def _views_digest(self) -> str:
        digest = hashlib.sha256()
        for view, (image, mask) in enumerate(zip(self._views.images, self._views.masks, strict=True)):
            digest.update(str(image.shape).encode() + image.tobytes() + (b"" if mask is None else mask.tobytes()))
            digest.update(self._views.world_to_camera(view).tobytes() + self._views.intrinsics(view).tobytes())
        return digest.hexdigest()


def _has_cloud(outputs: DataparserOutputs) -> bool:
    return len(outputs.metadata.get("points3D_xyz", ())) > 0 and outputs.metadata.get("points3D_source") != "random"


def _points(xyz: np.ndarray, rgb: np.ndarray, source: PointSource) -> InitialPoints:
    return InitialPoints(torch.from_numpy(xyz), torch.from_numpy(rgb), source)


def _digest_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"


def _model_digest(name: str) -> str:
    """A model's name, and for a folder what tells its files from others of the same name."""
    folder = Path(name).expanduser()
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return "|".join([name, *(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files)])
