"""Equal MACs: a dimension of a network re-scaled until it costs as much as another one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

from twins_nas.arch import ArchConfig, StageConfig
from twins_nas.errors import UserError
from twins_nas.space_fill import BLOCK_FIELDS

CHOICES = 5
STEPS = 60
LEAST, MOST = 1 / 16, 16.0

MacsOf = Callable[[ArchConfig], int]


def matched(
    arch: ArchConfig, macs_of: MacsOf, target: int, dimension: str, within: float
) -> ArchConfig:
    """The network with `dimension` re-scaled so that its MACs are `target`, to within a share.

    All stages keep their proportions as nearly as whole steps allow (heads for `embed_dim`, blocks
    for `depth`); one that is near enough already stays as it is.

    Raises:
        UserError: no re-scaling comes so near; says how near the best one came.
    """
    if _miss(macs_of(arch), target) <= within:
        return arch
    scaled = {"embed_dim": _widths, "depth": _depths, "mlp_ratio": _ratios}[dimension]
    factor = _factor(lambda factor: macs_of(_first(scaled(arch, factor))), target)
    near, nearest = [], (math.inf, arch)
    for candidate in scaled(arch, factor):
        miss = _miss(macs_of(candidate), target)
        nearest = min(nearest, (miss, candidate), key=lambda pair: pair[0])
        if miss <= within:
            near.append((_distortion(arch, candidate, dimension), miss, candidate))
    if near:
        return min(near, key=lambda item: item[:2])[2]
    raise UserError(
        f"its MACs cannot be matched by {dimension}: {macs_of(arch):,} are to become {target:,};"
        f" the nearest has {macs_of(nearest[1]):,}, which is {100 * nearest[0]:.3g} % off"
        f" ({100 * within:g} % are allowed)"
    )


def _miss(macs: int, target: int) -> float:
    return abs(macs / target - 1)


def _first(candidates: Sequence[ArchConfig]) -> ArchConfig:
    return candidates[0]


def _factor(macs_at: Callable[[float], int], target: int) -> float:
    """The factor whose MACs come nearest, by bisection: they grow with it, in steps."""
    low, high = LEAST, MOST
    for _ in range(STEPS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if macs_at(middle) < target else (low, middle)
    return math.sqrt(low * high)


def _widths(arch: ArchConfig, factor: float) -> list[ArchConfig]:
    """Networks of about `factor` times the channels, the nearest first."""
    return _combined(
        arch,
        [
            [
                replace(stage, embed_dim=heads * stage.head_dim)
                for heads in _around(factor * stage.num_heads)
                if int(min(stage.mlp_ratio) * heads * stage.head_dim) >= 1
            ]
            for stage in arch.stages
        ],
    )


def _depths(arch: ArchConfig, factor: float) -> list[ArchConfig]:
    """Networks of about `factor` times the blocks, the nearest first."""
    return _combined(
        arch,
        [
            [_of_depth(stage, depth) for depth in _around(factor * stage.depth)]
            for stage in arch.stages
        ],
    )


def _ratios(arch: ArchConfig, factor: float) -> list[ArchConfig]:
    """The network of `factor` times the hidden channels."""
    stages = []
    for stage in arch.stages:
        least = 1 / stage.embed_dim
        ratios = tuple(max(least, round(factor * ratio, 4)) for ratio in stage.mlp_ratio)
        stages.append(replace(stage, mlp_ratio=ratios))
    return [replace(arch, stages=tuple(stages))]


def _around(value: float) -> list[int]:
    """The whole numbers around a value, the nearest first."""
    low = max(1, math.floor(value) - CHOICES // 2 + 1)
    return sorted(range(low, low + CHOICES), key=lambda one: abs(one - value))


def _combined(arch: ArchConfig, stages: Sequence[Sequence[StageConfig]]) -> list[ArchConfig]:
    return [replace(arch, stages=chosen) for chosen in product(*stages)]


def _of_depth(stage: StageConfig, depth: int) -> StageConfig:
    """The stage with so many blocks; new ones repeat the last that has a value."""

    def filled(values: Sequence[float]) -> tuple[float, ...]:
        used = [value for value in values if value] or [0]
        return tuple(value or used[-1] for value in (*values, *[0] * depth)[:depth])

    blocks = {name: filled(getattr(stage, name)) for name in BLOCK_FIELDS}
    return StageConfig(**{**vars(stage), **blocks, "depth": depth})


def _distortion(arch: ArchConfig, other: ArchConfig, dimension: str) -> float:
    """How unevenly the stages were re-scaled: the spread of the logarithms of their factors."""
    if dimension == "mlp_ratio":
        return 0.0
    logs = [
        math.log(getattr(new, dimension) / getattr(old, dimension))
        for old, new in zip(arch.stages, other.stages, strict=True)
    ]
    mean = sum(logs) / len(logs)
    return sum((one - mean) ** 2 for one in logs)
