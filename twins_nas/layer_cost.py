"""Parameters and multiply-adds of single layers, as formulas on plain integers.

MACs are what torch's `FlopCounterMode` counts, halved: convolutions and matrix products, those of
attention included. Norms, activations, softmax and additions are left out, as in the papers'
"FLOPs" up to 1 %.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Parameters and MACs; `attention_macs` is the part of `macs` in q @ k and attention @ v."""

    params: int = 0
    macs: int = 0
    attention_macs: int = 0

    def __add__(self, other: Cost) -> Cost:
        """The cost of both."""
        return Cost(
            self.params + other.params,
            self.macs + other.macs,
            self.attention_macs + other.attention_macs,
        )

    @property
    def macs_no_attention(self) -> int:
        """The papers' second convention: convolutions and linear layers only."""
        return self.macs - self.attention_macs


def linear(tokens: int, in_dim: int, out_dim: int, bias: bool = True) -> Cost:
    """A linear layer over `tokens` tokens."""
    return Cost(in_dim * out_dim + bias * out_dim, tokens * in_dim * out_dim)


def conv2d(out_positions: int, in_chans: int, out_chans: int, kernel: int, groups: int = 1) -> Cost:
    """A convolution with bias and a square kernel."""
    weights = kernel * kernel * (in_chans // groups) * out_chans
    return Cost(weights + out_chans, out_positions * weights)


def layer_norm(dim: int) -> Cost:
    """A LayerNorm's weight and bias."""
    return Cost(2 * dim)


def attention(queries: int, keys: int, dim: int, groups: int = 1) -> Cost:
    """Q @ k and attention @ v of `groups` independent groups (windows).

    Over all heads (`dim` channels).
    """
    macs = 2 * groups * queries * keys * dim
    return Cost(0, macs, macs)


def table(entries: int) -> Cost:
    """A learned table: parameters without MACs."""
    return Cost(entries)
