"""Trainings of a supernet compared by the tau that each reaches with networks trained alone."""

from __future__ import annotations

import csv
import json
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twins_nas import ablate
from twins_nas.ablation.results import AblationFolder
from twins_nas.ablation.work import Training
from twins_nas.config import dump_arch, load_space, shipped_files
from twins_nas.cost import cost
from twins_nas.errors import ConfigError, UserError
from twins_nas.evaluate import evaluate
from twins_nas.files import write_csv
from twins_nas.model.separate import supernet_of
from twins_nas.ranks import kendall
from twins_nas.supernet_study import SupernetStudy
from twins_nas.supernets import work
from twins_nas.supernets.plan import SupernetsPlan, load_truth, other_images
from twins_nas.training.checkpoint import load_weights
from twins_nas.truth import COLUMNS

SPACE = """
name: small
input_size: 32
base: twins_svt_micro
patch_size: 4
stages:
  - {embed_dim: [8, 16], head_dim: 8, depth: 1, sr_ratio: 4, pe: [cpe, none]}
  - {embed_dim: [16, 32], head_dim: 8, depth: [1, 2], sr_ratio: 2}
  - {embed_dim: 32, head_dim: 8, depth: [1, 4], sr_ratio: 1}
  - {embed_dim: 32, head_dim: 8, depth: 1, sr_ratio: 1}
"""
RECIPE = """# Question: does this test pass?
# Command: python -m twins_nas.ablate recipe.yaml
# Measured cost: not measured yet.
# Result: none yet.
question: Which training ranks?
space: space.yaml
rank: {bank: bank.csv, bins: 2}
supernet: {epochs: 1, batch_size: 46, checkpoint_seconds: 1}
variants:
  shared: {}
  separate: {separate: [pe]}
  averaged: {ema: 0.5, calibrate_steps: 1}
compare: {baseline: shared, margin: 0.1}
seeds: 3
data: {name: "imagefolder:IMAGES", val_images: 60}
"""
NETWORKS = 8


@pytest.fixture
def here(tmp_path: Path, folder_of_images: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe, a space, and a bank whose accuracies are their networks' MACs with some noise."""
    (tmp_path / "space.yaml").write_text(SPACE)
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("IMAGES", str(folder_of_images)))
    space, rng = load_space(tmp_path / "space.yaml"), random.Random(0)
    drawn = {space.key(arch): arch for arch in (space.sample(rng) for _ in range(60))}
    lines = []
    for at, arch in enumerate(list(drawn.values())[: NETWORKS + 1]):
        found, part = cost(arch, (32, 32), 3, 4), "tuning" if at < NETWORKS else "held-out"
        for seed in (0, 1):
            top1 = 50 + found.macs / 1e5 + rng.gauss(0, 1)
            text = dump_arch(arch, (32, 32))
            line = (f"net{at}", part, seed, top1, found.macs, found.params, text)
            lines.append(dict(zip(COLUMNS, line, strict=True)))
    write_csv(tmp_path / "bank.csv", COLUMNS, lines)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return tmp_path


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """The command."""
    monkeypatch.setattr(sys, "argv", ["ablate", *words])
    assert ablate.main() == 0


