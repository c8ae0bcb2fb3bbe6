"""Supernets that share less, or start from other weights: slices stay what a network alone is."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from twins_nas.arch import ArchConfig
from twins_nas.config import find, load_space
from twins_nas.errors import UserError
from twins_nas.model.backbone import Backbone, build, initialise
from twins_nas.model.separate import SeparateAttention, SwitchableLayerNorm, supernet_of
from twins_nas.model.transfer import extract, from_timm, from_timm_state, inherit, to_timm
from twins_nas.recipes import SupernetRecipe
from twins_nas.seeds import seed
from twins_nas.space import SearchSpace
from twins_nas.training.checkpoint import load_foreign

SHARING = [
    {"separate": ("pe", "mixer", "sr_ratio")},
    {"separate": ("sr_ratio",)},
    {"scaled_slices": True},
    {"switchable_norms": True},
    {"split": "stages.1.mixer", "separate": ("pe",)},
    {"split": "stages.2.depth", "switchable_norms": True},
    {"deep_supervision": 0.3},
]


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    """The shipped SVT space."""
    return load_space(find("space", "svt"))


@pytest.fixture(scope="module")
def families() -> SearchSpace:
    """The space in which mixers vary too."""
    return load_space(find("space", "families"))


@pytest.fixture
def images() -> torch.Tensor:
    """A few images of noise; torch's generator starts alike in every test."""
    torch.manual_seed(0)
    return torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(3))


def fresh(space: SearchSpace, **changes: Any) -> Backbone:
    """A new supernet with the same weights each time."""
    model = supernet_of(space, 1, 10, SupernetRecipe(**changes))
    initialise(model, 0)
    return model


@pytest.mark.parametrize("changes", SHARING, ids=str)
def test_extracted_networks_are_the_slices(
    changes: dict[str, Any], families: SearchSpace, images: torch.Tensor
) -> None:
    """Outputs but for rounding; gradients fall on as many tensors, of the same sizes of norm."""
    model = fresh(families, **changes)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, SwitchableLayerNorm):
                for parameter in module.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
    rng = random.Random(1)
    for arch in [families.base, families.extreme(-1, rng), *map(families.sample, [rng] * 2)]:
        alone = extract(model.eval(), arch)
        assert {type(module) for module in alone.modules()}.isdisjoint(
            {SeparateAttention, SwitchableLayerNorm}
        )
        model.zero_grad()
        with torch.no_grad():
            ours, theirs = model(images, arch), alone(images)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        model(images, arch).square().sum().backward()
        alone(images).square().sum().backward()
        ours = [p.grad for p in model.parameters() if p.grad is not None and p.grad.any()]
        theirs = [p.grad for p in alone.parameters() if p.grad is not None and p.grad.any()]
        norms = [sum(float(g.square().sum()) for g in grads) for grads in (ours, theirs)]
        scaled = "scaled_slices" in changes  # and so are the gradients of its slices
        assert len(ours) == len(theirs) and (
            scaled or norms[0] == pytest.approx(norms[1], rel=1e-4)
        )


def used(model: Backbone, arch: ArchConfig, images: torch.Tensor) -> set[str]:
    """The names of the parameters that a network trains."""
    model.zero_grad(set_to_none=True)
    model(images, arch).square().sum().backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {name for name, grad in grads.items() if grad is not None and grad.any()}


def test_who_shares_what(space: SearchSpace, images: torch.Tensor) -> None:
    """Two networks that differ in the positional encoding of a stage alone."""
    one, other = (
        space.decode({**space.encode(space.base), "stages.2.pe": pe}) for pe in ("cpe", "ape")
    )
    shared = {}
    for name, changes in (
        ("default", {}),
        ("separate", {"separate": ("pe",)}),
        ("split", {"split": "stages.2.pe"}),
    ):
        model = fresh(space, **changes)
        both = used(model, one, images) & used(model, other, images)
        shared[name] = {part for part in both if "stages.2.blocks" in part or name == "split"}
    assert any("attn" in part for part in shared["default"])
    assert shared["separate"] and not any("attn" in part for part in shared["separate"])
    assert not shared["split"]


def test_earlier_stages_have_classifiers_in_training_alone(
    space: SearchSpace, images: torch.Tensor
) -> None:
    """One a stage, each of what its stage gives; a network that is extracted has its own only."""
    plain = fresh(space)
    rng = random.Random(2)
    for changes in ({}, {"split": "stages.1.embed_dim"}):
        model = fresh(space, deep_supervision=0.3, **changes).eval()
        for arch in (space.base, space.sample(rng)):
            alone = extract(model, arch)
            assert alone.state_dict().keys() == extract(plain, arch).state_dict().keys()
            *early, logits = model.forward_all(images, arch)
            assert torch.equal(logits, model(images, arch)) and len(early) == 3
            part = model if not changes else model.part(arch)
            for index, (tokens_BHWC, found) in enumerate(
                zip(model.forward_stages(images, arch), early, strict=False)
            ):
                x_BNC = tokens_BHWC.flatten(1, 2)
                x_BC = torch.nn.functional.layer_norm(x_BNC, x_BNC.shape[-1:], eps=arch.norm_eps)
                weight = part.early_heads[index].weight[:, : x_BNC.shape[-1]]
                torch.testing.assert_close(found, x_BC.mean(1) @ weight.T, rtol=1e-4, atol=1e-5)
    assert len(fresh(space).forward_all(images, space.base)) == 1


