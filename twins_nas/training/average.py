"""An average of the weights over the steps, to be scored in place of the last ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from twins_nas.model.backbone import Backbone
from twins_nas.recipes import SupernetRecipe, TrainingRecipe


class Average:
    """Exponential moving average of a network's weights (Polyak averaging; EMA of DeiT and timm).

    The decay of step n is at most (1 + n) / (10 + n), so that a short training does not end with
    an average that still holds its first weights.
    """

    def __init__(self, model: Backbone, decay: float) -> None:
        def towards(averages: Sequence[Any], weights: Sequence[Any], n: Any) -> None:
            early = (1 + int(n)) / (10 + int(n))
            average = get_ema_multi_avg_fn(min(decay, early))  # type: ignore[no-untyped-call]
            average(averages, weights, n)

        self._averaged = AveragedModel(model, multi_avg_fn=towards)
        self._of = model

    @property
    def model(self) -> Backbone:
        """The network with the averaged weights."""
        averaged = self._averaged.module
        assert isinstance(averaged, Backbone)
        return averaged

    def update(self, *step: object) -> None:
        """Takes the network's present weights in; the first become the average."""
        self._averaged.update_parameters(self._of)

    def state_dict(self) -> dict[str, Tensor]:
        """The average and its number of steps."""
        return self._averaged.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Goes on from a `state_dict`."""
        self._averaged.load_state_dict(state)


def average_of(
    model: Backbone, optimizer: torch.optim.Optimizer, recipe: TrainingRecipe
) -> Average | None:
    """The average that a recipe asks for, updated after each of the optimizer's steps."""
    if not isinstance(recipe, SupernetRecipe) or not recipe.ema:
        return None
    average = Average(model, recipe.ema)
    optimizer.register_step_post_hook(average.update)
    return average
