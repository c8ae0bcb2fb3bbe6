"""What is scored: a member of a trained supernet, on the search's validation images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from twins_nas.arch import ArchConfig
from twins_nas.data import Images, ImageSet
from twins_nas.evaluate import evaluate
from twins_nas.model.backbone import Backbone
from twins_nas.model.separate import supernet_of
from twins_nas.prior import Prior
from twins_nas.recipes import SupernetRecipe
from twins_nas.space import SearchSpace
from twins_nas.training.calibrate import Calibration
from twins_nas.tuning.results import Score
from twins_nas.tuning.runner import Evaluator

_SHARED = SupernetRecipe()


@dataclass(frozen=True, eq=False)
class Payload:
    """What an evaluator needs, in plain arrays: Ray shares those between processes without a copy.

    `images` are pixels (uint8, BCHW) and labels, or image files that are read batch by batch.
    `threads` of each evaluator on the CPU; 0 leaves torch its own. `calibration` is done to each
    network before, `prior` moves its loss. `recipe` says what the supernet's networks share.
    """

    space: SearchSpace
    weights: dict[str, NDArray[Any]]
    images: tuple[NDArray[np.uint8], NDArray[np.int64]] | ImageSet
    mean: tuple[float, ...]
    std: tuple[float, ...]
    in_chans: int
    num_classes: int
    device: str = "cpu"
    batch_size: int = 500
    threads: int = 1
    calibration: Calibration | None = None
    recipe: SupernetRecipe = _SHARED
    prior: Prior | None = None

    @classmethod
    def of(
        cls,
        model: Backbone,
        images: ImageSet,
        mean: Sequence[float],
        std: Sequence[float],
        device: str = "cpu",
        batch_size: int = 500,
        threads: int = 1,
        calibration: Calibration | None = None,
        recipe: SupernetRecipe = _SHARED,
        prior: Prior | None = None,
    ) -> Payload:
        """The payload of a trained supernet."""
        weights = {name: value.cpu().numpy() for name, value in model.state_dict().items()}
        held = images.to("cpu").numpy() if isinstance(images, Images) else images
        about = (tuple(mean), tuple(std), model.in_chans, model.num_classes)
        return cls(
            model.space,
            weights,
            held,
            *about,
            device,
            batch_size,
            threads,
            calibration,
            recipe,
            prior,
        )

    @property
    def bytes(self) -> int:
        """The size of the arrays."""
        arrays = [*self.weights.values(), *(self.images if isinstance(self.images, tuple) else ())]
        return sum(array.nbytes for array in arrays)


def opened(payload: Payload) -> tuple[Backbone, ImageSet]:
    """The supernet with its weights, and the images, in this process."""
    if payload.threads:
        torch.set_num_threads(payload.threads)
    model = supernet_of(payload.space, payload.in_chans, payload.num_classes, payload.recipe)
    # The arrays may be read-only; `load_state_dict` copies them.
    weights = {name: torch.tensor(value) for name, value in payload.weights.items()}
    model.load_state_dict(weights)
    model.to(payload.device).eval()
    images = payload.images
    if isinstance(images, tuple):
        images = Images.from_numpy(*images)
        images = images if payload.device == "cpu" else images.to(payload.device)
    return model, images


def build_evaluator(payload: Payload) -> Evaluator:
    """Builds the supernet and loads its weights, once; gives what scores its members."""
    model, images = opened(payload)

    def score(arch: ArchConfig) -> Score:
        start = time.perf_counter()
        subject = payload.calibration(model, arch) if payload.calibration else model
        found = evaluate(subject, images, payload.mean, payload.std, arch, payload.batch_size)
        adjusted = payload.prior.adjusted(arch, found.loss) if payload.prior else found.loss
        return Score(found.top1, found.loss, adjusted, found.n, time.perf_counter() - start)

    return score


def factory(payload: Payload) -> partial[Evaluator]:
    """`build_evaluator` of a payload, as pools take it; it can be sent to other processes."""
    return partial(build_evaluator, payload)
