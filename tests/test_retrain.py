"""A search's front retrained alone: what is equal, what is kept, what is told."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
import torch

from twins_nas import retrain, search
from twins_nas.ablation.results import AblationFolder
from twins_nas.ablation.work import Training
from twins_nas.config import load_arch
from twins_nas.errors import UserError
from twins_nas.evaluate import evaluate
from twins_nas.ranking import trained
from twins_nas.recipes import load_recipe
from twins_nas.report.retraining import Accuracies, Retrained, answer, metrics, over_members
from twins_nas.retraining import Retraining
from twins_nas.runs import RunFolder
from twins_nas.seeds import seed
from twins_nas.training.calibrate import Calibration
from twins_nas.truth import read_truth

SPACE = """
input_size: 32
base: twins_svt_micro
patch_size: 4
stages:
  - {embed_dim: [8, 16], head_dim: 8, depth: 1, sr_ratio: 4}
  - {embed_dim: 16, head_dim: 8, depth: [1, 2], sr_ratio: 2}
  - {embed_dim: 32, head_dim: 8, depth: 1, sr_ratio: 1}
  - {embed_dim: 32, head_dim: 8, depth: 1, sr_ratio: 1}
"""
RECIPE = """
trials: 4
sampler: {name: random}
seed: 3
data: {val_images: 60}
supernet: {epochs: 2, batch_size: 46, drop_path: 0.1, drop_path_for: largest}
"""


def command(module: object, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """One of the commands."""
    monkeypatch.setattr(sys, "argv", ["command", *words])
    assert module.main() == 0  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, folder_of_images: Path) -> Path:
    """A finished search, `runs/one`."""
    root = tmp_path_factory.mktemp("retrain")
    (root / "space.yaml").write_text(SPACE)
    (root / "recipe.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
        words = ["--space", "space.yaml", "--recipe", "recipe.yaml", "--local", "--name", "one"]
        command(search, patch, *words, "--data", f"imagefolder:{folder_of_images}")
    return root


def test_the_whole_command(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each network of the front on each seed; the same command again trains nothing."""
    monkeypatch.chdir(here)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here / 'mlflow.db'}")
    command(retrain, monkeypatch, "--run", "one", "--seeds", "2")
    said, folder = capsys.readouterr().out, here / "runs/one/retrain-2-epochs"
    with (here / "runs/one/front.csv").open() as file:
        front = list(csv.DictReader(file))
    with (folder / "retrain.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["network"] for row in rows[::2]] == [Path(line["file"]).stem for line in front]
    assert [float(row["inherited_test"]) for row in rows[::2]] == [
        float(line["test_top1"]) for line in front
    ]
    assert {row["seed"] for row in rows} == {"0", "1"}
    assert "within 0.5 points of their mean over 2 trainings alone, of 2 epochs each" in said
    assert said.splitlines()[1].startswith("network") and (folder / "retrain.png").is_file()
    truth = read_truth(folder / "one-2-epochs.csv")
    assert len(truth) == len(front) and truth.part("tuning").top1_NS.shape[1] == 2
    monkeypatch.setattr(Training, "_train", None)
    command(retrain, monkeypatch, "--run", "one", "--seeds", "2")
    assert capsys.readouterr().out == said
    assert not list(AblationFolder(folder).path.glob("work/*/weights.safetensors"))


def test_tuned_members_stand_beside_inherited_ones(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each network after so many steps of its own; what is known is not tuned again."""
    monkeypatch.chdir(here)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here / 'mlflow.db'}")
    words = ("--run", "one", "--seeds", "2", "--epochs", "1")
    command(retrain, monkeypatch, *words, "--calibrate-steps", "3")
    capsys.readouterr()
    made: list[int] = []
    call = Calibration.__call__

    def counted(self: Calibration, *of: object) -> object:
        made.append(self.recipe.calibrate_steps)
        return call(self, *of)  # type: ignore[arg-type]

    monkeypatch.setattr(Calibration, "__call__", counted)
    command(retrain, monkeypatch, *words, "--calibrate-steps", "5", "3", "5")
    said, folder = capsys.readouterr().out, here / "runs/one/retrain-1-epochs"
    with (folder / "retrain.csv").open() as file:
        rows = list(csv.DictReader(file))
    networks = {row["network"] for row in rows}
    assert made == [5] * len(networks)
    assert "After 3 steps of each network's own:" in said and "after 5 steps" in said
    run, space, found, settings = RunFolder.open(here / "runs", "one")
    recipe = retrain.alone(found, 1, 2)
    work = Retraining(run, folder, space, found, recipe, settings)
    model = trained(run, space, found, work.data, torch.device("cpu"))
    asked = found.supernet.model_copy(update={"calibrate_steps": 3})
    arch, _ = load_arch(next(run.path.glob(f"archs/{rows[0]['network']}*.yaml")))
    subject = call(Calibration.of(work.data, asked, found.seed), model, arch)  # type: ignore[arg-type]
    test = evaluate(subject, work.data.test(), work.data.mean, work.data.std)
    assert float(rows[0]["tuned_3_test"]) == test.top1


def test_trainings_are_the_supernets(here: Path) -> None:
    """The same recipe, but for what only supernets have; the same parts of the images."""
    run, space, found, settings = RunFolder.open(here / "runs", "one")
    recipe = retrain.alone(found, None, 2)
    assert recipe.training.epochs == 2 and recipe.training.batch_size == 46
    assert recipe.training.drop_path == 0 and found.supernet.drop_path == 0.1
    work = Retraining(run, here / "other", space, found, recipe, settings)
    first, second = work.place.data(0), work.place.data(1)
    for one, other in ((first.val, second.val), (first.train, second.train)):
        assert all((a == b).all() for a, b in zip(one.numpy(), other.numpy(), strict=True))
    assert retrain.alone(load_recipe(run.recipe_file), 7, 2).training.epochs == 7


def test_what_is_told() -> None:
    """The share within half a point, and the mean distance with its interval over seeds."""
    tuned = {200: Accuracies(81.5, 80.9)}
    rows = [
        Retrained(
            str(at), "", seed("twins_svt_micro"), 1, 1, Accuracies(81.0, 80.0), val, test, tuned
        )
        for at, (val, test) in enumerate(
            [
                ({0: 80.0, 1: 82.0}, {0: 80.2, 1: 80.4}),
                ({0: 80.0, 1: 82.0}, {0: 81.0, 1: 82.0}),
            ]
        )
    ]
    assert over_members(rows, True).mean == pytest.approx(-0.9)
    assert over_members(rows, False).mean == pytest.approx(0.0)
    said = answer(rows, 5, 2000)
    assert said.startswith("1 of 2 networks (50 %)") and "-0.90 [-4.71, +2.91]" in said
    assert said.endswith(
        "After 200 steps of each network's own: 0 of 2, +0.00 [-3.81, +3.81] points on the test"
        " images."
    )
    assert metrics(rows) == pytest.approx({"distance_test": -0.9, "distance_test_200_steps": 0.0})


def test_what_cannot_be_retrained_is_told(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained."""
    monkeypatch.chdir(here)
    for words, said in (
        ((), "--run is missing"),
        (("--run", "onne"), "did you mean 'one'"),
        (("--run", "one", "--seeds", "1"), "--seeds needs at least 2"),
        (("--run", "one", "--epochs", "0"), "--epochs needs at least 1"),
        (("--run", "one", "--calibrate-steps", "3", "0"), "--calibrate-steps needs 1 to 10,000"),
    ):
        with pytest.raises(UserError, match=said):
            command(retrain, monkeypatch, *words)
    front = here / "runs/one/front.csv"
    front.rename(here / "aside.csv")
    with pytest.raises(UserError, match="the search is not finished"):
        command(retrain, monkeypatch, "--run", "one")
    front.write_text("arch\nx\n")
    with pytest.raises(UserError, match="damaged"):
        command(retrain, monkeypatch, "--run", "one", "--local")
    (here / "aside.csv").rename(front)
