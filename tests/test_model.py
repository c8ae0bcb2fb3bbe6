"""The backbone: a subnet is its extracted module, costs are exact.

Timm's Twins are points of it.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from twins_nas.arch import ArchConfig, StageConfig
from twins_nas.config import find, load_space
from twins_nas.cost import cost
from twins_nas.model import backbone
from twins_nas.model.backbone import Backbone, build, initialise
from twins_nas.model.transfer import extract
from twins_nas.seeds import SEEDS, seed
from twins_nas.space import SearchSpace

SMALL_SPACES = ["svt", "pcpvt", "families"]
MEMBERS = [
    ("svt", 200),
    ("pcpvt", 200),
    ("families", 60),
    pytest.param("families", 400, marks=pytest.mark.long),
]
MICRO = [name for name in SEEDS if name.endswith("micro")]


def supernet_of(name: str, in_chans: int = 1) -> Backbone:
    """A supernet with random values beyond its initialisation, so that no zero hides an error."""
    model = Backbone(load_space(find("space", name)), in_chans, 10)
    initialise(model, 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether they differ by rounding alone.

    Processors sum a strided weight's products in another order than a contiguous one's: on an Intel
    Xeon a tenth of the families' members differs by up to 1e-6, on an AMD EPYC none does.
    """
    return torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "number"),
    MEMBERS,
)
def test_extracted_modules_equal_their_slices(name: str, number: int) -> None:
    """Random members: same logits."""
    model, rng = supernet_of(name), random.Random(1)
    images = torch.randn(2, 1, 32, 32)
    for _ in range(number):
        arch = model.space.sample(rng)
        with torch.no_grad():
            ours, theirs = model(images, arch), extract(model, arch)(images)
        assert same(ours, theirs), str(arch)


def test_one_supernet_holds_the_families() -> None:
    """PVT, CPVT, Twins-PCPVT, Twins-SVT and Swin by name, with five keys."""
    model = supernet_of("families")
    archs = {name: seed(name) for name in MICRO}
    assert len({model.space.key(arch) for arch in archs.values()}) == len(archs) == 5
    images = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        logits = [model(images, arch) for arch in archs.values()]
        extracted = [extract(model, arch)(images) for arch in archs.values()]
    assert all(same(*pair) for pair in zip(logits, extracted, strict=True))
    assert len({float(item[0, 0]) for item in logits}) == 5


@pytest.mark.parametrize("number", [3, pytest.param(10, marks=pytest.mark.long)])
def test_extracted_modules_equal_their_slices_at_224(number: int) -> None:
    """The same for the 224 px space."""
    model, rng = supernet_of("imagenet/svt_small", 3), random.Random(1)
    images = torch.randn(1, 3, 224, 224)
    for _ in range(number):
        arch = model.space.sample(rng)
        with torch.no_grad():
            ours, theirs = model(images, arch), extract(model, arch)(images)
        assert same(ours, theirs), str(arch)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        *MEMBERS,
        ("imagenet/svt_small", 20),
        pytest.param("imagenet/svt_small", 60, marks=pytest.mark.long),
    ],
)
def test_costs_are_exact(name: str, number: int) -> None:
    """Random members: parameters and half of torch's FLOPs; the large ones on meta tensors."""
    space, rng = load_space(find("space", name)), random.Random(2)
    device = "cpu" if name in SMALL_SPACES else "meta"
    for _ in range(number):
        arch = space.sample(rng)
        with torch.device(device), torch.no_grad():
            model = build(arch, space.input_size, 3, 10)
            with FlopCounterMode(display=False) as counter:
                model(torch.empty(1, 3, *space.input_size))
        found = cost(arch, space.input_size, 3, 10)
        assert found.params == sum(parameter.numel() for parameter in model.parameters()), str(arch)
        assert 2 * found.macs == counter.get_total_flops(), str(arch)


@pytest.mark.parametrize("name", sorted(SEEDS))
def test_costs_of_the_seeds_are_exact(name: str) -> None:
    """The same for every published model."""
    arch = seed(name)
    size = (32, 32) if name.endswith("micro") else (224, 224)
    with torch.device("meta"):
        model = build(arch, size)
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, *size))
    found = cost(arch, size)
    assert found.params == sum(parameter.numel() for parameter in model.parameters())
    assert 2 * found.macs == counter.get_total_flops()


