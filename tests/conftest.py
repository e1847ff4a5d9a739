"""Shared test settings: no JIT of CUDA extensions, no downloads, one seed."""

import os

os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
# The tests themselves run in parallel: threads that spin on busy cores slow torch down many times over.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
