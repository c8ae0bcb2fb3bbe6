"""The optimizer of a training, and its rate over the steps."""

from __future__ import annotations

import math

import torch
from torch import nn

from twins_nas.recipes import TrainingRecipe

NO_DECAY = ("table", "cpe")


def learning_rate(step: int, steps: int, recipe: TrainingRecipe) -> float:
    """Linear warm-up to `recipe.lr`, then a cosine to 1 % of it."""
    warm = max(1, round(recipe.warmup * steps))
    if step < warm:
        return recipe.lr * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return recipe.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def optimizer_of(model: nn.Module, recipe: TrainingRecipe) -> torch.optim.AdamW:
    """AdamW; biases, norms, position tables and PEGs are not decayed, as in the papers' code."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        spared = parameter.ndim < 2 or any(part in name.split(".") for part in NO_DECAY)
        (free if spared else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=True)
