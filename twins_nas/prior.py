"""What a supernet cannot know of its members: how a network begins by itself.

Shared weights are trained by all members, so a member is scored with weights that others made good.
What a choice does to how a network *learns* (a PEG's random convolution helps it from the first
step on) leaves no trace in its inherited loss; sizes do. A zero-cost proxy at a network's own first
weights sees the former and is poor at the latter, so a member's loss is moved by its Zen-score:

    adjusted = loss - weight * (sd of losses / sd of Zen-scores) * (Zen - mean of Zen-scores)

Means and deviations are over `REFERENCE` members that are drawn uniformly, so that the unit stays
nats and a weight means the same in each space. That proxies and supernets err differently, and are
better together, is known of predictors (C. White et al., "How powerful are performance predictors
in neural architecture search?", arXiv 2104.01177, section 5); the form here is our own.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from twins_nas.arch import ArchConfig, Grid
from twins_nas.data import ImageData, ImageSet
from twins_nas.evaluate import evaluate
from twins_nas.model.backbone import Backbone, build, initialise
from twins_nas.progress import phase
from twins_nas.proxies import Batch, zen
from twins_nas.space import SearchSpace

REFERENCE = 64
"""Members whose losses and Zen-scores set the unit."""
IMAGES = 64
"""Gaussian images of a Zen-score; it looks at no others."""
SEEDS = (0, 1, 2)
"""First weights that a Zen-score is the mean over; as a network alone has them by default."""


@dataclass(frozen=True)
class ZenScore:
    """Zen-scores of the members of a space."""

    input_size: Grid
    in_chans: int
    num_classes: int
    device: str = "cpu"

    def __call__(self, arch: ArchConfig) -> float:
        """The score of a network at first weights of its own; higher is better."""
        shape = (IMAGES, self.in_chans, *self.input_size)
        batch = Batch(torch.zeros(shape, device=self.device), torch.zeros(IMAGES, dtype=torch.long))
        model = build(arch, self.input_size, self.in_chans, self.num_classes)
        model.to(self.device).eval()
        scores = []
        for seed in SEEDS:
            initialise(model, seed)
            scores.append(zen(model, batch, torch.Generator().manual_seed(seed)))
        return statistics.fmean(scores)


@dataclass(frozen=True)
class Prior:
    """Moves losses of members by their Zen-scores; `unit` in nats a point, its weight included."""

    zen_of: ZenScore
    unit: float
    centre: float

    @classmethod
    def measured(
        cls, weight: float, zen_of: ZenScore, zens: Sequence[float], deviation: float
    ) -> Prior:
        """The prior of a weight; `zens` and the losses' `deviation` are of the reference members.

        Without a spread of Zen-scores nothing is moved.
        """
        spread = statistics.pstdev(zens)
        unit = weight * deviation / spread if spread else 0.0
        return cls(zen_of, unit, statistics.fmean(zens))

    def adjusted(self, arch: ArchConfig, loss: float) -> float:
        """The loss of a member, moved; lower is better."""
        return self.moved(loss, self.zen_of(arch))

    def moved(self, loss: float, zen_score: float) -> float:
        """A loss, moved by a Zen-score that is known."""
        return loss - self.unit * (zen_score - self.centre)


def reference(space: SearchSpace) -> list[ArchConfig]:
    """`REFERENCE` uniform draws from a space, the same ones always."""
    rng = random.Random(space.fingerprint)
    return [space.sample(rng) for _ in range(REFERENCE)]


def loss_deviation(name: str, model: Backbone, data: ImageData, images: ImageSet) -> float:
    """The standard deviation of the reference members' losses on these images, in nats."""
    losses = []
    with phase(name, REFERENCE, "network") as line:
        for arch in reference(model.space):
            losses.append(evaluate(model, images, data.mean, data.std, arch).loss)
            line.advance(1)
    return statistics.pstdev(losses)
