"""Our networks as models of timm: after `import twins_nas.timm_models` its functions know them.

`timm.create_model("nas_twins_svt_small")`, one name for each network of `seeds.SEEDS`, and
`timm.create_model("nas_arch", arch="runs/mine/archs/best.yaml")` for any other. A model is a
`Backbone`, so weights move both ways without another name. Initial weights follow
`torch.manual_seed`, as those of timm's models do; no trained ones are published.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import (
    PretrainedCfg,
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
    resolve_pretrained_cfg,
)
from torch import nn

from twins_nas.arch import ArchConfig, Grid
from twins_nas.config import load_arch, parse_arch
from twins_nas.errors import UserError, did_you_mean
from twins_nas.model.timm_backbone import TimmBackbone, check_buildable, grid_of
from twins_nas.seeds import SEEDS, native_size, seed

__all__ = ["TimmBackbone", "nas_arch"]

TIMMS_CROP, WHOLE = 0.9, 1.0


def _described(arch: ArchConfig, size: Grid, crop_pct: float) -> dict[str, Any]:
    """The entries of a `timm.models.PretrainedCfg`: no weights, and how images are prepared."""
    check_buildable(arch, size)
    return {
        "input_size": (3, *size),
        "pool_size": arch.grids(size)[-1],
        "crop_pct": crop_pct,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": f"stages.0.embed.{arch.patch_size}.conv",
        "classifier": "head",
    }


def _create(
    name: str, arch: ArchConfig, pretrained: bool, img_size: int | Sequence[int], **keys: Any
) -> nn.Module:
    """Builds a model in timm's way; `keys` are what `timm.create_model` was given besides.

    Raises:
        UserError: weights are asked for where the user names none, or another feature extractor.
    """
    known = resolve_pretrained_cfg(
        name, keys.get("pretrained_cfg"), keys.get("pretrained_cfg_overlay")
    )
    if pretrained and not (known.has_weights or known.state_dict):
        raise UserError(
            f"No weights are published for {name}: leave out pretrained=True, and load weights of"
            " your own by checkpoint_path=."
        )
    extractor = {"feature_cls": "getter", "out_indices": len(arch.stages)}
    if keys.get("feature_cls", "getter") != "getter":
        raise UserError(f"feature_cls {keys['feature_cls']!r} is not 'getter', which {name} needs.")
    model: nn.Module = build_model_with_cfg(
        partial(TimmBackbone, arch),
        name,
        pretrained,
        feature_cfg=extractor,
        img_size=grid_of(img_size),
        **keys,
    )
    return model


def _entry(name: str) -> Callable[..., nn.Module]:
    """The entry point of a published network."""

    def create(pretrained: bool = False, **keys: Any) -> nn.Module:
        img_size = keys.pop("img_size", native_size(name))
        return _create(f"nas_{name}", seed(name), pretrained, img_size, **keys)

    create.__name__ = create.__qualname__ = f"nas_{name}"
    create.__doc__ = f"The network {seed(name)}, see `TimmBackbone`."
    return create


def _read(arch: str | os.PathLike[str] | ArchConfig) -> tuple[ArchConfig, Grid]:
    """A network and the image size that it is made for, by any of the names that it may have."""
    if isinstance(arch, ArchConfig):
        return arch, (224, 224)
    name = os.fspath(arch)
    if name in SEEDS:
        return seed(name), grid_of(native_size(name))
    if "\n" in name:
        return parse_arch(name, "arch")
    try:
        path = Path(name)
        there, beside = path.is_file(), sorted(map(str, path.parent.glob("*.y*ml")))
    except (OSError, ValueError):
        there, beside = False, []  # no path at all: too long, or with a letter that no path has
    if there:
        return load_arch(path)
    raise UserError(
        f"There is neither a file nor a network called {name!r}"
        f"{did_you_mean(name, [*beside, *SEEDS])} (the networks are: {', '.join(SEEDS)})."
    )


_cfgs: dict[str, dict[str, Any] | PretrainedCfg] = {"nas_arch": {"classifier": "head"}}
for _name in SEEDS:
    _crop = WHOLE if _name.endswith("_micro") else TIMMS_CROP
    _cfgs[f"nas_{_name}"] = _described(seed(_name), grid_of(native_size(_name)), _crop)
default_cfgs = generate_default_cfgs(_cfgs)


@register_model
def nas_arch(
    pretrained: bool = False,
    arch: str | os.PathLike[str] | ArchConfig | None = None,
    img_size: int | Sequence[int] | None = None,
    **keys: Any,
) -> nn.Module:
    """The network of a YAML file, of its text, of a seed's name, or an `ArchConfig`.

    Its `img_size` is the file's `input_size`, 224 for an `ArchConfig`.

    Raises:
        UserError: no such file or name (tells the nearest), or a fault of the file.
    """
    if arch is None:
        raise UserError(
            'nas_arch needs a network: timm.create_model("nas_arch", arch="best.yaml").'
        )
    network, size = _read(arch)
    size = size if img_size is None else grid_of(img_size)
    if not resolve_pretrained_cfg("nas_arch", keys.get("pretrained_cfg")).has_weights:
        given = keys.get("pretrained_cfg_overlay") or {}
        keys["pretrained_cfg_overlay"] = {**_described(network, size, WHOLE), **given}
    return _create("nas_arch", network, pretrained, size, **keys)


for _name in SEEDS:
    globals()[f"nas_{_name}"] = register_model(_entry(_name))
