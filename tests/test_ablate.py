"""Ablations: what is paired, what fails, what is resumed, and what the command leaves."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from twins_nas.ablate import load_plan
from twins_nas.ablation import work
from twins_nas.ablation.analysis import findings
from twins_nas.ablation.asha import Rungs
from twins_nas.ablation.engine import Engine
from twins_nas.ablation.results import AblationFolder, Run, RunResult, values_of
from twins_nas.ablation.work import Place, Training, halved, out_of_memory
from twins_nas.ablation_recipe import AshaRecipe
from twins_nas.data import ImageData, augment, batches
from twins_nas.errors import UserError
from twins_nas.model.position import PEG
from twins_nas.recipes import TrainingRecipe
from twins_nas.report.ablation_plots import beside
from twins_nas.runs import Settings
from twins_nas.training.loop import Trainer

RECIPE = """# Question: does this test pass?
# Command: python -m twins_nas.ablate recipe.yaml
# Measured cost: not measured yet.
# Result: none yet.
question: Does a table help?
paper: It may.
base: twins_svt_micro
variants:
  cpe: {{}}
  none: {{pe: none}}
  thin: {{embed_dim: [16, 32, 32, 64]}}
compare: {{baseline: cpe, margin: 50, metric: test_top1}}
seeds: 3
training: {{epochs: 2, batch_size: 20, checkpoint_seconds: 1}}
data: {{name: "imagefolder:{images}", val_images: 60}}
"""


@pytest.fixture
def recipe(tmp_path: Path, folder_of_images: Path) -> Path:
    """A recipe of three small variants on four classes."""
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(images=folder_of_images))
    return path


def engine(
    recipe: Path, folder: Path, on_result: Callable[[Run, RunResult], None] = lambda run, _: None
) -> Engine:
    """An engine in this process, for the recipe's own text."""
    plan = load_plan(recipe)
    (folder).mkdir(exist_ok=True)
    place = Place(AblationFolder(folder), plan.recipe, Settings(), "cpu")
    return Engine(place, plan.variants, 140, None, on_result)


def all_runs(made: Engine, seeds: tuple[int, ...] = (0,)) -> list[Run]:
    """The runs of every variant."""
    return made.runs([variant.label for variant in made.variants], seeds)


def plain(result: RunResult) -> dict[str, Any]:
    """A result without what differs from time to time."""
    found = dataclasses.asdict(result)
    for name in ("seconds", "peak_bytes"):
        del found[name]
    for _, metrics in found["curve"]:
        metrics.pop("images_per_second")
    return found


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What networks see in training: the sum of each minibatch and its labels."""
    found: list[Any] = []

    def noted(*arguments: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for pixels, labels in batches(*arguments):
            found.append((int(pixels.long().sum()), labels.tolist()))
            yield pixels, labels

    monkeypatch.setattr("twins_nas.training.loop.batches", noted)
    yield found


def test_variants_of_a_seed_start_from_the_same_weights(recipe: Path, tmp_path: Path) -> None:
    """Where names and shapes agree; other seeds do not; nothing stays undrawn."""
    made = engine(recipe, tmp_path / "run")
    cpe, none, thin = all_runs(made)
    data = made.place.data(0)
    first = made.place.network(cpe, data).state_dict()
    for other, least in ((none, 0.9), (thin, 0.3)):
        weights = made.place.network(other, data).state_dict()
        same = [n for n in weights if n in first and weights[n].shape == first[n].shape]
        assert len(same) >= least * len(weights)
        assert all(torch.equal(weights[name], first[name]) for name in same)
    drawn = [name for name, value in first.items() if name.endswith("weight") and value.ndim > 1]
    assert len({first[name].flatten()[0].item() for name in drawn}) == len(drawn)
    second = made.place.network(dataclasses.replace(cpe, seed=1), data).state_dict()
    assert not any(torch.equal(first[name], second[name]) for name in drawn)


def test_pegs_of_a_network_alone_begin_as_nothing(recipe: Path, tmp_path: Path) -> None:
    """With `zero_peg`; the other weights are the same, and older results keep their identity."""
    made = engine(recipe, tmp_path / "run")
    cpe, *_ = all_runs(made)
    training = cpe.variant.training.model_copy(update={"zero_peg": True})
    quiet = dataclasses.replace(cpe.variant, training=training)
    data = made.place.data(0)
    loud = made.place.network(cpe, data)
    pegs = {name for name, module in loud.named_modules() if isinstance(module, PEG)}
    weights = made.place.network(dataclasses.replace(cpe, variant=quiet), data).state_dict()
    assert pegs
    for name, value in loud.state_dict().items():
        silent = name.removesuffix(".weight") in pegs
        assert torch.equal(weights[name], torch.zeros_like(value) if silent else value), name
    assert "zero_peg" not in cpe.variant.training.substance
    assert training.substance["zero_peg"]
    assert made.place.identity(quiet, 0) != made.place.identity(cpe.variant, 0)


def test_variants_of_a_seed_see_the_same(
    recipe: Path, tmp_path: Path, seen: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Order, augmentation and validation split; those of another seed are others."""
    drawn: list[int] = []

    def noted(*arguments: Any, **options: Any) -> torch.Tensor:
        pixels = augment(*arguments, **options)
        drawn.append(int((pixels.long() * torch.arange(32)).sum()))
        return pixels

    monkeypatch.setattr("twins_nas.training.loop.augment", noted)
    splits: list[torch.Tensor] = []
    read = Place.data

    def parted(self: Place, seed: int) -> ImageData:
        data = read(self, seed)
        splits.append(torch.stack([data.val.batch(torch.tensor([i]))[0].sum() for i in range(60)]))
        return data

    monkeypatch.setattr(Place, "data", parted)
    made = engine(recipe, tmp_path / "run")
    parts = []
    for run in [*all_runs(made), all_runs(made, (1,))[0]]:
        made.train([run])
        parts.append((list(seen), list(drawn)))
        seen.clear()
        drawn.clear()
    assert parts[0] == parts[1] == parts[2] and len(parts[0][0]) == 14 and parts[0][1]
    assert parts[3][0] != parts[0][0] and parts[3][1] != parts[0][1]
    assert torch.equal(splits[0], splits[1]) and not torch.equal(splits[0], splits[3])


