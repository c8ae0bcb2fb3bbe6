"""Our networks in timm: the checks of timm's own tests over all names, and equality with ours."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from timm.models import PretrainedCfg, group_parameters
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

import twins_nas.timm_models
from twins_nas.arch import CLS
from twins_nas.errors import UserError
from twins_nas.model.backbone import Backbone, Block, build, initialise
from twins_nas.model.timm_backbone import TimmBackbone
from twins_nas.model.transfer import extract, from_timm, to_timm
from twins_nas.recipes import SupernetRecipe
from twins_nas.seeds import SEEDS, native_size, seed
from twins_nas.training.optimizer import optimizer_of

MICRO = sorted(name for name in SEEDS if name.endswith("_micro"))
SMALL = [*MICRO, "cpvt_tiny_5peg", "cpvt_tiny_gap"]
"""Every family, GAP and class token, four stages and one; fast enough to be run."""

TIMMS = {
    **{
        f"twins_{kind}_{size}": f"twins_{kind}_{size}"
        for kind in ("pcpvt", "svt")
        for size in ("small", "base", "large")
    },
    **{f"swin_{size}": f"swin_{size}_patch4_window7_224" for size in ("tiny", "small", "base")},
}


def side(name: str) -> int:
    """A small image that a seed takes."""
    return 32 if name in MICRO else 64


def made(name: str, **keys: Any) -> Any:
    """The model, with values beyond its initialisation, so that no zero hides an error."""
    model = timm.create_model(f"nas_{name}", **keys)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def images(name: str, batch: int = 2, channels: int = 3) -> Tensor:
    """Random images of a seed's small size."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, side(name), side(name), generator=generator)


def test_timm_lists_them() -> None:
    """Each seed by its name, and `nas_arch`; in the module, without weights."""
    names = sorted([f"nas_{name}" for name in SEEDS] + ["nas_arch"])
    assert sorted(timm.list_models("nas_*")) == names
    assert sorted(timm.list_models(module="timm_models")) == names
    assert all(timm.is_model(name) for name in names)
    assert not timm.list_pretrained("nas_*")
    assert set(names) <= set(twins_nas.timm_models.__all__)
    assert all(hasattr(twins_nas.timm_models, name) for name in twins_nas.timm_models.__all__)


@pytest.mark.parametrize("name", sorted(SEEDS))
def test_every_name(name: str) -> None:
    """Keys and shapes of ours, timm's description of it, logits and maps, at its native size."""
    arch, size = seed(name), native_size(name)
    deep = sum(stage.depth for stage in arch.stages) >= 18
    with torch.device("meta"):
        model = timm.create_model(f"nas_{name}")
        extractor = timm.create_model(f"nas_{name}", features_only=True)
        ours = build(arch, (size, size))
        if not deep:  # a long stage is a short one again, and takes its time
            tokens, maps = model.forward_intermediates(torch.empty(1, 3, size, size))
            assert model.forward_head(tokens).shape == (1, 1000)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert shapes == {key: value.shape for key, value in ours.state_dict().items()}

    cfg = model.default_cfg
    assert cfg["input_size"] == (3, size, size) and cfg["architecture"] == f"nas_{name}"
    assert cfg["pool_size"] == arch.grids((size, size))[-1]
    first, last = shapes[f"{cfg['first_conv']}.weight"], shapes[f"{cfg['classifier']}.weight"]
    assert first == (arch.stages[0].embed_dim, 3, arch.patch_size, arch.patch_size)
    assert last == (1000, model.num_features) == (1000, model.head_hidden_size)

    channels = [stage.embed_dim for stage in arch.stages]
    strides = [arch.patch_size * 2**at for at in range(len(channels))]
    assert extractor.feature_info.channels() == channels
    assert extractor.feature_info.reduction() == strides
    sides = [size // stride for stride in strides]
    expected = [(1, *of) for of in zip(channels, sides, sides, strict=True)]
    assert deep or [tuple(item.shape) for item in maps] == expected
    assert deep or all(item.is_contiguous() for item in maps)


@pytest.mark.parametrize("name", SMALL)
def test_logits_are_ours(name: str) -> None:
    """With the same weights, from ours to timm's model and back; also at other image sizes."""
    size = (side(name), side(name))
    ours = build(seed(name), size, 2, 7)
    initialise(ours, 3)
    model = timm.create_model(f"nas_{name}", img_size=size, in_chans=2, num_classes=7).eval()
    model.load_state_dict(ours.state_dict())
    again = build(seed(name), size, 2, 7)
    again.load_state_dict(model.state_dict())
    for height, width in (size, (size[0] + 16, size[1] + 34)):
        batch = torch.randn(2, 2, height, width)
        with torch.no_grad():
            logits = model(batch)
            assert torch.equal(logits, again(batch))
            assert torch.allclose(logits, ours(batch), rtol=1e-5, atol=1e-6)


def against_timm(name: str, size: int) -> None:
    """Logits, tokens and maps of timm's own model of a name, from its weights."""
    keys = {"img_size": size} if name.startswith("swin") else {}
    theirs = timm.create_model(TIMMS[name], num_classes=7, **keys).eval()
    model = made(name, img_size=size, num_classes=7)
    model.load_state_dict(from_timm(theirs).state_dict())
    batch = torch.randn(1, 3, size, size)
    with torch.no_grad():
        pairs = [(model(batch), theirs(batch))]
        pairs.append(
            (
                model.forward_features(batch),
                theirs.forward_features(batch).view(1, -1, model.num_features),
            )
        )
        pairs.append(
            (
                model.forward_head(pairs[1][0], pre_logits=True),
                theirs.forward_head(theirs.forward_features(batch), pre_logits=True),
            )
        )
        for norm in (False, True) if name.startswith("twins") else (False,):
            pairs += zip(
                *(
                    each.forward_intermediates(batch, norm=norm, intermediates_only=True)
                    for each in (model, theirs)
                ),
                strict=True,
            )
    for found, expected in pairs:
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()


@pytest.mark.parametrize("name", ["twins_pcpvt_small", "twins_svt_small", "swin_tiny"])
def test_logits_are_timms(name: str) -> None:
    """Of timm's own models, with tokens, pooled features and maps."""
    against_timm(name, 64)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(TIMMS))
