"""What nerfstudio 1.1.5 needs on torch >= 2.6: numpy scalars in other methods' checkpoints (nerfstudio #3683)."""

from importlib import import_module

import numpy as np
import torch


def allow_numpy_scalars() -> None:
    """Let `torch.load(weights_only=True)` read the numpy learning rates that nerfstudio's schedulers leave behind."""
    core = "numpy._core" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else "numpy.core"
    scalar = import_module(f"{core}.multiarray").scalar
    torch.serialization.add_safe_globals([scalar, np.dtype, type(np.dtype("float64"))])
