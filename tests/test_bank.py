"""Banks: which networks they have, what is refused, what a build leaves, and what is read again."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from twins_nas import bank as command
from twins_nas.ablate import planned
from twins_nas.ablation.results import Run
from twins_nas.ablation.work import Place
from twins_nas.arch import ArchConfig
from twins_nas.bank import Bank, load
from twins_nas.banking import portable
from twins_nas.banks.bank import SHIPPED, shipped_banks
from twins_nas.banks.draw import PARTS, Strata, members
from twins_nas.banks.files import (
    ARCHS,
    CURVES,
    FORMAT,
    HEADER,
    RUNS,
    BankHeader,
    BankImages,
    write_bank,
)
from twins_nas.banks.plan import BankPlan, plan_bank
from twins_nas.banks.quality import quality
from twins_nas.config import dump_arch, dump_space, load_space, shipped_files
from twins_nas.cost import cost
from twins_nas.data import ImageData
from twins_nas.errors import ConfigError, UserError
from twins_nas.layer_cost import Cost
from twins_nas.model.backbone import Backbone
from twins_nas.recipes import DataRecipe, TrainingRecipe
from twins_nas.report.bank import bank_figure, bank_words
from twins_nas.space import SearchSpace
from twins_nas.yaml_nodes import parse, read

RECIPE = """question: How good is each?
space:
  name: tiny
  input_size: 32
  patch_size: 2
  stages:
  - {{embed_dim: 8, head_dim: 8, depth: 1, mixer: L, window_size: 2, mlp_ratio: 1, pe: [cpe, ape]}}
  - {{embed_dim: 8, head_dim: 8, depth: 1, mixer: L, window_size: [2, 4, 8], mlp_ratio: 1, pe: rpe}}
  - {{embed_dim: 8, head_dim: 8, depth: [1, 2], mixer: L, window_size: 2, mlp_ratio: 1, pe: cpe}}
  - {{embed_dim: [8, 16], head_dim: 8, depth: 1, mixer: L, window_size: 2, mlp_ratio: 1, pe: cpe}}
bank: {{archs: 3, strata: 2}}
seeds: 2
training: {{epochs: {epochs}, batch_size: 35, checkpoint_seconds: 1}}
data: {{name: "imagefolder:{images}", val_images: 60}}
"""
PLAIN = """question: How good is each?
space: svt
bank: {archs: 8}
"""
NETWORKS = 24
"""Of the space of `RECIPE`."""

Command = Callable[..., str]


def cost_in(space: SearchSpace) -> Callable[[ArchConfig], Cost]:
    """The cost of a network on Fashion-MNIST."""
    return lambda arch: cost(arch, space.input_size, 1, 10)


@pytest.fixture
def recipe(tmp_path: Path, folder_of_images: Path) -> Path:
    """A recipe of three tiny networks on two seeds."""
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(images=folder_of_images, epochs=1))
    return path


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Runs the command in this process, and gives what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")

    def done(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["bank", *words])
        assert command.main() == 0
        return capsys.readouterr().out

    return done


@pytest.fixture
def plan(recipe: Path) -> BankPlan:
    """The recipe's plan."""
    return plan_bank(read(recipe))


def made_up(folder: Path, plan: BankPlan, values_AS: np.ndarray) -> Path:
    """A bank of the plan's first networks with these validation accuracies, on disk."""
    archs, seeds = values_AS.shape
    strata, several = plan.drawn(3, 4)
    header = BankHeader(
        format=FORMAT,
        name="made-up",
        question="None.",
        seeds=tuple(range(seeds)),
        strata=strata.edges,
        images=BankImages(channels=3, classes=4, train=1, val=1, test=1),
        training=TrainingRecipe(),
        data=DataRecipe(),
        space=parse(dump_space(plan.space), "space").value,
        **dict.fromkeys(("cost", "device", "machine", "torch", "commit", "command", "date"), "-"),
        files={},
    )
    about = dict.fromkeys(("epochs", "batch_size", "accumulate", "seconds"), 1)
    size = plan.space.input_size
    tables = {
        ARCHS: [
            {
                **{name: getattr(one, name) for name in ("number", "name", "part", "stratum")},
                **{"macs": one.macs, "params": one.params, "key": "-"},
                "arch": json.dumps(parse(dump_arch(one.arch, size), "arch").value).replace('"', ""),
            }
            for one in several[:archs]
        ],
        RUNS: [
            {"number": at, "seed": seed, "status": "finished", "val_top1": value, **about}
            for (at, seed), value in np.ndenumerate(values_AS)
        ],
        CURVES: [],
    }
    write_bank(folder, header, tables)
    return folder


