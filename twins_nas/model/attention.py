"""LSA, shifted LSA and GSA with one set of projections.

So that they are the same network where they coincide.

Shapes: B batch, H W grid, C channels, N tokens, G windows an image, S tokens a window, M
sub-sampled tokens, h heads, d head dim.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twins_nas.arch import SHIFTED, Grid, fit_window, padded
from twins_nas.model.position import RelativeBias
from twins_nas.model.slicing import ElasticConv2d, ElasticLayerNorm, ElasticLinear

PATCH_EPS = 1e-5
MASKED = -100.0


class SubSample(nn.Module):
    """GSA's strided convolution and LayerNorm.

    [B, H, W, C] to [B, H // r, W // r, C] (Twins, section 3.3).
    """

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.conv = ElasticConv2d(dim, dim, kernel=ratio, stride=ratio)
        self.norm = ElasticLayerNorm(dim, PATCH_EPS)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Sub-samples; rows and columns beyond a multiple of the ratio are dropped."""
        out: Tensor = self.norm(self.conv(x_BHWC, x_BHWC.shape[-1]))
        return out


class Attention(nn.Module):
    """One block's attention over all mixers, windows and ratios that the block may have."""

    def __init__(
        self, dim: int, ratios: Iterable[int], rpe: RelativeBias | None, window_fit: str
    ) -> None:
        super().__init__()
        self.window_fit = window_fit
        self.qkv = ElasticLinear(dim, dim, out_groups=3)
        self.proj = ElasticLinear(dim, dim)
        self.sr = nn.ModuleDict(
            {str(ratio): SubSample(dim, ratio) for ratio in sorted(set(ratios)) if ratio > 1}
        )
        self.rpe = rpe

    def local(
        self, x_BHWC: Tensor, head_dim: int, window_size: int, letter: str, rpe: bool, fit: str
    ) -> Tensor:
        """LSA (`L`) or shifted LSA (`S`).

        A grid that windows do not tile is zero-padded, as timm does.
        """
        _, H, W, C = x_BHWC.shape
        window = fit_window(window_size, (H, W), fit)
        shift = (0, 0)
        if letter == SHIFTED:
            shift = (window[0] // 2 * (window[0] < H), window[1] // 2 * (window[1] < W))
            if any(shift):
                x_BHWC = x_BHWC.roll((-shift[0], -shift[1]), (1, 2))
        full = padded((H, W), window)
        if full != (H, W):
            x_BHWC = F.pad(x_BHWC, (0, 0, 0, full[1] - W, 0, full[0] - H))
        x_GSC = to_windows(x_BHWC, window)
        heads = C // head_dim
        bias = self.rpe.window(heads, window) if rpe and self.rpe is not None else None
        if any(shift):
            mask = shift_mask(full, window, shift, x_GSC.device, x_GSC.dtype)[:, None]
            bias = mask if bias is None else mask + bias
            bias = bias.repeat(x_BHWC.shape[0], 1, 1, 1)
        q, k, v = (
            self.qkv(x_GSC, C).view(*x_GSC.shape[:2], 3, heads, head_dim).permute(2, 0, 3, 1, 4)
        )
        x_GSC = attend(q, k, v, bias).reshape(x_GSC.shape)
        x_BHWC = from_windows(x_GSC, full, window)
        if full != (H, W):
            x_BHWC = x_BHWC[:, :H, :W]
        if any(shift):
            x_BHWC = x_BHWC.roll(shift, (1, 2))
        out: Tensor = self.proj(x_BHWC, C)
        return out

    def glob(self, x_BHWC: Tensor, head_dim: int, ratio: int, rpe: bool) -> Tensor:
        """GSA: every token attends to the keys and values of the sub-sampled grid."""
        B, H, W, C = x_BHWC.shape
        heads = C // head_dim
        bias = self.rpe.subsampled(heads, (H, W), ratio) if rpe and self.rpe is not None else None
        if ratio == 1:
            qkv = self.qkv(x_BHWC, C).view(B, H * W, 3, heads, head_dim)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
        else:
            keys = self.sr[str(ratio)](x_BHWC).flatten(1, 2)
            q = self.qkv(x_BHWC, C, 0, 1).view(B, H * W, heads, head_dim).transpose(1, 2)
            kv = self.qkv(keys, C, 1, 3).view(B, keys.shape[1], 2, heads, head_dim)
            k, v = kv.permute(2, 0, 3, 1, 4)
        out: Tensor = self.proj(attend(q, k, v, bias).reshape(B, H, W, C), C)
        return out


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Scaled dot-product attention of [B, h, N, d] with keys [B, h, M, d]; gives [B, N, h, d]."""
    if bias is not None and bias.dtype != q.dtype:
        bias = bias.to(q.dtype)
    if bias is not None and bias.requires_grad and q.device.type == "cpu":
        # Torch's own path for a learned bias here is this one with a search for rows of -inf.
        return (((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias).softmax(-1) @ v).transpose(
            1, 2
        )
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2)


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
