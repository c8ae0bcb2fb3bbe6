"""Which members of a space one step trains: the sandwich rule, and ways to draw its random members.

The sandwich rule is BigNAS's (arXiv 2003.11142, section 3.1): every step trains the largest, the
smallest and `k` random members, largest and smallest over the *ordered* dimensions. Unordered
choices (positional encoding, mixer, ...) are drawn afresh for each role: where the teacher had one
fixed encoding, that one would get most of the training, and every comparison would favour it.
For the same reason `extremes` may leave out the smallest: its slices are in the middle of everyone
else's, and trained in every step it becomes better than it is by itself (docs/LOG.md).

What a policy draws follows from the seed, the step's number and the weights: it has no state of its
own, so a resumed training draws what the whole one would have.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from twins_nas.arch import ArchConfig
from twins_nas.cost import cost
from twins_nas.model.backbone import Backbone
from twins_nas.recipes import SupernetRecipe, TrainingRecipe
from twins_nas.space import Choice, SearchSpace

LossOf = Callable[[ArchConfig], float]
"""The loss of a member on the step's first minibatch, with the present weights."""

BISECTIONS = 8
"""Members that are looked at for one of about the MACs that are wanted."""
CANDIDATES = 3
"""Members of about the same MACs that `BestUp` compares."""


class Policy(Protocol):
    """What members a step trains."""

    def draw(self, step: int, loss_of: LossOf) -> list[ArchConfig]:
        """The members, the teacher of the others first, each once."""


@dataclass(frozen=True)
class Alone:
    """A single network: each step trains it."""

    arch: ArchConfig

    def draw(self, step: int, loss_of: LossOf) -> list[ArchConfig]:
        """See `Policy.draw`."""
        return [self.arch]


@dataclass(frozen=True)
class Sandwich:
    """`uniform`: every choice of the random members is drawn uniformly (BigNAS).

    `signs` say which extremes every step trains: +1 the largest, -1 the smallest.
    """

    space: SearchSpace
    random_subnets: int
    seed: int
    macs_of: Callable[[ArchConfig], int]
    signs: tuple[int, ...] = (+1, -1)

    def draw(self, step: int, loss_of: LossOf) -> list[ArchConfig]:
        """See `Policy.draw`."""
        rng = random.Random(f"{self.seed}/{step}")
        roles = [self.extreme(sign, step, rng) for sign in self.signs]
        first = step * self.random_subnets
        for number in range(first, first + self.random_subnets):
            roles.append(self.member(number, rng, loss_of))
        return list(dict.fromkeys(roles))

    def extreme(self, sign: int, step: int, rng: random.Random) -> ArchConfig:
        """The largest or the smallest member of a step."""
        return self.space.extreme(sign, rng)

    def member(self, number: int, rng: random.Random, loss_of: LossOf) -> ArchConfig:
        """Random member `number` of the whole training."""
        return self.space.sample(rng)


@dataclass(frozen=True)
class MacsBalanced(Sandwich):
    """`macs_balanced`: MACs are drawn uniformly between the extremes, then a member near them.

    Sums of many uniform choices seldom lie near an end. AttentiveNAS (arXiv 2011.09011) draws
    members until one fits the MACs that were drawn, which would take long at the ends. Here each
    draw is a chain of members from the smallest to the largest: the place of a value among n is how
    many of n - 1 drawn numbers are below q, and q is bisected until the MACs fit.
    """

    @cached_property
    def bounds(self) -> tuple[int, int]:
        """The MACs of the extremes."""
        return self.macs_of(self.space.extreme(-1)), self.macs_of(self.space.extreme(+1))

    def member(self, number: int, rng: random.Random, loss_of: LossOf) -> ArchConfig:
        """See `Sandwich.member`."""
        return self.near(rng.uniform(*self.bounds), rng)

    def near(self, target: float, rng: random.Random) -> ArchConfig:
        """A member of about these MACs."""
        fixed, chain = {}, []
        for choice in self.space.choices:
            if choice.ordered:
                values = sorted(choice.values, reverse=choice.grows < 0)
                chain.append((choice.name, values, [rng.random() for _ in values[1:]]))
            else:
                fixed[choice.name] = rng.choice(choice.values)
        low, high = 0.0, 1.0
        tried: dict[ArchConfig, float] = {}
        for _ in range(BISECTIONS):
            q = (low + high) / 2
            places = {name: values[sum(u < q for u in us)] for name, values, us in chain}
            arch = self.space.decode({**fixed, **places})
            macs = self.macs_of(arch)
            tried[arch] = abs(macs - target)
            low, high = (q, high) if macs < target else (low, q)
        return min(tried, key=tried.__getitem__)