@pytest.mark.parametrize("name", ["svt", "families"])
def test_strata_are_filled_alike(name: str) -> None:
    """Named networks first, then as many from each stratum; each part has half of a stratum."""
    space = load_space(shipped_files("space")[name])
    strata = Strata.of(space, cost_in(space), 6)
    found = members(space, cost_in(space), strata, 40)
    assert [one.number for one in found] == list(range(40))
    assert len({space.key(one.arch) for one in found}) == 40
    named = [one for one in found if one.name]
    assert found[: len(named)] == tuple(named) and named[0].name.startswith("base")
    assert {"smallest", "largest"} <= {one.name for one in named}
    drawn = Counter(one.stratum for one in found if not one.name)
    assert len(drawn) == 6 and max(drawn.values()) - min(drawn.values()) <= 1
    for one in found:
        assert not space.why_not(one.arch)
        about = cost(one.arch, space.input_size, 1, 10)
        assert (one.macs, one.params) == (about.macs, about.params)
        inside = strata.edges[1:-1]
        assert one.stratum == sum(edge <= one.macs for edge in inside)
    parts = Counter((one.stratum, one.part) for one in found)
    for stratum in range(6):
        tuning, held_out = (parts[stratum, part] for part in PARTS)
        assert abs(tuning - held_out) <= 1
    assert abs(sum(one.part == PARTS[0] for one in found) - 20) <= 3


def test_a_larger_bank_begins_with_the_smaller_one() -> None:
    """Networks, strata and parts stay."""
    space = load_space(shipped_files("space")["svt"])
    strata = Strata.of(space, cost_in(space), 6)
    large = members(space, cost_in(space), strata, 32)
    random.seed(1)
    for count in (2, 9, 24):
        assert members(space, cost_in(space), strata, count) == large[:count]


@pytest.mark.parametrize("bank", ["svt-micro", "families-micro"])
def test_shipped_banks_can_grow(bank: str) -> None:
    """Their recipes still draw the networks that they hold."""
    recipe = shipped_files("experiments")[f"bank_{bank.split('-')[0]}"]
    drawn, held = plan_bank(read(recipe)).drawn(1, 10)[1], load(bank)
    assert [one.arch for one in drawn] == list(held.archs)
    assert [one.part == PARTS[1] for one in drawn] == held.held_out_A.tolist()