PUBLISHED = {
    "pvt_tiny": 13_229_288,
    "pvt_small": 24_485_864,
    "pvt_medium": 44_208_104,
    "pvt_large": 61_369_320,
    "twins_pcpvt_small": 24_106_216,
    "twins_pcpvt_base": 43_828_456,
    "twins_pcpvt_large": 60_989_672,
    "twins_svt_small": 24_060_776,
    "twins_svt_base": 56_070_952,
    "twins_svt_large": 99_271_400,
    "swin_tiny": 28_288_354,
    "swin_small": 49_606_258,
    "swin_base": 87_768_224,
}
TIMM_NAMES = {
    **{name: name for name in PUBLISHED if name.startswith("twins")},
    **{name: f"{name}_patch4_window7_224" for name in PUBLISHED if name.startswith("swin")},
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_parameters(name: str) -> None:
    """As the authors' code has them (their training logs print those of Twins), and timm."""
    assert cost(seed(name), (224, 224)).params == PUBLISHED[name]
    if name in TIMM_NAMES:
        with torch.device("meta"):
            theirs = timm.create_model(TIMM_NAMES[name])
        assert sum(parameter.numel() for parameter in theirs.parameters()) == PUBLISHED[name]


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_cpvt_is_deit_with_pegs_for_positions(size: str) -> None:
    """The paper's rows: a PEG after the first block, after the first five, and no class token."""
    with torch.device("meta"):
        deit = timm.create_model(f"deit_{size}_patch16_224")
    dim = deit.embed_dim
    rest = sum(parameter.numel() for parameter in deit.parameters()) - (196 + 1) * dim
    params = {
        kind: cost(seed(f"cpvt_{size}{kind}"), (224, 224)).params for kind in ("", "_5peg", "_gap")
    }
    assert params == {"": rest + 10 * dim, "_5peg": rest + 50 * dim, "_gap": rest + 49 * dim}


def load_timm_twins(ours: Backbone, theirs: torch.nn.Module) -> None:
    """Copies timm's weights, by its names.

    Kept plain here, as the reference of later transfer code.
    """
    state = theirs.state_dict()
    with torch.no_grad():
        for index, stage in enumerate(ours.stages):
            names = {
                f"stages.{index}.embed.{4 if index == 0 else 2}.conv": f"patch_embeds.{index}.proj"
            }
            names[f"stages.{index}.embed.{4 if index == 0 else 2}.norm"] = (
                f"patch_embeds.{index}.norm"
            )
            names[f"stages.{index}.cpe.0"] = f"pos_block.{index}.proj.0"
            for block, module in enumerate(stage.blocks):  # type: ignore[arg-type,union-attr]
                old, new = f"blocks.{index}.{block}", f"stages.{index}.blocks.{block}"
                for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2", "attn.proj"):
                    names[f"{new}.{part}"] = f"{old}.{part}"
                for ratio in module.attn.sr:
                    names[f"{new}.attn.sr.{ratio}.conv"] = f"{old}.attn.sr"
                    names[f"{new}.attn.sr.{ratio}.norm"] = f"{old}.attn.norm"
                for kind in ("weight", "bias"):
                    fused = state.get(f"{old}.attn.qkv.{kind}")
                    if fused is None:
                        fused = torch.cat(
                            [state[f"{old}.attn.q.{kind}"], state[f"{old}.attn.kv.{kind}"]]
                        )
                    ours.get_parameter(f"{new}.attn.qkv.{kind}").copy_(fused)
            for new, old in names.items():
                for kind in ("weight", "bias"):
                    ours.get_parameter(f"{new}.{kind}").copy_(state[f"{old}.{kind}"])
        for part in ("norm", "head"):
            for kind in ("weight", "bias"):
                ours.get_parameter(f"{part}.{kind}").copy_(state[f"{part}.{kind}"])


@pytest.mark.parametrize("size", [224, 200, 96])
@pytest.mark.parametrize("name", ["twins_svt_small", "twins_pcpvt_small"])
def test_logits_of_timm(name: str, size: int) -> None:
    """Same weights, same logits; 200 and 96 px leave grids that windows do not tile."""
    theirs = timm.create_model(name).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    ours = build(seed(name), (size, size)).eval()
    load_timm_twins(ours, theirs)
    images = torch.randn(2, 3, size, size, generator=generator)
    with torch.no_grad():
        expected = theirs(images)
        assert (ours(images) - expected).abs().max() <= 1e-5 * expected.abs().max()


class NormEpsilons(TorchFunctionMode):
    """Notes the epsilon of each LayerNorm that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.layer_norm:
            self.seen.append((kwargs or {})["eps"])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["twins_svt_small", "twins_pcpvt_small", "swin_tiny"])
def test_norm_epsilons(name: str) -> None:
    """Of Twins 1e-6 in blocks and the last norm, 1e-5 elsewhere; as timm and the authors have them.

    Those of a forward pass, whatever the modules declare.
    """
    theirs = timm.create_model(TIMM_NAMES[name])
    with torch.device("meta"):
        ours = build(seed(name), (224, 224))
        with NormEpsilons() as mine:
            ours(torch.empty(1, 3, 224, 224))
    assert sorted(mine.seen) == sorted(
        module.eps for module in theirs.modules() if isinstance(module, torch.nn.LayerNorm)
    )


def point(letters: str, pe: str, window: int = 16, ratio: int = 1) -> ArchConfig:
    """A one-stage network of two blocks on a 16x16 grid."""
    return ArchConfig(
        (StageConfig(16, 8, 2, letters, (window,) * 2, (ratio,) * 2, pe, (2.0, 2.0)),), 2
    )


@pytest.mark.parametrize("pool", ["gap", "cls"])
@pytest.mark.parametrize("pe", ["none", "rpe", "ape+cpe", "ape+cpe+rpe"])
def test_equal_keys_are_equal_networks(pe: str, pool: str) -> None:
    """A window over the whole grid, shifted or not.

    And GSA with ratio 1 are one network with one key.
    """
    values = {
        **SearchSpace.point(point("L", pe), (32, 32)).stages[0],
        "mixer": (("L", "S", "G", "LG"),),
        "window_size": ((4, 16, 20),),
        "sr_ratio": ((1, 2),),
        "mlp_ratio": ((2.0,),),
    }
    base = replace(point("L", pe), pool=pool)
    whole = dict(SearchSpace.point(base, (32, 32)).arch)
    space = SearchSpace("equal", (32, 32), base, whole, (values,))
    model = Backbone(space, 1, 10).eval()
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    images = torch.randn(2, 1, 32, 32)
    same = [
        point("L", pe),
        point("S", pe),
        point("G", pe),
        point("LG", pe),
        point("L", pe, window=20),
    ]
    other = [point("L", pe, window=4), point("G", pe, ratio=2), point("S", pe, window=4)]
    assert {space.key(arch) for arch in same} == {space.key(same[0])}
    assert len({space.key(arch) for arch in [same[0], *other]}) == 1 + len(other)
    same, other = ([replace(arch, pool=pool) for arch in archs] for archs in (same, other))
    with torch.no_grad():
        expected = model(images, same[0])
        for arch in same:
            assert torch.allclose(model(images, arch), expected, rtol=1e-5, atol=1e-4)
        for arch in other:
            assert (model(images, arch) - expected).abs().max() > 1e-3


def test_rpe_of_gsa_follows_its_definition() -> None:
    """The bias of a query and a key is the table at the offset of query and key centre.

    Read bilinearly.
    """
    from twins_nas.model.position import RelativeBias

    layer = RelativeBias(2, (6, 8), (6, 8))
    torch.nn.init.normal_(layer.table)
    table = layer.table.detach()
    for ratio in (1, 2, 3, 4):
        rows, columns = 6 // ratio, 8 // ratio
        bias = layer.subsampled(2, (6, 8), ratio).view(2, 6, 8, rows, columns).detach()
        for qy, qx, ky, kx in [
            (0, 0, rows - 1, columns - 1),
            (5, 7, 0, 0),
            (3, 2, rows // 2, 1),
            (2, 6, 0, 1),
        ]:
            dy = qy - (ky * ratio + (ratio - 1) / 2) + 5
            dx = qx - (kx * ratio + (ratio - 1) / 2) + 7
            y, x = int(dy), int(dx)
            fy, fx = dy - y, dx - x
            top = (1 - fx) * table[:, y, x] + fx * table[:, y, min(x + 1, 14)]
            low = (1 - fx) * table[:, min(y + 1, 10), x] + fx * table[
                :, min(y + 1, 10), min(x + 1, 14)
            ]
            assert torch.allclose(bias[:, qy, qx, ky, kx], (1 - fy) * top + fy * low, atol=1e-6)


def test_other_input_sizes_run() -> None:
    """APE and RPE tables are resized, windows are fitted; at the own size nothing is resized."""
    model = supernet_of("svt")
    for sign in (-1, 1):
        arch = model.space.extreme(sign, random.Random(3))
        for size in (32, 40, 64):
            with torch.no_grad():
                assert model(torch.randn(2, 1, size, size), arch).shape == (2, 10)


@pytest.mark.parametrize("name", MICRO)
@pytest.mark.parametrize("images", [1, 3])
def test_few_images_at_once_change_nothing(
    name: str, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage gives the same logits and gradients however many images it takes together."""
    model = build(seed(name), (32, 32), 1, 10)
    initialise(model, 0)
    batch = torch.randn(7, 1, 32, 32)

    def run() -> list[torch.Tensor]:
        model.zero_grad()
        logits = model(batch)
        logits.square().sum().backward()
        return [logits, *(parameter.grad for parameter in model.parameters())]

    assert backbone.images_at_once(batch, model.arch, 0) >= 7
    together = run()
    monkeypatch.setattr(backbone, "images_at_once", lambda *given: images)
    for one, other in zip(together, run(), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_large_stages_take_few_images_at_once() -> None:
    """As many as `BLOCK_BYTES` of hidden activations allow, one at least; all where few are."""
    arch = seed("twins_pcpvt_small")
    first = 56 * 56 * 512 * 4
    assert backbone.images_at_once(torch.empty(16, 224, 224, 3), arch, 0) == (
        backbone.BLOCK_BYTES // first
    )
    assert backbone.images_at_once(torch.empty(2, 1120, 1120, 3), arch, 0) == 1
    assert backbone.images_at_once(torch.empty(16, 224, 224, 3, device="meta"), arch, 0) == 16


@pytest.mark.parametrize("name", ["twins_svt_micro", "swin_micro"])
def test_a_network_trains_after_inference_mode(name: str) -> None:
    """What a forward pass keeps for the next one is of use to training."""
    model = build(seed(name), (32, 32), 1, 10)
    initialise(model, 0)
    images = torch.randn(2, 1, 32, 32)
    with torch.inference_mode():
        model(images)
    model(images).sum().backward()


def test_drop_path_is_off_in_evaluation_and_unbiased_in_training() -> None:
    """Whole images lose a branch; the mean over many draws is the output without it."""
    arch = seed("twins_svt_micro")
    model = build(arch, (32, 32), 1, 10, drop_path=0.5)
    block = model.stages[3].blocks[1]  # type: ignore[union-attr,index]
    first = model.stages[0].blocks[0]  # type: ignore[union-attr,index]
    assert block.drop_path == 0.5 and first.drop_path == 0.0
    torch.manual_seed(0)
    ones = torch.ones(20_000, 1, 1, 1)
    dropped = block._drop(ones)  # type: ignore[operator]
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert abs(dropped.mean().item() - 1) < 0.03
    assert block.eval()._drop(ones) is ones  # type: ignore[operator]


def test_a_stranger_is_not_extracted() -> None:
    """An architecture that is no member is refused, with the field."""
    with pytest.raises(ValueError, match="patch_size: 4 is not among 2"):
        extract(supernet_of("svt"), seed("twins_svt_small"))
