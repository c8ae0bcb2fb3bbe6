"""One row of a search: an architecture and what it scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from twins_nas.arch import ArchConfig, StageConfig


class Score(NamedTuple):
    """The figures of an evaluation, as they go between processes and into journals.

    `adjusted` is the loss as a `Prior` moves it; without one it is the loss.
    """

    top1: float
    loss: float
    adjusted: float
    n: int
    seconds: float


class Stopped(str):
    """Why an evaluation was stopped early: it has no score, and is no failure."""

    __slots__ = ()


@dataclass(frozen=True)
class Scored:
    """A scored architecture, `number` counting the trials of its search seed from 0.

    `name` says which of the fixed first trials it is (`named_members`); empty: none of them.
    `top1` in percent and `loss` in nats are those of `n` validation images, `adjusted` the loss as
    a `Prior` moves it; `seconds` are those of the evaluation, of the earlier one where the row is
    `cached`. A row that is not `feasible` is over the budget.
    """

    number: int
    seed: int
    name: str
    arch: ArchConfig
    key: str
    macs: int
    params: int
    top1: float
    loss: float
    adjusted: float
    n: int
    seconds: float
    cached: bool
    feasible: bool

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON takes it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Scored:
        """The row that `to_dict` wrote, also when it went through JSON."""
        arch = values["arch"]
        stages = tuple(StageConfig(**stage) for stage in arch["stages"])
        rest = {item.name: values[item.name] for item in fields(cls)}
        return cls(**{**rest, "arch": ArchConfig(**{**arch, "stages": stages})})


@dataclass(frozen=True)
class Failed:
    """An architecture without a score, and why; `stopped` early, or failed."""

    number: int
    seed: int
    arch: ArchConfig
    reason: str
    name: str = ""
    macs: int = 0
    params: int = 0
    stopped: bool = False
