"""`python -m twins_nas.export`: ONNX that computes what torch does, weights, and bad input."""

from __future__ import annotations

import importlib.util
import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from twins_nas import export, onnx_export
from twins_nas.arch import CLS, GAP, ArchConfig, StageConfig
from twins_nas.config import dump_arch, load_arch
from twins_nas.cost import cost
from twins_nas.deployable import Target, drawn, images_of, notes_of
from twins_nas.errors import UserError
from twins_nas.instrument import Instrument
from twins_nas.model.backbone import Backbone, initialise
from twins_nas.model.separate import supernet_of
from twins_nas.onnx_export import OPSETS, compare, describe, metadata_of, session, to_onnx
from twins_nas.recipes import load_recipe
from twins_nas.runs import RunFolder, Settings
from twins_nas.seeds import SEEDS, seed
from twins_nas.space import SearchSpace
from twins_nas.training.checkpoint import load_weights, save_weights

PLAIN = {
    *("Add", "Concat", "Conv", "Gelu", "Gemm", "LayerNormalization", "MatMul", "Mul", "ReduceMean"),
    *("Reshape", "Slice", "Softmax", "Squeeze", "Transpose"),
}
CLASS_TOKEN = {"Shape", "Expand", "Gather"}
"""One of each: a class token has as many rows as there are images."""

MICRO = ["twins_svt_micro"]
LONG = [name for name in SEEDS if name.endswith("_micro") and name not in MICRO]
LONG += ["cpvt_tiny_5peg", "twins_svt_small", "swin_tiny"]


def tiny(pool: str = GAP, **changes: Any) -> ArchConfig:
    """A network that is exported in a second or two."""
    keys: dict[str, Any] = {
        "embed_dim": 8,
        "head_dim": 4,
        "depth": 2,
        "mixer": "SG",
        "window_size": (2, 0),
        "sr_ratio": (0, 2),
        "pe": "ape+cpe+rpe",
        "mlp_ratio": (2, 2),
    }
    return ArchConfig((StageConfig(**{**keys, **changes}),), pool=pool)


def pooled() -> ArchConfig:
    """A network that sub-samples by a separable convolution, then by pooling."""
    kinds = ("separable", "pool")
    return ArchConfig(tuple(tiny(subsampling=kind).stages[0] for kind in kinds))


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """The exit code of a command."""
    monkeypatch.setattr(sys, "argv", ["export", *map(str, words)])
    return export.main()


@pytest.fixture(scope="module")
def benchmark(repo: Path) -> dict[str, Any]:
    """The benchmark's functions."""
    return runpy.run_path(str(repo / "benchmarks" / "onnx_seeds.py"))


@pytest.mark.parametrize(
    "name", [*MICRO, *(pytest.param(name, marks=pytest.mark.long) for name in LONG)]
)
def test_published_networks(name: str, benchmark: dict[str, Any]) -> None:
    """They compute the same at each batch, by operations of the image alone."""
    row = benchmark["row_of"](name)
    assert list(row["differences"]) == [1, 3, 8]
    assert max(row["differences"].values()) < 1e-4 < 0.1 < row["largest_logit"]
    ops = row["ops"]
    if seed(name).class_tokens(len(seed(name).stages) - 1):
        assert {op: ops.pop(op) for op in CLASS_TOKEN} == dict.fromkeys(CLASS_TOKEN, 1)
    assert set(ops) <= PLAIN


@pytest.mark.parametrize(
    ("arch", "size", "extra"),
    [
        (tiny(), (16, 16), set()),
        (tiny(pe="none"), (16, 24), set()),
        (tiny(CLS), (16, 16), CLASS_TOKEN | {"Unsqueeze"}),
        (tiny(window_size=(3, 0)), (16, 16), {"Pad"}),
        (pooled(), (16, 16), {"AveragePool"}),
    ],
    ids=[
        "all encodings",
        "a shift without a learned bias",
        "cls",
        "windows that do not fit",
        "sub-sampling",
    ],
)
def test_small_networks(arch: ArchConfig, size: tuple[int, int], extra: set[str]) -> None:
    """Padding is there where it is needed only; nothing of this machine is in the file."""
    target = Target("tiny", arch, size)
    model = drawn(target, 0, 1, 5)
    notes = notes_of(target, "random")
    data = to_onnx(model, 1, size, notes)
    assert compare(model, data, 1, size, (1, 5)).worst < 1e-5
    assert set(describe(data).ops) <= PLAIN | extra and extra <= set(describe(data).ops)
    assert metadata_of(data) == notes
    assert b"backbone.py" not in data
    model.train()
    model(torch.randn(2, 1, *size)).sum().backward()


