"""What a bank is to be made of: a checked recipe, and how it may grow."""

from __future__ import annotations

from dataclasses import dataclass

from twins_nas.ablation.exploring import check_members, settled
from twins_nas.arch import ArchConfig
from twins_nas.bank_recipe import BANK, LEGAL_NAME, NAME, BankRecipe
from twins_nas.banks.draw import Member, Strata, members
from twins_nas.cost import cost
from twins_nas.errors import ConfigError, UserError
from twins_nas.layer_cost import Cost
from twins_nas.space import SearchSpace
from twins_nas.yaml_nodes import Document


@dataclass(frozen=True)
class BankPlan:
    """A checked recipe; its document holds the space whole, so that no other file is needed."""

    document: Document
    recipe: BankRecipe
    space: SearchSpace

    @property
    def name(self) -> str:
        """The bank's name."""
        return self.recipe.bank.name or self.space.name

    def drawn(self, in_chans: int, num_classes: int) -> tuple[Strata, tuple[Member, ...]]:
        """The strata and the networks, with these channels and classes of the images."""

        def cost_of(arch: ArchConfig) -> Cost:
            return cost(arch, self.space.input_size, in_chans, num_classes)

        wanted = self.recipe.bank
        strata = Strata.of(self.space, cost_of, wanted.strata)
        return strata, members(self.space, cost_of, strata, wanted.archs)


def plan_bank(document: Document) -> BankPlan:
    """The plan of a recipe, all of it checked.

    Raises:
        ConfigError: all faults of the recipe, or all of the space.
    """
    found, recipe, space = settled(document, BankRecipe)
    check_members(document, (BANK, "archs"), recipe.bank.archs, "networks", space, 2)
    plan = BankPlan(found, recipe, space)
    if not NAME.fullmatch(plan.name):
        said = f"the space's name {plan.name!r} cannot be the bank's; give another one"
        raise ConfigError([document.fault((BANK, "name"), said, LEGAL_NAME)])
    return plan


def grown(plan: BankPlan, archs: int | None, seeds: int | None) -> BankPlan:
    """The plan with more networks or seeds; those that there are stay.

    Raises:
        UserError: it would lose some of them, or the space has not so many.
    """
    wanted = {"bank.archs": archs, "seeds": seeds}
    changes = {name: value for name, value in wanted.items() if value is not None}
    more = plan_bank(plan.document.changed(changes))
    if more.recipe.bank.archs < plan.recipe.bank.archs:
        raise UserError(
            f"A bank only grows: this one has {plan.recipe.bank.archs} networks,"
            f" --archs {archs} are fewer."
        )
    lost = sorted(set(plan.recipe.seeds.numbers) - set(more.recipe.seeds.numbers))
    if lost:
        raise UserError(
            f"A bank only grows: --seeds {seeds} would leave out seed {', '.join(map(str, lost))}."
        )
    return more
