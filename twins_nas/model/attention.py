"""LSA, shifted LSA and GSA with one set of projections.

So that they are the same network where they coincide.

A class token, the first where there is one, attends to every key of the image and is a key of every
query: of each window too, with the bias 0 and past no mask, so that a window over the whole grid is
still GSA with ratio 1. GSA's sub-sampling and the windows are of the grid alone.

Shapes: B batch, H W grid, C channels, N tokens (those of the grid, and the class token), G windows
an image, S tokens a window, M sub-sampled tokens, h heads, d head dim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twins_nas.arch import CONV, GSA, LSA, SHIFTED, ArchConfig, Grid, fit_window, padded, shift_of
from twins_nas.model.position import RelativeBias
from twins_nas.model.slicing import ElasticConv2d, ElasticLayerNorm, ElasticLinear

MASKED = -100.0


class SubSample(nn.Module):
    """GSA's strided convolution and LayerNorm.

    [B, H, W, C] to [B, H // r, W // r, C] (Twins, section 3.3).
    """

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.conv = ElasticConv2d(dim, dim, kernel=ratio, stride=ratio)
        self.norm = ElasticLayerNorm(dim)

    def forward(self, x_BHWC: Tensor, eps: float) -> Tensor:
        """Sub-samples; rows and columns beyond a multiple of the ratio are dropped."""
        out: Tensor = self.norm(self.conv(x_BHWC, x_BHWC.shape[-1]), eps)
        return out


class SeparableSubSample(nn.Module):
    """Its separable form: a strided depth-wise convolution, a point-wise one, LayerNorm."""

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.depthwise = ElasticConv2d(dim, dim, kernel=ratio, stride=ratio, depthwise=True)
        self.pointwise = ElasticConv2d(dim, dim, kernel=1)
        self.norm = ElasticLayerNorm(dim)

    def forward(self, x_BHWC: Tensor, eps: float) -> Tensor:
        """As `SubSample`."""
        out: Tensor = self.norm(self.pointwise(self.depthwise(x_BHWC), x_BHWC.shape[-1]), eps)
        return out


class PooledSubSample(nn.Module):
    """The mean of each patch, without weights, then LayerNorm as after the convolution."""

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.ratio = ratio
        self.norm = ElasticLayerNorm(dim)

    def forward(self, x_BHWC: Tensor, eps: float) -> Tensor:
        """As `SubSample`."""
        means_BCHW = F.avg_pool2d(x_BHWC.permute(0, 3, 1, 2), self.ratio)
        out: Tensor = self.norm(means_BCHW.permute(0, 2, 3, 1), eps)
        return out


SUBSAMPLES: dict[str, Callable[[int, int], nn.Module]] = {
    "conv": SubSample,
    "separable": SeparableSubSample,
    "pool": PooledSubSample,
}


def sr_name(kind: str, ratio: int) -> str:
    """The key of a kind among a block's modules; the convolution has the name of old weights."""
    return str(ratio) if kind == CONV else f"{ratio}_{kind}"


class Attention(nn.Module):
    """One block's attention over all that the block `may` be (see `backbone.block_options`)."""

    def __init__(self, dim: int, may: Mapping[str, set[Any]], rpe: RelativeBias | None) -> None:
        super().__init__()
        self.qkv = ElasticLinear(dim, dim, out_groups=3)
        self.proj = ElasticLinear(dim, dim)
        ratios = sorted(may["sr_ratio"]) if GSA in may["mixer"] else []
        self.sr = nn.ModuleDict(
            {
                sr_name(kind, ratio): SUBSAMPLES[kind](dim, ratio)
                for ratio, kind in product(ratios, sorted(may["subsampling"]))
                if ratio > 1
            }
        )
        self.rpe = rpe

    def forward(
        self, x_BNC: Tensor, grid: Grid, arch: ArchConfig, index: int, block: int
    ) -> Tensor:
        """The attention of block number `block` of stage `index`; keeps the shape."""
        stage = arch.stages[index]
        rpe = self.rpe if "rpe" in stage.pe_kinds else None
        if stage.letters[block] == GSA:
            ratio, kind = stage.sr_ratio[block], stage.subsampling
            x_BNC = self.glob(x_BNC, grid, stage.head_dim, ratio, kind, rpe, arch.patch_eps)
        else:
            assert stage.letters[block] in (LSA, SHIFTED)
            window = fit_window(stage.window_size[block], grid, arch.window_fit)
            shift = shift_of(window, grid) if stage.letters[block] == SHIFTED else (0, 0)
            x_BNC = self.local(x_BNC, grid, stage.head_dim, window, shift, rpe)
        out: Tensor = self.proj(x_BNC, x_BNC.shape[-1])
        return out

    def local(
        self,
        x_BNC: Tensor,
        grid: Grid,
        head_dim: int,
        window: Grid,
        shift: Grid,
        rpe: RelativeBias | None,
    ) -> Tensor:
        """LSA, shifted LSA where `shift` is not 0.

        A grid that windows do not tile is zero-padded, as timm does.
        """
        (H, W), (B, N, C) = grid, x_BNC.shape
        heads, first = C // head_dim, N - H * W
        x_BHWC = x_BNC[:, first:].view(B, H, W, C)
        if any(shift):
            x_BHWC = x_BHWC.roll((-shift[0], -shift[1]), (1, 2))
        full = padded(grid, window)
        if full != grid:
            x_BHWC = F.pad(x_BHWC, (0, 0, 0, full[1] - W, 0, full[0] - H))
        x_GSC = to_windows(x_BHWC, window)
        bias = None if rpe is None else rpe.window(heads, window)
        if any(shift):
            mask = shift_mask(full, window, shift, x_GSC.device, x_GSC.dtype)[:, None]
            bias = mask if bias is None else mask + bias
        q, k, v = self._heads(x_GSC, heads)
        if first:
            token_q, *token_kv = self._heads(x_BNC[:, :1], heads)
            kv = [of_image(item, B) for item in (k, v)]
            kv = [torch.cat(pair, 2) for pair in zip(token_kv, kv, strict=True)]
            token_B1C = attend(token_q, kv[0], kv[1], None).reshape(B, 1, C)
            k, v = (
                torch.cat([token.repeat_interleave(item.shape[0] // B, 0), item], 2)
                for token, item in zip(token_kv, (k, v), strict=True)
            )
            bias = None if bias is None else F.pad(bias, (1, 0))
        x_BHWC = from_windows(attend(q, k, v, bias).reshape(x_GSC.shape), full, window)
        if full != grid:
            x_BHWC = x_BHWC[:, :H, :W]
        if any(shift):
            x_BHWC = x_BHWC.roll(shift, (1, 2))
        x_BNC = x_BHWC.reshape(B, H * W, C)
        return torch.cat([token_B1C, x_BNC], 1) if first else x_BNC

    def glob(
        self,
        x_BNC: Tensor,
        grid: Grid,
        head_dim: int,
        ratio: int,
        kind: str,
        rpe: RelativeBias | None,
        eps: float,
    ) -> Tensor:
        """GSA: every token attends to the keys and values of the sub-sampled grid."""
        (H, W), (B, N, C) = grid, x_BNC.shape
        heads, first = C // head_dim, N - H * W
        bias = None if rpe is None else rpe.subsampled(heads, grid, ratio)
        if bias is not None and first:
            bias = F.pad(bias, (1, 0, 1, 0))
        if ratio == 1:
            q, k, v = self._heads(x_BNC, heads)
        else:
            subsample = self.sr[sr_name(kind, ratio)]
            keys = subsample(x_BNC[:, first:].view(B, H, W, C), eps).flatten(1, 2)
            if first:
                keys = torch.cat([x_BNC[:, :1], keys], 1)
            (q,) = self._heads(x_BNC, heads, 0, 1)
            k, v = self._heads(keys, heads, 1, 3)
        return attend(q, k, v, bias).reshape(B, N, C)

    def _heads(self, x_BNC: Tensor, heads: int, first: int = 0, last: int = 3) -> Tensor:
        """The parts [first, last) of q, k and v, each [B, h, N, d]."""
        (B, N, C), parts = x_BNC.shape, last - first
        out: Tensor = self.qkv(x_BNC, C, first, last).view(B, N, parts, heads, C // heads)
        return out.permute(2, 0, 3, 1, 4)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Scaled dot-product attention of [B, h, N, d] with keys [B, h, M, d]; gives [B, N, h, d].

    A bias is of every item, [h, N, M], or of the windows of each image, [G, h, N, M].
    """
    if bias is not None and bias.dtype != q.dtype:
        bias = bias.to(q.dtype)
    learned = bias is not None and bias.requires_grad and q.device.type == "cpu"
    if learned or torch.compiler.is_exporting():
        # Torch's own path for a learned bias on CPU is this one with a search for rows of -inf; its
        # export computes shapes in the graph.
        weights: Tensor = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        if bias is not None and bias.dim() == 4:
            per_image = weights.view(-1, len(bias), *weights.shape[1:]) + bias
            weights = per_image.view(weights.shape)
        elif bias is not None:
            weights = weights + bias
        return (weights.softmax(-1) @ v).transpose(1, 2)
    if bias is not None and bias.dim() == 4:
        bias = bias.repeat(len(q) // len(bias), 1, 1, 1)
    elif bias is not None:
        bias = bias[None]  # Torch's fused kernel on the CPU takes no other.
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2)


def of_image(k_GhSd: Tensor, batch: int) -> Tensor:
    """The keys of all windows, [B * G, h, S, d], as those of an image, [B, h, G * S, d]."""
    _, heads, S, head_dim = k_GhSd.shape
    return k_GhSd.reshape(batch, -1, heads, S, head_dim).transpose(1, 2).flatten(2, 3)


def to_windows(x_BHWC: Tensor, window: Grid) -> Tensor:
    """[B, H, W, C] to [B * G, S, C]."""
    B, H, W, C = x_BHWC.shape
    if window == (H, W):
        return x_BHWC.reshape(B, H * W, C)
    rows, columns = H // window[0], W // window[1]
    x = x_BHWC.view(B, rows, window[0], columns, window[1], C).transpose(2, 3)
    return x.reshape(B * rows * columns, window[0] * window[1], C)


def from_windows(x_GSC: Tensor, grid: Grid, window: Grid) -> Tensor:
    """[B * G, S, C] back to [B, H, W, C]."""
    (H, W), C = grid, x_GSC.shape[-1]
    if window == grid:
        return x_GSC.view(-1, H, W, C)
    rows, columns = H // window[0], W // window[1]
    x = x_GSC.view(-1, rows, columns, window[0], window[1], C).transpose(2, 3)
    return x.reshape(-1, H, W, C)


def shift_mask(
    grid: Grid, window: Grid, shift: Grid, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Mask [G, S, S] that keeps tokens of a shifted window from those of the other side (Swin.

    ArXiv 2103.14030).
    """
    regions = []
    for side, size, step in zip(grid, window, shift, strict=True):
        region = torch.zeros(side, device=device)
        region[side - size :] = 1
        if step:
            region[side - step :] = 2
        regions.append(region)
    label = (regions[0][:, None] * 3 + regions[1][None, :])[None, :, :, None]
    label_GS = to_windows(label, window)[..., 0]
    return (label_GS[:, :, None] != label_GS[:, None, :]).to(dtype) * MASKED
