"""Weights from and to timm's Twins and Swin: same logits, same gradients, refusals by name."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import timm
import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.twins import Twins
from torch import Tensor, nn

from twins_nas.config import find, load_space
from twins_nas.errors import UserError
from twins_nas.model.backbone import Backbone, build, initialise
from twins_nas.model.transfer import from_timm, to_timm
from twins_nas.seeds import seed

SIX = [
    f"twins_{family}_{size}" for family in ("pcpvt", "svt") for size in ("small", "base", "large")
]
THREE = [f"swin_{size}" for size in ("tiny", "small", "base")]
SMALL_SWIN = {"embed_dim": 16, "depths": (2, 2, 2), "num_heads": (2, 4, 4), "num_classes": 7}
SMALL_TWINS = {
    "embed_dims": (16, 24, 32),
    "num_heads": (2, 3, 2),
    "depths": (3, 1, 2),
    "mlp_ratios": (2, 3, 1.3),
    "sr_ratios": (4, 2, 1),
    "wss": (7, 5, 3),
    "num_classes": 7,
}


def randomised(model: nn.Module) -> Any:
    """The model with values beyond its initialisation, so that no zero hides an error."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def named(name: str, **keys: Any) -> Any:
    """A published model of timm, randomised."""
    full = f"{name}_patch4_window7_224" if name.startswith("swin") else name
    return randomised(timm.create_model(full, **keys))


def same(ours: nn.Module, theirs: nn.Module, images: Tensor) -> None:
    """Logits agree to 1e-5 of the largest."""
    with torch.no_grad():
        expected = theirs(images)
        error = (ours(images) - expected).abs().max() / expected.abs().max()
    assert error <= 1e-5, error


@pytest.mark.parametrize("name", SIX + THREE)
def test_published_models(name: str) -> None:
    """The seed of that name is read, with timm's logits at 224 px."""
    theirs = named(name)
    ours = from_timm(theirs)
    assert ours.arch == seed(name) and ours.space.input_size == (224, 224)
    same(ours, theirs, torch.randn(1, 3, 224, 224))


@pytest.mark.parametrize("size", [200, 250, 96])
@pytest.mark.parametrize("name", ["twins_svt_small", "twins_pcpvt_small", "swin_tiny"])
def test_odd_sizes(name: str, size: int) -> None:
    """Grids that windows, ratios and halves do not divide."""
    keys = {"img_size": size} if name == "swin_tiny" else {}
    theirs = named(name, **keys)
    same(from_timm(theirs), theirs, torch.randn(1, 3, size, size))


@pytest.mark.parametrize("size", [(40, 52), (64, 64), (20, 36), (112, 60)])
def test_small_swins(size: tuple[int, int]) -> None:
    """Windows of 7 on 10x13 tokens, and over the grid on one axis or both."""
    theirs = randomised(SwinTransformer(img_size=size, **SMALL_SWIN))
    ours = from_timm(theirs)
    same(ours, theirs, torch.randn(2, 3, *size))
    same(to_timm(ours), theirs, torch.randn(2, 3, *size))


def test_a_clamped_window_is_recorded() -> None:
    """Stage 2 has 5x5 tokens; its table has 81 rows in timm, and the arch a window of 5."""
    theirs = randomised(SwinTransformer(img_size=80, **SMALL_SWIN))
    ours = from_timm(theirs)
    assert [stage.window_size[0] for stage in ours.arch.stages] == [7, 7, 5]
    assert ours.arch.stages[2].mixer == "LS"
    assert theirs.layers[2].blocks[0].attn.relative_position_bias_table.shape[0] == 81


@pytest.mark.parametrize("size", [(40, 52), (56, 56), (43, 61)])
def test_small_twins(size: tuple[int, int]) -> None:
    """Any dims, heads, ratios, windows and channels; timm's Twins takes any image size."""
    theirs = randomised(Twins(img_size=48, in_chans=2, **SMALL_TWINS))
    ours = from_timm(theirs)
    images = torch.randn(2, 2, *size)
    same(ours, theirs, images)
    same(to_timm(ours), theirs, images)
    assert [stage.mixer for stage in ours.arch.stages] == ["LG", "L", "LG"]
    assert ours.arch.stages[2].hidden_dim(0) == int(32 * 1.3)


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        (Twins, {**SMALL_TWINS, "img_size": 32}),
        (SwinTransformer, {**SMALL_SWIN, "img_size": (40, 52)}),
    ],
)
def test_gradients(kind: Any, keys: dict[str, Any]) -> None:
    """Of every parameter: ours, written as weights into timm's module, are timm's."""
    theirs = randomised(kind(**keys))
    ours = from_timm(theirs)
    images = torch.randn(2, 3, 40, 52)
    for model in (ours, theirs):
        model(images).square().sum().backward()
    written = from_timm(theirs)
    with torch.no_grad():
        for target, source in zip(written.parameters(), ours.parameters(), strict=True):
            assert source.grad is not None
            target.copy_(source.grad)
    found = dict(to_timm(written).named_parameters())
    for name, parameter in theirs.named_parameters():
        expected = parameter.grad
        assert torch.allclose(found[name], expected, rtol=1e-4, atol=1e-5 * expected.abs().max())


