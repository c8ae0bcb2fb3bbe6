"""What moves a member's loss: formula, unit, and what a search and its evaluators make of it."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import pytest
import torch

from twins_nas.arch import ArchConfig
from twins_nas.config import find, load_space
from twins_nas.cost import cost
from twins_nas.data import Images
from twins_nas.evaluate import evaluate
from twins_nas.model.backbone import Backbone, initialise
from twins_nas.prior import (
    IMAGES,
    REFERENCE,
    SEEDS,
    Hint,
    Prior,
    Size,
    ZenScore,
    hints_of,
    reference,
)
from twins_nas.proxies import Batch as ProxyBatch
from twins_nas.proxies import score
from twins_nas.recipes import SupernetRecipe
from twins_nas.space import SearchSpace
from twins_nas.tuning.objective import Payload, build_evaluator

SIZE = (32, 32)
ZEN = ZenScore(SIZE, 1, 10)


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    """The shipped SVT space."""
    return load_space(find("space", "svt"))


def encoded(arch: ArchConfig, pe: str) -> ArchConfig:
    """The network with this encoding in each stage."""
    return replace(arch, stages=tuple(replace(stage, pe=pe) for stage in arch.stages))


def test_zen_scores_are_those_of_the_proxy(space: SearchSpace) -> None:
    """Of the same first weights and the same Gaussian images; no others are looked at."""
    arch = space.extreme(-1)
    labels = torch.zeros(IMAGES, dtype=torch.long)
    batch = ProxyBatch(torch.randn(IMAGES, 1, *SIZE), labels)
    assert ZEN(arch) == pytest.approx(score(arch, SIZE, 10, batch, SEEDS)["Zen"])
    assert ZEN(arch) == ZEN(arch)


def test_zen_scores_see_how_a_network_begins(space: SearchSpace) -> None:
    """A PEG's random convolution is what sharing hides; tables begin next to nothing."""
    plain = encoded(space.extreme(-1), "none")
    with_peg, with_table = (ZEN(encoded(plain, pe)) - ZEN(plain) for pe in ("cpe", "ape"))
    assert with_peg > 1 and abs(with_table) < with_peg / 5


def test_sizes_are_products(space: SearchSpace) -> None:
    """A network of twice the MACs and as many parameters is larger by log 2."""
    arch = space.extreme(+1)
    found = cost(arch, SIZE, 1, 10)
    size = Size(SIZE, 1, 10)
    assert math.exp(size(arch)) == pytest.approx(found.macs * found.params)
    assert size(arch) > size(space.extreme(-1))


def test_the_unit_is_a_part_of_the_spread(space: SearchSpace) -> None:
    """Over the reference members, losses are moved by `weight` times their own deviation."""
    values = [float(at % 7) for at in range(REFERENCE)]
    hint = Hint.measured(ZEN, 0.5, values, 0.04)
    moves = [hint.move(value) for value in values]
    assert statistics.pstdev(moves) == pytest.approx(0.5 * 0.04)
    assert statistics.fmean(moves) == pytest.approx(0, abs=1e-12)
    assert hint.move(max(values)) < hint.move(min(values))
    same = Hint.measured(ZEN, 0.5, [2.0] * REFERENCE, 0.04)
    assert same.unit == 0 and same.move(9.0) == 0
    arch = space.extreme(+1)
    other = Hint.measured(Size(SIZE, 1, 10), 2.0, values, 0.04)
    both = Prior((hint, other)).adjusted(arch, 0.3)
    assert both == pytest.approx(0.3 + hint.move(ZEN(arch)) + other.move(other.of(arch)))


def test_a_recipe_says_which_hints() -> None:
    """Those whose weight is not 0, and nothing of an image for size."""
    assert not SupernetRecipe().hints and SupernetRecipe().adjusted_words == "loss"
    both = SupernetRecipe(zen_weight=0.5, size_weight=2)
    assert both.hints == {"Zen": 0.5, "size": 2} and both.adjusted_words == "loss, Zen and size"
    assert both.substance == SupernetRecipe().substance
    found = hints_of(both.hints, SIZE, 1, 10, "cpu")
    assert found == {"Zen": ZEN, "size": Size(SIZE, 1, 10)}
    assert list(hints_of({"size": 1.0}, SIZE, 1, 10, "cpu")) == ["size"]


def test_reference_members_are_always_the_same(space: SearchSpace) -> None:
    """They follow from the space alone."""
    found = reference(space)
    assert found == reference(load_space(find("space", "svt"))) and len(found) == REFERENCE
    assert len({space.key(arch) for arch in found}) > REFERENCE / 2
    assert not any(space.why_not(arch) for arch in found)
    other = load_space(find("space", "pcpvt"))
    assert reference(other) != found and not any(map(other.why_not, reference(other)))


def test_an_evaluator_moves_the_loss_and_nothing_else(space: SearchSpace) -> None:
    """Top-1 and loss stay those of the inherited weights; without a prior nothing is moved."""
    model = Backbone(space, 1, 10)
    initialise(model, 0)
    pixels = torch.randint(0, 256, (20, 1, *SIZE), dtype=torch.uint8)
    images = Images(pixels, torch.arange(20) % 10)
    prior = Prior((Hint.measured(ZEN, 1.0, [0.0, 1.0], 0.1),))
    arch = space.extreme(-1)
    plain = evaluate(model, images, (0.5,), (0.25,), arch)
    payload = Payload.of(model, images, (0.5,), (0.25,), threads=0)
    without = build_evaluator(payload)(arch)
    assert without.adjusted == without.loss == plain.loss
    found = build_evaluator(replace(payload, prior=prior))(arch)
    assert (found.top1, found.loss, found.n) == (plain.top1, plain.loss, 20)
    assert found.adjusted == prior.adjusted(arch, plain.loss) != plain.loss
    assert math.isfinite(found.adjusted)
