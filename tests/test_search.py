"""The main job from the command line: what it leaves, what it resumes, what bad input gets."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from twins_nas.config import load_arch, load_space
from twins_nas.deployable import find_target, of_run
from twins_nas.evaluate import evaluate
from twins_nas.pipeline import Pipeline
from twins_nas.runs import RunFolder

RECIPE = """
trials: 14
sampler: {name: nsga2, population: 6}
data: {val_images: 60}
supernet: {epochs: 2, batch_size: 20, random_subnets: 1, checkpoint_seconds: 1}
"""
SPACE = """
input_size: 32
base: twins_svt_micro
stages:
  - {embed_dim: [8, 16, 24], depth: [1, 2], pe: [cpe, rpe]}
  - {embed_dim: [16, 32], depth: [1, 2], pe: [cpe, none]}
  - {embed_dim: [32, 64], depth: [2, 4]}
  - {embed_dim: [64, 128], depth: [1, 2]}
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a small space and a short recipe."""
    (tmp_path / "space.yaml").write_text(SPACE)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def environment() -> dict[str, str]:
    """The environment of a command: one thread, no store but the folder's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}


def run(here: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs the command in a folder."""
    line = [sys.executable, "-m", "twins_nas.search", *words]
    done = subprocess.run(line, cwd=here, capture_output=True, text=True, env=environment())
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    return done


def job(images: Path, name: str, *more: str) -> list[str]:
    """The words of a small search."""
    words = ["--space", "space.yaml", "--recipe", "recipe.yaml", "--data", f"imagefolder:{images}"]
    return [*words, "--name", name, *more]


def scored(folder: Path) -> dict[int, dict[str, str]]:
    """The rows of `scored.csv`, by number."""
    with open(folder / "scored.csv", newline="") as file:
        return {int(row["number"]): row for row in csv.DictReader(file)}


def test_the_whole_job_without_ray(here: Path, folder_of_images: Path) -> None:
    """From an image folder to all files of the report and a store that MLflow reads."""
    done = run(here, *job(folder_of_images, "whole", "--local", "--seeds", "2"))
    folder = here / "runs" / "whole"
    with open(folder / "front.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {"arch", "macs", "params", "val_top1", "test_top1"} <= set(rows[0])
    assert {"base", "smallest", "largest"} <= {row["name"].split(", ")[0] for row in rows}
    assert all(0 <= float(row["test_top1"]) <= 100 and row["n_test"] == "40" for row in rows)
    space = load_space(folder / "space.yaml")
    for row in rows:
        arch, size = load_arch(folder / row["file"])
        assert space.key(arch) == row["key"] and size == (32, 32)
        assert space.why_not(arch) is None
    assert (folder / "front.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "front.html").read_text()
    assert "plotly" in page and "<script src=" not in page and "base" in page
    assert "supernet training" in done.stderr and "search: done, 28/28 trials" in done.stderr
    assert "validation front" in done.stdout and "base" in done.stdout
    assert "Hypervolume" in done.stdout and "(n = 2, one supernet)" in done.stdout
    keys = [row["key"] for row in scored(folder).values() if row["cached"] == "no"]
    assert len(keys) == len(set(keys))
    again = run(here, "--resume", "whole")
    assert "28/28" in again.stderr and again.stdout.splitlines()[1] == done.stdout.splitlines()[1]

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{here / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("search")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.status == "FINISHED"
    assert len(client.get_metric_history(parent.info.run_id, "search_seed0/top1")) == 14
    assert client.get_metric_history(parent.info.run_id, "supernet/loss")
    assert len(runs) == 1 + len(rows)
    names = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert {"front.csv", "scored.csv", "front.png", "front.html", "archs"} <= names


@pytest.mark.long
def test_the_whole_job_with_ray_and_its_kills(here: Path, folder_of_images: Path) -> None:
    """Killed with its group in training and in search, it ends as one that was not."""
    run(here, *job(folder_of_images, "calm"))
    folder = here / "runs" / "killed"
    start(here, job(folder_of_images, "killed"), lambda: (folder / "checkpoint.pt").exists())
    assert not (folder / "supernet.safetensors").exists()
    journal = folder / "studies" / "seed0.journal"
    start(here, ["--resume", "killed"], lambda: journal.exists() and finished(journal) >= 5)
    before = {number: row for number, row in enumerate(scores(journal)) if row is not None}
    assert len(before) >= 5 and not (folder / "front.csv").exists()
    done = run(here, "--resume", "killed")
    assert "14/14" in done.stderr
    rows, calm = scored(folder), scored(here / "runs" / "calm")
    assert sorted(rows) == list(range(14))
    same = ("arch", "macs", "params", "val_top1", "loss", "key")
    assert [[rows[n][word] for word in same] for n in rows] == [
        [calm[n][word] for word in same] for n in calm
    ]
    for number, seconds in before.items():
        assert float(rows[number]["seconds"]) == pytest.approx(seconds, abs=1e-3)


@pytest.mark.long
def test_the_whole_job_with_switches(here: Path, folder_of_images: Path) -> None:
    """Evaluators build the same supernet from its weights, tune its members, and score those."""
    text = RECIPE.replace("checkpoint_seconds: 1", "ema: 0.9, separate: [pe], calibrate_steps: 1")
    (here / "recipe.yaml").write_text(text.replace("trials: 14", "trials: 6\nseeds: 1"))
    found = []
    for name, more in (("ray", []), ("local", ["--local"])):
        run(here, *job(folder_of_images, name, *more))
        found.append(scored(here / "runs" / name))
    for number, row in found[0].items():
        assert row["arch"] == found[1][number]["arch"]
        assert float(row["loss"]) == pytest.approx(float(found[1][number]["loss"]), rel=1e-3)
    leaves_as_it_was_scored(here)
    done = run(here, "--resume", "ray")
    assert "6/6" in done.stderr
    (here / "recipe.yaml").write_text(text.replace("separate: [pe]", "split: stages.0.ep"))
    done = run(here, *job(folder_of_images, "typo"), code=2)
    assert "did you mean 'stages.0.pe'" in done.stderr and not (here / "runs" / "typo").exists()


def leaves_as_it_was_scored(here: Path) -> None:
    """The weights that export takes from a run whose networks are tuned reach what its table says.

    To an image of 40: the tuning was done by another process.
    """
    folder, space, recipe, settings = RunFolder.open(here / "runs", "ray")
    pipeline = Pipeline(folder, space, recipe, settings)
    with open(folder.path / "front.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    test = pipeline.data.test()
    for row in rows:
        weights = of_run(folder, find_target(Path(row["file"]).stem, folder))
        assert weights.supernet is None and "ray, tuned by its recipe" in weights.said
        score = evaluate(weights.model(), test, pipeline.data.mean, pipeline.data.std)
        assert score.top1 == pytest.approx(float(row["test_top1"]), abs=2.6)


def start(here: Path, words: list[str], until: Callable[[], bool]) -> None:
    """Starts the command and kills its whole process group as soon as a condition holds."""
    line = [sys.executable, "-m", "twins_nas.search", *words]
    process = subprocess.Popen(
        line,
        cwd=here,
        env=environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 240
    while not until():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def scores(journal: Path) -> list[float | None]:
    """The seconds of each trial's evaluation, None where there is no score yet."""
    from twins_nas.tuning.journal import Journal
    from twins_nas.tuning.records import replay

    opened = Journal(journal, write=False)
    opened.close()
    return [trial.user_attrs.get("seconds") for trial in replay(opened.logs).trials]


def finished(journal: Path) -> int:
    """How many trials have a score."""
    return sum(seconds is not None for seconds in scores(journal))


def test_a_typo_is_told_at_once(here: Path) -> None:
    """All faults of both files, with line and key, exit code 2, in under two seconds of CPU."""
    (here / "space.yaml").write_text(SPACE.replace("embed_dim: [8, 16, 24]", "embed_dmi: [8, 16]"))
    (here / "recipe.yaml").write_text(RECIPE.replace("trials: 14", "trials: many"))
    before = time.monotonic()
    done = run(here, "--space", "space.yaml", "--recipe", "recipe.yaml", code=2)
    assert time.monotonic() - before < 5
    assert "space.yaml:5: stages.0.embed_dmi: unknown key; did you mean 'embed_dim'?" in done.stderr
    assert "recipe.yaml:2: trials:" in done.stderr
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--space is missing"),
        (["--space", "svd"], "did you mean 'svt'"),
        (["--space", "svt", "--recipe", "nsga3"], "did you mean 'nsga2'"),
        (["--space", "svt", "--max-macs", "1000"], "max_macs 1,000 is below the smallest member"),
        (["--space", "svt", "--trials", "0"], "trials"),
        (["--space", "svt", "--out", "space.yaml/runs"], "space.yaml"),
        (["--resume", "nothing"], "holds no run"),
        (["--resume", "nothing", "--trials", "3"], "--resume goes on"),
        (["--space", "svt", "--data", "cifar11"], "cifar10"),
        (["--space", "svt", "--data", "imagefolder:nowhere"], "nowhere"),
        (["--space", "svt", "--device", "abacus"], "--device abacus"),
    ],
)
def test_bad_words_get_a_sentence(here: Path, words: list[str], said: str) -> None:
    """Each a sentence, exit code 2, no traceback."""
    assert said in run(here, *words, code=2).stderr


def test_a_taken_name_and_another_space(here: Path) -> None:
    """A run is not overwritten; a run whose space was changed is refused."""
    folder = here / "runs" / "taken"
    run(here, "--space", "svt", "--data", "cifar10", "--name", "taken", code=2)
    assert "holds a run already" in run(here, "--space", "svt", "--name", "taken", code=2).stderr
    (folder / "run.json").write_text("{")
    assert "damaged" in run(here, "--resume", "taken", code=2).stderr
    (folder / "run.json").write_text(json.dumps({"strange": 1}))
    assert "damaged" in run(here, "--resume", "taken", code=2).stderr


def test_help_is_quick(here: Path) -> None:
    """Without torch, Ray or MLflow."""
    done = run(here, "--help")
    for word in (
        "--space",
        "--recipe",
        "--resume",
        "--seeds",
        "--max-macs",
        "--local",
        "--data-root",
    ):
        assert word in done.stdout
