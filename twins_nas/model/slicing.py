"""Layers whose smaller forms are slices of their weights (weight entanglement, AutoFormer.

ArXiv 2107.00651).

Three laws hold for each and are tests over `ELASTIC`: no weight is copied at the largest size, no
gradient falls outside the active slice, and `take` makes a layer of the active size with the same
outputs.

Shapes: B batch, H W grid, C channels; `in_groups` and `out_groups` divide a dimension into equal
parts (q, k, v of a fused projection) of which each is sliced alike.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Elastic(nn.Module):
    """A layer that can take the slice of its own size out of a larger one of its class."""

    def take(self, source: Elastic) -> None:
        """Copies the parameters of the active slice, at this layer's own size.

        From a larger layer.
        """
        raise NotImplementedError


def _copy(target: nn.Parameter | None, value: Tensor | None) -> None:
    assert (target is None) == (value is None)
    if target is not None and value is not None:
        with torch.no_grad():
            target.copy_(value)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear`, by the quicker of two kernels.

    Without gradients, a large product on a CPU is a 1x1 convolution: it adds the bias on its way,
    where `F.linear` writes the bias first and reads it again. Whole networks are 1.03 to 1.06
    times as fast so with two threads (docs/LOG.md).
    """
    plain = x.device.type != "cpu" or x.dtype != torch.float32 or torch.compiler.is_compiling()
    if plain or torch.is_grad_enabled():
        return F.linear(x, weight, bias)
    rows, in_dim = x.shape[:-1].numel(), x.shape[-1]  # not while exporting: it fixes the batch
    if x.dim() < 3 or in_dim < 64 or rows < 1024:
        return F.linear(x, weight, bias)
    x_1CBN = x.reshape(1, x.shape[0], -1, in_dim).permute(0, 3, 1, 2)
    y_1CBN = F.conv2d(x_1CBN, weight[:, :, None, None], bias)
    return y_1CBN.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])


