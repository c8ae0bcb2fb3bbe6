"""PVT and CPVT against plain modules written from the papers, and the class token's definition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from twins_nas.arch import CLS, ArchConfig, StageConfig
from twins_nas.errors import UserError
from twins_nas.model import attention
from twins_nas.model.backbone import Backbone, build, initialise
from twins_nas.model.transfer import from_pvt
from twins_nas.seeds import cpvt, pvt, seed


class PlainAttention(nn.Module):
    """PVT's spatial-reduction attention (2102.12122, section 3.3), by its formula."""

    def __init__(self, dim: int, heads: int, sr: int) -> None:
        super().__init__()
        self.heads, self.ratio = heads, sr
        self.q, self.kv, self.proj = (
            nn.Linear(dim, dim),
            nn.Linear(dim, 2 * dim),
            nn.Linear(dim, dim),
        )
        if sr > 1:
            self.sr, self.norm = nn.Conv2d(dim, dim, sr, sr), nn.LayerNorm(dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """[B, N, C] to the same."""
        batch, _, dim = x.shape
        source = x
        if self.ratio > 1:
            image = x.transpose(1, 2).reshape(batch, dim, height, width)
            source = self.norm(self.sr(image).flatten(2).transpose(1, 2))
        queries = self.q(x).chunk(self.heads, -1)
        keys, values = self.kv(source).chunk(2, -1)
        heads = []
        for q, k, v in zip(
            queries, keys.chunk(self.heads, -1), values.chunk(self.heads, -1), strict=True
        ):
            scores = q @ k.transpose(1, 2) / (dim // self.heads) ** 0.5
            heads.append(scores.softmax(-1) @ v)
        return self.proj(torch.cat(heads, -1))


class PlainBlock(nn.Module):
    """Pre-norm block with epsilon 1e-6."""

    def __init__(self, dim: int, heads: int, mlp: float, sr: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, 1e-6), nn.LayerNorm(dim, 1e-6)
        self.attn = PlainAttention(dim, heads, sr)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(dim, int(dim * mlp)), "fc2": nn.Linear(int(dim * mlp), dim)}
        )

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """[B, N, C] to the same."""
        x = x + self.attn(self.norm1(x), height, width)
        return x + self.mlp["fc2"](nn.functional.gelu(self.mlp["fc1"](self.norm2(x))))


class PlainEmbed(nn.Module):
    """Patches, then a LayerNorm of torch's epsilon."""

    def __init__(self, chans: int, dim: int, patch: int) -> None:
        super().__init__()
        self.proj, self.norm = nn.Conv2d(chans, dim, patch, patch), nn.LayerNorm(dim)


