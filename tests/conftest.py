"""What several tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # other tests and their child processes share the cores

REPO = Path(__file__).parent.parent
FULL_DATA = REPO.parent / "shared" / "data" / "fashion-mnist"


@pytest.fixture(scope="session")
def repo() -> Path:
    """The folder of the clone."""
    return REPO


@pytest.fixture(scope="session")
def full_fashion() -> Path:
    """The folder of the whole Fashion-MNIST; skips where it is not at hand."""
    if not FULL_DATA.is_dir():
        pytest.skip("the whole Fashion-MNIST is not at hand")
    return FULL_DATA