def test_logits_are_timms_for_all(name: str) -> None:
    """The same for all nine, at 224 px."""
    against_timm(name, 224)


@pytest.mark.parametrize("name", SMALL)
def test_backward(name: str) -> None:
    """Each parameter has a gradient, in training with stochastic depth and dropout."""
    model = timm.create_model(
        f"nas_{name}", num_classes=42, drop_rate=0.1, drop_path_rate=0.1, img_size=side(name)
    ).train()
    logits = model(images(name))
    logits.mean().backward()
    assert logits.shape == (2, 42) and logits.isfinite().all()
    assert [key for key, value in model.named_parameters() if value.grad is None] == []
    assert model.head_drop.p == 0.1


@pytest.mark.parametrize("name", SMALL)
def test_classifier(name: str) -> None:
    """Replaced, removed, without pooling; each time what timm's models give."""
    model, arch, batch = made(name, num_classes=5, img_size=side(name)), seed(name), images(name)
    width, tokens = model.num_features, model.forward_features(batch)
    count = arch.grids((side(name),) * 2)[-1][0] ** 2 + model.num_prefix_tokens
    assert tokens.shape == (2, count, width)
    assert model.num_prefix_tokens == int(arch.pool == CLS)
    assert torch.equal(model(batch), model.forward_head(tokens))
    pooled = model.forward_head(tokens, pre_logits=True)
    assert torch.equal(model.get_classifier()(pooled), model(batch))
    assert model.get_classifier().in_features == width
    assert model.get_classifier().out_features == 5

    model.reset_classifier(3)
    assert model(batch).shape == (2, 3) and model.num_classes == 3
    assert model.head.weight.std() > 0 and not model.head.training
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Identity) and torch.equal(model(batch), pooled)
    model.reset_classifier(0, "")
    assert torch.equal(model(batch), tokens)
    model.reset_classifier(4, "avg")
    assert model(batch).shape == (2, 4) and model.global_pool == "avg"
    model.reset_classifier(0)
    assert torch.allclose(model(batch), tokens[:, model.num_prefix_tokens :].mean(1))
    assert made(name, num_classes=0, img_size=side(name))(batch).shape == (2, width)


def test_pooling_that_is_not_there() -> None:
    """A class token where there is none, and another word."""
    with pytest.raises(ValueError, match=r"global_pool 'token' is not one .*: 'avg', ''"):
        made("swin_micro", global_pool="token")
    with pytest.raises(ValueError, match=r"global_pool 'max' is not one .*: 'avg', 'token', ''"):
        made("pvt_micro").reset_classifier(3, "max")


