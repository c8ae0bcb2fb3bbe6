"""What network a timm `Twins` or `SwinTransformer` is, and timm's module of a network.

Refusing by name what the fields of an `ArchConfig` cannot say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from timm.layers.adaptive_avgmax_pool import FastAdaptiveAvgPool, SelectAdaptivePool2d
from timm.layers.classifier import ClassifierHead
from timm.layers.drop import DropPath
from timm.layers.mlp import Mlp
from timm.layers.patch_embed import PatchEmbed
from timm.models import swin_transformer, twins
from torch import nn

from twins_nas.arch import (
    GSA,
    LSA,
    MERGE,
    SHIFTED,
    WINDOW_FITS,
    ArchConfig,
    Grid,
    StageConfig,
    fit_window,
    key,
    shift_of,
)
from twins_nas.errors import UserError

LEAVES = (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.GELU, nn.Identity, nn.Softmax, DropPath)
HOUSES = (nn.Sequential, nn.ModuleList, nn.Dropout, Mlp, PatchEmbed, ClassifierHead)
POOLING = (SelectAdaptivePool2d, FastAdaptiveAvgPool)
OF_TWINS = (
    twins.Twins,
    twins.Block,
    twins.PatchEmbed,
    twins.PosConv,
    twins.LocallyGroupedAttn,
    twins.GlobalSubSampleAttn,
)
OF_SWIN = (
    swin_transformer.SwinTransformer,
    swin_transformer.SwinTransformerStage,
    swin_transformer.SwinTransformerBlock,
    swin_transformer.PatchMerging,
    swin_transformer.WindowAttention,
)


@dataclass(frozen=True)
class Described:
    """A network as this package would build it."""

    arch: ArchConfig
    input_size: Grid
    in_chans: int
    num_classes: int
    drop_path: float


def read(model: nn.Module) -> Described:
    """The description of a timm Twins or Swin Transformer.

    Raises:
        UserError: another model, or one that the fields cannot describe; names what.
    """
    known = type(model) in (twins.Twins, swin_transformer.SwinTransformer)
    if not known:
        raise UserError(
            f"a {type(model).__name__} cannot be read, only a timm Twins or SwinTransformer"
        )
    for name, module in model.named_modules():
        _check_module(name, module)
    return _twins(model) if isinstance(model, twins.Twins) else _swin(model)


def _cannot(name: str, said: str) -> UserError:
    return UserError(f"{name}: {said}, which no field of an architecture can say")


def _check_module(name: str, module: nn.Module) -> None:
    """Refuses a module that this backbone does not have."""
    if not isinstance(module, LEAVES + POOLING) and type(module) not in HOUSES + OF_TWINS + OF_SWIN:
        raise _cannot(name, f"is a {type(module).__name__}")
    if isinstance(module, nn.GELU) and module.approximate != "none":
        raise _cannot(name, f"approximates GELU by {module.approximate}")
    if isinstance(module, nn.Dropout) and module.p:
        raise _cannot(name, f"drops out {module.p:g}")
    if isinstance(module, nn.LayerNorm) and module.weight is None:
        raise _cannot(name, "has no weight")
    biased = isinstance(module, nn.Linear | nn.Conv2d | nn.LayerNorm)
    if biased and (module.bias is None) != name.endswith("downsample.reduction"):
        raise _cannot(name, "has no bias" if module.bias is None else "has a bias")
    if isinstance(module, SelectAdaptivePool2d) and module.pool_type != "avg":
        raise _cannot(name, f"pools by {module.pool_type!r}")


def _twins(model: Any) -> Described:
    if model.global_pool != "avg":
        raise _cannot("global_pool", f"is {model.global_pool!r}")
    stages, embeds = [], model.patch_embeds
    for embed, blocks in zip(embeds, model.blocks, strict=True):
        lsa = [isinstance(block.attn, twins.LocallyGroupedAttn) for block in blocks]
        stages.append(
            StageConfig(
                embed.proj.out_channels,
                embed.proj.out_channels // blocks[0].attn.num_heads,
                len(blocks),
                "".join(LSA if local else GSA for local in lsa),
                tuple(getattr(block.attn, "ws", 0) for block in blocks),
                tuple(getattr(block.attn, "sr_ratio", 0) for block in blocks),
                "cpe",
                _mlp_ratios(blocks),
            )
        )
    patches = [embed.proj.kernel_size for embed in embeds]
    _check_patches(patches)
    arch = ArchConfig(tuple(stages), patches[0][0], window_fit="pad", **_epsilons(model))
    blocks = [block for several in model.blocks for block in several]
    return _described(model, arch, embeds[0].img_size, blocks, model.head)


def _swin(model: Any) -> Described:
    embed, stages = model.patch_embed, []
    if embed.dynamic_img_pad:
        raise _cannot("patch_embed.dynamic_img_pad", "pads images to whole patches")
    fit = _window_fit(model)
    for layer in model.layers:
        blocks = layer.blocks
        width = blocks[0].attn.qkv.in_features
        if blocks[0].attn.qkv.out_features != 3 * width:
            wide = blocks[0].attn.qkv.out_features // 3
            raise _cannot("head_dim", f"makes an attention width of {wide} at {width} channels")
        stages.append(
            StageConfig(
                width,
                width // blocks[0].attn.num_heads,
                len(blocks),
                "".join(_letter(block) for block in blocks),
                tuple(max(block.window_size) for block in blocks),
                (0,) * len(blocks),
                "rpe",
                _mlp_ratios(blocks),
            )
        )
    _check_patches([embed.proj.kernel_size])
    arch = ArchConfig(
        tuple(stages),
        embed.proj.kernel_size[0],
        fit,
        downsample=MERGE,
        patch_norm=isinstance(embed.norm, nn.LayerNorm),
        **_epsilons(model),
    )
    blocks = [block for layer in model.layers for block in layer.blocks]
    return _described(model, arch, embed.img_size, blocks, model.head.fc)


def _letter(block: Any) -> str:
    return SHIFTED if any(block.target_shift_size) else LSA


def _window_fit(model: Any) -> str:
    """How the windows are fitted, by what timm made of them."""
    blocks: dict[str, Any] = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, swin_transformer.SwinTransformerBlock)
    }
    wrong = ""
    for fit in WINDOW_FITS:
        wrong = ""
        for name, block in blocks.items():
            grid, window = block.input_resolution, tuple(block.window_size)
            shift = shift_of(window, grid) if _letter(block) == SHIFTED else (0, 0)
            if fit_window(max(window), grid, fit) != window:
                wrong = wrong or f"{name}.window_size: is {window} on a {grid[0]}x{grid[1]} grid"
            elif shift != tuple(block.shift_size):
                wrong = wrong or f"{name}.shift_size: is {block.shift_size} of windows {window}"
        if not wrong:
            return fit
    raise _cannot(*wrong.split(": ", 1))


def _check_patches(patches: Sequence[tuple[int, int]]) -> None:
    for index, (height, width) in enumerate(patches):
        if height != width or (index and height != 2):
            raise _cannot(f"patch_size of stage {index}", f"is {height}x{width}")


def _mlp_ratios(blocks: Any) -> tuple[float, ...]:
    """Ratios that give the hidden widths exactly."""
    ratios = []
    for block in blocks:
        dim, hidden = block.mlp.fc1.in_features, block.mlp.fc1.out_features
        ratio = hidden / dim
        ratios.append(ratio if int(dim * ratio) == hidden else math.nextafter(ratio, math.inf))
    return tuple(ratios)


def _epsilons(model: nn.Module) -> dict[str, Any]:
    found: dict[str, dict[float, str]] = {"norm_eps": {}, "patch_eps": {}}
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            patch = "patch_embed" in name or "downsample" in name or name.endswith("attn.norm")
            found["patch_eps" if patch else "norm_eps"].setdefault(module.eps, name)
    for several in found.values():
        if len(several) > 1:
            names = ", ".join(f"{name} has {eps:g}" for eps, name in several.items())
            raise _cannot("eps of the norms", names)
    return {name: next(iter(one)) for name, one in found.items() if one}


def _described(model: Any, arch: ArchConfig, size: Any, blocks: Any, head: nn.Module) -> Described:
    if not isinstance(head, nn.Linear):
        raise _cannot("num_classes", "is 0")
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) or 0.0 for block in blocks]
    last = max(1, len(rates) - 1)
    for index, rate in enumerate(rates):
        if abs(rate - rates[-1] * index / last) > 1e-6 and len(rates) > 1:
            raise _cannot("drop_path_rate", f"is {rate:g} in block {index}, not linear")
    if size is None:
        raise UserError("The model has no image size: build it with img_size=.")
    drop_path = float(rates[-1]) if len(rates) > 1 else 0.0
    return Described(arch, tuple(size), model.in_chans, head.out_features, drop_path)


def write(described: Described) -> nn.Module:
    """The timm module of a network, with timm's initial weights.

    Raises:
        UserError: timm has no such network; names the fields that it has otherwise.
    """
    arch = described.arch
    swin = arch.downsample == MERGE or "rpe" in arch.stages[0].pe_kinds
    windows = tuple(max(*stage.window_size, 0) or 7 for stage in arch.stages)
    keys: dict[str, Any] = {
        "in_chans": described.in_chans,
        "num_classes": described.num_classes,
        "patch_size": arch.patch_size,
        "depths": tuple(stage.depth for stage in arch.stages),
        "num_heads": tuple(stage.num_heads for stage in arch.stages),
        "drop_path_rate": described.drop_path,
        "norm_layer": partial(nn.LayerNorm, eps=arch.norm_eps),
    }
    ratios = tuple(stage.mlp_ratio[0] for stage in arch.stages)
    if swin:
        keys |= {
            "img_size": described.input_size,
            "embed_dim": arch.stages[0].embed_dim,
            "window_size": windows,
            "always_partition": arch.window_fit == "pad",
            "mlp_ratio": ratios,
        }
    else:
        # timm's Twins asks for whole patches at its birth, and takes any size later.
        side = arch.patch_size << len(arch.stages) - 1
        local = any(LSA in stage.letters for stage in arch.stages)
        keys |= {
            "img_size": tuple(max(1, size // side) * side for size in described.input_size),
            "embed_dims": tuple(stage.embed_dim for stage in arch.stages),
            "mlp_ratios": ratios,
            "sr_ratios": tuple(max(*stage.sr_ratio, 0) or 1 for stage in arch.stages),
            "wss": windows if local else None,
        }
    kind: Any = swin_transformer.SwinTransformer if swin else twins.Twins
    model: nn.Module = kind(**keys)
    found = read(model).arch
    if key(found, described.input_size) != key(arch, described.input_size):
        raise UserError(_difference(arch, found, type(model).__name__))
    return model


def _difference(asked: ArchConfig, found: ArchConfig, kind: str) -> str:
    """What timm's nearest network has otherwise."""
    pairs: list[tuple[str, Any, Any]] = [("", asked, found)]
    pairs += [
        (f"stages.{index}.", *pair)
        for index, pair in enumerate(zip(asked.stages, found.stages, strict=True))
    ]
    differ = [
        f"{place}{name} is {value}, not {getattr(theirs, name)}"
        for place, ours, theirs in pairs
        for name, value in vars(ours).items()
        if name != "stages" and value != getattr(theirs, name)
    ]
    return f"timm's {kind} has no such network: {'; '.join(differ[:6])}."
