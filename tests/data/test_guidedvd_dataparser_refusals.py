"""What the guidedvd-data dataparser refuses: one sentence each, which names the culprit."""

from pathlib import Path

import numpy as np
import pytest
from capture_trees import Tree, look_at_origin, parse


def edit_frame(**changes):
    def edit(tree: Tree) -> None:
        tree.frame_extra = {"view_2.png": changes}

    return edit


def edit_file(**entries):
    def edit(tree: Tree) -> None:
        tree.extra = entries

    return edit


NAN_POSE = [[float("nan")] * 4] * 4
REFUSALS = [
    (edit_frame(transform_matrix=NAN_POSE), {}, ValueError, r"view_2\.png .* pose that is not finite"),
    (edit_frame(transform_matrix=None), {}, ValueError, r"view_2\.png .* no 3x4 or 4x4 pose"),
    (edit_frame(file_path="images/gone.png"), {}, FileNotFoundError, r"gone\.png does not exist"),
    (edit_frame(mask_path="masks/gone.png"), {}, FileNotFoundError, r"masks/gone\.png does not exist"),
    (edit_frame(w=50), {}, ValueError, r"view_2\.png has 40x30 pixels but its camera has 50x30; use"),
    (edit_frame(cx=None), {}, ValueError, r"view_2\.png .* has None for cx; it must be a finite number"),
    (edit_frame(distortion_params=[0.1]), {}, ValueError, r"view_2\.png .* needs six distortion_params"),
    (edit_frame(fl_x=0), {}, ValueError, r"view_2\.png .* no positive focal length"),
    (edit_frame(file_path="images/view_3.png"), {}, ValueError, r"view_3\.png twice"),
    (edit_file(camera_model="EQUIRECTANGULAR"), {}, ValueError, "camera model 'EQUIRECTANGULAR'; undistort"),
    (edit_file(k4=0.1), {}, ValueError, "k4"),
    (edit_file(ply_file_path="gone.ply"), {}, FileNotFoundError, r"gone\.ply does not exist"),
    (edit_file(train_filenames=["images/none.png"]), {}, ValueError, r"train views name images/none\.png"),
    (edit_file(train_filenames=["images/view_1.png"]), {}, ValueError, "has 1 input view of 12; .* at least 2"),
    (edit_file(), {"train_views": 1}, ValueError, "train_views is 1; choose from 2 to 12"),
    (edit_file(), {"train_views": 13}, ValueError, "train_views is 13; choose from 2 to 12"),
    (edit_file(), {"downscale_factor": 0}, ValueError, "downscale_factor is 0"),
    (edit_file(), {"masks_path": Path("none")}, FileNotFoundError, "folder of masks .*none does not exist"),
    (edit_file(), {"colmap_path": Path("none")}, FileNotFoundError, "neither of none"),
    (lambda tree: setattr(tree, "poses", [look_at_origin(np.ones(3))] * 12), {}, ValueError, "stand at one point"),
]


@pytest.mark.parametrize(("edit", "options", "error", "sentence"), REFUSALS, ids=[case[3] for case in REFUSALS])
def test_refusals_are_one_sentence(tmp_path: Path, edit, options, error, sentence) -> None:
    tree = Tree(tmp_path / "scene")
    edit(tree)
    tree.write_transforms()
    with pytest.raises(error, match=sentence) as caught:
        parse(tree.folder, **options)
    assert "\n" not in str(caught.value)


def test_invalid_json_and_no_frames_are_named(tmp_path: Path) -> None:
    path = tmp_path / "transforms.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"transforms\.json is not valid JSON"):
        parse(tmp_path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="no list called frames"):
        parse(tmp_path)
    path.write_text('{"frames": []}')
    with pytest.raises(ValueError, match="lists no frames"):
        parse(tmp_path)


def test_no_capture_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="neither of transforms.json, sparse/0, colmap/sparse/0"):
        parse(tmp_path)
    with pytest.raises(FileNotFoundError, match="no capture at .*missing"):
        parse(tmp_path / "missing")


def test_colmap_refusals_name_the_file(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "scene")
    model = tree.write_colmap(camera=("FOV", [36.0, 36.0, 20.0, 15.0, 0.1]))
    with pytest.raises(ValueError, match=r"view_1\.png .* camera model 'FOV'"):
        parse(tree.folder)
    (model / "cameras.bin").write_bytes(b"\1")
    with pytest.raises(ValueError, match=r"cameras\.bin is not a file of a COLMAP model"):
        parse(tree.folder)
    (model / "cameras.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither cameras\.bin nor cameras\.txt"):
        parse(tree.folder)


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "scene")
    tree.write_transforms()
    (tree.folder / "images" / "view_4.png").write_text("no image")
    with pytest.raises(ValueError, match=r"view_4\.png is not an image"):
        parse(tree.folder)
