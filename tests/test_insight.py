"""The command from a trained supernet to the report: what it leaves, resumes, and refuses."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from twins_nas import insight
from twins_nas.config import load_space
from twins_nas.data import load
from twins_nas.errors import UserError
from twins_nas.instrument import Instrument
from twins_nas.model.backbone import Backbone, initialise
from twins_nas.recipes import load_recipe
from twins_nas.report.insight_table import plain
from twins_nas.runs import RunFolder, Settings
from twins_nas.training.checkpoint import save_weights
from twins_nas.training.loop import Trainer

SPACE = """
name: small
input_size: 32
base: twins_svt_micro
stages:
  - {embed_dim: [8, 16], depth: [1, 2], pe: [cpe, rpe]}
  - {embed_dim: [16, 32], depth: 1, pe: [cpe, rpe], window_size: {values: [2, 4], per: block}}
  - {embed_dim: 32, depth: 2, pe: [cpe, rpe]}
  - {embed_dim: 64, depth: 1, pe: [cpe, rpe]}
"""
RECIPE = """
trials: 14
sampler: {{name: nsga2, population: 6}}
seed: {seed}
data: {{name: "imagefolder:{images}", val_images: 40}}
supernet: {{epochs: 1, batch_size: 20, random_subnets: 1, checkpoint_seconds: 1}}
"""
ABLATION = """
question: Does the encoding matter?
base: twins_svt_micro
vary: {{pe: [cpe, rpe, none]}}
compare: {{baseline: cpe}}
seeds: 3
data: {{name: "imagefolder:{images}", val_images: 40}}
"""


def trained(root: Path, name: str, images: Path, seed: int = 0, weights: bool = True) -> Path:
    """A search's folder with a supernet that was trained for an epoch."""
    (root / "space.yaml").write_text(SPACE)
    (root / "recipe.yaml").write_text(RECIPE.format(images=images, seed=seed))
    space, recipe = load_space(root / "space.yaml"), load_recipe(root / "recipe.yaml")
    folder = RunFolder.create(root / "runs", name, space, recipe, Settings())
    if weights:
        data = load(recipe.data.name, root=None, input_size=32, val_images=40, seed=seed)
        model = Backbone(space, data.in_chans, data.num_classes)
        initialise(model, seed)
        trainer = Trainer(model, data, recipe.supernet, seed)
        trainer.run()
        save_weights(folder.weights, model, {"identity": trainer.identity})
    return folder.path


def ablation(root: Path, images: Path) -> Path:
    """An ablation's folder with results."""
    folder = root / "runs" / "pe"
    folder.mkdir(parents=True)
    (folder / "experiment.yaml").write_text(ABLATION.format(images=images))
    lines = ["variant,base,seed,status,val_top1"]
    for name, shift in (("cpe", 0.0), ("rpe", -3.0), ("none", -6.0)):
        lines += [f"{name},,{at},finished,{80 + shift + at + 0.1 * at * shift}" for at in range(3)]
    (folder / "runs.csv").write_text("\n".join(lines) + "\n")
    return folder


