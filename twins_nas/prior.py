"""What a supernet cannot know of its members, or knows badly: how a network begins, and its size.

Shared weights are trained by all members, so a member is scored with weights that others made good.
What a choice does to how a network *learns* (a PEG's random convolution helps it from the first
step on) leaves no trace in its inherited loss, and some sizes leave too much of one (docs/LOG.md:
the width of the last stage). So a member's loss is moved by hints that need no training: the
Zen-score of the network's own first weights, and its size, log MACs + log params:

    adjusted = loss - sum over hints of weight * (sd of losses / sd of hint) * (hint - mean of hint)

Means and deviations are over `REFERENCE` members that are drawn uniformly, so that the unit stays
nats and a weight means the same in each space. That proxies, size among them, and supernets err
differently, and are better together, is known of predictors (C. White et al., "How powerful are
performance predictors in neural architecture search?", arXiv 2104.01177, section 5; M. S.
Abdelfattah et al., arXiv 2101.08134, of votes of proxies); the form here is our own.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from twins_nas.arch import ArchConfig, Grid
from twins_nas.cost import cost
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

Score = Callable[[ArchConfig], float]
"""What scores a network; higher is better."""


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
class Size:
    """Sizes of the members of a space: log MACs + log params, so that neither's unit matters."""

    input_size: Grid
    in_chans: int
    num_classes: int

    def __call__(self, arch: ArchConfig) -> float:
        """The size of a network."""
        found = cost(arch, self.input_size, self.in_chans, self.num_classes)
        return math.log(found.macs) + math.log(found.params)


@dataclass(frozen=True)
class Hint:
    """One score of a network by itself; `unit` in nats a point, its weight included."""

    of: Score
    unit: float
    centre: float

    @classmethod
    def measured(
        cls,
        of: Score,
        weight: float,
        values: Sequence[float],
        deviation: float,
    ) -> Hint:
        """The hint of a weight; `values` and the losses' `deviation` are of the reference members.

        Without a spread of values nothing is moved.
        """
        spread = statistics.pstdev(values)
        unit = weight * deviation / spread if spread else 0.0
        return cls(of, unit, statistics.fmean(values))

    def move(self, value: float) -> float:
        """What is added to the loss of a network of this score, in nats."""
        return -self.unit * (value - self.centre)


@dataclass(frozen=True)
class Prior:
    """Moves losses of members by hints."""

    hints: tuple[Hint, ...]

    def adjusted(self, arch: ArchConfig, loss: float) -> float:
        """The loss of a member, moved; lower is better."""
        return loss + sum(hint.move(hint.of(arch)) for hint in self.hints)


def hints_of(
    weights: Mapping[str, float], input_size: Grid, in_chans: int, num_classes: int, device: str
) -> dict[str, Score]:
    """What scores networks for the hints that a recipe weighs; see `SupernetRecipe.hints`."""
    about = (input_size, in_chans, num_classes)
    known: dict[str, Score] = {"Zen": ZenScore(*about, device), "size": Size(*about)}
    return {name: known[name] for name in weights}


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
