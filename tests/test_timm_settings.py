"""What a model of timm is made of: settings, files, the hub's folders; and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import save_for_hf

from twins_nas.arch import Grid
from twins_nas.config import dump_arch
from twins_nas.errors import ConfigError, UserError
from twins_nas.model.backbone import build, initialise
from twins_nas.seeds import seed
from twins_nas.training.checkpoint import save_weights


def test_settings_reach_the_network() -> None:
    """Channels, stochastic depth as in timm's Twins, size, dtype, device; `None` is a default."""
    keys = {"in_chans": 1, "drop_path_rate": 0.2, "drop_rate": None, "img_size": None}
    model = timm.create_model("nas_twins_svt_small", device="meta", dtype=torch.bfloat16, **keys)
    with torch.device("meta"):
        theirs = timm.create_model("twins_svt_small", drop_path_rate=0.2)
    expected = [getattr(b.drop_path1, "drop_prob", 0.0) for s in theirs.blocks for b in s]
    found = [block.drop_path for stage in model.stages for block in stage.blocks]
    assert found == pytest.approx(expected)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.bfloat16)}
    assert model.in_chans == 1 and model.space.input_size == (224, 224)
    table = timm.create_model("nas_pvt_micro", img_size=(64, 32)).stages[0].ape.table
    assert table.shape[:2] == (32, 16)


def test_initial_weights_follow_the_seed() -> None:
    """`torch.manual_seed` decides; another call gives others."""
    models = []
    for start in (1, 1, 2):
        torch.manual_seed(start)
        models.append(timm.create_model("nas_cpvt_micro").state_dict())
    same = [
        torch.equal(one, other)
        for one, other in zip(models[0].values(), models[1].values(), strict=True)
    ]
    assert all(same)
    assert not torch.equal(models[0]["head.weight"], models[2]["head.weight"])
    assert not torch.equal(
        timm.create_model("nas_cpvt_micro").head.weight, models[2]["head.weight"]
    )


@pytest.mark.parametrize(
    ("keys", "error", "words"),
    [
        ({"pretrained": True}, UserError, "No weights are published for nas_swin_micro: leave out"),
        ({"window": 7}, TypeError, "unexpected keyword argument 'window'"),
        ({"arch": "swin_tiny"}, TypeError, "multiple values for argument 'arch'"),
        ({"img_size": 1}, UserError, "cannot take 1x1 pixels: patch_size: .* leaves no token"),
        ({"img_size": (32,)}, UserError, "neither a side in pixels nor a height and a width"),
        ({"img_size": "32"}, UserError, "neither a side in pixels"),
        ({"in_chans": 0}, ValueError, "in_chans 0 is not"),
        ({"drop_path_rate": 1.0}, ValueError, "drop_path_rate 1.0 is not"),
        ({"drop_rate": 2.0}, ValueError, "dropout probability"),
    ],
    ids=lambda item: str(item)[:30],
)
def test_settings_that_are_refused(keys: dict[str, Any], error: type, words: str) -> None:
    """With a sentence, or the TypeError that timm's models give."""
    with pytest.raises(error, match=words):
        timm.create_model("nas_swin_micro", **keys)


def test_images_that_are_too_small() -> None:
    """At birth and at a later forward, with the field; a shortened network takes them."""
    arch = seed("pvt_micro")
    last = replace(arch.stages[-1], sr_ratio=(2, 2))
    keys = {"arch": replace(arch, stages=(*arch.stages[:-1], last)), "img_size": 32}
    words = r"cannot take 16x32 pixels: stages.3.sr_ratio: 2 is over the 1x2 grid of the stage\."
    with pytest.raises(UserError, match=words):
        timm.create_model("nas_arch", **{**keys, "img_size": (16, 32)})
    with pytest.raises(UserError, match=words):
        timm.create_model("nas_arch", **keys)(torch.randn(1, 3, 16, 32))
    short = timm.create_model("nas_arch", features_only=True, out_indices=(2,), **keys)
    assert short(torch.randn(1, 3, 16, 32))[0].shape == (1, 80, 2, 4)


def arch_file(folder: Path, name: str = "swin_micro", size: Grid = (32, 48)) -> Path:
    """A YAML file such as those that a search leaves."""
    file = folder / "best.yaml"
    file.write_text(dump_arch(seed(name), size), encoding="utf-8")
    return file


