"""The three laws of sliced layers, over every elastic layer there is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from twins_nas.model.attention import SUBSAMPLES
from twins_nas.model.position import PEG, AbsoluteTable, ClassToken, RelativeBias
from twins_nas.model.slicing import Elastic, ElasticConv2d, ElasticLayerNorm, ElasticLinear, linear


@dataclass(frozen=True)
class Case:
    """A layer, or a module of layers, at two sizes, and a call of it at either size."""

    name: str
    large: Callable[[], nn.Module]
    small: Callable[[], nn.Module]
    call_small: Callable[[Any], Tensor]
    call_large: Callable[[Any], Tensor]


X6, X9, X5, X12 = (torch.randn(2, 4, 4, dim) for dim in (6, 9, 5, 12))

CASES = [
    Case(
        "linear",
        lambda: ElasticLinear(9, 12),
        lambda: ElasticLinear(6, 5),
        lambda m: m(X6, 5),
        lambda m: m(X9, 12),
    ),
    Case(
        "qkv",
        lambda: ElasticLinear(9, 9, out_groups=3),
        lambda: ElasticLinear(6, 6, out_groups=3),
        lambda m: m(X6, 6),
        lambda m: m(X9, 9),
    ),
    Case(
        "kv of qkv",
        lambda: ElasticLinear(9, 9, out_groups=3),
        lambda: ElasticLinear(6, 6, out_groups=3),
        lambda m: m(X6, 6, 1, 3),
        lambda m: m(X9, 9, 1, 3),
    ),
    Case(
        "grouped input, no bias",
        lambda: ElasticLinear(3, 7, in_groups=4, bias=False),
        lambda: ElasticLinear(2, 5, in_groups=4, bias=False),
        lambda m: m(torch.cat([X6, X6[..., :2]], -1), 5),
        lambda m: m(X12, 7),
    ),
    Case(
        "conv",
        lambda: ElasticConv2d(9, 12, 2, 2),
        lambda: ElasticConv2d(6, 5, 2, 2),
        lambda m: m(X6, 5),
        lambda m: m(X9, 12),
    ),
    Case(
        "depth-wise conv",
        lambda: ElasticConv2d(9, 9, 3, padding=1, depthwise=True),
        lambda: ElasticConv2d(6, 6, 3, padding=1, depthwise=True),
        lambda m: m(X6),
        lambda m: m(X9),
    ),
    Case(
        "norm",
        lambda: ElasticLayerNorm(9),
        lambda: ElasticLayerNorm(6),
        lambda m: m(X6, 1e-6),
        lambda m: m(X9, 1e-6),
    ),
    Case(
        "norm of merged patches",
        lambda: ElasticLayerNorm(3, in_groups=4),
        lambda: ElasticLayerNorm(2, in_groups=4),
        lambda m: m(torch.cat([X6, X6[..., :2]], -1), 1e-5),
        lambda m: m(X12, 1e-5),
    ),
    Case(
        "class token",
        lambda: ClassToken(9, ape=True),
        lambda: ClassToken(6, ape=True),
        lambda m: m(6, True),
        lambda m: m(9, True),
    ),
    Case("peg", lambda: PEG(9), lambda: PEG(6), lambda m: m(X6), lambda m: m(X9)),
    Case(
        "ape",
        lambda: AbsoluteTable(9, (4, 4)),
        lambda: AbsoluteTable(6, (4, 4)),
        lambda m: m(X6),
        lambda m: m(X9),
    ),
    Case(
        "rpe in a window",
        lambda: RelativeBias(4, (8, 8), (8, 8)),
        lambda: RelativeBias(2, (3, 3), (8, 8)),
        lambda m: m.window(2, (3, 3)),
        lambda m: m.window(4, (8, 8)),
    ),
    Case(
        "rpe of GSA",
        lambda: RelativeBias(4, (8, 8), (8, 8)),
        lambda: RelativeBias(2, (8, 8), (8, 8)),
        lambda m: m.subsampled(2, (8, 8), 2),
        lambda m: m.subsampled(4, (8, 8), 2),
    ),
    *(
        Case(
            f"sub-sampling: {kind}",
            lambda make=make: make(9, 2),
            lambda make=make: make(6, 2),
            lambda m: m(X6, 1e-5),
            lambda m: m(X9, 1e-5),
        )
        for kind, make in SUBSAMPLES.items()
    ),
]


def subclasses(kind: type) -> set[type]:
    """All classes below one."""
    return {kind} | {deep for below in kind.__subclasses__() for deep in subclasses(below)}


def layers(module: nn.Module) -> dict[str, Elastic]:
    """The elastic layers of a module, itself where it is one."""
    return {name: one for name, one in module.named_modules() if isinstance(one, Elastic)}


def take(small: nn.Module, large: nn.Module) -> None:
    """Every layer takes its slice, as `extract` does."""
    for name, layer in layers(small).items():
        layer.take(layers(large)[name])


def fresh(make: Callable[[], nn.Module]) -> nn.Module:
    """A layer with random values in every parameter."""
    layer = make()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


def test_every_elastic_layer_is_here() -> None:
    """A new elastic layer, one that computes or slices in its own way, must bring its case."""
    own = {kind for kind in subclasses(Elastic) if {"forward", "take"} & vars(kind).keys()}
    assert {type(one) for case in CASES for one in layers(case.large()).values()} == own - {Elastic}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_taken_slice_has_the_same_outputs(case: Case) -> None:
    """Law 3: the extracted layer equals the active slice, exactly."""
    large, small = fresh(case.large), case.small()
    take(small, large)
    assert torch.equal(case.call_small(large), case.call_small(small))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_gradient_outside_the_slice(case: Case) -> None:
    """Law 2: gradients of the small call fall where the small layer's weights come from.

    And nowhere else.
    """
    large, small = fresh(case.large), case.small()
    case.call_small(large).square().sum().backward()
    take(small, large)
    case.call_small(small).square().sum().backward()
    for name, parameter in large.named_parameters():
        own = dict(small.named_parameters())[name]
        assert parameter.grad is not None and own.grad is not None
        assert torch.count_nonzero(parameter.grad) == torch.count_nonzero(own.grad) > 0
        assert torch.allclose(parameter.grad.sum(), own.grad.sum(), rtol=1e-4, atol=1e-4)
        marked = torch.zeros_like(parameter).copy_(parameter.detach())
        with torch.no_grad():
            parameter[parameter.grad != 0] = torch.nan
        assert torch.isnan(case.call_small(large)).any()
        with torch.no_grad():
            parameter.copy_(marked)


class CopiesOfParameters(TorchDispatchMode):
    """Notes every copying operation that reads the memory of one of the parameters."""

    COPYING = ("clone", "copy_", "_to_copy", "cat", "repeat", "slice_scatter", "as_strided_copy")

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__()
        self.storages = {parameter.untyped_storage().data_ptr() for parameter in parameters}
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [
            item for arg in args for item in (arg if isinstance(arg, list | tuple) else [arg])
        ]
        read = {item.untyped_storage().data_ptr() for item in tensors if isinstance(item, Tensor)}
        if func._schema.name.split("::")[1] in self.COPYING and read & self.storages:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_copy_at_the_largest(case: Case) -> None:
    """Law 1: the largest call copies no weight.

    The same watch does see the copies that slicing q, k, v needs.
    """
    large = fresh(case.large)
    with CopiesOfParameters(large.parameters()) as watch:
        case.call_large(large)
    assert not watch.found
    if case.name == "qkv":
        with CopiesOfParameters(large.parameters()) as watch:
            case.call_small(large)
        assert watch.found


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(4, 300, 64), (1, 2000, 65), (2, 40, 40, 96)])
def test_large_products_without_gradients(shape: tuple[int, ...], bias: bool) -> None:
    """The kernel for inference gives what `F.linear` gives, for tokens that are no copy too."""
    x, weight = torch.randn(shape), torch.randn(48, shape[-1])
    vector = torch.randn(48) if bias else None
    for tokens in (x, x.transpose(0, 1)):
        wanted = torch.nn.functional.linear(tokens, weight, vector)
        with torch.no_grad():
            got = linear(tokens, weight, vector)
        assert got.shape == wanted.shape
        assert torch.allclose(got, wanted, rtol=1e-5, atol=1e-4)
