"""Recipes of searches, as the files of `search/` hold them: their keys, bounds and defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from twins_nas.config import load_document
from twins_nas.schema import Model, number, problem, problem_at, whole

BILLIONS = 10**15
QUALITIES = ("top1", "loss")
COSTS = ("macs", "params")

Objective = Literal["top1", "loss", "macs", "params"]


class Sampler(Model):
    """Who proposes the networks."""

    name: Annotated[
        Literal["nsga2", "random", "tpe"], Field(description="evolution, uniform draws, or TPE")
    ] = "nsga2"
    population: Annotated[
        int | None, Field(description="networks of a generation of nsga2, which alone has any; 20")
    ] = None

    @field_validator("population", mode="before")
    @classmethod
    def _of_nsga2(cls, value: object, info: ValidationInfo) -> object:
        if info.data.get("name", "nsga2") == "nsga2":
            return _population(20 if value is None else value)
        if value is not None:
            raise problem(f"the sampler {info.data['name']} has no population, only nsga2 has")
        return None
