"""Data sets by name: `load` finds one, reads its training images and parts them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from twins_nas.data.cifar import CIFAR, CifarSource
from twins_nas.data.download import fetch, raw_folder
from twins_nas.data.folder import FolderImages, FolderSource, ImageSet, held
from twins_nas.data.idx import IdxSource
from twins_nas.data.images import mean_std
from twins_nas.errors import UserError, did_you_mean

EMBEDDED = "fashion-mnist-mini"
EMBEDDED_FOLDER = Path(__file__).parent / "fashion_mnist_mini"
FOLDER_PREFIX = "imagefolder:"
CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
IDX_CLASSES = {"fashion-mnist": CLOTHES, "mnist": tuple("0123456789")}
DATA_SETS = (EMBEDDED, *IDX_CLASSES, *CIFAR, f"{FOLDER_PREFIX}PATH")
VAL_SHARE = 6
SAMPLE = 4096
SPLIT_STREAM = 1


class Source(Protocol):
    """A data set on disk; of the test part, only `test` opens a file."""

    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of their labels."""

    def train(self, input_size: int) -> ImageSet:
        """The training images at `input_size`."""

    def test(self, input_size: int) -> ImageSet:
        """The test images at `input_size`."""


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set, parted into training and search-validation images; the test part is unread.

    `mean` and `std` are of the training part at `input_size`, one a channel, pixels at 0..1.
    """

    name: str
    num_classes: int
    class_names: tuple[str, ...]
    in_chans: int
    input_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: ImageSet = field(repr=False)
    val: ImageSet = field(repr=False)
    _read_test: Callable[[], ImageSet] = field(repr=False)

    def test(self) -> ImageSet:
        """Reads the test images, now and at every call.

        Raises:
            UserError: a test file is missing or not readable.
        """
        return self._read_test()


def load(
    name: str,
    *,
    root: Path | None,
    input_size: int,
    download: bool = False,
    val_images: int | None = None,
    seed: int = 0,
) -> ImageData:
    """Finds a data set by name and parts its training images; the test images are not touched.

    Args:
        name: one of `DATA_SETS`; only the embedded `fashion-mnist-mini` needs no `root`.
        root: the folder of the data sets; `imagefolder:PATH` and the embedded one do not use it.
        input_size: pixels a side; images are padded, resized or cropped to it.
        download: fetch missing files into `root`; without it, nothing is ever downloaded.
        val_images: how many training images make the search-validation part; default a sixth.
        seed: of the split, which has the same share of every class.

    Raises:
        UserError: the name is unknown, a file is missing or bad, or the split is impossible.
    """
    assert input_size > 0 and seed >= 0
    source = _find(name, root, download)
    classes = source.class_names()
    images = source.train(input_size)
    count = len(images) // VAL_SHARE if val_images is None else val_images
    train_B, val_B = stratified_split(images.labels_B, count, classes, seed)
    train, val = held(images.subset(train_B)), held(images.subset(val_B))
    mean, std = mean_std(_sample(train))
    return ImageData(
        name=name,
        num_classes=len(classes),
        class_names=classes,
        in_chans=images.in_chans,
        input_size=input_size,
        mean=mean,
        std=std,
        train=train,
        val=val,
        _read_test=partial(source.test, input_size),
    )


def stratified_split(
    labels_B: Tensor, val_images: int, class_names: tuple[str, ...], seed: int
) -> tuple[Tensor, Tensor]:
    """Ascending indices of the training and of the validation images, disjoint, together all.

    Every class gives its share of the `val_images`, to within one image. With the same seed, a
    larger validation part holds the smaller one.

    Raises:
        UserError: a class would have no image in one of the parts.
    """
    labels = labels_B.numpy()
    counts = np.bincount(labels, minlength=len(class_names))
    shuffled = np.random.default_rng([seed, 0, SPLIT_STREAM]).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    share = np.empty(len(labels))
    share[by_class] = (place + 0.5) / np.repeat(counts, counts)
    chosen = np.zeros(len(labels), dtype=bool)
    chosen[np.argsort(share, kind="stable")[: max(val_images, 0)]] = True
    for part, mask in (("training", ~chosen), ("validation", chosen)):
        missing = np.flatnonzero(np.bincount(labels[mask], minlength=len(class_names)) == 0)
        if len(missing):
            raise UserError(
                f"With {val_images} of {len(labels)} images for validation, the {part} part has"
                f" none of class {class_names[missing[0]]!r}; choose another number, or add images."
            )
    return torch.from_numpy(np.flatnonzero(~chosen)), torch.from_numpy(np.flatnonzero(chosen))


def _sample(images: ImageSet) -> Tensor:
    """The pixels that mean and std are taken from: all, or evenly spread ones of a stream."""
    if not isinstance(images, FolderImages):
        return images.pixels_BCHW
    count = min(SAMPLE, len(images))
    return images.batch(torch.arange(count) * len(images) // count)[0]


def _find(name: str, root: Path | None, download: bool) -> Source:
    """The source of a name, its files fetched if that was asked for."""
    if name == EMBEDDED:
        mend = "install twins_nas again, for this file comes with it"
        return IdxSource(name, CLOTHES, (EMBEDDED_FOLDER,), mend)
    if name.startswith(FOLDER_PREFIX) and name != FOLDER_PREFIX:
        return FolderSource(Path(name.removeprefix(FOLDER_PREFIX)).expanduser().absolute())
    if name not in DATA_SETS:
        raise UserError(
            f"{name!r} is no data set that is known{did_you_mean(name, DATA_SETS)}; give one of"
            f" {', '.join(DATA_SETS)}."
        )
    if root is None:
        raise UserError(
            f"{name} needs a folder: give --data-root DIR holding it, or where --download may put"
            f" it; {EMBEDDED} needs none."
        )
    root = root.expanduser().absolute()  # workers of a search may run in another folder
    source = CifarSource(name, root) if name in CIFAR else _idx_source(name, root)
    if download and not source.complete():
        fetch(name, root)
    return source


def _idx_source(name: str, root: Path) -> IdxSource:
    """IDX files in torchvision's layout, in a folder of the data set's name, or in the root."""
    folders = (raw_folder(name, root), root / name, root)
    mend = "give --data-root DIR holding a good copy, or remove what is bad and add --download"
    return IdxSource(name, IDX_CLASSES[name], folders, mend)
