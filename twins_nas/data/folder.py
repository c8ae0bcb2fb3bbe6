"""Images in class folders: `imagefolder:PATH`.

PATH/train/CLASS/* is the training part and PATH/test/CLASS/*, or else PATH/val/CLASS/*, the test
part. Where the class folders lie directly in PATH, a sixth of every class is held out as the test
part, chosen by a hash of the file names, so it stays the same on every machine.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from twins_nas.data.images import CHUNK, Images
from twins_nas.errors import UserError, did_you_mean

HELD_BYTES = 2 * 2**30
TEST_SHARE = 6
THREADS = min(8, os.cpu_count() or 1)
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def decode(path: Path, size: int) -> NDArray[np.uint8]:
    """An image file as RGB (HWC): shorter side resized to `size`, bilinear; centre cropped."""
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"its pixels are of mode {image.mode!r}, not of 8 bits")
            # A JPEG may be decoded at a half, a quarter, ... while no side falls below `size`.
            image.draft("RGB", (size, size))
            square = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR)
    # Not only OSError: the decoders raise SyntaxError, ValueError, struct.error and more.
    except Exception as error:
        raise UserError(f"{path} is no readable image ({error}); replace or remove it.") from error
    return np.asarray(square)


@dataclass(frozen=True, eq=False)
class FolderImages:
    """Image files decoded when a batch asks for them; batches as `Images` gives them."""

    paths: tuple[Path, ...]
    labels_B: Tensor
    input_size: int
    in_chans: int = 3

    def __len__(self) -> int:
        """How many images."""
        return len(self.paths)

    @property
    def decoded_bytes(self) -> int:
        """The memory that `decoded` takes."""
        return len(self) * self.in_chans * self.input_size**2

    def batch(self, indices_B: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (uint8, BCHW) and labels (int64, B) at the indices, decoded by a few threads.

        Raises:
            UserError: a file is no readable image.
        """
        paths = [self.paths[index] for index in indices_B.tolist()]
        with ThreadPoolExecutor(THREADS) as pool:
            pixels = list(pool.map(decode, paths, [self.input_size] * len(paths)))
        pixels_BHWC = torch.from_numpy(np.stack(pixels))
        return pixels_BHWC.permute(0, 3, 1, 2).contiguous(), self.labels_B[indices_B]

    def subset(self, indices_B: Tensor) -> FolderImages:
        """The images at the indices, in their order; nothing is decoded."""
        paths = tuple(self.paths[index] for index in indices_B.tolist())
        return FolderImages(paths, self.labels_B[indices_B], self.input_size)

    def decoded(self) -> Images:
        """All images in memory."""
        shape = (len(self), self.in_chans, self.input_size, self.input_size)
        pixels_BCHW = torch.empty(shape, dtype=torch.uint8)
        for indices_B in torch.split(torch.arange(len(self)), CHUNK):
            pixels_BCHW[indices_B[0] : indices_B[-1] + 1] = self.batch(indices_B)[0]
        return Images(pixels_BCHW, self.labels_B)

    def share_memory(self) -> FolderImages:
        """Itself: there are no pixels to share."""
        return self


ImageSet = Images | FolderImages


def held(images: ImageSet) -> ImageSet:
    """Decoded images where they take `HELD_BYTES` at most."""
    if isinstance(images, FolderImages) and images.decoded_bytes <= HELD_BYTES:
        return images.decoded()
    return images


@dataclass(frozen=True)
class FolderSource:
    """Class folders below `path`; see the head of this file for the layouts."""

    path: Path

    def class_names(self) -> tuple[str, ...]:
        """The names of the training part's class folders, sorted."""
        folder = self._train_folder()
        names = _class_folders(folder)
        if len(names) < 2:
            raise UserError(
                f"{folder} holds {len(names)} class folders; give imagefolder:PATH with"
                " PATH/train/CLASS/*, or PATH/CLASS/*, and at least two classes."
            )
        return names

    def train(self, input_size: int) -> FolderImages:
        """The training images, to be decoded; no file of the test part is opened."""
        return self._list(self._train_folder(), "train", input_size)

    def test(self, input_size: int) -> ImageSet:
        """The test images."""
        folder = self._train_folder()
        if not self._flat():
            folder = max(self._test_folders(), key=lambda place: bool(_class_folders(place)))
        return held(self._list(folder, "test", input_size))

    def _flat(self) -> bool:
        """The class folders lie directly in the path."""
        return not (self.path / "train").is_dir()

    def _test_folders(self) -> list[Path]:
        """`test` and `val`, where they exist; ImageNet's `test` has no class folders, so no use."""
        return [folder for name in ("test", "val") if (folder := self.path / name).is_dir()]

    def _train_folder(self) -> Path:
        if not self.path.is_dir():
            raise UserError(f"{self.path} is no folder; give imagefolder:PATH with class folders.")
        if self._flat() and self._test_folders():
            found = self._test_folders()[0].name
            raise UserError(f"{self.path} has {found}/ but no train/; add it.")
        if not self._flat() and not self._test_folders():
            raise UserError(
                f"{self.path} has train/ but neither test/ nor val/; add one, or give"
                f" imagefolder:{self.path / 'train'} to hold a sixth of it out."
            )
        return self.path if self._flat() else self.path / "train"

    def _list(self, folder: Path, part: str, input_size: int) -> FolderImages:
        """The files of a part, by class and name."""
        classes = self.class_names()
        present = _class_folders(folder)
        for name in present:
            if name not in classes:
                raise UserError(
                    f"{folder / name} is a class that {self._train_folder()} lacks"
                    f"{did_you_mean(name, classes)}; remove it, or add it there."
                )
        if not present:
            raise UserError(f"{folder} holds no class folders; put CLASS/* into it.")
        paths, labels = [], []
        for label, name in enumerate(classes):
            files = _image_files(folder / name) if name in present else []
            if self._flat():
                files = _hold_out(files, part)
            paths += files
            labels += [label] * len(files)
        return FolderImages(tuple(paths), torch.tensor(labels), input_size)


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, sorted, without hidden entries."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({error.strerror}); mend it.") from error


def _class_folders(folder: Path) -> tuple[str, ...]:
    """Names of the folders in a folder, sorted, without hidden ones."""
    return tuple(entry.name for entry in _entries(folder) if entry.is_dir())


def _image_files(folder: Path) -> list[Path]:
    """The image files in a class folder, sorted; there must be one."""
    files = [file for file in _entries(folder) if file.suffix.lower() in SUFFIXES]
    if not files:
        raise UserError(
            f"{folder} holds no image file ({', '.join(SUFFIXES)}); add some, or remove the folder."
        )
    return files


def _hold_out(files: list[Path], part: str) -> list[Path]:
    """The files of a class that belong to a part: the sixth with the lowest hashes is the test."""
    if len(files) < 2:
        raise UserError(f"{files[0].parent} holds one image; two are needed, to train and to test.")

    def rank(file: Path) -> str:
        return hashlib.sha256(f"{file.parent.name}/{file.name}".encode()).hexdigest()

    test = set(sorted(files, key=rank)[: max(1, round(len(files) / TEST_SHARE))])
    return [file for file in files if (file in test) == (part == "test")]
