"""Every word there is: its formula, its class, its slice and its ONNX file exist and agree.

A PE kind, a letter of a mixer, a word of a field: whoever adds one is tested by its existing.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations, product
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from twins_nas.arch import MIXERS, PE_KINDS, ArchConfig, StageConfig
from twins_nas.cost import cost
from twins_nas.model.backbone import Backbone, build, initialise
from twins_nas.model.transfer import extract
from twins_nas.onnx_export import compare, to_onnx
from twins_nas.space import ARCH_FIELDS, STAGE_FIELDS, SearchSpace

SIZE, WINDOWS, RATIO = (24, 24), (4, 7), 2
WORDS: dict[str, tuple[str, ...]] = {
    "pe": ("none", *PE_KINDS),
    "mixer": tuple(MIXERS),
    **{
        name: tuple(item.metadata["words"])
        for name, item in (*STAGE_FIELDS.items(), *ARCH_FIELDS.items())
        if item.metadata["words"]
    },
}
CASES = [(field, word) for field, words in WORDS.items() for word in words]
OF_STAGES = [case for case in CASES if case[0] in STAGE_FIELDS]


def network(field: str, word: str) -> ArchConfig:
    """A network that uses a field of any name, with a word in it.

    Two stages of LSA and GSA, with windows in a 12x12 grid and over a 6x6 one.
    """
    keys: dict[str, Any] = {
        "embed_dim": 16,
        "head_dim": 8,
        "depth": 2,
        "mixer": "LG",
        "sr_ratio": RATIO,
        "pe": "none",
        "mlp_ratio": 2,
    }
    keys |= {field: word} if field in STAGE_FIELDS else {}
    stages = tuple(StageConfig(**keys, window_size=window) for window in WINDOWS)  # type: ignore[arg-type]
    return ArchConfig(stages, 2, **({field: word} if field in ARCH_FIELDS else {}))


@cache
def supernet(field: str) -> Backbone:
    """A supernet over all words of a field, with random values in every parameter."""
    base, words = network(field, WORDS[field][0]), WORDS[field]
    point = SearchSpace.point(base, SIZE)
    stages = tuple(
        {
            **stage,
            "window_size": ((window,),),
            "sr_ratio": ((RATIO,),),
            **({field: (words,)} if field in STAGE_FIELDS else {}),
        }
        for stage, window in zip(point.stages, WINDOWS, strict=True)
    )
    whole = {**point.arch, **({field: words} if field in ARCH_FIELDS else {})}
    model = Backbone(SearchSpace(field, SIZE, base, whole, stages), 3, 10)
    initialise(model, 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture
def images() -> torch.Tensor:
    """Two images."""
    return torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("field", "word"), CASES)
def test_the_formula_is_what_the_class_costs(field: str, word: str) -> None:
    """Parameters, and MACs with and without attention's products."""
    arch = network(field, word)
    model = build(arch, SIZE, 3, 10)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, *SIZE))
    flops = {str(kind): number for kind, number in counter.get_flop_counts()["Global"].items()}
    of_attention = sum(flops[kind] for kind in flops if "bmm" in kind or "attention" in kind)
    found = cost(arch, SIZE, 3, 10)
    assert found.params == sum(parameter.numel() for parameter in model.parameters())
    assert 2 * found.macs == sum(flops.values())
    assert 2 * found.attention_macs == of_attention


@pytest.mark.parametrize(("field", "word"), CASES)
def test_its_slice_is_its_extracted_module(field: str, word: str, images: torch.Tensor) -> None:
    """But for rounding. Gradients fall on the parameters of that module, on all, and no other."""
    model, arch = supernet(field), network(field, word)
    alone = extract(model, arch)
    with torch.no_grad():
        torch.testing.assert_close(model(images, arch), alone(images), rtol=1e-5, atol=1e-5)
    model.zero_grad()
    model(images, arch).square().sum().backward()
    touched = {
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    }
    assert touched == {name for name, _ in alone.named_parameters()}


@pytest.mark.parametrize("field", WORDS)
def test_words_are_different_networks(field: str, images: torch.Tensor) -> None:
    """By their keys, their outputs, and the count of their space."""
    model, words = supernet(field), WORDS[field]
    archs = [network(field, word) for word in words]
    assert len({model.space.key(arch) for arch in archs}) == len(words)
    with torch.no_grad():
        logits = [model(images, arch) for arch in archs]
    for one, other in combinations(logits, 2):
        assert (one - other).abs().max() > 1e-3
    names = [choice.name for choice in model.space.choices]
    members = (
        model.space.decode(dict(zip(names, values, strict=True)))
        for values in product(words, repeat=len(names))
    )
    assert model.space.size() == len({model.space.key(member) for member in members})


@pytest.mark.long
@pytest.mark.parametrize(("field", "word"), OF_STAGES)
def test_its_onnx_file_computes_the_same(field: str, word: str) -> None:
    """Those of networks and all of the published ones have their tests in test_export.py."""
    model = extract(supernet(field), network(field, word))
    assert compare(model, to_onnx(model, 3, SIZE, {}), 3, SIZE, (1, 3)).worst < 1e-4
