"""What several tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from twins_nas.data import load

torch.set_num_threads(1)  # other tests and their child processes share the cores
settings.register_profile("no deadline", deadline=None)  # a busy machine is no failure
settings.load_profile("no deadline")

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


@pytest.fixture(scope="session")
def folder_of_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of embedded images as PNG files in class folders: 200 to train, 40 to test."""
    root = tmp_path_factory.mktemp("images")
    data = load("fashion-mnist-mini", root=None, input_size=32, val_images=2000)
    for part, images, each in (("train", data.train, 50), ("test", data.val, 10)):
        pixels, labels = images.numpy()
        for label in range(4):
            folder = root / part / data.class_names[label].replace("/", "-")
            folder.mkdir(parents=True)
            for number, index in enumerate(np.flatnonzero(labels == label)[:each]):
                Image.fromarray(pixels[index, 0]).save(folder / f"{number:03d}.png")
    return root