@pytest.mark.parametrize("name", SMALL)
def test_features(name: str) -> None:
    """Maps of the grid without the class token; those asked for, in the order asked for.

    Stages that are not needed, the last norm and the classifier are not there, so that each
    parameter that is there has a gradient.
    """
    arch, batch, keys = seed(name), images(name), {"img_size": side(name), "features_only": True}
    stages = len(arch.stages)
    whole = made(name, img_size=side(name))
    with torch.no_grad():
        tokens, maps = whole.forward_intermediates(batch)
        assert torch.equal(tokens, whole.forward_features(batch))
        ours = whole.forward_stages(batch)
    assert all(
        torch.equal(*pair) for pair in zip(maps, (x.permute(0, 3, 1, 2) for x in ours), strict=True)
    )
    for indices in [None, 1, (-1,), *([(0, 2), (2, 1), 3] if stages > 1 else [])]:
        asked = {} if indices is None else {"out_indices": indices}
        extractor = timm.create_model(f"nas_{name}", **keys, **asked)
        missing = extractor.model.load_state_dict(whole.state_dict(), strict=False).missing_keys
        assert not missing
        found = extractor(batch)
        sum(item.square().sum() for item in found).backward()
        assert all(parameter.grad is not None for parameter in extractor.parameters())
        taken = {None: range(stages), 1: [stages - 1], 3: [1, 2, 3]}.get(indices, indices)
        assert extractor.feature_info.channels() == [item.shape[1] for item in found]
        for item, at in zip(found, taken, strict=True):
            assert torch.allclose(item, maps[at], rtol=1e-4, atol=1e-5)


def test_intermediates() -> None:
    """Stopped early, normalised, and what is refused."""
    model, batch = made("pvt_micro"), images("pvt_micro")
    called: list[int] = []
    for at, stage in enumerate(model.stages):
        stage.register_forward_hook(lambda *_, at=at: called.append(at))
    with torch.no_grad():
        last, maps = model.forward_intermediates(batch, indices=[0, 1], stop_early=True)
        assert called == [0, 1] and len(maps) == 2
        assert torch.equal(last.mT.reshape(maps[1].shape), maps[1])
        normed = model.forward_intermediates(batch, 2, norm=True, intermediates_only=True)
        tokens = model.forward_features(batch)[:, 1:]
        plain = model.forward_intermediates(batch, 2, intermediates_only=True)
    assert torch.equal(normed[1].flatten(2).mT, tokens) and torch.equal(normed[0], plain[0])
    assert not torch.equal(normed[1], plain[1])
    with pytest.raises(ValueError, match="output_fmt 'NHWC' is not NCHW"):
        model.forward_intermediates(batch, output_fmt="NHWC")
    for wrong in ((0, 4), 5, 0, (-5,)):
        with pytest.raises(UserError, match="there are 4, from 0 on"):
            timm.create_model("nas_pvt_micro", features_only=True, out_indices=wrong)
    with pytest.raises(UserError, match="feature_cls 'hook' is not 'getter'"):
        timm.create_model("nas_pvt_micro", features_only=True, feature_cls="hook")


class Pyramid(nn.Module):
    """A segmentation network as downstream libraries build it on timm: laterals, sums, one map."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.encoder = timm.create_model(name, features_only=True, in_chans=4)
        self.laterals = nn.ModuleList(
            nn.Conv2d(channels, 8, 1) for channels in self.encoder.feature_info.channels()
        )
        self.classifier = nn.Conv2d(8, 2, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits at the stride of the finest map."""
        maps = [
            layer(item) for layer, item in zip(self.laterals, self.encoder(x_BCHW), strict=True)
        ]
        total = maps.pop()
        while maps:
            finer = maps.pop()
            total = finer + nn.functional.interpolate(total, finer.shape[-2:])
        logits: Tensor = self.classifier(total)
        return logits


@pytest.mark.parametrize("name", ["twins_svt_small", "swin_tiny", "pvt_tiny"])
def test_segmentation(name: str) -> None:
    """Four maps at strides 4, 8, 16, 32 of a size that is not the native one; gradients."""
    model = Pyramid(f"nas_{name}")
    assert model.encoder.feature_info.reduction() == [4, 8, 16, 32]
    batch = torch.randn(1, 4, 64, 96)
    assert [tuple(item.shape[2:]) for item in model.encoder(batch)] == [
        (16, 24),
        (8, 12),
        (4, 6),
        (2, 3),
    ]
    model(batch).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", SMALL)
