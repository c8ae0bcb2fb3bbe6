"""Data sets in IDX files, the format of MNIST: raw or .gz."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from twins_nas.data.images import Images, fit
from twins_nas.errors import UserError

PARTS = {"train": "train", "test": "t10k"}
KINDS = {"images": ("images-idx3-ubyte", 3), "labels": ("labels-idx1-ubyte", 1)}
UNSIGNED_BYTE = 0x08


def file_name(part: str, kind: str) -> str:
    """The name of a file without `.gz`, for a part (train, test) and kind (images, labels)."""
    return f"{PARTS[part]}-{KINDS[kind][0]}"


def read_idx(path: Path, ndim: int, mend: str) -> Tensor:
    """The uint8 tensor of an IDX file; `.gz` is unpacked.

    Args:
        path: the file.
        ndim: the number of axes that it must have: 3 for images, 1 for labels.
        mend: what to do about a bad file, the end of the sentence.

    Raises:
        UserError: the file cannot be read, is not whole or is something else.
    """
    try:
        raw = path.read_bytes()
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is a corrupt or truncated gzip file ({error}); {mend}.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {mend}.") from error
    start = 4 + 4 * ndim
    if len(raw) < start or raw[:4] != bytes((0, 0, UNSIGNED_BYTE, ndim)):
        found = raw[:4].hex() or "nothing"
        wanted = bytes((0, 0, UNSIGNED_BYTE, ndim)).hex()
        raise UserError(
            f"{path} is not an IDX file of {ndim}-axis bytes: it begins with {found} where"
            f" {wanted} belongs; {mend}."
        )
    shape = struct.unpack(f">{ndim}I", raw[4:start])
    if len(raw) - start != math.prod(shape):
        raise UserError(
            f"{path} holds {len(raw) - start} bytes of data where its header says"
            f" {math.prod(shape)}; {mend}."
        )
    if not math.prod(shape):
        raise UserError(f"{path} is empty: its header says {shape}; {mend}.")
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=start).reshape(shape).copy())


@dataclass(frozen=True)
class IdxSource:
    """Four IDX files in one of several folders; `mend` ends the sentence about a bad file."""

    name: str
    classes: tuple[str, ...]
    folders: tuple[Path, ...]
    mend: str

    def find(self, part: str, kind: str) -> Path | None:
        """The first of the files that exists: by folder, `.gz` (it has a checksum) before raw."""
        name = file_name(part, kind)
        files = (folder / f"{name}{suffix}" for folder in self.folders for suffix in (".gz", ""))
        return next((file for file in files if file.is_file()), None)

    def complete(self) -> bool:
        """All four files exist; none is opened."""
        return all(self.find(part, kind) for part in PARTS for kind in KINDS)

    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of their labels."""
        return self.classes

    def train(self, input_size: int) -> Images:
        """The training images; the test files stay closed."""
        return self._read("train", input_size)

    def test(self, input_size: int) -> Images:
        """The test images."""
        return self._read("test", input_size)

    def _read(self, part: str, input_size: int) -> Images:
        """One part at `input_size`, checked: as many labels as images, labels of the classes."""
        pixels_path, pixels_BHW = self._tensor(part, "images")
        labels_path, labels_B = self._tensor(part, "labels")
        count, height, width = pixels_BHW.shape
        if height != width:
            raise UserError(f"{pixels_path} holds images of {height} x {width}; squares belong.")
        if count != len(labels_B):
            raise UserError(
                f"{pixels_path} holds {count} images but {labels_path} holds {len(labels_B)}"
                f" labels; {self.mend}."
            )
        if labels_B.max() >= len(self.classes):
            raise UserError(
                f"{labels_path} holds the label {labels_B.max()}, but {self.name} has"
                f" {len(self.classes)} classes, from 0; {self.mend}."
            )
        return Images(fit(pixels_BHW[:, None], input_size), labels_B.long())

    def _tensor(self, part: str, kind: str) -> tuple[Path, Tensor]:
        path = self.find(part, kind)
        if path is None:
            name = file_name(part, kind)
            looked = " or ".join(str(folder) for folder in self.folders)
            raise UserError(f"{name}.gz of {self.name} is not in {looked}; {self.mend}.")
        return path, read_idx(path, KINDS[kind][1], self.mend)
