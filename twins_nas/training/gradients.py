"""How the gradients of a step's networks become one: their sum, or one without their conflicts.

Shapes: P parameters, T the networks of a step, the largest first.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from twins_nas.recipes import SupernetRecipe, TrainingRecipe


class Summed:
    """`sum`: they add up as backward passes leave them."""

    def __init__(self, parameters: Iterable[nn.Parameter], seed: int) -> None:
        self.parameters, self.seed = list(parameters), seed

    def keep(self, place: int) -> None:
        """Told after the backward pass of the step's network number `place`."""

    def join(self, step: int) -> None:
        """Told after the last one: leaves what the optimizer shall see in `grad`."""


class Projected(Summed):
    """Keeps each network's gradient by itself, and joins them by weights from their products.

    Costs the memory of T more gradients. Parameters that no network used have none.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], seed: int) -> None:
        super().__init__(parameters, seed)
        self.kept: list[list[Tensor | None]] = []

    def keep(self, place: int) -> None:
        """See `Summed.keep`; batches of a step add up."""
        given = [parameter.grad for parameter in self.parameters]
        if place == len(self.kept):
            self.kept.append(given)
        else:
            pairs = zip(self.kept[place], given, strict=True)
            self.kept[place] = [_plus(old, new) for old, new in pairs]
        for parameter in self.parameters:
            parameter.grad = None

    def join(self, step: int) -> None:
        """See `Summed.join`."""
        used: list[nn.Parameter] = []
        rows: list[Tensor] = []
        for parameter, *given in zip(self.parameters, *self.kept, strict=True):
            if any(grad is not None for grad in given):
                zero = torch.zeros_like(parameter)
                used.append(parameter)
                rows.append(torch.stack([zero if grad is None else grad for grad in given]))
        products_PTT = torch.stack([row.flatten(1) @ row.flatten(1).T for row in rows])
        shares_PT = self.shares(products_PTT, random.Random(f"{self.seed}/{step}/gradients"))
        for parameter, row, share in zip(used, rows, shares_PT, strict=True):
            parameter.grad = torch.tensordot(share, row, 1)
        self.kept = []

    def shares(self, products_PTT: Tensor, rng: random.Random) -> Tensor:
        """The weight [P, T] of each network's gradient, from their inner products."""
        raise NotImplementedError


class PCGrad(Projected):
    """`pcgrad`: each network's gradient loses what conflicts with another's (arXiv 2001.06782).

    Where the inner product of the present gradient with another network's own one is negative, it
    is projected onto the plane normal to the other, for all others in a drawn order; what results
    is summed. The whole gradients count, over all parameters.
    """

    def shares(self, products_PTT: Tensor, rng: random.Random) -> Tensor:
        """See `Projected.shares`; a projected gradient is a mixture of the given ones."""
        products_TT = products_PTT.sum(0).tolist()
        number = len(products_TT)
        total = [0.0] * number
        for one in range(number):
            mixture = [float(other == one) for other in range(number)]
            others = [other for other in range(number) if other != one]
            rng.shuffle(others)
            for other in others:
                product = sum(
                    part * row[other] for part, row in zip(mixture, products_TT, strict=True)
                )
                if product < 0:
                    mixture[other] -= product / products_TT[other][other]
            total = [whole + part for whole, part in zip(total, mixture, strict=True)]
        return products_PTT.new_tensor(total).expand(len(products_PTT), -1)


class SubnetsFirst(Projected):
    """`subnets_first`: where the largest's gradient conflicts with the others', they prevail.

    NASViT (ICLR 2022): of each parameter by itself, the largest's gradient is projected onto the
    plane normal to the sum of the others' where their product is negative; that is the sum, with
    the others' weight raised by -<m, s> / <s, s>, by `MOST` at most.
    """

    MOST = 2.0

    def shares(self, products_PTT: Tensor, rng: random.Random) -> Tensor:
        """See `Projected.shares`."""
        with_P = products_PTT[:, 0, 1:].sum(1)
        own_P = products_PTT[:, 1:, 1:].sum((1, 2))
        raised_P = torch.where(own_P > 0, -with_P / own_P, 0.0).clamp(0, self.MOST)
        shares_PT = torch.ones_like(products_PTT[:, 0])
        shares_PT[:, 1:] += raised_P[:, None]
        return shares_PT


def _plus(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return other if one is None else one if other is None else one + other


JOINS: dict[str, type[Summed]] = {"sum": Summed, "pcgrad": PCGrad, "subnets_first": SubnetsFirst}
"""The words of `gradients`."""


def gradients_of(model: nn.Module, recipe: TrainingRecipe, seed: int) -> Summed:
    """What joins the gradients of a step's networks."""
    word = recipe.gradients if isinstance(recipe, SupernetRecipe) else "sum"
    return JOINS[word](model.parameters(), seed)
