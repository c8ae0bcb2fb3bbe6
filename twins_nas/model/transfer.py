"""Weights from one module to another: a subnet out of its supernet, and to and from others' code.

timm is imported when it is asked for: it takes seconds, and training has no use of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from twins_nas.arch import CONV, GSA, ArchConfig, Grid, StageConfig
from twins_nas.errors import UserError
from twins_nas.model.backbone import Backbone, build
from twins_nas.model.foreign_names import Rule, load, pvt_rules, store, swin_rules, twins_rules
from twins_nas.model.separate import SeparateAttention, SplitBackbone
from twins_nas.model.slicing import Elastic


def extract(supernet: Backbone, arch: ArchConfig) -> Backbone:
    """A static module of one member, with copies of its slices; its outputs are the supernet's.

    Raises:
        ValueError: `arch` is not a member of the supernet's space; says why.
    """
    if reason := supernet.space.why_not(arch):
        raise ValueError(f"not a member of space {supernet.space.name}: {reason}")
    if isinstance(supernet, SplitBackbone):
        return extract(supernet.part(arch), arch)
    parameter = next(supernet.parameters())
    subnet = build(arch, supernet.space.input_size, supernet.in_chans, supernet.num_classes)
    subnet.to(device=parameter.device, dtype=parameter.dtype)
    with torch.no_grad():
        for name, module in subnet.named_modules():
            if isinstance(module, Elastic):
                source = _source(supernet, name, arch)
                assert isinstance(source, Elastic)
                module.take(source)
    return subnet.train(supernet.training)


def _source(supernet: Backbone, name: str, arch: ArchConfig) -> nn.Module:
    """The module that the network's module of a name is a slice of."""
    module: nn.Module = supernet
    for part in name.split("."):
        module = module.get_submodule(part)
        if isinstance(module, SeparateAttention):
            module = module.pick(arch)
    return module


def inherit(supernet: Backbone, subnet: Backbone, head: bool = True) -> None:
    """Writes a member's weights into the slices that `extract` would take them from.

    With `head` false the classifier stays as it is. Both have the same input size.

    Raises:
        UserError: a table that the supernet holds in another size, and resizes for the member.
    """
    assert supernet.space.input_size == subnet.space.input_size
    places = copy.deepcopy(supernet).double()  # each weight is its own place among all
    number = sum(parameter.numel() for parameter in places.parameters())
    ones = torch.ones(number, dtype=torch.float64, device=next(places.parameters()).device)
    vector_to_parameters(ones, places.parameters())
    factors = extract(places, subnet.arch).state_dict()  # scaled slices
    vector_to_parameters(ones.cumsum(0) - 1, places.parameters())
    taken = extract(places, subnet.arch).state_dict()
    weights = parameters_to_vector(supernet.parameters()).detach().clone()
    for name, value in subnet.state_dict().items():
        if head or not name.startswith("head."):
            place = (taken[name] / factors[name]).round().long()
            weights[place.flatten()] = (
                (value.to(factors[name]) / factors[name]).flatten().to(weights)
            )
    own = list(supernet.parameters())
    parts = torch.split(weights, [parameter.numel() for parameter in own])
    with torch.no_grad():
        for parameter, values in zip(own, parts, strict=True):
            parameter.copy_(values.view_as(parameter))
    found = extract(supernet, subnet.arch).state_dict()
    for name, value in subnet.state_dict().items():
        asked = head or not name.startswith("head.")
        if asked and not torch.allclose(found[name], value.to(found[name]), rtol=1e-5, atol=1e-7):
            raise UserError(f"{name} is resized in {supernet.space.name}, and cannot be put there.")


def from_timm(model: nn.Module) -> Backbone:
    """Our module of a timm `Twins` or `SwinTransformer`, with a copy of its weights.

    Its `.arch` is the network; its input size is the one that timm's was built for.

    Raises:
        UserError: another model, or one that no architecture describes; names what is in the way.
    """
    from twins_nas.model import timm_arch

    read = timm_arch.read(model)
    ours = build(read.arch, read.input_size, read.in_chans, read.num_classes, read.drop_path)
    parameter = next(model.parameters())
    ours.to(device=parameter.device, dtype=parameter.dtype)
    load(ours, _rules(model)(read.arch), model.state_dict())
    return ours.train(model.training)


def to_timm(model: Backbone) -> nn.Module:
    """The timm module of our network, with a copy of its weights; the same at our input size.

    Raises:
        UserError: timm has no such network; names the fields, or asks to extract a member first.
    """
    from twins_nas.model import timm_arch

    if model.space.choices:
        raise UserError("A supernet has no counterpart in timm: extract one of its members first.")
    described = timm_arch.Described(
        model.arch, model.space.input_size, model.in_chans, model.num_classes, model.drop_path
    )
    theirs = timm_arch.write(described)
    parameter = next(model.parameters())
    theirs.to(device=parameter.device, dtype=parameter.dtype)
    store(model, _rules(theirs)(timm_arch.read(theirs).arch), theirs)
    return theirs.train(model.training)


def from_timm_state(
    state: Mapping[str, Tensor], arch: ArchConfig, input_size: Grid, in_chans: int
) -> Backbone:
    """Our module of a network with the weights of timm's module of it, by timm's names.

    Raises:
        UserError: timm has no such network; names that are missing or left over, other shapes.
    """
    from twins_nas.model import timm_arch

    heads = [value for name, value in state.items() if name in ("head.bias", "head.fc.bias")]
    num_classes = len(heads[0]) if heads else 1000
    ours = build(arch, input_size, in_chans, num_classes)
    theirs = to_timm(ours)
    load(ours, _rules(theirs)(timm_arch.read(theirs).arch), state)
    return ours.eval()


def from_pvt(state: Mapping[str, Tensor], arch: ArchConfig, input_size: Grid) -> Backbone:
    """Our module with the weights of the authors' PVT, by the names of their checkpoints.

    Raises:
        UserError: names that are missing or left over, and shapes that differ.
    """
    plain = arch.downsample == CONV and arch.patch_norm
    defaults = {item.name: item.default for item in fields(StageConfig)}
    of_stages: dict[str, Any] = {"mixer": GSA, "pe": "ape"}
    of_stages |= {name: value for name, value in defaults.items() if value is not MISSING}
    pairs = product(arch.stages, of_stages.items())
    if not plain or any(getattr(stage, name) != value for stage, (name, value) in pairs):
        said = ", ".join(f"{name} {value}" for name, value in of_stages.items())
        raise UserError(f"A PVT has downsample conv, patch_norm true, and in each stage {said}.")
    num_classes = len(state["head.bias"]) if "head.bias" in state else 1000
    embed = state.get("patch_embed1.proj.weight")
    in_chans = 3 if embed is None or embed.dim() != 4 else embed.shape[1]
    ours = build(arch, input_size, in_chans, num_classes)
    load(ours, pvt_rules(arch), state)
    return ours.eval()


def _rules(theirs: nn.Module) -> Callable[[ArchConfig], list[Rule]]:
    return twins_rules if type(theirs).__name__ == "Twins" else swin_rules