def rows(folder: Path) -> list[dict[str, str]]:
    """The rows of `insight.csv`."""
    with open(folder / "insight" / "insight.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_from_a_supernet_to_the_report(
    tmp_path: Path,
    folder_of_images: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Real weights and images; the second time nothing is scored anew, with half of it the rest."""
    monkeypatch.chdir(tmp_path)
    folder = trained(tmp_path, "one", folder_of_images)
    ablation(tmp_path, folder_of_images)
    args = insight.parser().parse_args(["--run", "one"])
    runs = insight.opened(args)

    def ask() -> str:
        made = Instrument(runs, 60, 30, 0, True, None, [Path("runs")])
        found = made.findings()
        made.write(found)
        return plain(found)

    said = ask()
    journal = folder / "insight" / "scores.journal"
    lines = journal.read_text().splitlines(keepends=True)
    assert len(lines) == len({line.split('"key"')[1] for line in lines})
    found = rows(folder)
    dimensions = {row["dimension"] for row in found}
    assert {"stages.0.depth", "stages.0.pe", "stages.1.window_size", "pe"} <= dimensions
    for row in found:
        if row["low"]:
            assert float(row["low"]) <= float(row["points"]) <= float(row["high"])
            assert 0 <= float(row["p_corrected"]) <= 1
    depth = next(row for row in found if row["dimension"] == "stages.0.depth")
    assert depth["reference"] == "2" and float(depth["macs_ratio"]) < 1
    text = (folder / "insight" / "insight.md").read_text()
    for words in ("Main effects", "Trained alone: pe"):
        assert words in said and words in text
    for words in ("do NOT hold the supernet's", "none is not in the space", "No stand-alone"):
        assert words in text
    page = (folder / "insight" / "insight.html").read_text()
    assert "<svg" in page and "<script" not in page and "stage 1 window_size" in page
    for name in ("effects.png", "interactions.png"):
        assert (folder / "insight" / name).read_bytes().startswith(b"\x89PNG")

    half = "".join(lines[: len(lines) // 2]) + lines[-1][:20]
    journal.write_text(half)
    assert ask() == said
    assert sorted(journal.read_text().splitlines(keepends=True)) == sorted(lines)
    assert rows(folder) == found


def refused(words: list[str]) -> str:
    """What the command says of bad input."""
    args = insight.parser().parse_args(words)
    with pytest.raises(UserError) as told:
        insight.opened(args)
        insight.ablations(args)
    return str(told.value)


def test_bad_input_gets_a_sentence(
    tmp_path: Path, folder_of_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything heavy: no such run, not trained, twice, of other kinds and spaces."""
    monkeypatch.chdir(tmp_path)
    trained(tmp_path, "bare", folder_of_images, weights=False)
    assert "its supernet is not trained to the end" in refused(["--run", "bare"])
    assert "holds no run; did you mean 'bare'" in refused(["--run", "bear"])
    for name in ("one", "two"):
        (trained(tmp_path, name, folder_of_images, weights=False) / "supernet.safetensors").touch()
    assert "--run one is given twice" in refused(["--run", "one", "--run", "one"])
    assert "no such folder" in refused(["--run", "one", "--ablation", "none"])
    assert "are both of seed 0" in refused(["--run", "one", "--run", "two"])
    (
        trained(tmp_path, "three", folder_of_images, 1, weights=False) / "supernet.safetensors"
    ).touch()
    recipe = tmp_path / "runs" / "three" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("epochs: 1", "epochs: 2"))
    assert "no mere other seeds" in refused(["--run", "one", "--run", "three"])
    space = tmp_path / "runs" / "two" / "space.yaml"
    space.write_text(space.read_text().replace("[cpe, rpe]", "[cpe, ape]", 1))
    assert "are of different spaces" in refused(["--run", "one", "--run", "two"])
    runs = insight.opened(insight.parser().parse_args(["--run", "one"]))
    with pytest.raises(UserError, match="is no safetensors file"):
        Instrument(runs, 60, 30, 0, True).findings()


def environment() -> dict[str, str]:
    """The environment of a command: one thread, no store but the folder's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}


def mlflow_has_it(root: Path) -> None:
    """Figures and files, in the store of the folder."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("insight")
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert "effect/stages.0.depth/1" in tracked.data.metrics
    names = {item.path for item in client.list_artifacts(tracked.info.run_id)}
    assert {"insight.csv", "insight.md", "insight.html", "effects.png"} <= names


@pytest.mark.long
def test_two_supernets_under_ray_and_a_kill(tmp_path: Path, folder_of_images: Path) -> None:
    """Killed with its group, it goes on; two seeds widen what the intervals hold."""
    folder = trained(tmp_path, "one", folder_of_images)
    trained(tmp_path, "two", folder_of_images, seed=1)
    words = ["--run", "one", "--run", "two", "--archs", "120", "--images", "30"]
    line = [sys.executable, "-m", "twins_nas.insight", *words]
    process = subprocess.Popen(
        line, cwd=tmp_path, env=environment(), start_new_session=True, stderr=subprocess.DEVNULL
    )
    journal, end = folder / "insight" / "scores.journal", time.monotonic() + 60
    while not (journal.exists() and journal.read_text().count("\n") >= 10):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = journal.read_text().splitlines()
    done = subprocess.run(line, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "the spread over 2 supernets" in done.stdout
    lines = journal.read_text().splitlines()
    assert [one for one in before if one in lines] == before[: len(before)]
    assert len(lines) == len({one.split('"key"')[1] for one in lines})
    assert any(float(row["se_supernets"]) > 0 for row in rows(folder))
    assert "Main effects" in done.stdout and "The report: " in done.stdout
    mlflow_has_it(tmp_path)
    bad = [sys.executable, "-m", "twins_nas.insight", "--run", "nothing"]
    done = subprocess.run(bad, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