class ElasticLinear(Elastic):
    """A linear layer, sliced to the channels that come in and those that are asked for.

    Where `scaled` is set, a slice of n of N input channels is multiplied by sqrt(N / n): a sum of
    fewer terms is as large as the whole one then, as it is at first in a network of that width
    (weights are drawn in proportion to 1 / sqrt(channels)). AutoFormer's code has a switch that
    multiplies the outputs of slices by N / n (arXiv 2107.00651).
    """

    scaled = False

    def __init__(
        self, in_dim: int, out_dim: int, in_groups: int = 1, out_groups: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        self.in_dim, self.out_dim, self.in_groups, self.out_groups = (
            in_dim,
            out_dim,
            in_groups,
            out_groups,
        )
        self.weight = nn.Parameter(torch.empty(out_groups * out_dim, in_groups * in_dim))
        self.bias = nn.Parameter(torch.zeros(out_groups * out_dim)) if bias else None

    def sliced(
        self, in_dim: int, out_dim: int, first: int = 0, last: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Weight and bias for `in_dim` and `out_dim` channels a group.

        Of the output groups [first, last).
        """
        last = self.out_groups if last is None else last
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if (in_dim, out_dim) != (self.in_dim, self.out_dim):
            parts = weight.view(self.out_groups, self.out_dim, self.in_groups, self.in_dim)
            parts = parts[first:last, :out_dim, :, :in_dim]
            weight = parts.reshape((last - first) * out_dim, self.in_groups * in_dim)
            bias = (
                None
                if bias is None
                else bias.view(self.out_groups, self.out_dim)[first:last, :out_dim].reshape(-1)
            )
        elif (first, last) != (0, self.out_groups):
            weight = weight[first * out_dim : last * out_dim]
            bias = None if bias is None else bias[first * out_dim : last * out_dim]
        if self.scaled and in_dim != self.in_dim:
            weight = weight * math.sqrt(self.in_dim / in_dim)
        return weight, bias

    def forward(
        self, x: Tensor, out_dim: int | None = None, first: int = 0, last: int | None = None
    ) -> Tensor:
        """[..., in_groups * c] to [..., (last - first) * out_dim].

        `out_dim` is the largest by default.
        """
        weight, bias = self.sliced(
            x.shape[-1] // self.in_groups, out_dim or self.out_dim, first, last
        )
        return linear(x, weight, bias)

    def take(self, source: Elastic) -> None:
        """See `Elastic.take`."""
        assert isinstance(source, ElasticLinear)
        weight, bias = source.sliced(self.in_dim, self.out_dim)
        _copy(self.weight, weight)
        _copy(self.bias, bias)


class ElasticConv2d(Elastic):
    """A convolution over channels-last tokens, sliced like `ElasticLinear`.

    Depth-wise or full, square kernel.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        self.in_dim, self.out_dim, self.stride, self.padding, self.depthwise = (
            in_dim,
            out_dim,
            stride,
            padding,
            depthwise,
        )
        self.weight = nn.Parameter(torch.empty(out_dim, 1 if depthwise else in_dim, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_dim))

    def sliced(self, in_dim: int, out_dim: int) -> tuple[Tensor, Tensor]:
        """Weight and bias for `in_dim` input and `out_dim` output channels."""
        if (in_dim, out_dim) == (self.in_dim, self.out_dim):
            return self.weight, self.bias
        weight = self.weight[:out_dim] if self.depthwise else self.weight[:out_dim, :in_dim]
        return weight, self.bias[:out_dim]

    def forward(self, x_BHWC: Tensor, out_dim: int | None = None) -> Tensor:
        """[B, H, W, c] to [B, H', W', out_dim]."""
        in_dim = x_BHWC.shape[-1]
        out_dim = in_dim if self.depthwise else out_dim or self.out_dim
        weight, bias = self.sliced(in_dim, out_dim)
        groups = in_dim if self.depthwise else 1
        x_BCHW = x_BHWC.permute(0, 3, 1, 2)
        return F.conv2d(x_BCHW, weight, bias, self.stride, self.padding, groups=groups).permute(
            0, 2, 3, 1
        )

    def take(self, source: Elastic) -> None:
        """See `Elastic.take`."""
        assert isinstance(source, ElasticConv2d)
        weight, bias = source.sliced(self.in_dim, self.out_dim)
        _copy(self.weight, weight)
        _copy(self.bias, bias)


class ElasticLayerNorm(Elastic):
    """A LayerNorm over the channels that come in, `in_groups` equal parts of them."""

    def __init__(self, dim: int, in_groups: int = 1) -> None:
        super().__init__()
        self.dim, self.in_groups = dim, in_groups
        self.weight = nn.Parameter(torch.ones(in_groups * dim))
        self.bias = nn.Parameter(torch.zeros(in_groups * dim))

    def sliced(self, dim: int) -> tuple[Tensor, Tensor]:
        """Weight and bias of the first `dim` channels of each group."""
        if dim == self.dim:
            return self.weight, self.bias
        if self.in_groups == 1:
            return self.weight[:dim], self.bias[:dim]
        weight = self.weight.view(self.in_groups, self.dim)[:, :dim].reshape(-1)
        return weight, self.bias.view(self.in_groups, self.dim)[:, :dim].reshape(-1)

    def forward(self, x: Tensor, eps: float) -> Tensor:
        """[..., in_groups * c] to the same; `eps` belongs to the architecture, not to weights."""
        weight, bias = self.sliced(x.shape[-1] // self.in_groups)
        return F.layer_norm(x, (x.shape[-1],), weight, bias, eps)

    def take(self, source: Elastic) -> None:
        """See `Elastic.take`."""
        assert isinstance(source, ElasticLayerNorm)
        weight, bias = source.sliced(self.dim)
        _copy(self.weight, weight)
        _copy(self.bias, bias)
