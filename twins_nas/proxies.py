"""Zero-cost proxies: scores of networks that were never trained, from one batch of images.

Each is a function of a network at its initial weights, of a batch and of a generator (used where
the proxy draws); higher is better. All are our own short forms for transformers of papers that had
convolutional networks in mind, but for DSS; each says what it changes. Which layer is what follows
from the modules' classes, so that any network of such modules can be scored.

Shapes: B images, C channels, H W pixels, U units of an MLP's hidden layer (over all tokens).
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twins_nas.arch import ArchConfig, Grid
from twins_nas.model.attention import Attention
from twins_nas.model.backbone import Backbone, build, initialise
from twins_nas.model.ffn import FeedForward
from twins_nas.model.slicing import ElasticLayerNorm

NORMS = (ElasticLayerNorm, nn.LayerNorm)
PERTURBATION = 0.01
"""Zen's alpha, the authors' value."""


class Batch(NamedTuple):
    """Normalised images and their labels."""

    x_BCHW: Tensor
    labels_B: Tensor


Proxy = Callable[[nn.Module, Batch, torch.Generator], float]


def grad_norm(model: nn.Module, batch: Batch, generator: torch.Generator) -> float:
    """Gradient norm: the norms of the loss's gradients by each weight tensor, summed.

    Source: M. S. Abdelfattah et al., "Zero-cost proxies for lightweight NAS", arXiv 2101.08134:
    the sum over layers of || dL/dW ||_2 after one minibatch. Biases and tables count as weights.
    """
    loss = F.cross_entropy(model(batch.x_BCHW), batch.labels_B)
    return sum(float(grad.norm()) for grad in _gradients(model, loss).values())


def synflow(model: nn.Module, batch: Batch, generator: torch.Generator) -> float:
    """SynFlow: the logarithm of the sum over weights of |w| dR/d|w|.

    R is the sum of the outputs for an image of ones through the absolute weights. Source:
    H. Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic
    flow", arXiv 2006.05467. Changed: LayerNorm passes its input on (it would undo the flow, as
    batch norm does, which the authors leave out too), and attention is the mean of the values: its
    logits have no bound then, and of a saturated softmax not even the gradient can be computed. In
    float64, and the logarithm, which changes no order.
    """
    linear = _absolute(model)
    norms = [module for module in linear.modules() if isinstance(module, NORMS)]
    hooks = [norm.register_forward_hook(lambda _, inputs, output: inputs[0]) for norm in norms]
    for module in linear.modules():
        if isinstance(module, Attention):
            queries = module.qkv.weight.detach().chunk(3)[0]
            queries.zero_()
    flow = _flow(linear, batch)
    for hook in hooks:
        hook.remove()
    grads = _gradients(linear, flow)
    flows = [float((weight.detach() * grad).sum()) for weight, grad in grads.items()]
    return _log(sum(flows))


def naswot(model: nn.Module, batch: Batch, generator: torch.Generator) -> float:
    """NASWOT: log det of how alike the images' binary codes are.

    Source: J. Mellor et al., "Neural architecture search without training", arXiv 2006.04647:
    K_ij = U - d_H(c_i, c_j), with the Hamming distance of codes of U units, 1 where the input of a
    ReLU is above 0. Changed: GELU's input in place of ReLU's, over all tokens and MLPs; the
    identity is added to K, so that images of one code give a low number, not minus infinity.
    """
    kernel_BB = torch.zeros(len(batch.x_BCHW), len(batch.x_BCHW), dtype=torch.float64)

    with _hidden(model) as parts, torch.no_grad():
        model(batch.x_BCHW)
    for outputs in parts.values():
        hidden_BU = torch.cat([part.flatten(1) for part in outputs]).cpu()
        on_BU = (hidden_BU > 0).double()
        off_BU = 1 - on_BU
        kernel_BB += on_BU @ on_BU.T + off_BU @ off_BU.T
    return float(torch.linalg.slogdet(kernel_BB + torch.eye(len(kernel_BB))).logabsdet)


def dss(model: nn.Module, batch: Batch, generator: torch.Generator) -> float:
    """DSS: the logarithm of synaptic diversity of attention plus saliency of MLPs.

    Source: Q. Zhou et al., "Training-free transformer architecture search", arXiv 2203.12217: the
    sum over the matrices of attention of || dR/dW ||_nuc || W ||_nuc, plus the sum over weights of
    MLPs of | w dR/dw |; R is the sum of the outputs for an image of ones through the absolute
    weights, norms included (so the authors' code). Here q, k, v and the output projection are a
    matrix each, and the embeddings and the classifier, which that code adds, are left out. In
    float64, and the logarithm.
    """
    linear = _absolute(model)
    flow = _flow(linear, batch)
    grads = _gradients(linear, flow)
    diversity = saliency = 0.0
    for module in linear.modules():
        if isinstance(module, Attention):
            for layer, parts in ((module.qkv, 3), (module.proj, 1)):
                pairs = (layer.weight.detach().chunk(parts), grads[layer.weight].chunk(parts))
                for weight, grad in zip(*pairs, strict=True):
                    diversity += float(_nuclear(grad) * _nuclear(weight))
        elif isinstance(module, FeedForward):
            for layer in (module.fc1, module.fc2):
                saliency += float((layer.weight.detach() * grads[layer.weight]).abs().sum())
    return _log(diversity + saliency)


def zen(model: nn.Module, batch: Batch, generator: torch.Generator) -> float:
    """Zen-score: the log of how far the features move when the input moves, in its own units.

    log || f(x) - f(x + alpha e) ||, x and e Gaussian, plus the log of what each norm divided by.
    Source: M. Lin et al., "Zen-NAS: a zero-shot NAS for high-performance deep image recognition",
    arXiv 2102.01063, where batch norm divides by a channel's sigma. Changed: LayerNorm divides each
    token by its own, of which the root mean square counts; residual paths stay; f are the tokens
    of the last stage, before the last norm. The distance is that of an image, on average.
    """
    shape = batch.x_BCHW.shape
    device, dtype = batch.x_BCHW.device, batch.x_BCHW.dtype
    x, e = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(2))
    with torch.no_grad():
        with _variances(model) as variances:
            before = _features(model, x)
        after = _features(model, x + PERTURBATION * e)
    moved = (before - after).flatten(1).double().norm(dim=1).mean()
    scales = [_log(sum(found) / len(found)) / 2 for found in variances.values()]
    return _log(float(moved)) + sum(scales)


PROXIES: dict[str, Proxy] = {
    "grad norm": grad_norm,
    "SynFlow": synflow,
    "NASWOT": naswot,
    "DSS": dss,
    "Zen": zen,
}


def score(
    arch: ArchConfig, input_size: Grid, num_classes: int, batch: Batch, seeds: Sequence[int]
) -> dict[str, float]:
    """Each proxy of a network, the mean over initial weights of these seeds."""
    sums = dict.fromkeys(PROXIES, 0.0)
    model = build(arch, input_size, batch.x_BCHW.shape[1], num_classes)
    model.to(batch.x_BCHW.device).eval()
    for seed in seeds:
        initialise(model, seed)
        for name, proxy in PROXIES.items():
            generator = torch.Generator().manual_seed(seed)
            sums[name] += proxy(model, batch, generator) / len(seeds)
    return sums


def _gradients(model: nn.Module, value: Tensor) -> dict[Tensor, Tensor]:
    """The gradients by the weights that the value depends on; `grad` fields stay as they are.

    A network of one architecture may hold weights that it does not use.
    """
    weights = list(model.parameters())
    grads = torch.autograd.grad(value, weights, allow_unused=True)
    found = zip(weights, grads, strict=True)
    return {weight: grad for weight, grad in found if grad is not None}


def _absolute(model: nn.Module) -> nn.Module:
    """A copy with absolute weights, in float64."""
    linear = copy.deepcopy(model).double()
    with torch.no_grad():
        for weight in linear.parameters():
            weight.abs_()
    return linear


def _flow(model: nn.Module, batch: Batch) -> Tensor:
    """The sum of the outputs for an image of ones."""
    total: Tensor = model(torch.ones_like(batch.x_BCHW[:1], dtype=torch.float64)).sum()
    return total


@contextlib.contextmanager
def _hidden(model: nn.Module) -> Iterator[Mapping[nn.Module, list[Tensor]]]:
    """Gathers the inputs of all MLPs' activations; a stage may take a batch in several parts."""
    parts: dict[nn.Module, list[Tensor]] = {}
    hooks = [
        module.fc1.register_forward_hook(
            lambda layer, inputs, output: parts.setdefault(layer, []).append(output)
        )
        for module in model.modules()
        if isinstance(module, FeedForward)
    ]
    try:
        yield parts
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def _variances(model: nn.Module) -> Iterator[Mapping[nn.Module, list[float]]]:
    """Gathers the mean variance of the tokens that each LayerNorm divides."""
    found: dict[nn.Module, list[float]] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        variance = float(inputs[0].double().var(-1, correction=0).mean())
        found.setdefault(layer, []).append(variance)

    norms = [module for module in model.modules() if isinstance(module, NORMS)]
    hooks = [module.register_forward_hook(note) for module in norms]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _features(model: nn.Module, x_BCHW: Tensor) -> Tensor:
    return model.forward_stages(x_BCHW)[-1] if isinstance(model, Backbone) else model(x_BCHW)


def _nuclear(matrix: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.matrix_norm(matrix, "nuc")
    return norm


def _log(value: float) -> float:
    """The logarithm, of 0 that of the smallest number: a score must be finite."""
    smallest = torch.finfo(torch.float64).tiny
    return math.log(max(value, smallest))