def test_a_space_can_be_exhausted(plan: BankPlan) -> None:
    """All of its networks are found, and no more."""
    space, of = plan.space, cost_in(plan.space)
    assert space.size() == NETWORKS
    strata = Strata.of(space, of, 3)
    assert len({one.arch for one in members(space, of, strata, NETWORKS)}) == NETWORKS
    with pytest.raises(UserError, match=f"Only {NETWORKS} different networks of space tiny were"):
        members(space, of, strata, NETWORKS + 1)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("space: svt", "space: swt", "r.yaml:2: space: 'swt': no such file, and none of this name"),
        ("space: svt\n", "", "r.yaml: space: is missing"),
        ("bank: {archs: 8}", "", "r.yaml: bank: is missing"),
        ("archs: 8", "archs: 1", "r.yaml:3: bank.archs: 1 is too small (allowed: 2 to"),
        ("archs: 8", "arch: 8", "did you mean 'archs'?"),
        ("archs: 8", "strata: 65", "r.yaml:3: bank.strata: 65 is too large (allowed: 1 to 64)"),
        ("archs: 8", "name: My Bank", "bank.name: 'My Bank' is no name of a bank (allowed: small"),
        (
            "space: svt",
            "space: {name: a/b, input_size: 32, base: twins_svt_micro, stages: [{pe: [rpe, cpe]},"
            " {depth: [1, 2]}, {depth: [1, 2, 3, 4]}, {}]}",
            "r.yaml:3: bank.name: the space's name 'a/b' cannot be the bank's",
        ),
        (
            "space: svt",
            "space: {input_size: 32, base: twins_svt_micro, stages: [{pe: [rpe, cpe]}, {}, {},"
            " {}]}",
            "bank.archs: 8 networks are more than the space has: 2 different networks (allowed: 2",
        ),
        ("archs: 8}", "archs: 8}\nseeds: auto", "r.yaml:4: seeds: auto adds seeds until there"),
        ("archs: 8}", "archs: 8}\nasha: {}", "r.yaml:4: asha: a bank trains each network to its"),
        ("archs: 8}", "archs: 8}\nexplore: {trials: 8}", "r.yaml:4: explore: a bank's networks"),
        ("archs: 8}", "archs: 8}\nvary: {pe: [ape]}", "r.yaml:4: vary: a bank's networks are"),
    ],
)
def test_bad_recipes_are_told(tmp_path: Path, old: str, new: str, said: str) -> None:
    """With file, line, key, and what is legal."""
    path = tmp_path / "r.yaml"
    path.write_text(PLAIN.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        plan_bank(read(path))
    assert said in str(caught.value).replace(str(tmp_path) + "/", "")


@pytest.mark.parametrize(
    ("name", "count", "seeds"),
    [("bank_svt", 69, "3 seeds (0, 1, 2)"), ("bank_families", 24, "2 seeds (0, 1)")],
)
def test_shipped_recipes_are_planned(name: str, count: int, seeds: str, run: Command) -> None:
    """Their headers have the four lines; `ablate` says whose they are."""
    path = shipped_files("experiments")[name]
    words = [line.split(":")[0] for line in path.read_text().splitlines() if line[:3] != "#  "]
    assert words[:4] == ["# Question", "# Command", "# Measured cost", "# Result"]
    out = run("build", name, "--check")
    assert f"networks x {seeds}, epochs of each: 1" in out
    drawn = [line for line in out.splitlines() if re.match(" *\\d+ [0-9,]+ MACs", line)]
    assert len(drawn) == count
    with pytest.raises(ConfigError, match="bank: is of a bank; build it by: python"):
        planned(path)


def test_what_a_build_leaves(
    run: Command, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are read again, MLflow's runs; then more networks, the old ones kept."""
    network = Place.network

    def breaks(self: Place, run: Run, data: ImageData) -> Backbone:
        if (run.number, run.seed) == (2, 1):
            raise RuntimeError("no such kernel")
        return network(self, run, data)

    with monkeypatch.context() as broken:
        broken.setattr(Place, "network", breaks)
        out = run("build", str(recipe), "--local")
    folder = tmp_path / "runs" / "tiny"
    found = load(folder)
    assert (found.name, found.seeds, found.numbers) == ("tiny", (0, 1), (0, 1, 2))
    assert "tiny: 3 networks x 2 seeds of space tiny" in out and "5 of 6 runs finished" in out
    assert "Failed: network 2, seed 1: RuntimeError: no such kernel." in out
    assert found.failed == {(2, 1): "RuntimeError: no such kernel"} and quality(found).n == 2
    val_AS, test_AS = found.values_AS(), found.values_AS("test_top1")
    assert np.isnan(val_AS[2, 1]) and found.means_A()[2] == val_AS[2, 0]
    for at, seed in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0)):
        (file,) = folder.glob(f"results/{at:02d}-*-seed{seed}.json")
        result = json.loads(file.read_text())
        test = json.loads((folder / "tests" / file.name).read_text())
        assert val_AS[at, seed] == pytest.approx(result["val_top1"], rel=1e-5)
        assert test_AS[at, seed] == pytest.approx(test["test_top1"], rel=1e-5)
        (end,) = found.curves[at, seed]
        assert end.epoch == 1 and end.step == 4 and end.val_top1 == val_AS[at, seed]
    assert found.means_A()[:2] == pytest.approx(val_AS[:2].mean(axis=1))
    header = found.header
    assert (header.images.train, header.images.val, header.images.test) == (140, 60, 40)
    assert header.training.epochs == 1 and header.format == FORMAT
    for file in ("report.txt", "bank.png"):
        assert (folder / file).stat().st_size
    assert not list(folder.glob("work/*/*.safetensors"))

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("bank")
    runs = {one.info.run_name: one for one in client.search_runs([experiment.experiment_id])}
    (child,) = [one for name, one in runs.items() if re.match("01-.*-seed1", name)]
    assert {"val_top1", "test_top1", "macs", "seconds"} <= set(child.data.metrics)
    assert child.data.tags["status"] == "finished" and child.data.tags["part"] in PARTS
    paths = {item.path for item in client.list_artifacts(runs["tiny"].info.run_id)}
    assert {"bank", "bank.png", "report.txt", "experiment.yaml"} <= paths

    times = {path: path.stat().st_mtime_ns for path in folder.glob("[rt]e[s]*/*.json")}
    assert len(times) == 6 + 5
    for words, said in (
        (("--archs", "2"), "A bank only grows: this one has 3 networks, --archs 2 are fewer"),
        (("--seeds", "1"), "A bank only grows: --seeds 1 would leave out seed 1"),
        (("--epochs", "2"), "besides more --archs and --seeds, give no recipe or other change"),
    ):
        with pytest.raises(UserError, match=said):
            run("build", "--resume", "tiny", *words)
    listed = run("build", "--resume", "tiny", "--archs", "4", "--check")
    assert "4 networks x 2 seeds" in listed and len(list(folder.glob("results/*.json"))) == 6
    run("build", "--resume", "tiny", "--archs", "4", "--retry-failed", "--local")
    changed = {path.name for path, when in times.items() if path.stat().st_mtime_ns != when}
    assert len(changed) == 1 and re.match("02-.*-seed1", changed.pop())
    more = load(folder)
    assert not more.failed and np.isfinite(more.values_AS("test_loss")).all()
    assert len(more.archs) == 4 and more.archs[:3] == found.archs
    assert np.array_equal(more.values_AS()[:2], val_AS[:2])
    assert np.array_equal(more.held_out_A[:3], found.held_out_A)
    table = run("show", str(folder), "--test")
    assert "test top-1: " in table and "validation top-1" not in table