@pytest.mark.parametrize("name", ["twins_pcpvt_micro", "twins_svt_micro", "swin_micro"])
def test_there_and_back(name: str) -> None:
    """The weights of our module, through timm's, to the bit."""
    arch = seed(name)
    ours = build(arch, (32, 32), 1, 10, drop_path=0.1)
    initialise(ours, 0)
    if name == "swin_micro":
        with pytest.raises(UserError, match="patch_eps is 1e-05, not 1e-06"):
            to_timm(ours)
        return
    again = from_timm(to_timm(ours))
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name))
    assert again.drop_path == pytest.approx(0.1)


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (SwinTransformer, {"head_dim": 16}, "head_dim: makes an attention width of 32 at 16 channels"),
    (SwinTransformer, {"window_size": (3, 5)}, "window_size: is .3, 5. on a"),
    (SwinTransformer, {"always_partition": True, "img_size": 64}, "window_size: is .4, 4.|shift"),
    (SwinTransformer, {"qkv_bias": False}, "layers.0.blocks.0.attn.qkv: has no bias"),
    (SwinTransformer, {"norm_layer": nn.RMSNorm}, "patch_embed.norm: is a RMSNorm"),
    (SwinTransformer, {"global_pool": "max"}, "pools by 'max'"),
    (SwinTransformer, {"num_classes": 0}, "num_classes: is 0"),
    (SwinTransformer, {"proj_drop_rate": 0.1}, "drops out 0.1"),
    (SwinTransformer, {"patch_size": (4, 2)}, "patch_size of stage 0: is 4x2"),
    (Twins, {"global_pool": ""}, "global_pool: is ''"),
    (Twins, {"attn_drop_rate": 0.2}, "drops out 0.2"),
    (SwinTransformer, {"norm_layer": partial(nn.LayerNorm, bias=False)}, "norm: has no bias"),
]


@pytest.mark.parametrize(("kind", "keys", "words"), REFUSED, ids=lambda item: str(item)[:40])
def test_what_no_field_can_say_is_refused(kind: Any, keys: dict[str, Any], words: str) -> None:
    """Naming the module or the setting."""
    small = SMALL_SWIN if kind is SwinTransformer else {**SMALL_TWINS, "img_size": 32}
    with pytest.raises(UserError, match=words):
        from_timm(kind(**{**small, **keys}))


def test_other_models_are_refused() -> None:
    """Naming their class."""
    with pytest.raises(UserError, match="a VisionTransformer cannot be read"):
        from_timm(timm.create_model("deit_tiny_patch16_224"))


def test_norms_of_different_epsilons_are_refused() -> None:
    """Naming two of them."""
    theirs = Twins(img_size=32, **SMALL_TWINS)
    theirs.blocks[1][0].norm2.eps = 1e-3
    with pytest.raises(UserError, match=r"blocks.1.0.norm2 has 0.001"):
        from_timm(theirs)


def test_what_timm_lacks_is_refused() -> None:
    """Naming the fields; and a supernet, which is no network."""
    ours = build(seed("pvt_micro"), (32, 32))
    with pytest.raises(UserError, match="pool is cls, not gap"):
        to_timm(ours)
    svt = seed("twins_svt_micro")
    pooled = replace(svt, stages=tuple(replace(one, subsampling="pool") for one in svt.stages))
    with pytest.raises(UserError, match=r"stages\.0\.subsampling is pool, not conv"):
        to_timm(build(pooled, (32, 32)))
    supernet = Backbone(load_space(find("space", "svt")))
    with pytest.raises(UserError, match="extract one of its members"):
        to_timm(supernet)
