"""What the networks of one step are trained on. Shapes: B batch, K classes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def hard_loss(logits_BK: Tensor, labels_B: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with label smoothing."""
    return F.cross_entropy(logits_BK.float(), labels_B, label_smoothing=smoothing)


def soft_loss(logits_BK: Tensor, teacher_BK: Tensor) -> Tensor:
    """Cross-entropy with the teacher's soft labels.

    Its KL divergence up to a constant (BigNAS, arXiv 2003.11142).
    """
    return F.cross_entropy(logits_BK.float(), teacher_BK.detach().float().softmax(1))