def test_a_bank_grows_from_its_files(
    run: Command, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its runs are taken as they are, also after a kill; those of another recipe are refused."""
    run("build", str(recipe), "--archs", "2", "--local")
    small = load(tmp_path / "runs" / "tiny")
    shutil.copytree(tmp_path / "runs" / "tiny" / "bank", tmp_path / "files")
    done: list[str] = []
    network = Place.network

    def counted(self: Place, run: Run, data: ImageData) -> Backbone:
        done.append(run.name)
        return network(self, run, data)

    monkeypatch.setattr(Place, "network", counted)
    grow = ("--from", str(tmp_path / "files"))
    out = run("build", str(recipe), "--name", "grown", "--local", *grow)
    assert "4 of 6 runs are taken from the bank tiny." in out
    assert sorted({name[:2] + name[-1] for name in done}) == ["020", "021"]
    grown = load(tmp_path / "runs" / "grown")
    run("build", str(recipe), "--name", "whole", "--local")
    whole = load(tmp_path / "runs" / "whole")
    for found, archs in ((small, slice(2)), (whole, slice(3))):
        for metric in ("val_top1", "val_loss", "test_top1", "test_loss"):
            assert np.array_equal(grown.values_AS(metric)[archs], found.values_AS(metric))
    assert grown.archs == whole.archs and grown.curves == whole.curves
    assert grown.header.images == whole.header.images
    told = re.fullmatch(
        r".* for 2 runs, .*; 4 runs more, of .* of training steps, taken from the bank tiny of .*",
        grown.header.cost,
    )
    assert told

    again = run("build", "--resume", "grown", "--archs", "4", "--local", *grow)
    assert "0 of 8 runs are taken" in again and "for 4 runs" in load("runs/grown").header.cost
    for words, said in (
        (("--epochs", "2"), "it was made by another recipe.*training.epochs: 1, here 2"),
        (("--from", "svt-micro"), "space: another one"),
        (("--from", "nowhere"), "nowhere: no folder with a"),
    ):
        with pytest.raises(UserError, match=said):
            run("build", str(recipe), "--name", "other", "--local", *grow, *words)
    assert not (tmp_path / "runs" / "other").exists()


def test_a_bank_is_read_as_it_was_written(tmp_path: Path, plan: BankPlan) -> None:
    """Frozen, the test images by an explicit name, its parts by theirs."""
    plan = plan_bank(plan.document.changed({"bank.archs": 12}))
    rng = np.random.default_rng(0)
    true_A1, seed_1S = np.linspace(70, 90, 12)[:, None], np.array([[0.0, 3.0, -3.0]])
    values_AS = true_A1 + seed_1S + rng.normal(0, 0.5, (12, 3))
    found = load(made_up(tmp_path / "some", plan, values_AS))
    assert isinstance(found, Bank) and np.allclose(found.values_AS(), values_AS)
    assert [found.space.key(arch) for arch in found.archs] == [
        plan.space.key(one.arch) for one in plan.drawn(3, 4)[1]
    ]
    assert found.space.fingerprint == plan.space.fingerprint
    assert (
        np.isnan(found.values_AS("test_top1")).all() and np.isnan(found.means_A("test_top1")).all()
    )
    with pytest.raises(ValueError, match="read-only"):
        found.values_AS()[0, 0] = 100
    with pytest.raises(UserError, match="no 'val_top5'; did you mean 'val_top1'"):
        found.means_A("val_top5")
    tuning, held_out = found.part("tuning"), found.part("held-out")
    assert sorted(tuning.numbers + held_out.numbers) == list(found.numbers)
    assert held_out.held_out_A.all() and not tuning.held_out_A.any()
    assert np.array_equal(held_out.values_AS(), values_AS[found.held_out_A])
    with pytest.raises(UserError, match="no part 'test'"):
        found.part("test")
    told = quality(found)
    assert told.spread is not None and told.noise is not None and told.apart is not None
    assert 0.3 < told.apart < 0.7 and 2.5 < told.noise < 3.5
    assert told.spread == pytest.approx(values_AS.mean(axis=1).std(ddof=1))
    assert told.reliable is not None and told.reliable.value > 0.98 and told.ceiling is not None
    assert any("without what all networks of a seed share" in line for line in bank_words(found))
    assert bank_figure(found) is not None and bank_figure(found, "test_top1") is None


def test_what_cannot_be_told_is_left_out(tmp_path: Path, plan: BankPlan) -> None:
    """One seed has no noise, two networks no reliability, and none no range."""
    one = quality(load(made_up(tmp_path / "one", plan, np.array([[70.0], [71.0], [72.0]]))))
    assert (one.noise, one.apart, one.reliable, one.ratio) == (None, None, None, None)
    two = quality(load(made_up(tmp_path / "two", plan, np.array([[70.0, 70.0], [71.0, 71.0]]))))
    assert two.noise == 0 and two.ratio is None and two.reliable is None and two.ceiling is None
    none = load(made_up(tmp_path / "none", plan, np.full((2, 2), np.nan)))
    assert quality(none).n == 0 and any("no network" in line for line in bank_words(none))


def test_damaged_banks_are_told(tmp_path: Path, plan: BankPlan) -> None:
    """In a sentence that names the file."""
    values_AS = np.array([[70.0, 71.0], [72.0, 73.0], [74.0, 75.0]])

    def said(change: Callable[[Path], object]) -> str:
        folder = made_up(tmp_path / "some", plan, values_AS)
        change(folder)
        with pytest.raises(UserError) as caught:
            load(folder)
        return str(caught.value).replace(str(tmp_path) + "/", "")

    def edited(name: str, old: str, new: str) -> Callable[[Path], object]:
        def change(folder: Path) -> None:
            text = (folder / name).read_text()
            assert old in text
            (folder / name).write_text(text.replace(old, new, 1))

        return change

    other = "some/runs.csv is not the file that bank.yaml was written with"
    assert said(edited(RUNS, "71.0", "99.0")).startswith(other)
    assert said(lambda folder: (folder / RUNS).write_bytes(b"\xff\xfe")).startswith(other)
    assert (
        said(lambda folder: (folder / ARCHS).unlink())
        == "some/archs.csv: no such file or directory."
    )
    assert "some/bank.yaml is of format 2, and this twins_nas reads format 1" in said(
        edited(HEADER, "format: 1", "format: 2")
    )
    assert "is of format an empty value" in said(edited(HEADER, "format: 1", "formal: 1"))
    assert "some/bank.yaml" in said(edited(HEADER, "epochs: 6", "epochs: none"))
    assert "apee" in said(edited(HEADER, "ape", "apee"))
    wrong = "The bank in some is damaged (network 0 has"
    assert said(edited(HEADER, "channels: 3", "channels: 1")).startswith(wrong)
    with pytest.raises(UserError, match="and no shipped bank"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no folder with a "):
        load("a\0b")


def test_shipped_banks_are_whole(repo: Path) -> None:
    """Each loads by its name, and the wheel brings all of its files, which are small."""
    project = tomllib.loads((repo / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = project["package-data"]["twins_nas.banks"]
    brought = {path for pattern in patterns for path in SHIPPED.glob(pattern)}
    for name, folder in shipped_banks().items():
        found = load(name)
        assert found.name == name and np.isfinite(found.values_AS()).any()
        assert set(folder.iterdir()) <= brought
        assert sum(path.stat().st_size for path in folder.iterdir()) < 1_000_000


def test_commands_without_the_machine() -> None:
    """The folders of a command are left out, given either way."""
    text = "python -m twins_nas.bank build bank_svt --data-root /a/b --out=/c --archs 3"
    short = "python -m twins_nas.bank build bank_svt --data-root DIR --out=DIR --archs 3"
    assert portable(text) == short


def test_without_a_recipe(run: Command) -> None:
    """A space is enough; neither is too little."""
    out = run("build", "--space", "svt", "--archs", "5", "--seeds", "3", "--check")
    assert out.startswith("svt: How accurate are networks of svt") and "5 networks x 3 seeds" in out
    with pytest.raises(UserError, match="A recipe or a space is missing"):
        run("build", "--archs", "5")
    with pytest.raises(ConfigError, match=r"the command line: bank.archs: 1 is too small"):
        run("build", "--space", "svt", "--archs", "1")


@pytest.mark.long
def test_with_ray_killed_and_resumed(run: Command, tmp_path: Path, folder_of_images: Path) -> None:
    """Killed with its group in the midst, it has the bank of one that was not."""
    (tmp_path / "r.yaml").write_text(RECIPE.format(images=folder_of_images, epochs=3))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    about = {
        "cwd": tmp_path,
        "env": {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)},
    }
    start = [sys.executable, "-m", "twins_nas.bank", "build"]

    folder = tmp_path / "runs" / "killed"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(
        [*start, "r.yaml", "--name", "killed", "--parallel", "1"],
        **about, **quiet, start_new_session=True,
    )  # fmt: skip
    end = time.monotonic() + 240
    while not list(folder.glob("results/*.json")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("results/*.json")}
    assert 1 <= len(before) < 6 and not (folder / "bank").exists()
    done = subprocess.run([*start, "--resume", "killed"], **about, capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    run("build", "r.yaml", "--name", "calm", "--local")
    killed, calm = load(folder), load(tmp_path / "runs" / "calm")
    for metric in ("val_top1", "val_loss", "test_top1", "test_loss"):
        assert np.array_equal(killed.values_AS(metric), calm.values_AS(metric))
    assert killed.archs == calm.archs and killed.curves == calm.curves
