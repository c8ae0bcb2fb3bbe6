"""Fine-tuning of a member for a few steps before it is scored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice

import torch
from torch import Tensor

from twins_nas.arch import ArchConfig
from twins_nas.data import ImageData, ImageSet, batches, epoch_order, normalise
from twins_nas.model.backbone import Backbone
from twins_nas.model.transfer import extract
from twins_nas.recipes import SupernetRecipe
from twins_nas.training.losses import hard_loss
from twins_nas.training.optimizer import optimizer_of

RATE = 0.3
"""The first rate of the fine-tuning, over the recipe's; docs/LOG.md has 0.1, 0.3, 0.5 and 1."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Tunes a member alone on the same training images, without augmentation.

    The rate falls linearly to 0: what is scored then is no longer moved about by the last steps.
    Shared weights serve all members at once; a few steps bring a member nearer to what it would be
    by itself. Where networks have BatchNorms, their statistics are computed anew for each member
    (slimmable networks, arXiv 1812.08928; BigNAS); ours have none. The supernet's own weights stay.
    """

    images: ImageSet
    mean: tuple[float, ...]
    std: tuple[float, ...]
    recipe: SupernetRecipe
    seed: int

    @classmethod
    def of(cls, data: ImageData, recipe: SupernetRecipe, seed: int) -> Calibration | None:
        """What the recipe asks for; None where it asks for no steps."""
        if not recipe.calibrate_steps:
            return None
        order = epoch_order(len(data.train), seed, 0)
        images = data.train.subset(order[: recipe.calibrate_steps * recipe.batch_size])
        return cls(images, tuple(data.mean), tuple(data.std), recipe, seed)

    @property
    def words(self) -> str:
        """What it does, for the name under which scores are kept."""
        return f"calibrated by {self.recipe.calibrate_steps} steps from {RATE:g} lr to 0"

    def __call__(self, supernet: Backbone, arch: ArchConfig) -> Backbone:
        """A copy of the member, tuned."""
        model = extract(supernet, arch).train()
        device = next(model.parameters()).device
        optimizer = optimizer_of(model, self.recipe)
        steps = self.recipe.calibrate_steps
        for step, (pixels, labels) in enumerate(islice(self._minibatches(), steps)):
            for group in optimizer.param_groups:
                group["lr"] = RATE * self.recipe.lr * (1 - step / steps)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                logits = model(normalise(pixels.to(device), self.mean, self.std))
            loss = hard_loss(logits, labels.to(device), self.recipe.label_smoothing)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), self.recipe.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return model.eval()

    def _minibatches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Without end; each epoch in an order of its own."""
        for epoch in count():
            order = epoch_order(len(self.images), self.seed, epoch)
            yield from batches(self.images, self.recipe.batch_size, order)