def test_out_of_memory_is_tried_again_with_half_the_batch(
    recipe: Path, tmp_path: Path, seen: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same images make a step; what cannot be halved fails with its reason; others go on."""
    made = engine(recipe, tmp_path / "run")
    run = all_runs(made)[0]
    made.train([run])
    whole = [label for _, labels in seen for label in labels]
    seen.clear()
    step = Trainer._one_step

    def short(self: Trainer, minibatches: Any) -> dict[str, float]:
        if self.recipe.batch_size > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return step(self, minibatches)

    monkeypatch.setattr(Trainer, "_one_step", short)
    limit = 10
    again = engine(recipe, tmp_path / "again")
    (result,) = again.train([run])
    assert (result.status, result.batch_size, result.accumulate) == ("finished", 10, 2)
    assert result.retries == ("OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB.",)
    assert [label for _, labels in seen for label in labels] == whole
    limit = 4
    third = engine(recipe, tmp_path / "third")
    told: list[str] = []
    third.on_result = lambda run, result: told.append(result.status)
    (failed,) = third.train([run])
    assert failed.status == "failed" and "out of memory" in failed.reason
    assert (failed.batch_size, len(failed.retries)) == (5, 2)
    limit = 20
    results = third.train(all_runs(third))
    assert [result.status for result in results] == ["failed", "finished", "finished"]
    assert told == ["failed", "finished", "finished"]
    plan = load_plan(recipe)
    found = findings(plan.recipe, third.variants, results, third.test(all_runs(third)))
    assert any("Failed, and not counted: cpe, seed 0" in note for note in found.notes)
    assert found.rows[0].summary is None and found.rows[1].summary is not None


def test_a_test_that_dies_is_told(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network without its test accuracy leaves no report; the next try has it."""
    made = engine(recipe, tmp_path / "run")
    runs = all_runs(made)
    made.train(runs)
    with monkeypatch.context() as dying:
        dying.setattr(Engine, "_do", lambda self, names, *_: [names[0]])
        with pytest.raises(UserError, match=f"test images of {runs[0].name}: its process died"):
            made.test(runs)
    assert len(made.test(runs)) == len(runs)


def test_what_is_out_of_memory() -> None:
    """Both of torch's words and Python's; nothing else."""
    assert out_of_memory(MemoryError())
    assert out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert not out_of_memory(RuntimeError("shapes differ")) and not out_of_memory(UserError("x"))
    recipe = halved(TrainingRecipe(batch_size=32, accumulate=3), 2)
    assert (recipe.batch_size, recipe.accumulate) == (8, 12)


def test_a_stopped_run_goes_on_from_its_checkpoint(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished runs are not touched again; the results are those of a run that was not stopped."""
    calm = engine(recipe, tmp_path / "calm")
    expected = [plain(result) for result in calm.train(all_runs(calm))]
    made = engine(recipe, tmp_path / "killed")
    step, count = Trainer._one_step, 0

    def killed(self: Trainer, minibatches: Any) -> dict[str, float]:
        nonlocal count
        count += 1
        if count == 14 + 11:
            self._save()
            raise KeyboardInterrupt
        return step(self, minibatches)

    monkeypatch.setattr(Trainer, "_one_step", killed)
    with pytest.raises(KeyboardInterrupt):
        made.train(all_runs(made))
    first = tmp_path / "killed" / "results" / f"{all_runs(made)[0].name}.json"
    before = first.read_bytes(), first.stat().st_mtime_ns
    count = 100
    results = engine(recipe, tmp_path / "killed").train(all_runs(made))
    assert count == 100 + 4 + 14
    assert (first.read_bytes(), first.stat().st_mtime_ns) == before
    assert [plain(result) for result in results] == expected
    other = recipe.read_text().replace("epochs: 2", "epochs: 3")
    recipe.write_text(other)
    with pytest.raises(UserError, match="is of another recipe"):
        changed = engine(recipe, tmp_path / "killed")
        changed.train(all_runs(changed))


def test_runs_that_are_behind_are_stopped(recipe: Path, tmp_path: Path) -> None:
    """By ASHA: marked, and outside of the statistics."""
    recipe.write_text(recipe.read_text() + "asha: {grace_epochs: 1, factor: 2}\n")
    made = engine(recipe, tmp_path / "run")
    results = made.train(all_runs(made, (0, 1, 2)))
    stopped = [result for result in results if result.status == "stopped"]
    assert stopped and all(result.reason == "behind after 1 of 2 epochs" for result in stopped)
    assert all(result.epochs == 1 for result in stopped)
    values = values_of(results, {}, "val_top1")
    assert sum(map(len, values.values())) == len(results) - len(stopped)
    assert engine(recipe, tmp_path / "run").train(all_runs(made, (0, 1, 2))) == results


def test_rungs_keep_the_best_and_their_decisions(tmp_path: Path) -> None:
    """The first go on until there are enough; a decision is never taken again."""
    rungs = Rungs(tmp_path, AshaRecipe(grace_epochs=1, factor=3), 10)
    assert rungs.at == (1, 3, 9)
    assert [rungs.goes_on(str(n), 1, score) for n, score in enumerate((5, 4, 3))] == [True] * 2 + [
        False
    ]
    assert rungs.goes_on("best", 1, 9) and not rungs.goes_on("4", 1, 4.5)
    assert rungs.goes_on("1", 1, 0) and not rungs.goes_on("2", 1, 100)
    assert rungs.goes_on("2", 2, 0)


def environment() -> dict[str, str]:
    """The environment of a command: one thread, no store but the folder's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}


def run(here: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs the command in a folder."""
    line = [sys.executable, "-m", "twins_nas.ablate", *words]
    done = subprocess.run(line, cwd=here, capture_output=True, text=True, env=environment())
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    return done


def test_the_whole_job_without_ray(recipe: Path, tmp_path: Path) -> None:
    """From a recipe to all files, MLflow's nested runs, and the recipe's own comment."""
    text = recipe.read_text().replace("  thin: {embed_dim: [16, 32, 32, 64]}\n", "")
    recipe.write_text(text)
    done = run(tmp_path, "recipe.yaml", "--name", "whole", "--local", "--write-result")
    folder = tmp_path / "runs" / "whole"
    assert "Against cpe (test top-1): none " in done.stdout and "(n = 3 pairs)" in done.stdout
    report = (folder / "report.md").read_text()
    page = (folder / "report.html").read_text()
    for said in ("Does a table help?", "It may.", "twins_nas.ablate", "detectable", "Against cpe"):
        assert said in report and said in page
    assert "<svg" in page and "src=" not in page and "http-equiv" in page
    assert len((folder / "runs.csv").read_text().splitlines()) == 1 + 6
    assert {path.stem for path in folder.glob("*.png")} == {"effects", "curves", "macs"}
    assert not list(folder.rglob("*.safetensors")) and not list(folder.rglob("checkpoint.pt"))
    head = recipe.read_text().splitlines()
    assert head[2].startswith("# Measured cost: ") and "for 6 runs" in head[2]
    assert any(line.startswith("# Result: Against cpe (test top-1)") for line in head)
    load_plan(recipe)

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("ablation")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [one for one in runs if "mlflow.parentRunId" not in one.data.tags]
    children = [one for one in runs if one is not parent]
    assert len(children) == 6 and parent.info.status == "FINISHED"
    for child in children:
        assert {"test_top1", "val_top1", "macs", "loss"} <= set(child.data.metrics)
        assert {"variant", "seed", "status", "is_baseline"} <= set(child.data.tags)
        assert child.data.params["training.epochs"] == "2"
    assert len(client.get_metric_history(children[0].info.run_id, "val_top1")) == 2
    again = run(tmp_path, "--resume", "whole")
    assert "training: 84/84 steps" in again.stderr
    assert len(client.search_runs([experiment.experiment_id])) == 7


def until(here: Path, words: list[str], done: Callable[[], bool]) -> None:
    """Starts the command and kills its whole process group as soon as a condition holds."""
    line = [sys.executable, "-m", "twins_nas.ablate", *words]
    where = subprocess.DEVNULL
    process = subprocess.Popen(
        line, cwd=here, env=environment(), start_new_session=True, stdout=where, stderr=where
    )
    end = time.monotonic() + 240
    while not done():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.long
def test_smoke_with_ray_killed_and_resumed(tmp_path: Path, repo: Path) -> None:
    """Killed with its group in the midst, it repeats no run; what went on ends as one at a time."""
    folder = tmp_path / "runs" / "killed"

    def midst() -> bool:
        begun = list(folder.glob("work/*/checkpoint.pt"))
        return len(list(folder.glob("results/*.json"))) >= 2 and bool(begun)

    until(tmp_path, ["smoke", "--name", "killed"], midst)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("results/*.json")}
    assert 2 <= len(before) < 6 and not (folder / "report.md").exists()
    begun = next(folder.glob("work/*/checkpoint.pt")).parent.name
    run(tmp_path, "--resume", "killed")
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert len(list(folder.glob("tests/*.json"))) == 6
    assert {json.loads(path.read_text())["status"] for path in folder.glob("results/*.json")} == {
        "finished"
    }
    calm = engine(repo / "experiments" / "smoke.yaml", tmp_path / "calm")
    alone = next(one for one in all_runs(calm, (0, 1, 2)) if one.name == begun)
    (expected,) = calm.train([alone])
    own = json.loads((folder / "results" / f"{begun}.json").read_text())
    assert plain(RunResult.from_dict(own)) == plain(expected)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "A recipe is missing"),
        (["smok"], "did you mean 'smoke'"),
        (["smoke", "--seeds", "0"], "the command line: seeds: 0 is too small"),
        (["smoke", "--seeds", "1"], "shows no spread"),
        (["smoke", "--data", "cifar11"], "did you mean 'cifar10'"),
        (["smoke", "--epochs", "2", "--write-result"], "what runs is not what"),
        (["smoke", "--parallel", "0"], "--parallel needs at least 1"),
        (["--resume", "nothing"], "holds no run"),
        (["smoke", "--resume", "x"], "--resume goes on"),
    ],
)
def test_bad_words_get_a_sentence(tmp_path: Path, words: list[str], said: str) -> None:
    """Each a sentence, exit code 2, no traceback, and nothing was begun."""
    assert said in run(tmp_path, *words, code=2).stderr
    assert not (tmp_path / "runs").exists()


def test_a_search_is_no_ablation(tmp_path: Path) -> None:
    """Their folders are told apart."""
    folder = tmp_path / "runs" / "search"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({}))
    (folder / "space.yaml").write_text("")
    assert "holds a run, but no ablation" in run(tmp_path, "--resume", "search", code=2).stderr


def test_damaged_files_are_told(recipe: Path, tmp_path: Path) -> None:
    """A result that is no JSON, or lacks a key."""
    made = engine(recipe, tmp_path / "run")
    first = all_runs(made)[0]
    path = tmp_path / "run" / "results" / f"{first.name}.json"
    path.parent.mkdir()
    for text in ("{", "{}", "[]"):
        path.write_text(text)
        with pytest.raises(UserError, match="is damaged"):
            made.train([first])


def test_a_training_leaves_torch_as_it_was(recipe: Path, tmp_path: Path) -> None:
    """Threads are those of before."""
    threads = torch.get_num_threads()
    made = engine(recipe, tmp_path / "run")
    (first, *_) = all_runs(made)
    Training(made.place, {first.name: first})(first.name, lambda told: None)
    assert torch.get_num_threads() == threads and work.BUSY


def test_points_of_equal_macs_stand_side_by_side() -> None:
    """Those of other MACs stay where they are."""
    assert beside([8.3, 8.2, 10.8, 8.25, 20.0]) == [-1.0, 0.0, 0.0, 1.0, 0.0]
    assert beside([1.0, 1.0]) == [-0.5, 0.5]
