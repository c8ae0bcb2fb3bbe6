"""What a process does for a supernet: train it, then let it score the networks of a bank.

Supernets of one seed are paired as networks of an ablation are: the same first weights where names
and shapes agree, the same images in the same order, the same validation images.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twins_nas.ablation.analysis import METRICS
from twins_nas.ablation.results import Run
from twins_nas.ablation.variants import Variant
from twins_nas.ablation.work import Place
from twins_nas.agreement import Scores, bins_of
from twins_nas.arch import ArchConfig
from twins_nas.cost import cost
from twins_nas.data import ImageData
from twins_nas.errors import UserError
from twins_nas.evaluate import evaluate
from twins_nas.model.backbone import Backbone, initialise
from twins_nas.model.separate import supernet_of
from twins_nas.ranks import tau
from twins_nas.recipes import SupernetRecipe, TrainingRecipe
from twins_nas.space import SearchSpace
from twins_nas.training.calibrate import Calibration
from twins_nas.training.loop import Trainer
from twins_nas.training.policy import policy_of
from twins_nas.truth import Truth

DRAWN_STEPS = 200
"""Steps over which the cost of one is averaged."""
SIGNS = {"loss": -1.0, "top1": 1.0}


@dataclass(frozen=True)
class SupernetPlace(Place):
    """Where supernets of a space are trained, and the networks that each ranks."""

    space: SearchSpace
    truth: Truth
    bins: int
    metric: str

    def identity(self, variant: Variant, seed: int) -> str:
        """What a result must agree on: space, training, images, seed, and what is ranked."""
        parts = [
            self.space.fingerprint,
            variant.training.substance,
            self.recipe.data.model_dump(),
            [self.space.key(arch) for arch in self.truth.archs],
            self.truth.top1_NS.tolist(),
            self.bins,
            seed,
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def network(self, run: Run, data: ImageData) -> Backbone:
        """The supernet of a run with its first weights."""
        recipe = run.variant.training
        assert isinstance(recipe, SupernetRecipe)
        model = self.supernet(recipe, data)
        initialise(model, run.seed, by_name=True, zero_peg=recipe.zero_peg)
        return model.to(self.device)

    def supernet(self, recipe: TrainingRecipe, data: ImageData) -> Backbone:
        """The supernet of a training; its weights are not drawn yet."""
        assert isinstance(recipe, SupernetRecipe)
        return supernet_of(self.space, data.in_chans, data.num_classes, recipe)

    def outcome(self, trainer: Trainer) -> dict[str, float]:
        """Tau of the trained supernet by each score; those of the networks too, by their place.

        `val_top1` and `val_loss` are the largest member's. A tau that is not defined, as members
        all score the same, is absent.

        Raises:
            UserError: that is the tau which the recipe compares.
        """
        recipe, data = trainer.recipe, trainer.data
        assert isinstance(recipe, SupernetRecipe)
        calibration = Calibration.of(data, recipe, trainer.seed)
        scored = member_scores(trainer.scored, data, self.truth.archs, calibration)
        last = trainer.history[-1][1]
        found = {name: last[f"largest_{name}"] for name in ("val_top1", "val_loss")}
        bins_N, truth_N = bins_of(self.truth.macs_N, self.bins), self.truth.means_N
        all_1N = np.ones((1, len(self.truth)))
        for name, values in scored.items():
            score_N = SIGNS[name] * np.array(values)
            taus = {
                f"tau_{name}": float(tau(score_N, truth_N)(all_1N)[0]),
                f"within_{name}": float(tau(score_N, truth_N, bins_N)(all_1N)[0]),
            }
            found |= {key: value for key, value in taus.items() if math.isfinite(value)}
            found |= {f"{name} {place}": value for place, value in enumerate(values)}
        if self.metric not in found:
            said = METRICS[self.metric].words
            raise UserError(f"its members' scores have no order, so there is no {said}")
        return found

    def step_macs(self, recipe: TrainingRecipe, data: ImageData) -> int:
        """MACs of the forward passes of a training step, of one image: a mean over steps.

        A pass that is compared only, as `best_up` does, counts a third: it has no backward pass.
        """
        model = self.supernet(recipe, data)
        policy = policy_of(model, recipe, 0, DRAWN_STEPS)
        of = (self.space.input_size, data.in_chans, data.num_classes)
        compared = 0

        def loss_of(arch: ArchConfig) -> float:
            nonlocal compared
            compared += cost(arch, *of).macs
            return 0.0

        drawn = [policy.draw(step, loss_of) for step in range(DRAWN_STEPS)]
        trained = sum(cost(arch, *of).macs for archs in drawn for arch in archs)
        return round((trained + compared / 3) / DRAWN_STEPS)


def member_scores(
    model: Backbone, data: ImageData, archs: Sequence[ArchConfig], calibration: Calibration | None
) -> dict[str, list[float]]:
    """Top-1 in percent and loss in nats of members, each tuned for a few steps if that is asked.

    Both are of the validation images.
    """
    found: dict[str, list[float]] = {name: [] for name in SIGNS}
    for arch in archs:
        subject = calibration(model, arch) if calibration else model
        score = evaluate(subject, data.val, data.mean, data.std, arch)
        found["top1"].append(score.top1)
        found["loss"].append(score.loss)
    return found


def scores_of(name: str, values: Sequence[dict[str, float]], score: str, kind: str) -> Scores:
    """The rankings of supernets from their outcomes, one row each."""
    count = sum(key.startswith(f"{score} ") for key in values[0])
    rows = [[SIGNS[score] * one[f"{score} {at}"] for at in range(count)] for one in values]
    return Scores(name, kind, np.array(rows))