def test_narrow_slices_are_as_loud_as_wide_ones(space: SearchSpace) -> None:
    """The spread of a linear layer's outputs at first, at the largest and the smallest width."""
    torch.manual_seed(0)
    for changes, expected in (({}, 0.5), ({"scaled_slices": True}, 1.0)):
        model = fresh(space, **changes)
        layer = model.get_submodule("stages.3.blocks.0.mlp.fc1")
        wide, narrow = (layer(torch.randn(4000, width)).std() for width in (128, 32))
        assert float(narrow / wide) == pytest.approx(expected, rel=0.05)


def test_a_members_weights_are_put_into_its_slices(
    space: SearchSpace, images: torch.Tensor
) -> None:
    """It is extracted as it was; all other weights stay."""
    for changes in ({}, {"separate": ("pe",), "switchable_norms": True}, {"scaled_slices": True}):
        model = fresh(space, **changes)
        member = build(space.base, (32, 32), 1, 10)
        initialise(member, 8)
        before = copy.deepcopy(model.state_dict())
        inherit(model, member)
        found = extract(model, space.base).state_dict()
        assert all(torch.equal(value, found[name]) for name, value in member.state_dict().items())
        changed = sum(
            int((value != before[name]).sum()) for name, value in model.state_dict().items()
        )
        assert 0 < changed <= sum(parameter.numel() for parameter in member.parameters())
        assert len({p.untyped_storage().data_ptr() for p in model.parameters()}) == len(
            list(model.parameters())
        )


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_supernet_starts_from_a_file_of_timm(
    suffix: str, space: SearchSpace, images: torch.Tensor, tmp_path: Path
) -> None:
    """Its member of the base is timm's network; another number of classes keeps the classifier."""
    drawn = build(seed("twins_svt_micro"), (32, 32), 1, 7)
    initialise(drawn, 4)
    theirs = to_timm(drawn)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"model": theirs.state_dict()}, path)
    else:
        save_file(theirs.state_dict(), path)
    base = from_timm_state(load_foreign(path), space.base, (32, 32), 1)
    with torch.no_grad():
        assert torch.allclose(base(images), from_timm(theirs).eval()(images), atol=1e-6)
    model = fresh(space)
    head = model.get_parameter("head.weight").clone()
    inherit(model, base, head=False)
    found = extract(model, space.base).state_dict()
    assert all(
        torch.equal(value, found[name])
        for name, value in base.state_dict().items()
        if not name.startswith("head.")
    )
    assert torch.equal(model.get_parameter("head.weight"), head)


def test_foreign_files_that_are_none_are_told(tmp_path: Path, space: SearchSpace) -> None:
    """Damaged, of something else, or of another network."""
    path = tmp_path / "weights.pth"
    with pytest.raises(UserError, match=r"weights\.pth: no such file"):
        load_foreign(path)
    path.write_bytes(b"no weights")
    with pytest.raises(UserError, match="no file of weights"):
        load_foreign(path)
    for new_format in (True, False):
        whole = tmp_path / "whole.pth"
        torch.save({"a": torch.ones(4)}, whole, _use_new_zipfile_serialization=new_format)
        assert load_foreign(whole)["a"].sum() == 4
        data = whole.read_bytes()
        for cut in range(0, len(data) - 1, 7):
            path.write_bytes(data[:cut])
            with pytest.raises(UserError, match=r"no file of weights|more than weights"):
                load_foreign(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(UserError, match="more than weights"):
        load_foreign(path)
    with pytest.raises(UserError, match="Missing: "):
        from_timm_state({}, space.base, (32, 32), 1)


def test_tables_of_another_size_are_refused() -> None:
    """With patches of two sizes a member's table is a resized one, which no slice can hold."""
    arch = seed("twins_pcpvt_micro")
    arch = replace(arch, stages=tuple(replace(stage, pe="ape") for stage in arch.stages))
    point = SearchSpace.point(arch, (64, 64))
    space = replace(point, arch={**point.arch, "patch_size": (2, 4)})
    supernet, member = fresh(space), build(replace(arch, patch_size=4), (64, 64), 1, 10)
    initialise(member, 8)
    with pytest.raises(UserError, match="is resized in"):
        inherit(supernet, member)
