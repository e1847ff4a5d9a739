"""Initial points, made from the input views alone: where Gaussians start.

Dataparsers import this module: what it imports must stay light.
"""

from guidedvd_ns.points.frusta import frusta_depth_range, random_points_in_frusta

__all__ = ["frusta_depth_range", "random_points_in_frusta"]