def test_any_network(tmp_path: Path) -> None:
    """A file, its text, a seed's name and an `ArchConfig` are one network."""
    file = arch_file(tmp_path)
    models: list[Any] = [
        timm.create_model("nas_arch", arch=arch, num_classes=4)
        for arch in (file, str(file), file.read_text(), "swin_micro", seed("swin_micro"))
    ]
    assert {str(model.arch) for model in models} == {str(seed("swin_micro"))}
    sizes = [model.space.input_size for model in models]
    assert sizes == [(32, 48)] * 3 + [(32, 32), (224, 224)]
    cfg = models[0].default_cfg
    assert cfg["input_size"] == (3, 32, 48) and cfg["pool_size"] == (2, 3)
    assert cfg["first_conv"] == "stages.0.embed.2.conv" and cfg["architecture"] == "nas_arch"
    given = {"mean": (0.5,) * 3, "std": (0.2,) * 3}
    other: Any = timm.create_model("nas_arch", arch=file, img_size=64, pretrained_cfg_overlay=given)
    assert other.default_cfg["mean"] == (0.5,) * 3
    assert other.default_cfg["input_size"] == (3, 64, 64)
    config = timm.data.resolve_model_data_config(other)
    assert config["crop_pct"] == 1.0 and config["input_size"] == (3, 64, 64)


def test_networks_that_are_not_there(tmp_path: Path) -> None:
    """The nearest name, of files beside and of networks; faults of a file with their line."""
    file = arch_file(tmp_path)
    with pytest.raises(UserError, match="nas_arch needs a network"):
        timm.create_model("nas_arch")
    with pytest.raises(
        UserError, match=r"did you mean '.*best.yaml'\? .*the networks are: pvt_tiny"
    ):
        timm.create_model("nas_arch", arch=tmp_path / "bets.yaml")
    with pytest.raises(UserError, match=r"called 'twins_svt_smal'; did you mean 'twins_svt_small'"):
        timm.create_model("nas_arch", arch="twins_svt_smal")
    for odd in ("x" * 5000, "a\0b", "", str(tmp_path)):
        with pytest.raises(UserError, match="neither a file nor a network"):
            timm.create_model("nas_arch", arch=odd)
    text = file.read_text().replace("depth: 4", "depth: [2, 4]")
    file.write_text(text)
    for arch, place in ((file, "best.yaml"), (text, "arch")):
        with pytest.raises(ConfigError, match=rf"{place}:\d+: stages.2.depth: is a choice"):
            timm.create_model("nas_arch", arch=arch)
    with pytest.raises(UserError, match="No weights are published for nas_arch"):
        timm.create_model("nas_arch", arch="swin_micro", pretrained=True)
    with pytest.raises(UserError, match="cannot take 1x1 pixels: patch_size"):
        timm.create_model("nas_arch", arch="swin_micro", img_size=1)


def test_weights_of_a_file(tmp_path: Path) -> None:
    """What this package saved, strictly; or as the start of another task, in timm's way."""
    file, weights = arch_file(tmp_path, "pvt_micro", (32, 32)), tmp_path / "best.safetensors"
    ours = build(seed("pvt_micro"), (32, 32), 1, 10).eval()
    initialise(ours, 0)
    save_weights(weights, ours, {"about": "a test"})
    model: Any = timm.create_model(
        "nas_arch", arch=file, in_chans=1, num_classes=10, checkpoint_path=weights
    )
    batch = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.allclose(model.eval()(batch), ours(batch), rtol=1e-5, atol=1e-6)
    with pytest.raises(RuntimeError, match=r"size mismatch for head.weight"):
        timm.create_model("nas_arch", arch=file, in_chans=1, checkpoint_path=weights)
    start = {"file": str(weights), "num_classes": 10, "input_size": (1, 32, 32)}
    tuned: Any = timm.create_model(
        "nas_pvt_micro", pretrained=True, pretrained_cfg_overlay=start, num_classes=3, in_chans=3
    )
    assert tuned.head.weight.shape == (3, 128)
    found = tuned.stages[0].embed["2"].conv.weight.sum(1)
    assert torch.allclose(found, ours.stages[0].embed["2"].conv.weight[:, 0], atol=1e-6)
    assert torch.equal(tuned.stages[3].cls.token, ours.stages[3].cls.token)


def test_a_folder_of_the_hub(tmp_path: Path) -> None:
    """`timm.models.save_for_hf` and `local-dir:` keep the network itself, as its text."""
    file = arch_file(tmp_path)
    model = timm.create_model("nas_arch", arch=file, num_classes=4, in_chans=1).eval()
    hub = tmp_path / "hub"
    save_for_hf(model, hub, model_args={"arch": file.read_text()}, safe_serialization=True)
    file.unlink()
    again: Any = timm.create_model(f"local-dir:{hub}", pretrained=True).eval()
    batch = torch.randn(1, 1, 32, 48)
    assert torch.equal(model(batch), again(batch))
    assert again.default_cfg["input_size"] == (1, 32, 48)
