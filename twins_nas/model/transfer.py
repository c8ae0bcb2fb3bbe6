"""Weights from one module to another: a subnet out of its supernet."""

from __future__ import annotations

import torch

from twins_nas.arch import ArchConfig
from twins_nas.model.backbone import Backbone, build
from twins_nas.model.slicing import Elastic


def extract(supernet: Backbone, arch: ArchConfig) -> Backbone:
    """A static module of one member, with copies of its slices; its outputs are the supernet's.

    Raises:
        ValueError: `arch` is not a member of the supernet's space; says why.
    """
    if reason := supernet.space.why_not(arch):
        raise ValueError(f"not a member of space {supernet.space.name}: {reason}")
    parameter = next(supernet.parameters())
    subnet = build(arch, supernet.space.input_size, supernet.in_chans, supernet.num_classes)
    subnet.to(device=parameter.device, dtype=parameter.dtype)
    with torch.no_grad():
        for name, module in subnet.named_modules():
            if isinstance(module, Elastic):
                source = supernet.get_submodule(name)
                assert isinstance(source, Elastic)
                module.take(source)
    return subnet.train(supernet.training)
