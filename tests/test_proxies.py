"""Zero-cost proxies: formulas on toy networks, what leaves them as they are, every micro seed."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twins_nas.config import load_space
from twins_nas.model.attention import Attention
from twins_nas.model.backbone import build, initialise
from twins_nas.model.ffn import FeedForward
from twins_nas.proxies import (
    PERTURBATION,
    PROXIES,
    Batch,
    dss,
    grad_norm,
    naswot,
    score,
    synflow,
    zen,
)
from twins_nas.seeds import SEEDS, seed

MICRO = [name for name in SEEDS if name.endswith("_micro")]


def generator(at: int = 0) -> torch.Generator:
    """A generator of its own for each call."""
    return torch.Generator().manual_seed(at)


def batch_of(shape: tuple[int, ...], classes: int = 3) -> Batch:
    """Random images and labels."""
    drawn = generator(1)
    labels = torch.randint(classes, shape[:1], generator=drawn)
    return Batch(torch.randn(shape, generator=drawn), labels)


def linear(*dims: int) -> nn.Sequential:
    """Linear layers without bias."""
    torch.manual_seed(0)
    pairs = itertools.pairwise(dims)
    return nn.Sequential(*(nn.Linear(one, two, bias=False) for one, two in pairs))


class Mlp(nn.Module):
    """An MLP of a block, alone."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.mlp, self.hidden = FeedForward(dim, hidden), hidden
        initialise(self, 0)

    def forward(self, x_BC: Tensor) -> Tensor:
        """The MLP on tokens."""
        out: Tensor = self.mlp(x_BC, self.hidden)
        return out


class OneHead(nn.Module):
    """Attention over all tokens, alone."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        may = {"sr_ratio": {1}, "mixer": {"G"}, "subsampling": {"conv"}}
        self.attn = Attention(dim, may, None)
        initialise(self, 0)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Attention with heads of 4 channels, on a grid of a row."""
        x_BNC = self.attn.glob(x_BNC, (1, x_BNC.shape[1]), 4, 1, "conv", None, 1e-6)
        out: Tensor = self.attn.proj(x_BNC, x_BNC.shape[-1])
        return out


def test_grad_norm_is_autograds() -> None:
    """The norms of `.grad` after a backward pass, which the proxy leaves alone."""
    model, batch = linear(5, 4, 3), batch_of((8, 5))
    found = grad_norm(model, batch, generator())
    assert all(weight.grad is None for weight in model.parameters())
    F.cross_entropy(model(batch.x_BCHW), batch.labels_B).backward()
    grads = [weight.grad for weight in model.parameters()]
    assert found == pytest.approx(sum(float(grad.norm()) for grad in grads if grad is not None))


def test_synflow_of_linear_layers_is_the_product() -> None:
    """Each of L layers keeps the whole flow: L times ones' |W3| |W2| |W1| ones."""
    model = linear(5, 4, 6, 3)
    flow = torch.ones(5)
    for layer in model:
        flow = layer.weight.detach().abs() @ flow
    found = synflow(model, batch_of((8, 5)), generator())
    assert found == pytest.approx(math.log(3 * float(flow.sum())), abs=1e-5)


def test_synflow_knows_no_signs_images_or_norms() -> None:
    """Nor whether a LayerNorm stands between."""
    model = linear(5, 4, 3)
    found = synflow(model, batch_of((8, 5)), generator())
    turned = copy.deepcopy(model)
    with torch.no_grad():
        for weight in turned.parameters():
            weight.neg_()
    assert synflow(turned, batch_of((2, 5)), generator()) == found
    normed = nn.Sequential(model[0], nn.LayerNorm(4), model[1])
    assert synflow(normed, batch_of((8, 5)), generator()) == pytest.approx(found)


def test_naswot_by_hand() -> None:
    """Codes by the signs of what GELU takes in; the determinant of their likeness."""
    model, batch = Mlp(4, 6), batch_of((5, 4))
    codes = (model.mlp.fc1(batch.x_BCHW) > 0).tolist()
    kernel = [[sum(a == b for a, b in zip(x, y, strict=True)) for y in codes] for x in codes]
    matrix = torch.tensor(kernel, dtype=torch.float64) + torch.eye(5)
    found = naswot(model, batch, generator())
    assert found == pytest.approx(float(torch.logdet(matrix)))


def test_naswot_of_one_code_is_low_and_finite() -> None:
    """Images that are all the same: K has rank 1, and log det (K + 1) = log(1 + B U)."""
    batch = batch_of((5, 4))
    same = batch._replace(x_BCHW=batch.x_BCHW[:1].expand(5, 4))
    found = naswot(Mlp(4, 6), same, generator())
    assert found == pytest.approx(math.log(1 + 5 * 6))
    assert found < naswot(Mlp(4, 6), batch, generator())


