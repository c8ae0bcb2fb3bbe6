"""Which of our parameters holds which tensor of timm's Twins and Swin and of the authors' PVT.

A rule is data, so that one table serves reading and writing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from twins_nas.arch import GSA, MERGE, ArchConfig, StageConfig
from twins_nas.errors import UserError

SHOWN = 6
BUFFERS = ("relative_position_index", "attn_mask")
"""Tensors of official checkpoints that follow from the architecture."""


@dataclass(frozen=True)
class Rule:
    """One parameter of ours, the tensors that it is made of, and how."""

    ours: str
    theirs: tuple[str, ...]
    kind: str = "same"


Read = Callable[[list[Tensor], torch.Size], Tensor]
READ: dict[str, Read] = {
    "same": lambda given, shape: given[0],
    "joined": lambda given, shape: torch.cat(given),
    "offsets": lambda given, shape: given[0].T.reshape(shape),
    "positions": lambda given, shape: given[0][0].reshape(shape),
    "positions after a class": lambda given, shape: given[0][0, 1:].reshape(shape),
    "first position": lambda given, shape: given[0][0, 0],
}
WRITE: dict[str, Callable[[Tensor, list[torch.Size]], list[Tensor]]] = {
    "same": lambda ours, shapes: [ours],
    "joined": lambda ours, shapes: list(torch.split(ours, [shape[0] for shape in shapes])),
    "offsets": lambda ours, shapes: [ours.flatten(1).T],
}


def twins_rules(arch: ArchConfig) -> list[Rule]:
    """Rules of `timm.models.twins.Twins`."""
    rules = [*_both("norm", "norm"), *_both("head", "head")]
    for index, stage in enumerate(arch.stages):
        ours = f"stages.{index}"
        rules += _embed(arch, index, f"patch_embeds.{index}")
        rules += _both(f"{ours}.cpe.0", f"pos_block.{index}.proj.0")
        for block in range(stage.depth):
            rules += _block(stage, index, block, f"blocks.{index}.{block}")
    return rules


def pvt_rules(arch: ArchConfig) -> list[Rule]:
    """Rules of the authors' PVT (classification/pvt.py)."""
    rules = [*_both("norm", "norm"), *_both("head", "head")]
    for index, stage in enumerate(arch.stages):
        positions = (f"pos_embed{index + 1}",)
        rules += _embed(arch, index, f"patch_embed{index + 1}")
        if arch.class_tokens(index):
            rules.append(Rule(f"stages.{index}.cls.token", ("cls_token",), "first position"))
            rules.append(Rule(f"stages.{index}.cls.position", positions, "first position"))
        kind = "positions after a class" if arch.class_tokens(index) else "positions"
        rules.append(Rule(f"stages.{index}.ape.table", positions, kind))
        for block in range(stage.depth):
            rules += _block(stage, index, block, f"block{index + 1}.{block}")
    return rules


def swin_rules(arch: ArchConfig) -> list[Rule]:
    """Rules of `timm.models.swin_transformer.SwinTransformer`."""
    rules = [*_both("norm", "norm"), *_both("head", "head.fc"), *_embed(arch, 0, "patch_embed")]
    for index, stage in enumerate(arch.stages):
        if index:
            ours, theirs = f"stages.{index}.embed.{MERGE}", f"layers.{index}.downsample"
            rules += _both(f"{ours}.norm", f"{theirs}.norm")
            rules.append(Rule(f"{ours}.reduction.weight", (f"{theirs}.reduction.weight",)))
        for block in range(stage.depth):
            theirs = f"layers.{index}.blocks.{block}"
            rules += _block(stage, index, block, theirs)
            table = f"stages.{index}.blocks.{block}.attn.rpe.table"
            rules.append(Rule(table, (f"{theirs}.attn.relative_position_bias_table",), "offsets"))
    return rules


def _both(ours: str, *theirs: str) -> list[Rule]:
    kind = "same" if len(theirs) == 1 else "joined"
    return [
        Rule(f"{ours}.{part}", tuple(f"{name}.{part}" for name in theirs), kind)
        for part in ("weight", "bias")
    ]


def _embed(arch: ArchConfig, index: int, theirs: str) -> list[Rule]:
    ours = f"stages.{index}.embed.{2 if index else arch.patch_size}"
    norm = _both(f"{ours}.norm", f"{theirs}.norm") if arch.patch_norm else []
    return [*_both(f"{ours}.conv", f"{theirs}.proj"), *norm]


def _block(stage: StageConfig, index: int, block: int, theirs: str) -> list[Rule]:
    ours = f"stages.{index}.blocks.{block}"
    rules = []
    for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2", "attn.proj"):
        rules += _both(f"{ours}.{part}", f"{theirs}.{part}")
    if stage.letters[block] != GSA:
        return rules + _both(f"{ours}.attn.qkv", f"{theirs}.attn.qkv")
    rules += _both(f"{ours}.attn.qkv", f"{theirs}.attn.q", f"{theirs}.attn.kv")
    if (ratio := stage.sr_ratio[block]) > 1:
        rules += _both(f"{ours}.attn.sr.{ratio}.conv", f"{theirs}.attn.sr")
        rules += _both(f"{ours}.attn.sr.{ratio}.norm", f"{theirs}.attn.norm")
    return rules


def load(model: nn.Module, rules: list[Rule], state: Mapping[str, Tensor]) -> None:
    """Fills all parameters of the model from a foreign state dict.

    Raises:
        UserError: names that are missing or left over, and shapes that differ.
    """
    own = dict(model.named_parameters())
    assert {rule.ours for rule in rules} == set(own)
    used = {name for rule in rules for name in rule.theirs}
    left = [name for name in state if name not in used and not name.endswith(BUFFERS)]
    faults = {"missing": [*sorted(used - set(state))], "not known": left}
    values = {}
    for rule in rules:
        if all(name in state for name in rule.theirs):
            shape = own[rule.ours].shape
            try:
                value = READ[rule.kind]([state[name] for name in rule.theirs], shape)
            except (RuntimeError, IndexError):
                value = None
            if value is None or value.shape != shape:
                shapes = ", ".join(str(tuple(state[name].shape)) for name in rule.theirs)
                said = f"{' + '.join(rule.theirs)} {shapes} for {tuple(shape)}"
                faults.setdefault("of another shape", []).append(said)
            else:
                values[rule.ours] = value
    _refuse(faults)
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(value)


def store(model: nn.Module, rules: list[Rule], target: nn.Module) -> None:
    """Writes all parameters of the model into a foreign module that its rules describe."""
    own, theirs = dict(model.named_parameters()), dict(target.named_parameters())
    assert {rule.ours for rule in rules} == set(own)
    assert {name for rule in rules for name in rule.theirs} == set(theirs)
    with torch.no_grad():
        for rule in rules:
            shapes = [theirs[name].shape for name in rule.theirs]
            values = WRITE[rule.kind](own[rule.ours], shapes)
            for name, value in zip(rule.theirs, values, strict=True):
                theirs[name].copy_(value)


def _refuse(faults: Mapping[str, list[str]]) -> None:
    said = []
    for what, names in faults.items():
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            said.append(f"{what}: {', '.join(names[:SHOWN])}{more}")
    if said:
        raise UserError(f"The weights do not fit the architecture. {'; '.join(said).capitalize()}.")
