"""Explorations: what is refused, what is trained, what is resumed, and what the command leaves."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from twins_nas.ablate import planned
from twins_nas.ablation.exploring import ExplorePlan
from twins_nas.ablation.results import AblationFolder, RunResult
from twins_nas.config import shipped_files
from twins_nas.errors import ConfigError, UserError
from twins_nas.exploration import Exploration
from twins_nas.report.exploration import Explored
from twins_nas.report.rows import val_front
from twins_nas.runs import Settings
from twins_nas.space import SearchSpace
from twins_nas.training.loop import Trainer
from twins_nas.tuning.importance import importances
from twins_nas.tuning.results import Scored

SPACE = """
  name: tiny
  input_size: 32
  patch_size: 2
  stages:
    - {embed_dim: 8, head_dim: 8, depth: 1, mixer: L, window_size: 2, mlp_ratio: 1, pe: [cpe, ape]}
    - {embed_dim: 8, head_dim: 8, depth: 1, mixer: L, window_size: [2, 4, 8], mlp_ratio: 1, pe: rpe}
    - {embed_dim: 8, head_dim: 8, depth: [1, 2], mixer: L, window_size: 2, mlp_ratio: 1, pe: cpe}
    - {embed_dim: [8, 16], head_dim: 8, depth: 1, mixer: L, window_size: 2, mlp_ratio: 1, pe: cpe}
