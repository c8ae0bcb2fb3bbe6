"""CIFAR-10 and CIFAR-100 in the layout of torchvision.

The files are pickles, so a file is unpickled only when its MD5 is the published one, and from the
very bytes that were summed. (torchvision checks too, but sums the test file along with the training
files, which must stay closed here, and opens a file again after the check.)
"""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from twins_nas.data.images import Images, fit
from twins_nas.errors import UserError

SIDE = 32
LABEL_KEYS = {"cifar10": "labels", "cifar100": "fine_labels"}
CIFAR = tuple(LABEL_KEYS)


@dataclass(frozen=True)
class CifarSource:
    """`cifar10` or `cifar100` below a folder."""

    name: str
    root: Path

    def complete(self) -> bool:
        """All files exist; none is opened."""
        published = self._published()
        names = [file for file, _ in published.train_list + published.test_list]
        folder = self.root / published.base_folder
        return all((folder / file).is_file() for file in [*names, published.meta["filename"]])

    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of their labels."""
        meta = self._published().meta
        return tuple(self._unpickle(meta["filename"], meta["md5"])[meta["key"]])

    def train(self, input_size: int) -> Images:
        """The training images; the test file stays closed."""
        return self._read(self._published().train_list, input_size)

    def test(self, input_size: int) -> Images:
        """The test images."""
        return self._read(self._published().test_list, input_size)

    def _read(self, files: list[tuple[str, str]], input_size: int) -> Images:
        entries = [self._unpickle(file, md5) for file, md5 in files]
        pixels = np.concatenate([entry["data"] for entry in entries]).reshape(-1, 3, SIDE, SIDE)
        labels = [label for entry in entries for label in entry[LABEL_KEYS[self.name]]]
        return Images(fit(torch.from_numpy(pixels), input_size), torch.tensor(labels))

    def _unpickle(self, file: str, md5: str) -> dict[str, Any]:
        """The content of a file whose MD5 is the published one; any other is refused unopened."""
        path = self.root / self._published().base_folder / file
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise UserError(
                f"{path} of {self.name} cannot be read ({error.strerror}); give --data-root DIR"
                f" holding {self._published().base_folder}/, or --download."
            ) from error
        if hashlib.md5(raw, usedforsecurity=False).hexdigest() != md5:
            raise UserError(
                f"{path} is not the published file of {self.name} (its MD5 is not {md5}), and is"
                " not opened, for it is a pickle; delete it and give --download, or give"
                " --data-root DIR holding a good copy."
            )
        content: dict[str, Any] = pickle.loads(raw, encoding="latin1")
        return content

    def _published(self) -> Any:
        """Torchvision's class: names and MD5 of the published files."""
        import torchvision.datasets as published

        return published.CIFAR10 if self.name == "cifar10" else published.CIFAR100
