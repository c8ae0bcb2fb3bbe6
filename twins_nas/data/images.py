"""Images held in memory as one uint8 tensor, and what is done to all of them once.

Shapes: B images, C channels, H W pixels.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

CHUNK = 4096
SMALLEST_STD = 1 / 255


@dataclass(frozen=True, eq=False)
class Images:
    """Decoded images: uint8 `pixels_BCHW` and int64 `labels_B`, both contiguous."""

    pixels_BCHW: Tensor
    labels_B: Tensor

    def __post_init__(self) -> None:
        """Holds every maker of images to the types that the readers rely on."""
        assert self.pixels_BCHW.dtype == torch.uint8 and self.pixels_BCHW.ndim == 4
        assert self.labels_B.dtype == torch.int64
        assert self.labels_B.shape == self.pixels_BCHW.shape[:1]
        assert self.pixels_BCHW.is_contiguous() and self.labels_B.is_contiguous()

    def __len__(self) -> int:
        """How many images."""
        return len(self.labels_B)

    @property
    def in_chans(self) -> int:
        """Channels of an image."""
        return self.pixels_BCHW.shape[1]

    def batch(self, indices_B: Tensor) -> tuple[Tensor, Tensor]:
        """Copies of the pixels (uint8, BCHW) and labels (int64, B) at the indices."""
        indices_B = indices_B.to(self.labels_B.device)
        return self.pixels_BCHW.index_select(0, indices_B), self.labels_B.index_select(0, indices_B)

    def subset(self, indices_B: Tensor) -> Images:
        """The images at the indices, in their order."""
        return Images(*self.batch(indices_B))

    def numpy(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Pixels (BCHW) and labels (B) as arrays over the same memory."""
        return self.pixels_BCHW.numpy(), self.labels_B.numpy()

    @classmethod
    def from_numpy(cls, pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> Images:
        """Images over the memory of two arrays, read-only ones (Ray's) too; nothing here writes."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return cls(torch.from_numpy(pixels), torch.from_numpy(labels))

    def share_memory(self) -> Images:
        """Moves both tensors to memory that child processes share, in place; gives itself."""
        for tensor in (self.pixels_BCHW, self.labels_B):
            tensor.share_memory_()  # type: ignore[no-untyped-call]
        return self

    def to(self, device: torch.device | str) -> Images:
        """The images on a device; there, batches are cut without a transfer."""
        return Images(self.pixels_BCHW.to(device), self.labels_B.to(device))


def fit(pixels_BCHW: Tensor, size: int) -> Tensor:
    """Square images at `size` pixels a side.

    Zero-padded on all sides where at most a quarter of `size` is missing (28 to 32), else resized,
    bilinear with antialiasing.
    """
    missing = size - pixels_BCHW.shape[-1]
    if missing == 0:
        return pixels_BCHW
    if 0 < 4 * missing <= size:
        low, high = missing // 2, missing - missing // 2
        return F.pad(pixels_BCHW, (low, high, low, high))
    parts = [
        F.interpolate(part, size=(size, size), mode="bilinear", antialias=True)
        for part in torch.split(pixels_BCHW, CHUNK)
    ]
    return torch.cat(parts).contiguous()


def mean_std(pixels_BCHW: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel, pixels scaled to 0..1; exact, from counts."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in range(pixels_BCHW.shape[1]):
        counts = torch.zeros(256, dtype=torch.int64)
        for part in torch.split(pixels_BCHW, CHUNK):
            counts += torch.bincount(part[:, channel].flatten(), minlength=256)
        share = counts / counts.sum(dtype=torch.float64)
        mean = (share * levels).sum()
        means.append(mean.item())
        stds.append(max((share * (levels - mean) ** 2).sum().sqrt().item(), SMALLEST_STD))
    return tuple(means), tuple(stds)