class PlainPVT(nn.Module):
    """PVT by the names of the authors' checkpoints."""

    def __init__(self, arch: ArchConfig, size: int, classes: int) -> None:
        super().__init__()
        self.depths, chans, side = [stage.depth for stage in arch.stages], 3, size // 4
        for index, stage in enumerate(arch.stages, 1):
            dim, last = stage.embed_dim, index == len(arch.stages)
            self.add_module(f"patch_embed{index}", PlainEmbed(chans, dim, 4 if index == 1 else 2))
            tokens = side * side + last
            self.register_parameter(f"pos_embed{index}", nn.Parameter(torch.zeros(1, tokens, dim)))
            blocks = [
                PlainBlock(dim, stage.num_heads, stage.mlp_ratio[0], stage.sr_ratio[0])
                for _ in range(stage.depth)
            ]
            self.add_module(f"block{index}", nn.ModuleList(blocks))
            chans, side = dim, side // 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, chans))
        self.norm, self.head = nn.LayerNorm(chans, 1e-6), nn.Linear(chans, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Logits."""
        for index in range(1, len(self.depths) + 1):
            embed: Any = getattr(self, f"patch_embed{index}")
            image = embed.proj(image)
            height, width = image.shape[2:]
            x = embed.norm(image.flatten(2).transpose(1, 2))
            if index == len(self.depths):
                x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
            x = x + getattr(self, f"pos_embed{index}")
            for block in getattr(self, f"block{index}"):
                x = block(x, height, width)
            if index < len(self.depths):
                image = x.transpose(1, 2).reshape(len(x), -1, height, width)
        return self.head(self.norm(x)[:, 0])


def randomise(model: nn.Module) -> None:
    """Values of a size that leaves no branch silent."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(model, Backbone):
        initialise(model, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def agree(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two results are the same to 1e-5 of the largest."""
    return bool((ours - theirs).abs().max() <= 1e-5 * theirs.abs().max())


@pytest.mark.parametrize(("name", "size"), [("pvt_tiny", 224), ("small", 64), ("small", 96)])
def test_pvt(name: str, size: int) -> None:
    """Official names are read; logits and gradients of the images are those of plain PVT."""
    arch = seed(name) if name == "pvt_tiny" else pvt((16, 32, 48, 64), (2, 1, 2, 2), head_dim=16)
    plain = PlainPVT(arch, size, 10)
    randomise(plain)
    ours = from_pvt(plain.state_dict(), arch, (size, size))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in plain.parameters())
    results = []
    for model in (ours, plain):
        # In float64, for float32 rounds these gradients by 1e-5, which is the bound.
        generator = torch.Generator().manual_seed(1)
        images = torch.randn(2, 3, size, size, generator=generator, dtype=torch.float64)
        images.requires_grad_()
        logits = model.double()(images)
        logits.square().sum().backward()
        results.append((logits.detach(), images.grad))
    assert all(agree(one, other) for one, other in zip(*results, strict=True))


def test_weights_that_do_not_fit_pvt_are_refused() -> None:
    """Naming the keys."""
    arch = pvt((16, 32, 48, 64), (2, 1, 2, 2), head_dim=16)
    state = PlainPVT(arch, 64, 10).state_dict()
    state["more.weight"] = state.pop("block2.0.attn.kv.bias")
    state["pos_embed3"] = torch.zeros(1, 5, 48)
    with pytest.raises(UserError) as error:
        from_pvt(state, arch, (64, 64))
    assert str(error.value) == (
        "The weights do not fit the architecture. Missing: block2.0.attn.kv.bias;"
        " not known: more.weight; of another shape: pos_embed3 (1, 5, 48) for (4, 4, 48)."
    )
    with pytest.raises(
        UserError, match="in each stage mixer G, pe ape, peg_blocks 1, subsampling conv"
    ):
        from_pvt(state, seed("twins_pcpvt_micro"), (64, 64))


@pytest.mark.parametrize(("pegs", "pool"), [(1, CLS), (5, CLS), (5, "gap")])
def test_cpvt(pegs: int, pool: str) -> None:
    """DeiT's blocks with PEGs after the first ones; patches without a norm, token 0 or the mean."""
    one = cpvt(64, pegs, pool)
    stage = replace(one.stages[0], embed_dim=32, head_dim=16, depth=6)
    arch = replace(one, stages=(stage,))
    ours: Any = build(arch, (64, 48), 3, 10)
    randomise(ours)
    images = torch.randn(2, 3, 64, 48)
    parts: Any = ours.stages[0]
    conv = parts.embed["16"].conv
    x = nn.functional.conv2d(images, conv.weight, conv.bias, 16)
    height, width = x.shape[2:]
    x = x.flatten(2).transpose(1, 2)
    first = int(pool == CLS)
    if first:
        x = torch.cat([parts.cls.token.expand(2, 1, 32), x], 1)
    for index, block in enumerate(parts.blocks):
        plain = PlainBlock(32, 2, 4.0, 1)
        state = {name: value for name, value in block.state_dict().items() if "qkv" not in name}
        for part in ("weight", "bias"):
            q, kv = block.attn.qkv.get_parameter(part).split([32, 64])
            state |= {f"attn.q.{part}": q, f"attn.kv.{part}": kv}
        plain.load_state_dict(state)
        x = plain(x, height, width)
        if index < pegs:
            patches = x[:, first:].transpose(1, 2).reshape(2, 32, height, width)
            peg = parts.cpe[index]
            moved = nn.functional.conv2d(patches, peg.weight, peg.bias, padding=1, groups=32)
            x = torch.cat([x[:, :first], (patches + moved).flatten(2).transpose(1, 2)], 1)
    x = nn.functional.layer_norm(x, (32,), ours.norm.weight, ours.norm.bias, 1e-6)
    x = x[:, 0] if first else x.mean(1)
    with torch.no_grad():
        assert agree(ours(images), ours.head(x))
    assert len(parts.cpe) == pegs


@pytest.mark.parametrize("pe", ["none", "rpe"])
@pytest.mark.parametrize("mixer", ["L", "S"])
def test_a_class_token_sees_all_windows_and_is_seen_by_each(mixer: str, pe: str) -> None:
    """Attention over a mask of who sees whom, written token by token, on 5x6 tokens."""
    grid, window, dim, heads = (5, 6), 3, 16, 2
    stage = StageConfig(dim, 8, 1, mixer, (window,), (0,), pe, (2.0,))
    arch = ArchConfig((stage,), 2, pool=CLS)
    ours: Any = build(arch, (10, 12), 1, 3)
    randomise(ours)
    layer: Any = ours.stages[0].blocks[0].attn
    x = torch.randn(1, 1 + grid[0] * grid[1], dim)
    # Shifted, then padded to 6x6 with tokens that are 0 and are keys like any other.
    shift = window // 2 if mixer == "S" else 0
    rows, columns = 6, 6
    board = torch.zeros(rows, columns, dim)
    board[:5, :6] = x[0, 1:].view(5, 6, dim).roll((-shift, -shift), (0, 1))
    tokens = torch.cat([x[0, :1], board.view(-1, dim)])
    q, k, v = layer.qkv(tokens).view(-1, 3, heads, 8).permute(1, 2, 0, 3)
    scores = q @ k.transpose(1, 2) / 8**0.5

    def region(at: int, side: int) -> int:
        if not shift or at < side - window:
            return 0
        return 1 if at < side - shift else 2

    places = [(row, column) for row in range(rows) for column in range(columns)]
    for i, (row, column) in enumerate(places, 1):
        for j, (other_row, other_column) in enumerate(places, 1):
            apart = (row // window, column // window) != (
                other_row // window,
                other_column // window,
            )
            if apart:
                scores[:, i, j] = -torch.inf
                continue
            if (region(row, rows), region(column, columns)) != (
                region(other_row, rows),
                region(other_column, columns),
            ):
                scores[:, i, j] += -100.0
            if pe == "rpe":
                offset = (row - other_row + window - 1, column - other_column + window - 1)
                scores[:, i, j] = scores[:, i, j] + layer.rpe.table[(slice(None), *offset)]
    out = (scores.softmax(-1) @ v).transpose(0, 1).reshape(-1, dim)
    image = out[1:].view(rows, columns, dim)[:5, :6].roll((shift, shift), (0, 1))
    expected = layer.proj(torch.cat([out[:1], image.reshape(-1, dim)]))
    with torch.no_grad():
        assert agree(layer(x, grid, arch, 0, 0)[0], expected)


@pytest.mark.parametrize("ratio", [1, 2])
def test_a_class_token_has_the_bias_0_in_gsa(ratio: int) -> None:
    """Sub-sampled or not; the other tokens have theirs."""
    stage = StageConfig(16, 8, 1, "G", (0,), (ratio,), "rpe", (2.0,))
    ours: Any = build(ArchConfig((stage,), 2, pool=CLS), (8, 8), 1, 3)
    randomise(ours)
    seen: list[Tensor] = []
    whole = attention.attend

    def note(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        seen.append(bias)
        return whole(q, k, v, bias)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(attention, "attend", note)
        ours(torch.randn(1, 1, 8, 8))
    (bias,) = seen
    assert bias.shape == (2, 17, 1 + 16 // ratio**2)
    assert not bias[:, 0].any() and not bias[:, :, 0].any()
    rpe: Any = ours.stages[0].blocks[0].attn.rpe
    assert torch.equal(bias[:, 1:, 1:], rpe.subsampled(2, (4, 4), ratio))


@pytest.mark.parametrize("mixer", ["G", "LS", "LG"])
def test_features_leave_the_class_token_out(mixer: str) -> None:
    """`forward_stages` gives the grid of each stage."""
    stage = StageConfig(16, 8, 2, mixer, (2, 2), (2, 2), "ape+cpe", (2.0, 2.0))
    model = build(ArchConfig((stage, stage), 2, pool=CLS), (16, 24), 1, 3)
    images = torch.randn(2, 1, 16, 24)
    shapes = [tuple(item.shape) for item in model.forward_stages(images)]
    assert shapes == [(2, 8, 12, 16), (2, 4, 6, 16)]
    assert model(images).shape == (2, 3)