"""
RECIPE = """# Question: does this test pass?
# Command: python -m twins_nas.ablate recipe.yaml
# Measured cost: not measured yet.
# Result: none yet.
question: Which is best?
paper: Nothing.
space:{space}
explore: {{trials: {trials}, {who}}}
training: {{epochs: {epochs}, batch_size: 35, checkpoint_seconds: 1}}
data: {{name: "imagefolder:{images}", val_images: 60}}
{more}"""
NARROW = "space: {input_size: 32, base: twins_svt_micro, stages: [{pe: [PE]}, {}, {}, {}]}"
PLAIN = """question: Which?
space: svt
explore: {trials: 8}
"""

Explore = Callable[..., Explored]


def plain(row: Scored) -> dict[str, Any]:
    """A row without what differs from time to time."""
    found = row.to_dict()
    del found["seconds"]
    return found


def lines_of(path: Path) -> list[dict[str, str]]:
    """The lines of a CSV file."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def explore(tmp_path: Path, folder_of_images: Path, monkeypatch: pytest.MonkeyPatch) -> Explore:
    """Runs a recipe of that many trials in this process, in a folder of that name."""
    few = partial(importances, resamples=2, shuffles=2)
    monkeypatch.setattr("twins_nas.exploration.importances", few)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")

    def done(name: str = "run", who: str = "sampler: random", **wanted: Any) -> Explored:
        about = {"epochs": 1, "more": "", "who": who, "images": folder_of_images, **wanted}
        path = tmp_path / f"{name}.yaml"
        path.write_text(RECIPE.format(space=SPACE.rstrip(), **about))
        plan = planned(path)
        assert isinstance(plan, ExplorePlan)
        folder = AblationFolder(tmp_path / name)
        folder.path.mkdir(exist_ok=True)
        folder.recipe_file.write_text(path.read_text())
        return Exploration(folder, plan, Settings(local=True)).run()

    return done


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("space: svt", "space: swt", "r.yaml:2: space: 'swt': no such file, and none of this name"),
        ("space: svt", "space: [svt]", "a list is neither a space's name or file nor its keys"),
        ("space: svt\n", "", "r.yaml: space: is missing"),
        ("space: svt", "space: {base: twins_svt_micro}", "r.yaml:2: space.input_size: is missing"),
        (
            "space: svt",
            NARROW.replace("PE", "cqe, cpe"),
            "r.yaml:2: space.stages.0.pe.0: ",
        ),
        (
            "space: svt",
            NARROW.replace("PE", "rpe, cpe"),
            "r.yaml:3: explore.trials: 8 trials are more than the space has: 2 different networks",
        ),
        ("trials: 8", "trials: 3", "r.yaml:3: explore.trials: 3 is too small (allowed: 4 to"),
        ("trials: 8", "sampler: tpe", "r.yaml:3: explore.trials: is missing"),
        ("trials: 8", "trials: 8, sampler: nsga3", "did you mean 'nsga2'? (allowed: nsga2, tpe"),
        ("trials: 8", "trials: 8, objectives: [top1]", "top1 is no trade (allowed: top1, and at"),
        ("trials: 8", "trials: 8, objectives: [macs, params]", "macs, params is no trade"),
        ("trials: 8", "trials: 8, objectives: [top1, mac]", "did you mean 'macs'?"),
        ("trials: 8", "trials: 8, objectives: [top1, macs, macs]", "'macs' is given twice"),
        ("trials: 8", "trials: 8, population: 9", "a generation of 9 is over the 8 trials"),
        ("trials: 8", "trials: 8, population: 4, sampler: tpe", "tpe has no population"),
        ("question: Which?", "question: Which?\nseeds: auto", "r.yaml:2: seeds: auto adds seeds"),
        ("question: Which?", "question: Which?\nvariants: {a: {}}", "r.yaml:2: variants: Optuna"),
        ("question: Which?", "question: Which?\nbase: swin_micro", "r.yaml:2: base: belongs into"),
        ("question: Which?", "question: Which?\nmatch: {macs: depth}", "r.yaml:2: match: MACs are"),
        ("question: Which?", "question: Which?\nseedz: 3", "did you mean 'seeds'?"),
    ],
)
def test_bad_recipes_are_told(tmp_path: Path, old: str, new: str, said: str) -> None:
    """With file, line, key, and what is legal."""
    path = tmp_path / "r.yaml"
    path.write_text(PLAIN.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        planned(path)
    assert said in str(caught.value).replace(str(tmp_path) + "/", "")


def test_a_plan_holds_its_space(tmp_path: Path) -> None:
    """A plan that is written and read again is the same, without the space's own file."""
    path = tmp_path / "r.yaml"
    for text in (PLAIN, PLAIN.replace("space: svt", "space:" + SPACE.rstrip())):
        path.write_text(text)
        plan = planned(path, {"explore.trials": 9})
        assert isinstance(plan, ExplorePlan) and plan.recipe.explore.trials == 9
        from twins_nas.yaml_nodes import write

        path.write_text(write(plan.document.value))
        again = planned(path)
        assert isinstance(again, ExplorePlan) and again.document.value == plan.document.value
        assert again.space.fingerprint == plan.space.fingerprint


def test_trials_are_of_explorations() -> None:
    """An ablation has none."""
    with pytest.raises(UserError, match="has no `explore`"):
        planned(shipped_files("experiments")["smoke"], {"explore.trials": 9})


def test_the_shipped_exploration_is_planned() -> None:
    """Its header has the four lines."""
    path = shipped_files("experiments")["explore_svt"]
    plan = planned(path)
    assert isinstance(plan, ExplorePlan) and plan.recipe.explore.objectives == ("top1", "macs")
    words = [line.split(":")[0] for line in path.read_text().splitlines() if line[:3] != "#  "]
    assert words[:4] == ["# Question", "# Command", "# Measured cost", "# Result"]


def test_what_an_exploration_leaves(explore: Explore, tmp_path: Path) -> None:
    """Files and MLflow's runs; each network is trained once."""
    found = explore(trials=15, more="seeds: 2\n")
    folder = tmp_path / "run"
    assert len(found.scored) == 15 and not found.failed
    assert found.trained == len({row.key for row in found.scored}) <= 15
    assert found.scored[0].name.startswith("base") and found.scored[1].name == "smallest"
    front = val_front(found.rows)
    for row in front:
        assert not any(o.top1 > row.val_top1 and o.macs < row.macs for o in found.scored)
    assert all(row.test_top1 is not None and row.n_test == 40 for row in found.rows)
    assert [number for number, _, _ in found.again] == list(range(len(found.rows)))
    assert all(fresh.n == 1 and test and test.n == 2 for _, fresh, test in found.again)
    results = sorted((folder / "results").glob("*.json"))
    assert len(results) == found.trained + len(found.rows)
    lines = lines_of(folder / "trials.csv")
    assert len(lines) == 15 and {"stages.0.pe", "stages.2.depth"} <= set(lines[0])
    assert sum(line["status"] == "finished" for line in lines) == found.trained
    report, page = (folder / "report.md").read_text(), (folder / "report.html").read_text()
    for said in ("Which is best?", "further seeds", "95 % Wilson", "fANOVA", "Nothing."):
        assert said in report and said in page
    assert "http-equiv" in page and "<script" not in page and "<svg" in page
    assert {path.stem for path in folder.glob("*.png")} == {"front", "importances"}
    assert not list(folder.glob("work/*/*.safetensors"))
    archs = sorted(path.stem for path in (folder / "archs").glob("*.yaml"))
    assert archs == sorted(path.stem for path in (folder / "archs").glob("*.safetensors"))

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("explore")
    runs = client.search_runs([experiment.experiment_id])
    names = {run.info.run_name for run in runs}
    assert {f"trial {number:03d}" for number in range(15)} | {"front 00 seed 1"} <= names
    (child,) = [run for run in runs if run.info.run_name == "trial 003"]
    assert {"val_top1", "macs", "params", "loss"} <= set(child.data.metrics)
    assert child.data.tags["status"] in ("finished", "cached")


def test_a_killed_exploration_ends_as_one_that_was_not(
    explore: Explore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It trains what was not finished, and asks for the same networks."""
    monkeypatch.setattr(Exploration, "report", lambda *_: None)
    calm = explore("calm", "population: 4", trials=6, epochs=2)
    step, count = Trainer._one_step, 0

    def killed(self: Trainer, minibatches: Any) -> dict[str, float]:
        nonlocal count
        count += 1
        if count == 3 * 8 + 7:
            self._save()
            raise KeyboardInterrupt
        return step(self, minibatches)

    monkeypatch.setattr(Trainer, "_one_step", killed)
    with pytest.raises(KeyboardInterrupt):
        explore("killed", "population: 4", trials=6, epochs=2)
    count = 1000
    again = explore("killed", "population: 4", trials=6, epochs=2)
    assert count == 1000 + 8 * (calm.trained - 3) - 6
    assert list(map(plain, again.scored)) == list(map(plain, calm.scored))
    assert again.answer == calm.answer


@pytest.mark.long
def test_stopped_and_failed_networks_stay_off_the_front(
    explore: Explore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped ones are pruned for Optuna; a reason stands beside each, after a resume too."""
    from twins_nas.ablation.work import Place

    network = Place.network

    def short(self: Place, run: Any, data: Any) -> Any:
        if run.variant.arch.stages[3].embed_dim == 16 and run.variant.arch.stages[2].depth == 1:
            raise RuntimeError("no such kernel")
        return network(self, run, data)

    monkeypatch.setattr(Place, "network", short)
    wanted = {"trials": 10, "epochs": 2, "more": "asha: {grace_epochs: 1, factor: 2}\nseeds: 2\n"}
    found = explore(**wanted)
    stopped = [one for one in found.failed if one.stopped]
    failed = [one for one in found.failed if not one.stopped]
    assert stopped and all(one.reason == "behind after 1 of 2 epochs" for one in stopped)
    assert failed and all(one.reason == "RuntimeError: no such kernel" for one in failed)
    assert len(found.scored) + len(found.failed) == 10
    off = {one.arch for one in found.failed}
    assert not off & {row.arch for row in found.rows}
    assert all(fresh.n == 1 for _, fresh, _ in found.again) and found.again
    states = {line["number"]: line["status"] for line in lines_of(tmp_path / "run" / "trials.csv")}
    assert {states[str(one.number)] for one in stopped} == {"stopped"}
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "run/studies/seed0.journal")))
    study = optuna.load_study(storage=storage, study_name="search")
    assert [trial.number for trial in study.trials if trial.state.name == "PRUNED"] == [
        one.number for one in stopped
    ]
    monkeypatch.setattr(Exploration, "report", lambda *_: None)
    again = explore(**wanted)
    assert (again.scored, again.failed) == (found.scored, found.failed)


