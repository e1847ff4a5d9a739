"""What every dataparser of a capture hands on besides views and points: the depths that were measured."""

from pathlib import Path

import numpy as np
import torch
from capture_trees import Tree, parse
from nerfstudio.data.datasets.depth_dataset import DepthDataset
from PIL import Image


def test_depths_of_transforms_json_are_handed_out_where_all_views_have_them(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "scene", names=["a.png", "b.png", "c.png"], extra={"depth_unit_scale_factor": 0.01})
    tree.frame_extra = {name: {"depth_file_path": f"depth/{name}"} for name in tree.names}
    tree.write_transforms()
    (tree.folder / "depth").mkdir()
    for name in ("a.png", "c.png"):
        Image.fromarray(np.full((30, 40), 200, np.uint16)).save(tree.folder / "depth" / name)
    outputs = parse(tree.folder, train_views=2)
    assert outputs.metadata["depth_filenames"] == [tree.folder / "depth" / name for name in ("a.png", "c.png")]
    depth = DepthDataset(outputs)[1]["depth_image"]
    torch.testing.assert_close(depth, torch.full((30, 40, 1), 2.0 * outputs.dataparser_scale))
    assert "depth_filenames" not in parse(tree.folder, "test", train_views=2).metadata  # b.png has none