@pytest.mark.long
def test_the_benchmark_of_shifted_windows(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its patches switch off what they say, and each file still computes what torch does."""
    path = tmp_path / "out.json"
    small = ["--dims", *4 * ["32"], "--depths", "2", "1", "1", "1", "--input-size", "64"]
    short = ["--rounds", "1", "--batches", "1", "--json", str(path)]
    words = [*small, *short, "--variants", "no roll", "no mask", "read once"]
    monkeypatch.setattr(sys, "argv", ["deployment.py", *words])
    runpy.run_path(str(repo / "benchmarks" / "deployment.py"), run_name="__main__")
    rows = {row["name"]: row for row in json.loads(path.read_text())["rows"]}
    nodes = {name: row["nodes"] for name, row in rows.items()}
    assert nodes["swin"] == nodes["read once"] == nodes["no mask"] + 2
    assert nodes["swin"] == nodes["no roll"] + 2 * 6, "a roll is four Slice and two Concat"
    assert all(row["difference"] < 1e-5 and row["torch batch 1"]["n"] == 1 for row in rows.values())


def test_what_cannot_be_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two gigabytes and more, and outputs that are not numbers."""
    model = drawn(Target("tiny", tiny(), (16, 16)), 0, 3, 5)
    data = to_onnx(model, 3, (16, 16), {})
    model.head.bias.data[0] = float("nan")
    with pytest.raises(UserError, match="not finite numbers"):
        compare(model, data, 3, (16, 16), (1,))
    monkeypatch.setattr(onnx_export, "LARGEST", 1000)
    with pytest.raises(UserError, match=r"GB at 16x16, and an ONNX file ends at 2 GB"):
        to_onnx(model, 3, (16, 16), {})


@pytest.mark.parametrize("opset", [OPSETS[0], OPSETS[-1]])
def test_opsets(opset: int) -> None:
    """The oldest and the newest."""
    model = drawn(Target("tiny", tiny(), (16, 16)), 0, 3, 5)
    data = to_onnx(model, 3, (16, 16), {}, opset)
    assert describe(data).opset == opset
    assert compare(model, data, 3, (16, 16), (3,)).worst < 1e-5


@pytest.fixture
def searched(tmp_path: Path) -> tuple[RunFolder, Backbone, ArchConfig]:
    """A run's folder with a supernet of two widths and one arch of its front."""
    wide = tiny(embed_dim=16)
    point = SearchSpace.point(wide, (32, 32))
    stages = tuple({**stage, "embed_dim": ((8, 16),)} for stage in point.stages)
    space = SearchSpace("two", point.input_size, point.base, point.arch, stages)
    recipe = load_recipe("search/quick.yaml")
    folder = RunFolder.create(tmp_path, "found", space, recipe, Settings())
    supernet = supernet_of(space, 1, 10, recipe.supernet)
    initialise(supernet, 0)
    save_weights(folder.weights, supernet, {"identity": "test"})
    (folder.path / "archs").mkdir()
    member = tiny()
    (folder.path / "archs" / "03.yaml").write_text(dump_arch(member, (32, 32)))
    return folder, supernet.eval(), member


def test_a_network_of_a_run(
    searched: tuple[RunFolder, Backbone, ArchConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The ONNX file computes what the supernet does; the files say how to use it."""
    folder, supernet, member = searched
    onnx, weights, words = (tmp_path / "out" / name for name in ("a.onnx", "a.st", "a.yaml"))
    asked = ["03", "--run", folder.path, "--onnx", onnx, "--safetensors", weights, "--yaml", words]
    assert run(monkeypatch, *asked, "--check-batches", "2", "--json") == 0
    row = json.loads(capsys.readouterr().out)
    images = torch.randn(3, 1, 32, 32)
    with torch.no_grad():
        expected = supernet(images, member).numpy()
    found = session(onnx.read_bytes()).run(None, {"image": images.numpy()})[0]
    assert np.abs(found - expected).max() < 1e-5
    assert (row["macs"], row["classes"]) == (cost(member, (32, 32), 1, 10).macs, 10)
    assert row["differences"].keys() == {"2"} and row["nodes"] == sum(row["ops"].values())
    notes = metadata_of(onnx.read_bytes())
    assert notes["weights"] == "inherited from the supernet of found"
    assert notes["macs"] == str(row["macs"]) and len(json.loads(notes["class_names"])) == 10
    assert 0 < json.loads(notes["mean"])[0] < 1 and notes["arch"] == words.read_text()
    assert load_arch(words) == (member, (32, 32))

    again = tmp_path / "b.onnx"
    asked = [words, "--weights", weights, "--onnx", again, "--input-size", "48", "32"]
    assert run(monkeypatch, *asked) == 0
    told = capsys.readouterr().out
    assert "a at 48x32" in told and "weights from a.st" in told and f"wrote {again}" in told
    images = torch.randn(1, 1, 48, 32)
    with torch.no_grad():
        expected = supernet(images, member).numpy()
    found = session(again.read_bytes()).run(None, {"image": images.numpy()})[0]
    assert np.abs(found - expected).max() < 1e-5
    assert set(describe(again.read_bytes()).ops) <= PLAIN


@pytest.mark.parametrize(
    "switches",
    [
        {"separate": ["pe"], "switchable_norms": True},
        {"split": "stages.0.embed_dim", "separate": ["pe"]},
    ],
)
def test_supernets_that_share_less(
    switches: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member of one leaves with its own weights; insight and export build the same supernet."""
    point = SearchSpace.point(tiny(embed_dim=16, pe="cpe"), (32, 32))
    stages = ({**point.stages[0], "embed_dim": ((8, 16),), "pe": (("cpe", "rpe"),)},)
    space = SearchSpace("two", point.input_size, point.base, point.arch, stages)
    recipe = load_recipe(
        "search/quick.yaml", {f"supernet.{name}": value for name, value in switches.items()}
    )
    folder = RunFolder.create(tmp_path, "found", space, recipe, Settings())
    supernet = supernet_of(space, 1, 10, recipe.supernet)
    initialise(supernet, 0)
    save_weights(folder.weights, supernet, {"identity": json.dumps([space.fingerprint])})
    (folder.path / "archs").mkdir()
    images = torch.randn(2, 1, 32, 32)
    for name, member in (("00", tiny(pe="rpe")), ("01", tiny(embed_dim=16, pe="cpe"))):
        (folder.path / "archs" / f"{name}.yaml").write_text(dump_arch(member, (32, 32)))
        file = tmp_path / f"{name}.onnx"
        assert run(monkeypatch, name, "--run", folder.path, "--onnx", file) == 0
        with torch.no_grad():
            expected = supernet.eval()(images, member).numpy()
        found = session(file.read_bytes()).run(None, {"image": images.numpy()})[0]
        assert np.abs(found - expected).max() < 1e-5
    opened = RunFolder.open(tmp_path, "found")
    made = Instrument([opened], 10, 10, 0, True)
    again = made.supernet(made.pipelines[0]).eval()
    with torch.no_grad():
        assert torch.equal(again(images, member), supernet(images, member))


def test_data_that_is_gone_is_told(
    searched: tuple[RunFolder, Backbone, ArchConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    """The file lacks its mean and std, and is good otherwise."""
    folder = searched[0]
    recipe = folder.recipe_file.read_text()
    assert "fashion-mnist-mini" in recipe
    folder.recipe_file.write_text(recipe.replace("fashion-mnist-mini", "mnist"))
    assert images_of(folder) == {}
    assert "Left out: mean, std and classes" in capsys.readouterr().err


def test_a_difference_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the file that was there stays."""
    words, onnx = tmp_path / "tiny.yaml", tmp_path / "a.onnx"
    words.write_text(dump_arch(tiny(), (16, 16)))
    onnx.write_text("old")
    assert run(monkeypatch, words, "--onnx", onnx, "--tolerance", "0") == 1
    told = capsys.readouterr()
    assert "a.onnx was not written: onnxruntime and torch differ by" in told.err
    assert "random, drawn with seed 0" in told.out and "wrote" not in told.out
    assert onnx.read_text() == "old" and len(list(tmp_path.iterdir())) == 2


def test_weights_of_another_network(
    searched: tuple[RunFolder, Backbone, ArchConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are refused by what their file says, or by their names and shapes."""
    folder, _, _ = searched
    weights, plain = tmp_path / "a.st", tmp_path / "plain.st"
    target = Target("tiny", tiny(), (32, 32))
    save_weights(weights, drawn(target, 0, 1, 10), notes_of(target, "random"))
    save_weights(plain, drawn(target, 0, 1, 10), {"input_size": "as you like"})
    other = tmp_path / "other.yaml"
    other.write_text(dump_arch(tiny(head_dim=8), (32, 32)))
    member, out = folder.path / "archs" / "03.yaml", ("--safetensors", tmp_path / "out.st")
    for words, said in [
        ((other, "--weights", weights), "holds the weights of another network than other"),
        ((other, "--weights", plain), "The weights are none of other at 32x32: size mismatch"),
        ((member, "--weights", folder.weights), "The weights are none of 03 at 32x32: "),
        (("swin_micro", "--weights", plain), "they have no stages.0.embed.2.conv.weight"),
        (("swin_micro", "--run", folder.path), "swin_micro is no network of"),
        ((member, "--weights", weights, "--classes", "3"), "--classes is 3, but the weights are"),
    ]:
        with pytest.raises(UserError, match=said):
            run(monkeypatch, *words, *out)
    assert run(monkeypatch, member, "--weights", plain, *out) == 0
    assert load_weights(tmp_path / "out.st")[1]["weights"] == "from plain.st"
    folder.weights.unlink()
    with pytest.raises(UserError, match="holds no trained supernet yet"):
        run(monkeypatch, "03", "--run", folder.path, *out)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["swin_micro"], "Say what to write: --onnx FILE"),
        (["swin_micro", "--onnx", "a", "--yaml", "a"], "--onnx, --safetensors and --yaml need a"),
        (["swin_micro", "--yaml", "."], ". is a folder"),
        (["swin_micro", "--yaml", "file/a"], "file/a cannot be written"),
        (["swin_tinny", "--yaml", "a"], "swin_tinny: no such file or network; did you mean 'swin_"),
        (["svt", "--yaml", "a"], "svt is a space of"),
        (["swin_micro", "--yaml", "a", "--input-size", "1"], "swin_micro cannot be built at 1x1: "),
        (["swin_micro", "--yaml", "a", "--input-size", "1", "2", "3"], "--input-size takes one"),
        (["swin_micro", "--yaml", "a", "--classes", "0"], "--classes must be at least 1"),
        (["swin_micro", "--yaml", "a", "--seed", "-1"], "--seed must be"),
        (["swin_micro", "--yaml", "a", "--opset", "9"], "--opset must be from 18"),
        (["swin_micro", "--yaml", "a", "--tolerance", "nan"], "--tolerance must be"),
        (["swin_micro", "--yaml", "a", "--check-batches", "0"], "--check-batches takes"),
        (["swin_micro", "--yaml", "a", "--run", "b", "--weights", "c"], "Give --run or --weights"),
        (["swin_micro", "--yaml", "a", "--run", "b"], "runs/b holds no run"),
        (["swin_micro", "--yaml", "a", "--weights", "none"], "none: no such file"),
    ],
)
def test_bad_input_is_told_in_a_sentence(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is written."""
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(UserError) as error:
        run(monkeypatch, *words)
    assert str(error.value).startswith(said)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_without_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install is said, before any work."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if "onnx" in name else found(name)
    )
    with pytest.raises(UserError, match=r"onnxruntime, .*pip install 'twins_nas\[onnx\]'"):
        run(monkeypatch, "swin_micro", "--onnx", tmp_path / "a.onnx")


def test_the_command(repo: Path, tmp_path: Path) -> None:
    """As it is typed; weights and words need no ONNX."""
    path = tmp_path / "swin.yaml"
    command = [sys.executable, "-m", "twins_nas.export", "swin_micro", "--yaml", str(path)]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True)
    assert done.returncode == 0 and "802,532 params" in done.stdout
    assert load_arch(path) == (seed("swin_micro"), (32, 32))
