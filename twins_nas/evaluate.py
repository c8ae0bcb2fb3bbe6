"""Accuracy and loss of one network, or of one member of a supernet, on a set of images."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from twins_nas.arch import ArchConfig
from twins_nas.data import ImageSet, normalise
from twins_nas.model.backbone import Backbone


@dataclass(frozen=True)
class Evaluation:
    """`top1` in percent, mean cross-entropy `loss` in nats, both over `n` images.

    `seconds` of wall time.
    """

    top1: float
    loss: float
    n: int
    seconds: float

    @property
    def correct(self) -> int:
        """Images whose most likely class is right."""
        return round(self.top1 * self.n / 100)

    @property
    def finite(self) -> bool:
        """Whether both figures are numbers that can be ranked."""
        return math.isfinite(self.top1) and math.isfinite(self.loss)


@torch.inference_mode()
def evaluate(
    model: Backbone,
    images: ImageSet,
    mean: Sequence[float],
    std: Sequence[float],
    arch: ArchConfig | None = None,
    batch_size: int = 500,
) -> Evaluation:
    """Scores `arch` (the largest member without one) on all images, on the model's device.

    The model is in evaluation mode meanwhile. Logits that are not finite give a non-finite loss.
    """
    start = time.perf_counter()
    correct, loss = 0, 0.0
    for logits, labels in _answers(model, images, mean, std, arch, batch_size):
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        correct += int((logits.argmax(1) == labels).sum())
    n = len(images)
    return Evaluation(100 * correct / n, loss / n, n, time.perf_counter() - start)


@torch.inference_mode()
def right_ones(
    model: Backbone,
    images: ImageSet,
    mean: Sequence[float],
    std: Sequence[float],
    arch: ArchConfig | None = None,
    batch_size: int = 500,
) -> Tensor:
    """Which images `arch` classifies rightly, as booleans in their order; otherwise `evaluate`.

    Logits that are not finite are wrong.
    """
    found = [
        (logits.argmax(1) == labels) & logits.isfinite().all(1)
        for logits, labels in _answers(model, images, mean, std, arch, batch_size)
    ]
    return torch.cat(found).cpu()


def _answers(
    model: Backbone,
    images: ImageSet,
    mean: Sequence[float],
    std: Sequence[float],
    arch: ArchConfig | None,
    batch_size: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits and labels of each batch."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    for indices in torch.split(torch.arange(len(images)), batch_size):
        pixels, labels = images.batch(indices)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(normalise(pixels.to(device), mean, std), arch)
        yield logits.float(), labels.to(device)
    model.train(was_training)
