"""The backbone: PVT's and Twins' pyramid over a whole space.

A network is the supernet of a one-point space.

Tokens stay channels-last from end to end. Shapes: B batch, H W grid, C channels.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from twins_nas.arch import CLS, CONV, MERGE, MIXERS, ArchConfig, Grid, expand, fit_window
from twins_nas.model.attention import Attention
from twins_nas.model.ffn import FeedForward
from twins_nas.model.position import ON_GRID, PEG, ClassToken, RelativeBias
from twins_nas.model.slicing import Elastic, ElasticConv2d, ElasticLayerNorm, ElasticLinear
from twins_nas.space import SearchSpace

BLOCK_BYTES = 16 * 2**20
"""Three such blocks stay below the 64 MiB of free memory that glibc gives back to the system, to
take them anew fault by fault; as does a block above 32 MiB."""


class PatchEmbed(nn.Module):
    """Non-overlapping patches by a strided convolution, then LayerNorm where the network has one.

    [B, H, W, C] to [B, H // p, W // p, C'].
    """

    def __init__(self, in_dim: int, dim: int, patch: int, norm: bool) -> None:
        super().__init__()
        self.conv = ElasticConv2d(in_dim, dim, kernel=patch, stride=patch)
        self.norm = ElasticLayerNorm(dim) if norm else None

    def forward(self, x_BHWC: Tensor, dim: int, arch: ArchConfig) -> Tensor:
        """Embeds into `dim` channels."""
        x_BHWC = self.conv(x_BHWC, dim)
        if self.norm is None or not arch.patch_norm:
            return x_BHWC
        out: Tensor = self.norm(x_BHWC, arch.patch_eps)
        return out


class PatchMerge(nn.Module):
    """Swin's patch merging: four neighbours side by side, LayerNorm, a linear layer without bias.

    [B, H, W, C] to [B, (H + 1) // 2, (W + 1) // 2, C']; an odd grid is zero-padded, as timm does.
    """

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.norm = ElasticLayerNorm(in_dim, in_groups=4)
        self.reduction = ElasticLinear(in_dim, dim, in_groups=4, bias=False)

    def forward(self, x_BHWC: Tensor, dim: int, arch: ArchConfig) -> Tensor:
        """Merges into `dim` channels; the order of neighbours is down, then right (Swin's code)."""
        B, H, W, C = x_BHWC.shape
        if H % 2 or W % 2:
            x_BHWC = F.pad(x_BHWC, (0, 0, 0, W % 2, 0, H % 2))
        x = x_BHWC.reshape(B, (H + 1) // 2, 2, (W + 1) // 2, 2, C)
        x = x.permute(0, 1, 3, 4, 2, 5).flatten(3)
        out: Tensor = self.reduction(self.norm(x, arch.patch_eps), dim)
        return out


class Block(nn.Module):
    """Pre-norm attention and MLP with residuals and stochastic depth."""

    def __init__(self, dim: int, hidden_dim: int, attention: Attention, drop_path: float) -> None:
        super().__init__()
        self.norm1 = ElasticLayerNorm(dim)
        self.attn: nn.Module = attention
        self.norm2 = ElasticLayerNorm(dim)
        self.mlp = FeedForward(dim, hidden_dim)
        self.drop_path = drop_path

    def forward(
        self, x_BNC: Tensor, grid: Grid, arch: ArchConfig, index: int, block: int
    ) -> Tensor:
        """The block as `arch` describes block number `block` of stage `index`; keeps the shape."""
        hidden = arch.stages[index].hidden_dim(block)
        y = self.attn(self.norm1(x_BNC, arch.norm_eps), grid, arch, index, block)
        x_BNC = x_BNC + self._drop(y)
        return x_BNC + self._drop(self.mlp(self.norm2(x_BNC, arch.norm_eps), hidden))

    def _drop(self, x: Tensor) -> Tensor:
        """Drops the branch of whole images, and scales up the others (arXiv 1603.09382)."""
        if not self.training or self.drop_path == 0:
            return x
        keep = 1 - self.drop_path
        mask = x.new_empty(x.shape[0], *[1] * (x.dim() - 1)).bernoulli_(keep)
        return x * (mask / keep)


class Stage(nn.Module):
    """An embedding for each patch size and for patch merging, positional encodings.

    And the blocks of the deepest choice; under `grad_checkpointing` the backward pass computes each
    block's activations again instead of keeping them.
    """

    def __init__(
        self, space: SearchSpace, index: int, in_dim: int, drop_paths: list[float]
    ) -> None:
        super().__init__()
        options = space.stages[index]
        dim = max(options["embed_dim"][0])
        kinds = {kind for pe in options["pe"][0] for kind in pe.split("+")}
        grid = space.grid(index)
        patches = (2,) * (CONV in space.arch["downsample"]) if index else space.arch["patch_size"]
        norm = any(space.arch["patch_norm"])
        self.embed = nn.ModuleDict(
            {str(patch): PatchEmbed(in_dim, dim, patch, norm) for patch in patches}
        )
        if index and MERGE in space.arch["downsample"]:
            self.embed[MERGE] = PatchMerge(in_dim, dim)
        last = index == len(space.stages) - 1
        self.cls = ClassToken(dim, "ape" in kinds) if last and CLS in space.arch["pool"] else None
        for kind in sorted(kinds & ON_GRID.keys()):
            self.add_module(kind, ON_GRID[kind](dim, grid))
        pegs = min(max(options["peg_blocks"][0]), len(drop_paths)) if "cpe" in kinds else 0
        self.cpe = nn.ModuleList(PEG(dim) for _ in range(pegs))
        self.blocks = nn.ModuleList()
        for block, drop_path in enumerate(drop_paths):
            may = block_options(space, index, block)
            hidden = int(dim * max(may["mlp_ratio"]))
            self.blocks.append(Block(dim, hidden, attention_of(space, index, may), drop_path))
        self.grad_checkpointing = False

    def forward(self, x_BHWC: Tensor, arch: ArchConfig, index: int) -> tuple[Tensor, Grid]:
        """The tokens [B, N, C] of the stage, a class token first, and the grid of the others."""
        few = images_at_once(x_BHWC, arch, index)
        if few >= x_BHWC.shape[0]:  # len() would be a constant to an export
            return self._run(x_BHWC, arch, index)
        parts = [self._run(x, arch, index) for x in torch.split(x_BHWC, few)]
        return torch.cat([x_BNC for x_BNC, _ in parts]), parts[0][1]

    def _run(self, x_BHWC: Tensor, arch: ArchConfig, index: int) -> tuple[Tensor, Grid]:
        stage = arch.stages[index]
        dim = stage.embed_dim
        embed = str(2 if index else arch.patch_size)
        x_BHWC = self.embed[MERGE if index and arch.downsample == MERGE else embed](
            x_BHWC, dim, arch
        )
        for kind in stage.pe_kinds:
            if kind in ON_GRID:
                x_BHWC = getattr(self, kind)(x_BHWC)
        B, H, W, C = x_BHWC.shape
        x_BNC, first = x_BHWC.flatten(1, 2), arch.class_tokens(index)
        if self.cls is not None and first:
            x_BNC = torch.cat([self.cls(dim, "ape" in stage.pe_kinds).expand(B, 1, C), x_BNC], 1)
        for block in range(stage.depth):
            args = (x_BNC, (H, W), arch, index, block)
            if self.grad_checkpointing and torch.is_grad_enabled():
                x_BNC = checkpoint(self.blocks[block], *args, use_reentrant=False)
            else:
                x_BNC = self.blocks[block](*args)
            if "cpe" in stage.pe_kinds and block < stage.peg_blocks:
                encoded = self.cpe[block](on_grid(x_BNC, (H, W))).flatten(1, 2)
                x_BNC = torch.cat([x_BNC[:, :1], encoded], 1) if first else encoded
        return x_BNC, (H, W)


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
        self.drop_path = drop_path
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
        self.norm: nn.Module = ElasticLayerNorm(in_dim)
        self.head: nn.Module = ElasticLinear(in_dim, num_classes)

    @property
    def arch(self) -> ArchConfig:
        """What `forward` runs without an `arch`: the largest member; of one network, that one."""
        return self.largest

    def forward_stages(self, x_BCHW: Tensor, arch: ArchConfig | None = None) -> list[Tensor]:
        """The tokens of the grid [B, H, W, C] that each stage gives."""
        return [on_grid(x_BNC, grid) for x_BNC, grid in self._tokens(x_BCHW, arch or self.arch)]

    def forward(self, x_BCHW: Tensor, arch: ArchConfig | None = None) -> Tensor:
        """Logits [B, classes] of a member of the space; of the largest one without an `arch`."""
        arch = arch or self.arch
        return self._classified(list(self._tokens(x_BCHW, arch))[-1][0], arch)

    def forward_all(self, x_BCHW: Tensor, arch: ArchConfig | None = None) -> list[Tensor]:
        """The logits of all classifiers that there are to train, the network's own last."""
        return [self(x_BCHW, arch)]

    def _classified(self, x_BNC: Tensor, arch: ArchConfig) -> Tensor:
        if arch.pool == CLS:
            x_BC = self.norm(x_BNC[:, 0], arch.norm_eps)
        else:
            x_BC = self.norm(x_BNC, arch.norm_eps).mean(1)
        logits: Tensor = self.head(x_BC)
        return logits

    def _tokens(self, x_BCHW: Tensor, arch: ArchConfig) -> Iterator[tuple[Tensor, Grid]]:
        x_BHWC = x_BCHW.permute(0, 2, 3, 1)
        for index in range(len(arch.stages)):
            x_BNC, grid = self.stages[index](x_BHWC, arch, index)
            x_BHWC = on_grid(x_BNC, grid)
            yield x_BNC, grid


def images_at_once(x_BHWC: Tensor, arch: ArchConfig, index: int) -> int:
    """How many images a stage takes through its blocks together; all of them on a GPU.

    On a CPU so many that their hidden activations stay below `BLOCK_BYTES`: fewer page faults and
    cache misses, in inference and in training (benchmarks/backbone.py).
    """
    B, H, W, _ = x_BHWC.shape
    if x_BHWC.device.type != "cpu" or torch.compiler.is_compiling():
        return B
    stage, side = arch.stages[index], 2 if index else arch.patch_size
    hidden = max(stage.hidden_dim(block) for block in range(stage.depth))
    image = -(-H // side) * -(-W // side) * hidden * x_BHWC.element_size()
    return max(1, BLOCK_BYTES // image)


def on_grid(x_BNC: Tensor, grid: Grid) -> Tensor:
    """The tokens of the grid [B, H, W, C], without a class token before them; no copy."""
    (H, W), (B, N, C) = grid, x_BNC.shape
    return x_BNC[:, N - H * W :].view(B, H, W, C)


def block_options(space: SearchSpace, index: int, block: int) -> dict[str, set[Any]]:
    """What a block may be: of each field of its stage the values, and of the mixer the letters."""
    options = space.stages[index]
    may = {
        name: set(groups[0] if len(groups) == 1 else groups[block])
        for name, groups in options.items()
    }
    return {**may, "mixer": {expand(mixer, block + 1)[block] for mixer in may["mixer"]}}


def attention_of(space: SearchSpace, index: int, may: Mapping[str, set[Any]]) -> Attention:
    """The attention over all that a block of a stage may be."""
    kinds = {kind for pe in may["pe"] for kind in pe.split("+")}
    reach, heads = reach_of(space, index, may), most_heads(space, index)
    rpe = RelativeBias(heads, reach, space.grid(index)) if "rpe" in kinds else None
    return Attention(max(space.stages[index]["embed_dim"][0]), may, rpe)


def reach_of(space: SearchSpace, index: int, may: Mapping[str, set[Any]]) -> Grid:
    """The largest (height, width) that a block may attend over at once: a window, or the grid."""
    grid = space.grid(index)
    local = {letter for letter in may["mixer"] if "window_size" in MIXERS[letter]}
    sides = [(1, 1), grid] if may["mixer"] - local else [(1, 1)]
    if local:
        sides += [
            fit_window(window, grid, fit)
            for window, fit in product(may["window_size"], space.arch["window_fit"])
            if window
        ]
    return (max(rows for rows, _ in sides), max(columns for _, columns in sides))


def most_heads(space: SearchSpace, index: int) -> int:
    """The largest number of heads over the stage's choices."""
    options = space.stages[index]
    pairs = product(options["embed_dim"][0], options["head_dim"][0])
    return max(int(dim // head) for dim, head in pairs if dim % head == 0)


def build(
    arch: ArchConfig,
    input_size: Grid,
    in_chans: int = 3,
    num_classes: int = 1000,
    drop_path: float = 0.0,
) -> Backbone:
    """The static network of one architecture."""
    return Backbone(SearchSpace.point(arch, input_size), in_chans, num_classes, drop_path)


def initialise(model: nn.Module, seed: int, by_name: bool = False, zero_peg: bool = False) -> None:
    """Draws all weights; the draw depends on `seed` alone.

    With `by_name` each layer draws for itself, from the seed and its name: two networks have equal
    weights wherever names and shapes agree, whatever else they have.

    Convolutions N(0, sqrt(2 / fan_out)), as the authors of Twins do (gvt.py); position tables
    truncated normal with a standard deviation of 0.02. Linear layers too are truncated normal,
    with the authors' 0.02 at 512 input channels and in proportion to 1 / sqrt(channels) elsewhere:
    at micro widths 0.02 itself leaves the branches almost silent, and a supernet of them was 6.7
    points worse after two epochs (docs/LOG.md).

    With `zero_peg` each PEG adds nothing at first, as residual branches that begin at zero do
    (Fixup, arXiv 1901.09321; ReZero, arXiv 2003.04887). The authors' PEG adds twice the variance
    of its input, which a network of its own learns to live with; a supernet, whose other encodings
    add next to nothing, does not. The other weights are the same with it and without.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, module in model.named_modules():
        if by_name:
            digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
            generator.manual_seed(int.from_bytes(digest[:7]))
        if isinstance(module, ElasticConv2d):
            kernel = module.weight.shape[-1]
            fan_out = kernel * kernel * (1 if module.depthwise else module.out_dim)
            normal = torch.randn(module.weight.shape, generator=generator)
            _set(module.weight, normal * math.sqrt(2.0 / fan_out))
        elif isinstance(module, ElasticLinear):
            std = 0.02 * math.sqrt(512 / module.weight.shape[1])
            _set(module.weight, _truncated(module.weight.shape, std, generator))
        elif isinstance(module, Elastic) and not isinstance(module, ElasticLayerNorm):
            for table in module.parameters(recurse=False):
                _set(table, _truncated(table.shape, 0.02, generator))
        if zero_peg and isinstance(module, PEG):
            nn.init.zeros_(module.weight)


def _set(parameter: nn.Parameter, values: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(values)


def _truncated(shape: torch.Size, std: float, generator: torch.Generator) -> Tensor:
    return nn.init.trunc_normal_(torch.empty(shape), std=std, a=-2, b=2, generator=generator)
