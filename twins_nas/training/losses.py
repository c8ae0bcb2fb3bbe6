"""What the networks of one step are trained on. Shapes: B batch, K classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

CLIP = 5.0
"""The largest ratio of probabilities that `adaptive_loss` weighs with, as in AlphaNet."""


def hard_loss(logits_BK: Tensor, labels_B: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with label smoothing."""
    return F.cross_entropy(logits_BK.float(), labels_B, label_smoothing=smoothing)


def soft_loss(logits_BK: Tensor, teacher_BK: Tensor) -> Tensor:
    """Cross-entropy with the teacher's soft labels.

    Its KL divergence up to a constant (BigNAS, arXiv 2003.11142).
    """
    return F.cross_entropy(logits_BK.float(), teacher_BK.detach().float().softmax(1))


def adaptive_loss(logits_BK: Tensor, teacher_BK: Tensor) -> Tensor:
    """For each image the larger of two alpha-divergences (AlphaNet, arXiv 2102.07954).

    D_a(p || q) = sum q ((p / q)^a - 1) / (a (a - 1)), p the teacher's probabilities: at a = 1, the
    KL divergence, it punishes a student that is sure of too little, at a = -1 one that is sure of
    too much. The gradient is -1 / a sum q (p / q)^a d log q, and (p / q)^-1 in it is at most
    `CLIP`, or single images of an uncertain teacher would govern the step.
    """
    log_q, log_p = logits_BK.float().log_softmax(1), teacher_BK.detach().float().log_softmax(1)
    q, p = log_q.detach().exp(), log_p.exp()
    ratio = (log_q.detach() - log_p).exp().clamp(max=CLIP)
    under = (p * (log_p - log_q.detach())).sum(1)
    over = (q * (ratio - 1)).sum(1) / 2
    weights = torch.where((over > under)[:, None], -q * ratio, p)
    falls = -(weights * log_q).sum(1)
    return (torch.maximum(over, under) + falls - falls.detach()).mean()


DISTILL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"kl": soft_loss, "alpha": adaptive_loss}
"""The words of `distill`, but for `none`."""
