"""The MLP of a block. Shapes: B batch, H W grid, C channels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from twins_nas.model.slicing import ElasticLinear


class FeedForward(nn.Module):
    """Linear, GELU, linear; the hidden width is an argument."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = ElasticLinear(dim, hidden_dim)
        self.fc2 = ElasticLinear(hidden_dim, dim)

    def forward(self, x_BHWC: Tensor, hidden_dim: int) -> Tensor:
        """Keeps the shape."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x_BHWC, hidden_dim)), x_BHWC.shape[-1])
        return out
