"""The backbone: PVT's and Twins' pyramid over a whole space.

A network is the supernet of a one-point space.

Tokens stay channels-last from end to end. Shapes: B batch, H W grid, C channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from twins_nas.arch import GSA, ArchConfig, Grid, StageConfig, expand, fit_window
from twins_nas.model.attention import PATCH_EPS, Attention
from twins_nas.model.ffn import FeedForward
from twins_nas.model.position import PEG, AbsoluteTable, RelativeBias
from twins_nas.model.slicing import Elastic, ElasticConv2d, ElasticLayerNorm, ElasticLinear
from twins_nas.space import SearchSpace

PEG_AFTER = 0


class PatchEmbed(nn.Module):
    """Non-overlapping patches by a strided convolution, then LayerNorm.

    [B, H, W, C] to [B, H // p, W // p, C'].
    """

    def __init__(self, in_dim: int, dim: int, patch: int) -> None:
        super().__init__()
        self.conv = ElasticConv2d(in_dim, dim, kernel=patch, stride=patch)
        self.norm = ElasticLayerNorm(dim, PATCH_EPS)

    def forward(self, x_BHWC: Tensor, dim: int) -> Tensor:
        """Embeds into `dim` channels."""
        out: Tensor = self.norm(self.conv(x_BHWC, dim))
        return out


class Block(nn.Module):
    """Pre-norm attention and MLP with residuals and stochastic depth."""

    def __init__(
        self, dim: int, hidden_dim: int, attention: Attention, eps: float, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = ElasticLayerNorm(dim, eps)
        self.attn = attention
        self.norm2 = ElasticLayerNorm(dim, eps)
        self.mlp = FeedForward(dim, hidden_dim)
        self.drop_path = drop_path

    def forward(self, x_BHWC: Tensor, stage: StageConfig, block: int, window_fit: str) -> Tensor:
        """The block as `stage` describes its block number `block`; keeps the shape."""
        letter, rpe = stage.letters[block], "rpe" in stage.pe_kinds
        y = self.norm1(x_BHWC)
        if letter == GSA:
            y = self.attn.glob(y, stage.head_dim, stage.sr_ratio[block], rpe)
        else:
            y = self.attn.local(
                y, stage.head_dim, stage.window_size[block], letter, rpe, window_fit
            )
        x_BHWC = x_BHWC + self._drop(y)
        return x_BHWC + self._drop(self.mlp(self.norm2(x_BHWC), stage.hidden_dim(block)))

    def _drop(self, x: Tensor) -> Tensor:
        """Drops the branch of whole images, and scales up the others (arXiv 1603.09382)."""
        if not self.training or self.drop_path == 0:
            return x
        keep = 1 - self.drop_path
        mask = torch.empty(x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(keep)
        return x * (mask / keep)


class Stage(nn.Module):
    """A patch embedding for each patch size, positional encodings.

    And the blocks of the deepest choice.
    """

    def __init__(
        self, space: SearchSpace, index: int, in_dim: int, drop_paths: list[float]
    ) -> None:
        super().__init__()
        options = space.stages[index]
        dim, heads = max(options["embed_dim"][0]), most_heads(space, index)
        kinds = {kind for pe in options["pe"][0] for kind in pe.split("+")}
        grid = space.grid(index)
        patches = (2,) if index else space.arch["patch_size"]
        self.embed = nn.ModuleDict(
            {str(patch): PatchEmbed(in_dim, dim, patch) for patch in patches}
        )
        self.ape = AbsoluteTable(dim, grid) if "ape" in kinds else None
        self.cpe = PEG(dim) if "cpe" in kinds else None
        self.blocks = nn.ModuleList()
        for block, drop_path in enumerate(drop_paths):
            letters, windows, ratios, hidden = block_options(space, index, block)
            reach = (1, 1)
            for candidate in [*windows, *([grid] if GSA in letters else [])]:
                reach = (max(reach[0], candidate[0]), max(reach[1], candidate[1]))
            rpe = RelativeBias(heads, reach, grid) if "rpe" in kinds else None
            fit = space.arch["window_fit"][0]
            attention = Attention(dim, ratios if GSA in letters else (), rpe, fit)
            self.blocks.append(Block(dim, hidden, attention, space.arch["norm_eps"][0], drop_path))

    def forward(self, x_BHWC: Tensor, stage: StageConfig, patch: int, window_fit: str) -> Tensor:
        """The stage as `stage` describes it."""
        x_BHWC = self.embed[str(patch)](x_BHWC, stage.embed_dim)
        if self.ape is not None and "ape" in stage.pe_kinds:
            x_BHWC = self.ape(x_BHWC)
        for block in range(stage.depth):
            x_BHWC = self.blocks[block](x_BHWC, stage, block, window_fit)
            if block == PEG_AFTER and self.cpe is not None and "cpe" in stage.pe_kinds:
                x_BHWC = self.cpe(x_BHWC)
        return x_BHWC


class Backbone(nn.Module):
    """The network of any member of a space.

    `forward(x, arch)` runs the slice that `arch` describes.

    `space` says what may be asked for; `drop_path` is the rate of the last block, and falls
    linearly to 0 at the first.
    """

    def __init__(
        self, space: SearchSpace, in_chans: int = 3, num_classes: int = 1000, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.space, self.in_chans, self.num_classes = space, in_chans, num_classes
        self.largest = space.extreme(+1)
        depths = [max(stage["depth"][0]) for stage in space.stages]
        last = max(1, sum(depths) - 1)
        rates = [drop_path * block / last for block in range(sum(depths))]
        self.stages = nn.ModuleList()
        in_dim = in_chans
        for index, depth in enumerate(depths):
            start = sum(depths[:index])
            self.stages.append(Stage(space, index, in_dim, rates[start : start + depth]))
            in_dim = max(space.stages[index]["embed_dim"][0])
        self.norm = ElasticLayerNorm(in_dim, space.arch["norm_eps"][0])
        self.head = ElasticLinear(in_dim, num_classes)

    def forward_stages(self, x_BCHW: Tensor, arch: ArchConfig | None = None) -> list[Tensor]:
        """The tokens [B, H, W, C] that each stage gives."""
        arch = arch or self.largest
        x_BHWC, outputs = x_BCHW.permute(0, 2, 3, 1), []
        for index, stage in enumerate(arch.stages):
            x_BHWC = self.stages[index](
                x_BHWC, stage, 2 if index else arch.patch_size, arch.window_fit
            )
            outputs.append(x_BHWC)
        return outputs

    def forward(self, x_BCHW: Tensor, arch: ArchConfig | None = None) -> Tensor:
        """Logits [B, classes] of a member of the space; of the largest one without an `arch`."""
        x_BHWC = self.norm(self.forward_stages(x_BCHW, arch)[-1])
        logits: Tensor = self.head(x_BHWC.flatten(1, 2).mean(1))
        return logits


def block_options(
    space: SearchSpace, index: int, block: int
) -> tuple[set[str], set[Grid], set[int], int]:
    """What a block may be: its letters, windows fitted to the stage's grid, ratios.

    And its largest hidden width.
    """
    options = space.stages[index]

    def values(name: str) -> tuple[float, ...]:
        groups = options[name]
        return groups[0] if len(groups) == 1 else groups[block]

    depths = [depth for depth in options["depth"][0] if depth > block]
    letters = {expand(mixer, max(depths))[block] for mixer in options["mixer"][0]}
    fits = space.arch["window_fit"]
    windows = {
        fit_window(int(window), space.grid(index), fit)
        for window in values("window_size")
        for fit in fits
        if window and letters != {GSA}
    }
    ratios = {int(ratio) for ratio in values("sr_ratio") if ratio}
    hidden = int(max(options["embed_dim"][0]) * max(values("mlp_ratio")))
    return letters, windows, ratios, hidden


def most_heads(space: SearchSpace, index: int) -> int:
    """The largest number of heads over the stage's choices."""
    options = space.stages[index]
    dims, head_dims = options["embed_dim"][0], options["head_dim"][0]
    return int(max(dim // head for dim in dims for head in head_dims))


def build(
    arch: ArchConfig,
    input_size: Grid,
    in_chans: int = 3,
    num_classes: int = 1000,
    drop_path: float = 0.0,
) -> Backbone:
    """The static network of one architecture."""
    return Backbone(SearchSpace.point(arch, input_size), in_chans, num_classes, drop_path)


def initialise(model: Backbone, seed: int) -> None:
    """Draws all weights; the draw depends on `seed` alone.

    Convolutions N(0, sqrt(2 / fan_out)), as the authors of Twins do (gvt.py); position tables
    truncated normal with a standard deviation of 0.02. Linear layers too are truncated normal,
    with the authors' 0.02 at 512 input channels and in proportion to 1 / sqrt(channels) elsewhere:
    at micro widths 0.02 itself leaves the branches almost silent, and a supernet of them was 6.7
    points worse after two epochs (docs/LOG.md).
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, ElasticConv2d):
            kernel = module.weight.shape[-1]
            fan_out = kernel * kernel * (1 if module.depthwise else module.out_dim)
            values = torch.randn(module.weight.shape, generator=generator) * math.sqrt(
                2.0 / fan_out
            )
        elif isinstance(module, ElasticLinear):
            std = 0.02 * math.sqrt(512 / module.weight.shape[1])
            values = _truncated(module.weight.shape, std, generator)
        elif isinstance(module, AbsoluteTable | RelativeBias):
            values = _truncated(module.table.shape, 0.02, generator)
        else:
            assert not isinstance(module, Elastic) or isinstance(module, ElasticLayerNorm)
            continue
        weight = (
            module.weight if isinstance(module, ElasticConv2d | ElasticLinear) else module.table
        )
        with torch.no_grad():
            weight.copy_(values)


def _truncated(shape: torch.Size, std: float, generator: torch.Generator) -> Tensor:
    return nn.init.trunc_normal_(torch.empty(shape), std=std, a=-2, b=2, generator=generator)