def test_dss_of_an_mlp_is_its_saliency() -> None:
    """By backward through absolute weights."""
    model = Mlp(4, 6)
    positive = copy.deepcopy(model)
    with torch.no_grad():
        for weight in positive.parameters():
            weight.abs_()
    positive(torch.ones(1, 4)).sum().backward()
    layers = (positive.mlp.fc1, positive.mlp.fc2)
    saliency = sum(float((layer.weight * layer.weight.grad).sum().detach()) for layer in layers)
    assert dss(model, batch_of((5, 4)), generator()) == pytest.approx(math.log(saliency), abs=1e-5)


def test_dss_of_attention_is_its_diversity() -> None:
    """Nuclear norms by singular values, of v and the projection: ones are tokens all alike."""
    model = OneHead(8)
    positive = copy.deepcopy(model).double()
    with torch.no_grad():
        for weight in positive.parameters():
            weight.abs_()
    positive(torch.ones(1, 3, 8, dtype=torch.float64)).sum().backward()
    diversity = 0.0
    for layer, parts in ((positive.attn.qkv, 3), (positive.attn.proj, 1)):
        assert layer.weight.grad is not None
        for weight, grad in zip(
            layer.weight.chunk(parts), layer.weight.grad.chunk(parts), strict=True
        ):
            values = [torch.linalg.svdvals(matrix.detach()).sum() for matrix in (weight, grad)]
            diversity += float(values[0] * values[1])
    found = dss(model, batch_of((5, 3, 8)), generator())
    assert found == pytest.approx(math.log(diversity), abs=1e-6)


def test_zen_of_a_linear_layer() -> None:
    """The mean length of W alpha e, and a layer three times as large moves three times as far."""
    model, batch = linear(5, 4), batch_of((8, 5))
    drawn = generator()
    torch.randn((8, 5), generator=drawn)
    moves = PERTURBATION * torch.randn((8, 5), generator=drawn) @ model[0].weight.detach().T
    found = zen(model, batch, generator())
    assert found == pytest.approx(math.log(float(moves.norm(dim=1).mean())), abs=1e-3)
    normed = nn.Sequential(model[0], nn.LayerNorm(4))
    before = zen(normed, batch, generator())
    with torch.no_grad():
        model[0].weight.mul_(3)
    assert zen(model, batch, generator()) == pytest.approx(found + math.log(3), abs=1e-3)
    # A norm hides the factor, and what it divided by tells it again: what Zen is about.
    assert zen(normed, batch, generator()) == pytest.approx(before + math.log(3), abs=1e-3)


@pytest.mark.parametrize("name", MICRO)
def test_every_micro_seed_has_finite_scores(name: str) -> None:
    """The same twice; other weights give others; the network stays as it was."""
    batch = batch_of((4, 1, 32, 32), 10)
    found = score(seed(name), (32, 32), 10, batch, [0])
    assert set(found) == set(PROXIES) and all(map(math.isfinite, found.values()))
    if name == "twins_svt_micro":
        assert score(seed(name), (32, 32), 10, batch, [0]) == found
        other = score(seed(name), (32, 32), 10, batch, [1])
        assert all(found[key] != other[key] for key in PROXIES)
        both = score(seed(name), (32, 32), 10, batch, [0, 1])
        assert both == pytest.approx({key: (found[key] + other[key]) / 2 for key in PROXIES})


def test_a_proxy_leaves_the_network_as_it_was() -> None:
    """Weights, gradients, and no hook that stays."""
    model = build(seed("swin_micro"), (32, 32), 1, 10)
    initialise(model, 0)
    batch = batch_of((3, 1, 32, 32), 10)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    logits = model(batch.x_BCHW)
    for proxy in PROXIES.values():
        proxy(model, batch, generator())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(model(batch.x_BCHW), logits)


def test_the_largest_network_of_a_space_has_finite_scores(repo: Path) -> None:
    """Absolute weights without norms grow with the depth, and a softmax of them has no gradient."""
    space = load_space(repo / "space" / "svt.yaml")
    found = score(space.extreme(+1), space.input_size, 10, batch_of((2, 1, 32, 32), 10), [0])
    assert all(map(math.isfinite, found.values()))
    smallest = score(space.extreme(-1), space.input_size, 10, batch_of((2, 1, 32, 32), 10), [0])
    assert found["SynFlow"] > smallest["SynFlow"] and found["DSS"] > smallest["DSS"]
