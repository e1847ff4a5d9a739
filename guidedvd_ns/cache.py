"""The cache folder: what takes long to make or to fetch is kept there for a user's later runs."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$GUIDEDVD_CACHE`, else guidedvd-ns in the user's cache folder (`$XDG_CACHE_HOME`, else ~/.cache)."""
    chosen = os.environ.get("GUIDEDVD_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "guidedvd-ns"
