"""Recipes of banks, as the files of `experiments/` hold them: many networks, each trained alone."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field

from twins_nas.ablation_recipe import SeedsRecipe, seeds_of
from twins_nas.explore_recipe import SpaceRecipe
from twins_nas.schema import Model, problem, whole

BANK = "bank"
NAME, LEGAL_NAME = re.compile("[a-z0-9][a-z0-9-]{0,63}"), "small letters, digits and -"
_OWN = "a bank's networks are drawn from its space; give that, as `space`"


def _bank_name(name: str | None) -> str | None:
    if name is not None and not NAME.fullmatch(name):
        raise problem(f"{name!r} is no name of a bank", LEGAL_NAME)
    return name


class BankSpec(Model):
    """Which networks a bank has."""

    name: Annotated[str | None, AfterValidator(_bank_name)] = Field(
        default=None, validate_default=False, description="the bank's name; absent: the space's"
    )
    archs: Annotated[int, whole(2)] = Field(
        default=24,
        description="networks: base, smallest, largest and the published ones of the space, the"
        " rest drawn, as many from each stratum",
    )
    strata: Annotated[int, whole(1, 64)] = Field(
        default=6, description="bins of equal width in log MACs, from the smallest to the largest"
    )


class BankRecipe(SpaceRecipe):
    """Networks of a space, each trained alone on the same seeds by one fixed recipe."""

    FOREIGN: ClassVar[dict[str, str]] = {
        "variants": _OWN,
        "vary": _OWN,
        "base": "belongs into the space: `space: {base: ..., stages: [...]}`",
        "input_size": "belongs into the space: `space: {input_size: ..., stages: [...]}`",
        "explore": "a bank's networks are drawn, not chosen by Optuna; give one of the two",
        "compare": "a bank compares nothing with a baseline",
        "match": "a bank's networks differ in MACs on purpose",
        "asha": "a bank trains each network to its end",
    }
    AUTO: ClassVar[str] = "auto adds seeds until there is a verdict, which a bank gives none of"

    bank: BankSpec = Field(description="which networks")
    seeds: Annotated[SeedsRecipe, BeforeValidator(seeds_of)] = Field(
        default=SeedsRecipe(numbers=(0, 1), first=2),
        description="how many, or which: each network is trained on all of them",
    )