def test_the_whole_command(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results, report, header; tau is that of the weights that are left; resumed, nothing runs."""
    command(monkeypatch, "recipe.yaml", "--local", "--name", "one", "--write-result")
    said = capsys.readouterr().out
    report = (here / "runs/one/report.md").read_text()
    for words in (
        "Against shared (tau by loss): separate",
        "Ranked are the n = 8 networks of the tuning part of the bank bank",
        "Mean top-1 of the networks as members, against shared (",
        "Tau by loss minus tau by top-1, same supernets: shared",
        "intervals over networks",
        "forward passes of a training step",
    ):
        assert words in said and words in report, words
    assert (here / "runs/one/effects.png").is_file() and (here / "runs/one/macs.png").is_file()
    assert "Result: Against shared (tau by loss)" in (here / "recipe.yaml").read_text()
    results = {
        path.stem: json.loads(path.read_text())
        for path in (here / "runs/one/results").glob("*.json")
    }
    assert len(results) == 9 and {one["status"] for one in results.values()} == {"finished"}
    plan = ablate.planned("recipe.yaml")
    assert isinstance(plan, SupernetsPlan) and len(plan.truth) == NETWORKS
    check_tau(here, plan, results["01-separate-seed2"])
    with (here / "runs/one/runs.csv").open() as file:
        rows = {line["variant"]: line for line in csv.DictReader(file)}
    assert int(rows["separate"]["params"]) > int(rows["shared"]["params"])
    assert rows["separate"]["macs"] == rows["shared"]["macs"]
    last = results["01-separate-seed2"]["more"]
    assert float(rows["separate"]["tau_loss"]) == last["tau_loss"]
    means = np.mean([last[f"top1 {at}"] for at in range(NETWORKS)])
    assert float(rows["separate"]["members_top1"]) == pytest.approx(means)
    monkeypatch.setattr(Training, "_train", None)
    command(monkeypatch, "--resume", "one")
    assert "0 of" not in capsys.readouterr().err


def check_tau(here: Path, plan: SupernetsPlan, result: dict[str, Any]) -> None:
    """Scores the members of a kept supernet again."""
    folder = AblationFolder(here / "runs/one")
    about = (folder, plan.document, plan.recipe, folder.read_settings())
    study = SupernetStudy(*about, plan=plan)
    data = study.place.data(2)
    model = supernet_of(plan.space, data.in_chans, data.num_classes, plan.variants[1].training)  # type: ignore[arg-type]
    weights, _ = load_weights(folder.path / "work/01-separate-seed2/weights.safetensors")
    model.load_state_dict(weights)
    found = [evaluate(model, data.val, data.mean, data.std, arch).loss for arch in plan.truth.archs]
    assert found == pytest.approx([result["more"][f"loss {at}"] for at in range(NETWORKS)])
    rng = np.random.default_rng(0)
    expected = kendall([-loss for loss in found], plan.truth.means_N.tolist(), rng).value
    assert result["more"]["tau_loss"] == pytest.approx(expected)


def test_supernets_without_an_order(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A supernet whose members all score the same failed; the others are told, in pairs."""
    true = work.member_scores

    def scores(*about: Any) -> dict[str, list[float]]:
        found, told = true(*about), len(list((here / "runs/one/results").glob("*.json")))
        for name in () if told not in (1, 4) else ("loss",) if told == 1 else ("top1",):
            found[name] = [1.0] * NETWORKS
        return found

    monkeypatch.setattr(work, "member_scores", scores)
    recipe = here / "recipe.yaml"
    recipe.write_text(
        recipe.read_text().replace("  averaged: {ema: 0.5, calibrate_steps: 1}\n", "")
    )
    command(monkeypatch, "recipe.yaml", "--local", "--name", "one")
    said = capsys.readouterr().out
    files = sorted((here / "runs/one/results").glob("*.json"))
    results = {path.stem: json.loads(path.read_text()) for path in files}
    lost, flat = results["01-separate-seed0"], results["00-shared-seed2"]
    assert lost["status"] == "failed" and "no tau by loss" in lost["reason"]
    assert flat["status"] == "finished" and "tau_top1" not in flat["more"]
    assert "supernets: shared" in said and "n = 2 supernets" in said


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("{separate: [pe]}", "{separate: [mixer]}", "variants.separate: .*mixer has one value"),
        ("{separate: [pe]}", "{seperate: [pe]}", "variants.separate.seperate: .*'separate'"),
        ("{separate: [pe]}", "{init_from: w.pth}", "begin with drawn weights"),
        ("{separate: [pe]}", "{}", "shared and separate are the same training"),
        ("baseline: shared", "baseline: share", "did you mean 'shared'"),
        ("bank: bank.csv", "bank: svt-mikro", "rank.bank: .*no shipped bank"),
        ("bins: 2", "bins: 3", "at most 2 bins"),
        ("seeds: 3", "seeds: 1", "at least 2 are needed"),
        ("seeds: 3", "seeds: auto", "a number of seeds that is given beforehand"),
        ("supernet: {", "training: {epochs: 2}\nsupernet: {", "give it as `supernet`"),
        ("space: space.yaml", "space: families", "is no member of families"),
        ("tuning", "tunning", ""),
    ],
)
def test_what_cannot_be_compared_is_told(here: Path, old: str, new: str, said: str) -> None:
    """In the recipe's lines, before anything is trained."""
    recipe = here / "recipe.yaml"
    (here / "w.pth").touch()
    if not said:
        old, new, said = "bins: 2", f"bins: 2, part: {new}", "tuning"
    recipe.write_text(recipe.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=said) as refused:
        ablate.planned(recipe)
    assert all("recipe.yaml" in fault.file for fault in refused.value.faults)
    assert not (here / "runs").exists()


def test_the_shipped_recipe_is_planned() -> None:
    """On the shipped bank, whose data it says to be other."""
    plan = ablate.planned(shipped_files("experiments")["supernet_svt"])
    assert isinstance(plan, SupernetsPlan) and plan.truth.part_name == "tuning"
    assert len(plan.variants) == 7 and len(plan.truth) > 20
    assert plan.notes == (
        "The bank was trained on fashion-mnist, the supernets on fashion-mnist-mini.",
    )


def test_that_images_are_others_than_the_banks_is_said() -> None:
    """Of the shipped bank: its data set and its size, each only where they differ."""
    truth, space = load_truth("svt-micro"), load_space(shipped_files("space")["svt"])
    large = replace(space, input_size=(64, 64))
    assert other_images(truth, {"fashion-mnist"}, [space]) == []
    assert other_images(truth, {"fashion-mnist", "mnist"}, [space, large]) == [
        "The bank was trained on fashion-mnist, the supernets on fashion-mnist, mnist.",
        "The bank's images have 32 x 32 px, the supernets' 32 x 32, 64 x 64.",
    ]


def test_what_the_command_line_changes(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Epochs are the supernet's; --check trains nothing; trials are of explorations."""
    command(monkeypatch, "recipe.yaml", "--check", "--epochs", "3", "--seeds", "4")
    said = capsys.readouterr().out
    assert "* shared: epochs: 3" in said and "3 trainings x 4 seeds" in said
    with pytest.raises(UserError, match="has no `explore`"):
        command(monkeypatch, "recipe.yaml", "--trials", "9")
    assert not (here / "runs").exists()
