"""Reading .ply files in the forms that other tools write."""

from pathlib import Path

import numpy as np
import pytest
from plyfile import PlyData, PlyElement

from guidedvd_ns.data.pointcloud_io import read_ply

XYZ = np.array([[0.5, -1.0, 2.0], [3.0, 4.0, -5.0]])
RGB = np.array([[255, 0, 128], [1, 2, 3]])


def write(path: Path, colour: str | None, coordinate: str = "f4", text: bool = False, byte_order: str = "<") -> Path:
    fields = [(axis, coordinate) for axis in "xyz"]
    scale = {"u1": 1, "u2": 257, "f4": 1 / 255, "f8": 1 / 255}
    columns = [XYZ]
    if colour:
        fields += [(name, colour) for name in ("red", "green", "blue")]
        columns.append(RGB * scale[colour])
    rows = np.array([tuple(row) for row in np.concatenate(columns, axis=1)], dtype=fields)
    PlyData([PlyElement.describe(rows, "vertex")], text=text, byte_order=byte_order).write(str(path))
    return path


@pytest.mark.parametrize("colour", ["u1", "u2", "f4", "f8"])
@pytest.mark.parametrize(("text", "byte_order"), [(True, "<"), (False, "<"), (False, ">")])
@pytest.mark.parametrize("coordinate", ["f4", "f8"])
def test_every_form_gives_the_same_cloud(tmp_path: Path, colour, text, byte_order, coordinate) -> None:
    cloud = read_ply(write(tmp_path / "a.ply", colour, coordinate, text, byte_order))
    np.testing.assert_array_equal(cloud.xyz, XYZ.astype(np.float32))
    np.testing.assert_array_equal(cloud.rgb, RGB)
    assert cloud.xyz.dtype == np.float32 and cloud.rgb.dtype == np.uint8


def test_points_without_colours_are_grey(tmp_path: Path) -> None:
    assert read_ply(write(tmp_path / "a.ply", None)).rgb.tolist() == [[127] * 3] * 2


def test_points_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    rows = np.array([(np.nan, 0, 0), (1, 2, 3)], dtype=[(axis, "f4") for axis in "xyz"])
    PlyData([PlyElement.describe(rows, "vertex")]).write(str(tmp_path / "a.ply"))
    assert read_ply(tmp_path / "a.ply").xyz.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("content", [b"", b"no ply", b"ply\nformat ascii 1.0\nelement face 0\nend_header\n"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.ply").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.ply is not a \.ply file"):
        read_ply(tmp_path / "a.ply")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.ply does not exist"):
        read_ply(tmp_path / "none.ply")