def test_grad_checkpointing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block runs twice, the dropped branches are the same, and so are the gradients."""
    model = made(name, img_size=side(name), drop_path_rate=0.3, num_classes=3).train()
    runs, run = [], Block.forward
    monkeypatch.setattr(Block, "forward", lambda *args: (runs.append(1), run(*args))[1])
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        runs.clear()
        torch.manual_seed(5)
        model(images(name)).square().sum().backward()
        depth = sum(stage.depth for stage in seed(name).stages)
        assert len(runs) == depth * (1 + enable)
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
    runs.clear()
    with torch.no_grad():
        model(images(name))
    assert len(runs) == depth


@pytest.mark.parametrize("name", SMALL)
def test_optimizer_groups(name: str) -> None:
    """Timm decays what our trainer decays; with layer decay, rates rise from stem to head."""
    model = timm.create_model(f"nas_{name}")
    recipe = SupernetRecipe()
    ours = optimizer_of(model, recipe).param_groups
    theirs = create_optimizer_v2(model, "adamw", lr=1.0, weight_decay=0.1).param_groups
    decayed = [
        {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
        for groups in (ours, theirs)
    ]
    assert decayed[0] == decayed[1] and decayed[0]

    depth = [stage.depth for stage in seed(name).stages]
    for coarse, groups in ((False, sum(depth)), (True, len(depth))):
        layers = group_parameters(model, model.group_matcher(coarse), reverse=True)
        assert set(layers) == {key for key, _ in model.named_parameters()}
        assert layers["head.weight"] == groups + 1 == max(layers.values())
        assert layers["norm.weight"] == groups
        assert layers[f"{model.default_cfg['first_conv']}.weight"] == 0
        assert sorted(set(layers.values())) == list(range(groups + 2))
    fine = group_parameters(model, model.group_matcher(), reverse=True)
    for key, layer in fine.items():
        if ".cpe." in key:
            _, stage, _, block, _ = key.split(".")
            assert layer == fine[f"stages.{stage}.blocks.{block}.norm1.weight"]
    rates = create_optimizer_v2(model, "adamw", lr=1.0, layer_decay=0.5).param_groups
    assert len({group["lr_scale"] for group in rates}) == sum(depth) + 2


def test_it_is_a_backbone() -> None:
    """It can be extracted, initialised, copied, pickled and given to `to_timm`; its keys stay."""
    model = made("twins_svt_micro", num_classes=3)
    batch, keys = images("twins_svt_micro"), list(model.state_dict())
    logits = model(batch)
    assert isinstance(model, Backbone) and isinstance(model, TimmBackbone)
    others = [copy.deepcopy(model), extract(model, model.arch), to_timm(model)]
    assert all(torch.allclose(other(batch), logits, rtol=1e-4, atol=1e-5) for other in others)
    assert list(model.state_dict()) == list(others[0].state_dict()) == keys
    assert torch.equal(model(batch, model.arch), logits)
    model.set_grad_checkpointing()
    with torch.autocast("cpu", torch.bfloat16):
        assert model(batch).dtype == torch.bfloat16
    half = model.to(torch.bfloat16, memory_format=torch.channels_last)
    assert half(batch.bfloat16().contiguous(memory_format=torch.channels_last)).isfinite().all()
    initialise(model, 4)
    plain = build(seed("twins_svt_micro"), (32, 32), 3, 3)
    initialise(plain, 4)
    assert torch.equal(model.head.weight, plain.head.weight.bfloat16())


@pytest.mark.parametrize("name", ["swin_micro", "pvt_micro"])
def test_inference_then_training(name: str) -> None:
    """What an evaluation in inference mode leaves behind is no hindrance."""
    model = made(name)
    with torch.inference_mode():
        model(images(name))
    model.train()(images(name)).sum().backward()


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("twins_svt_micro", {"features_only": True, "out_indices": (1, 0)}),
        ("swin_micro", {"num_classes": 3}),
        ("pvt_micro", {"num_classes": 3}),
    ],
)
def test_compiled(name: str, keys: dict[str, Any]) -> None:
    """One graph without a break; the same numbers. Two stages are enough."""
    arch = replace(seed(name), stages=seed(name).stages[:2])
    model = timm.create_model("nas_arch", arch=arch, img_size=32, **keys).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        found = [torch.cat([x.flatten() for x in each(images(name))]) for each in (model, compiled)]
    assert torch.allclose(*found, rtol=1e-5, atol=1e-6)
    keys_after = [key.removeprefix("_orig_mod.") for key in compiled.state_dict()]
    assert list(model.state_dict()) == keys_after


def test_the_registry_is_timms() -> None:
    """The descriptions are timm's own kind, and each names the paper's input."""
    for name in SEEDS:
        cfg = timm.get_pretrained_cfg(f"nas_{name}")
        assert isinstance(cfg, PretrainedCfg) and not cfg.has_weights
        assert cfg.crop_pct == (1.0 if name in MICRO else 0.9) and cfg.interpolation == "bicubic"