def rows_of(space: SearchSpace, gain: float) -> list[Scored]:
    """Networks of a space; their accuracy is noise, and follows one choice beside it."""
    rng, rows = random.Random(0), []
    for number in range(40):
        arch = space.sample(rng)
        top1 = 60 + gain * (arch.stages[2].depth - 1) + rng.gauss(0, 1)
        about = (number, 0, "", arch, f"{space.key(arch)}/{number}", 1, 1)
        rows.append(Scored(*about, top1, 1.0, 1.0, 100, 1.0, False, True))
    return rows


def test_importances_find_what_matters_and_nothing_in_noise(tmp_path: Path) -> None:
    """The choice that the accuracy follows is told from chance; none of an accuracy of noise is."""
    path = tmp_path / "r.yaml"
    path.write_text(PLAIN.replace("space: svt", "space:" + SPACE.rstrip()))
    plan = planned(path)
    assert isinstance(plan, ExplorePlan)
    space = plan.space
    first, *others = importances(space, rows_of(space, 5), resamples=6, shuffles=10)
    assert first.name == "stages.2.depth" and first.told and first.share > 0.5
    assert not any(one.told for one in others) and 0 < first.low < first.high <= 1
    noise = rows_of(space, 0)
    assert not any(one.told for one in importances(space, noise, resamples=2, shuffles=10))
    assert importances(space, noise[:9]) == []