@dataclass(frozen=True)
class BestUp(MacsBalanced):
    """`best_up`: of `CANDIDATES` members of about the same MACs, the one of the least loss.

    Training attends to what may lie on the front (AttentiveNAS, arXiv 2011.09011: BestUp, here
    compared by the loss of the step's minibatch). Costs `CANDIDATES` forward passes more each.
    """

    def member(self, number: int, rng: random.Random, loss_of: LossOf) -> ArchConfig:
        """See `Sandwich.member`."""
        target = rng.uniform(*self.bounds)
        candidates = dict.fromkeys(self.near(target, rng) for _ in range(CANDIDATES))
        return min(candidates, key=loss_of)


@dataclass(frozen=True)
class Fair(Sandwich):
    """`fair`: every value of a choice is trained equally often (FairNAS, arXiv 1907.01845).

    Strictly so: in each n draws of a choice of n values each is drawn once, in an order of its own.
    FairNAS also holds back the weights' update until all n were trained; here steps are as
    many as without. Unordered choices of the largest and the smallest have their own turns.
    """

    def extreme(self, sign: int, step: int, rng: random.Random) -> ArchConfig:
        """See `Sandwich.extreme`."""

        def value(choice: Choice) -> Any:
            if choice.ordered:
                return choice.extreme(sign)
            return self.turn(f"{sign:+d}", choice, step)

        return self.space.decode({choice.name: value(choice) for choice in self.space.choices})

    def member(self, number: int, rng: random.Random, loss_of: LossOf) -> ArchConfig:
        """See `Sandwich.member`."""
        choices = self.space.choices
        return self.space.decode(
            {choice.name: self.turn("random", choice, number) for choice in choices}
        )

    def turn(self, role: str, choice: Choice, number: int) -> Any:
        """The value whose turn it is at draw `number` of a role."""
        cycle, place = divmod(number, len(choice.values))
        order = random.Random(f"{self.seed}/{role}/{choice.name}/{cycle}")
        return order.sample(choice.values, len(choice.values))[place]


OPENING = (("window_size", "sr_ratio"), ("depth", "peg_blocks"))
"""The fields that open first and second; all other ordered ones, widths above all, open last."""


class Opening:
    """`elastic_warmup`: ordered dimensions open one after another, up to step `until`.

    Progressive shrinking (OFA, arXiv 1908.09791), whose order is kernel sizes, depths, widths; here
    kernels are windows and sub-sampling ratios. What is not open yet has its largest value, also in
    the smallest network. The policy draws from the part of the space that is open.
    """

    def __init__(
        self, space: SearchSpace, until: int, policy: Callable[[SearchSpace], Policy]
    ) -> None:
        ordered = [choice for choice in space.choices if choice.ordered]
        groups: dict[int, list[Choice]] = {}
        for choice in ordered:
            places = [place for place, fields in enumerate(OPENING) if choice.field in fields]
            groups.setdefault(places[0] if places else len(OPENING), []).append(choice)
        order = [groups[place] for place in sorted(groups)]
        self.until = until
        self.phases = []
        for opened in range(len(order) + 1):
            closed = {
                choice.name: choice.extreme(+1) for group in order[opened:] for choice in group
            }
            self.phases.append(policy(space.fixed(closed) if closed else space))

    def draw(self, step: int, loss_of: LossOf) -> list[ArchConfig]:
        """See `Policy.draw`; the first phase has the largest network alone."""
        last = len(self.phases) - 1
        phase = last if step >= self.until else step * last // self.until
        return self.phases[phase].draw(step, loss_of)


POLICIES: dict[str, type[Sandwich]] = {
    "uniform": Sandwich,
    "macs_balanced": MacsBalanced,
    "best_up": BestUp,
    "fair": Fair,
}
"""The words of `sampling`."""
EXTREMES = {"both": (+1, -1), "largest": (+1,), "none": ()}
"""The words of `extremes`."""


def policy_of(model: Backbone, recipe: TrainingRecipe, seed: int, steps: int) -> Policy:
    """What draws the members that each of `steps` steps trains; a single network alone."""
    space = model.space
    if not isinstance(recipe, SupernetRecipe):
        assert not space.choices
        return Alone(model.arch)

    def macs_of(arch: ArchConfig) -> int:
        return cost(arch, space.input_size, model.in_chans, model.num_classes).macs

    def policy(part: SearchSpace) -> Policy:
        signs = EXTREMES[recipe.extremes]
        return POLICIES[recipe.sampling](part, recipe.random_subnets, seed, macs_of, signs)

    if not recipe.elastic_warmup:
        return policy(space)
    return Opening(space, round(recipe.elastic_warmup * steps), policy)
