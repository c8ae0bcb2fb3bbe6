"""Supernets that share less: parameters of their own for some of the choices.

As built, a supernet shares each block's attention and MLP between all choices, and each LayerNorm
between all widths; what a choice adds is its own anyway (the convolution of each `sr_ratio`, the
table of each kind of `pe`). The laws of slices hold for all of these too: `extract` gives a plain
network, which knows nothing of them.

Shapes: B batch, N tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from twins_nas.arch import MIXERS, ArchConfig, Grid, normal_pe
from twins_nas.model.backbone import (
    Backbone,
    Block,
    PatchMerge,
    attention_of,
    block_options,
)
from twins_nas.model.deep import DeepBackbone
from twins_nas.model.slicing import ElasticLayerNorm, ElasticLinear
from twins_nas.recipes import SupernetRecipe
from twins_nas.space import SearchSpace


class SeparateAttention(nn.Module):
    """An attention of its own for each value of some fields; a block without GSA has ratio 0."""

    def __init__(self, space: SearchSpace, index: int, block: int, fields: Sequence[str]) -> None:
        super().__init__()
        self.index, self.block, self.fields = index, block, tuple(fields)
        may = block_options(space, index, block)
        groups: dict[str, dict[str, set[Any]]] = {}
        for pe, letter in product(sorted(map(normal_pe, may["pe"])), sorted(may["mixer"])):
            for ratio in sorted(may["sr_ratio"]) if "sr_ratio" in MIXERS[letter] else [0]:
                values = {"pe": pe, "mixer": letter, "sr_ratio": ratio}
                group = groups.setdefault(self._key(values), {name: set() for name in values})
                for name, value in values.items():
                    group[name].add(value)
        self.of = nn.ModuleDict(
            {
                key: attention_of(space, index, {**may, **group})
                for key, group in sorted(groups.items())
            }
        )

    def _key(self, values: dict[str, Any]) -> str:
        return "_".join(str(values[name]) for name in self.fields)

    def pick(self, arch: ArchConfig) -> nn.Module:
        """The attention of a network."""
        stage = arch.stages[self.index]
        letter, ratio = stage.letters[self.block], stage.sr_ratio[self.block]
        return self.of[self._key({"pe": stage.pe, "mixer": letter, "sr_ratio": ratio})]

    def forward(
        self, x_BNC: Tensor, grid: Grid, arch: ArchConfig, index: int, block: int
    ) -> Tensor:
        """As `Attention`."""
        out: Tensor = self.pick(arch)(x_BNC, grid, arch, index, block)
        return out


class SwitchableLayerNorm(ElasticLayerNorm):
    """A weight and a bias of its own for each width (slimmable networks, arXiv 1812.08928)."""

    def __init__(self, widths: Iterable[int], in_groups: int = 1) -> None:
        *others, largest = sorted(set(widths))
        super().__init__(largest, in_groups)
        sizes = {str(width): in_groups * width for width in others}
        self.weights = nn.ParameterDict({key: torch.ones(size) for key, size in sizes.items()})
        self.biases = nn.ParameterDict({key: torch.zeros(size) for key, size in sizes.items()})

    def sliced(self, dim: int) -> tuple[Tensor, Tensor]:
        """Weight and bias of a width."""
        if dim == self.dim:
            return self.weight, self.bias
        return self.weights[str(dim)], self.biases[str(dim)]


class SplitBackbone(Backbone):
    """A supernet of its own for each value of one choice (few-shot NAS, arXiv 2006.06863).

    Their authors train one supernet first and go on from its weights; here they are apart from the
    first step, so each is trained in the steps that draw its value.
    """

    def __init__(
        self, space: SearchSpace, in_chans: int, num_classes: int, recipe: SupernetRecipe
    ) -> None:
        nn.Module.__init__(self)
        self.space, self.in_chans, self.num_classes = space, in_chans, num_classes
        self.drop_path = recipe.drop_path
        self.largest = space.extreme(+1)
        (self.choice,) = (choice for choice in space.choices if choice.name == recipe.split)
        whole = recipe.model_copy(update={"split": None})
        self.parts = nn.ModuleList(
            supernet_of(space.fixed({self.choice.name: value}), in_chans, num_classes, whole)
            for value in self.choice.values
        )

    def part(self, arch: ArchConfig) -> Backbone:
        """The supernet that a network belongs to."""
        part = self.parts[self.choice.values.index(self.space.value(arch, self.choice))]
        assert isinstance(part, Backbone)
        return part

    def forward_stages(self, x_BCHW: Tensor, arch: ArchConfig | None = None) -> list[Tensor]:
        """See `Backbone.forward_stages`."""
        arch = arch or self.arch
        return self.part(arch).forward_stages(x_BCHW, arch)

    def forward(self, x_BCHW: Tensor, arch: ArchConfig | None = None) -> Tensor:
        """See `Backbone.forward`."""
        arch = arch or self.arch
        logits: Tensor = self.part(arch)(x_BCHW, arch)
        return logits

    def forward_all(self, x_BCHW: Tensor, arch: ArchConfig | None = None) -> list[Tensor]:
        """See `Backbone.forward_all`."""
        arch = arch or self.arch
        return self.part(arch).forward_all(x_BCHW, arch)


def supernet_of(
    space: SearchSpace, in_chans: int, num_classes: int, recipe: SupernetRecipe
) -> Backbone:
    """The weight-sharing network that a recipe asks for; its weights are not drawn yet."""
    if recipe.split is not None:
        return SplitBackbone(space, in_chans, num_classes, recipe)
    kind = DeepBackbone if recipe.deep_supervision else Backbone
    model = kind(space, in_chans, num_classes, recipe.drop_path)
    if recipe.separate:
        _separate_attention(model, recipe.separate)
    if recipe.switchable_norms:
        _switch_norms(model)
    if recipe.scaled_slices:
        for module in model.modules():
            if isinstance(module, ElasticLinear):
                module.scaled = True
    return model


def _separate_attention(model: Backbone, fields: Sequence[str]) -> None:
    for index, stage in enumerate(model.stages):
        for number, block in enumerate(stage.get_submodule("blocks").children()):
            assert isinstance(block, Block)
            separate = SeparateAttention(model.space, index, number, fields)
            if len(separate.of) > 1:
                block.attn = separate


def _switch_norms(model: Backbone) -> None:
    widths = [set(stage["embed_dim"][0]) for stage in model.space.stages]
    model.norm = _switched(model.norm, widths[-1])
    for index, stage in enumerate(model.stages):
        for parent in stage.modules():
            of = widths[index - 1] if isinstance(parent, PatchMerge) else widths[index]
            for name, child in list(parent.named_children()):
                setattr(parent, name, _switched(child, of))


def _switched(module: nn.Module, widths: set[int]) -> nn.Module:
    if not isinstance(module, ElasticLayerNorm) or len(widths) == 1:
        return module
    return SwitchableLayerNorm(widths, module.in_groups)