def until(here: Path, words: list[str], done: Callable[[], bool]) -> None:
    """Starts the command and kills its whole process group as soon as a condition holds."""
    where = subprocess.DEVNULL
    process = subprocess.Popen(
        command(words), cwd=here, env=environment(), start_new_session=True, stdout=where,
        stderr=where,
    )  # fmt: skip
    end = time.monotonic() + 240
    while not done():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def command(words: list[str]) -> list[str]:
    """The command line."""
    return [sys.executable, "-m", "twins_nas.ablate", *words]


def environment() -> dict[str, str]:
    """The environment of a command: one thread, no store but the folder's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}


@pytest.mark.long
def test_with_ray_killed_and_resumed(tmp_path: Path, folder_of_images: Path) -> None:
    """Killed with its group in the midst, it ends as one in a process that was not."""
    about = {"trials": 9, "epochs": 6, "more": "", "who": "sampler: tpe"}
    (tmp_path / "r.yaml").write_text(
        RECIPE.format(space=SPACE.rstrip(), images=folder_of_images, **about)
    )

    def run(*words: str) -> str:
        done = subprocess.run(
            command(list(words)), cwd=tmp_path, env=environment(), capture_output=True, text=True
        )
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        return done.stdout

    calm = run("r.yaml", "--name", "calm", "--local")
    folder = tmp_path / "runs" / "killed"
    results = lambda: list(folder.glob("results/*.json"))  # noqa: E731
    until(tmp_path, ["r.yaml", "--name", "killed", "--parallel", "2"], lambda: len(results()) >= 3)
    before = {path: path.stat().st_mtime_ns for path in results()}
    assert 3 <= len(before) < 9 and not (folder / "report.md").exists()
    resumed = run("--resume", "killed", "--write-result")
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    for path in results():
        one = RunResult.from_dict(json.loads(path.read_text()))
        other = json.loads((tmp_path / "runs/calm/results" / path.name).read_text())
        assert (one.val_top1, one.val_loss) == (other["val_top1"], other["val_loss"])
    answer = next(line for line in calm.splitlines() if "on the front of" in line)
    assert answer in resumed
    head = (tmp_path / "r.yaml").read_text().splitlines()
    assert head[2].startswith("# Measured cost: ") and "2 at once" in " ".join(head[2:4])
