"""Exact parameters and MACs of an architecture from formulas, without building a model.

Conventions: see `layer_cost`. A test holds them equal to the modules and to torch's
`FlopCounterMode` / 2.
"""

from __future__ import annotations

from collections.abc import Callable

from twins_nas import layer_cost as layer
from twins_nas.arch import (
    GSA,
    LSA,
    MERGE,
    SHIFTED,
    ArchConfig,
    Grid,
    StageConfig,
    fit_window,
    padded,
)
from twins_nas.layer_cost import Cost


def cost(arch: ArchConfig, input_size: Grid, in_chans: int = 3, num_classes: int = 1000) -> Cost:
    """Cost of one image through the network, classifier included.

    Tables of positions (APE, GSA's RPE) live on the grid of `input_size`.
    """
    total = Cost()
    for index, (stage, grid) in enumerate(zip(arch.stages, arch.grids(input_size), strict=True)):
        previous = arch.stages[index - 1].embed_dim if index else in_chans
        dim, tokens = stage.embed_dim, grid[0] * grid[1]
        if index and arch.downsample == MERGE:
            total += layer.layer_norm(4 * previous)
            total += layer.linear(tokens, 4 * previous, dim, bias=False)
        else:
            total += layer.conv2d(tokens, previous, dim, 2 if index else arch.patch_size)
            total += layer.layer_norm(dim) if arch.patch_norm else Cost()
        total += stage_cost(stage, grid, arch.window_fit, arch.class_tokens(index))
    last = arch.stages[-1].embed_dim
    return total + layer.layer_norm(last) + layer.linear(1, last, num_classes)


def stage_cost(stage: StageConfig, grid: Grid, window_fit: str, cls: int = 0) -> Cost:
    """Cost of the blocks, positional encodings and `cls` class tokens of a stage.

    Without its patch embedding.
    """
    total = layer.table(cls * stage.embed_dim * (2 if "ape" in stage.pe_kinds else 1))
    for kind in stage.pe_kinds:
        total += PE_COSTS[kind](stage, grid, window_fit)
    for block in range(stage.depth):
        total += block_cost(stage, block, grid, window_fit, cls)
    return total


def block_cost(stage: StageConfig, block: int, grid: Grid, window_fit: str, cls: int = 0) -> Cost:
    """Cost of one block: two norms, attention, MLP; `cls` tokens attend and are seen everywhere."""
    dim, hidden, tokens = stage.embed_dim, stage.hidden_dim(block), grid[0] * grid[1] + cls
    total = layer.layer_norm(dim) + layer.layer_norm(dim)
    total += MIXER_COSTS[stage.letters[block]](stage, block, grid, window_fit, cls)
    total += layer.linear(tokens, dim, dim)
    return total + layer.linear(tokens, dim, hidden) + layer.linear(tokens, hidden, dim)


def rpe_reach(stage: StageConfig, block: int, grid: Grid, window_fit: str) -> Grid:
    """The (height, width) R of a block's RPE table of (2R-1) x (2R-1) offsets.

    Its window, or the grid without one.
    """
    if not stage.window_size[block]:
        return grid
    return fit_window(stage.window_size[block], grid, window_fit)


def _in_windows(stage: StageConfig, block: int, grid: Grid, window_fit: str, cls: int) -> Cost:
    dim, window = stage.embed_dim, fit_window(stage.window_size[block], grid, window_fit)
    height, width = padded(grid, window)
    size = window[0] * window[1]
    total = layer.linear(height * width + cls, dim, 3 * dim)
    total += layer.attention(size, size + cls, dim, groups=height * width // size)
    return total + layer.attention(cls, height * width + cls, dim)


def _global(stage: StageConfig, block: int, grid: Grid, window_fit: str, cls: int) -> Cost:
    dim, tokens, ratio = stage.embed_dim, grid[0] * grid[1] + cls, stage.sr_ratio[block]
    keys = (grid[0] // ratio) * (grid[1] // ratio)
    total = layer.linear(tokens, dim, dim) + layer.linear(keys + cls, dim, 2 * dim)
    if ratio > 1:
        total += SUBSAMPLING_COSTS[stage.subsampling](keys, dim, ratio) + layer.layer_norm(dim)
    return total + layer.attention(tokens, keys + cls, dim)


def _separable(keys: int, dim: int, ratio: int) -> Cost:
    return layer.conv2d(keys, dim, dim, ratio, groups=dim) + layer.conv2d(keys, dim, dim, 1)


SUBSAMPLING_COSTS: dict[str, Callable[[int, int, int], Cost]] = {
    "conv": lambda keys, dim, ratio: layer.conv2d(keys, dim, dim, ratio),
    "separable": _separable,
    "pool": lambda keys, dim, ratio: Cost(),
}

MIXER_COSTS: dict[str, Callable[[StageConfig, int, Grid, str, int], Cost]] = {
    LSA: _in_windows,
    SHIFTED: _in_windows,
    GSA: _global,
}


def _ape(stage: StageConfig, grid: Grid, window_fit: str) -> Cost:
    return layer.table(grid[0] * grid[1] * stage.embed_dim)


def _cpe(stage: StageConfig, grid: Grid, window_fit: str) -> Cost:
    dim = stage.embed_dim
    one = layer.conv2d(grid[0] * grid[1], dim, dim, 3, groups=dim)
    return Cost(stage.peg_blocks * one.params, stage.peg_blocks * one.macs)


def _rpe(stage: StageConfig, grid: Grid, window_fit: str) -> Cost:
    reaches = [rpe_reach(stage, block, grid, window_fit) for block in range(stage.depth)]
    return layer.table(
        sum(stage.num_heads * (2 * rows - 1) * (2 * columns - 1) for rows, columns in reaches)
    )


PE_COSTS: dict[str, Callable[[StageConfig, Grid, str], Cost]] = {
    "ape": _ape,
    "cpe": _cpe,
    "rpe": _rpe,
}
