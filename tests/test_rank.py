"""The command on really trained networks: a small supernet, and a small bank beside it."""

from __future__ import annotations

import csv
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from twins_nas import rank, seeds
from twins_nas.arch import ArchConfig
from twins_nas.config import dump_arch, load_space
from twins_nas.cost import cost
from twins_nas.data import ImageData, load
from twins_nas.errors import UserError
from twins_nas.evaluate import evaluate
from twins_nas.files import write_csv
from twins_nas.model.backbone import Backbone, initialise
from twins_nas.ranking import Ranking
from twins_nas.recipes import SearchRecipe, TrainingRecipe
from twins_nas.runs import RunFolder, Settings
from twins_nas.space import SearchSpace
from twins_nas.training.checkpoint import save_weights
from twins_nas.training.loop import Trainer
from twins_nas.truth import COLUMNS, Truth, read_truth

SPACE = """
name: small
input_size: 32
base: twins_svt_micro
patch_size: 4
stages:
  - {embed_dim: [8, 16], head_dim: 8, depth: 1, sr_ratio: 4}
  - {embed_dim: [16, 32], head_dim: 8, depth: [1, 2], sr_ratio: 2}
  - {embed_dim: 32, head_dim: 8, depth: [1, 4], sr_ratio: 1}
  - {embed_dim: 32, head_dim: 8, depth: 1, sr_ratio: 1}
"""
HELD_OUT, TUNING = 6, 1
MEMBERS = seeds.seed("twins_svt_micro"), seeds.seed("pvt_micro")


def images_of(folder: Path) -> ImageData:
    """The images, the test part unread."""
    return load(f"imagefolder:{folder}", root=None, input_size=32, val_images=60)


def trained(space: SearchSpace, data: ImageData, recipe: TrainingRecipe, seed: int) -> Backbone:
    """A network of a space after its training."""
    model = Backbone(space, data.in_chans, data.num_classes)
    initialise(model, seed)
    torch.manual_seed(seed)
    Trainer(model, data, recipe, seed).run()
    return model


def members(space: SearchSpace) -> list[ArchConfig]:
    """Different members, in an order of their own."""
    drawn, rng = {}, random.Random(0)
    while len(drawn) < HELD_OUT + TUNING:
        arch = space.sample(rng)
        drawn[space.key(arch)] = arch
    return list(drawn.values())


def write_bank(path: Path, space: SearchSpace, data: ImageData) -> None:
    """Trains each network alone on two seeds."""
    recipe, lines = TrainingRecipe(epochs=1, batch_size=46), []
    for at, arch in enumerate(members(space)):
        found = cost(arch, space.input_size, data.in_chans, data.num_classes)
        for seed in (0, 1):
            model = trained(SearchSpace.point(arch, space.input_size), data, recipe, seed)
            top1 = evaluate(model, data.val, data.mean, data.std).top1
            line = (
                *(f"net{at}", "tuning" if at < TUNING else "held-out", seed, top1),
                *(found.macs, found.params, dump_arch(arch, space.input_size)),
            )
            lines.append(dict(zip(COLUMNS, line, strict=True)))
    write_csv(path, COLUMNS, lines)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, folder_of_images: Path) -> Path:
    """Two runs with supernets, and `bank.csv`."""
    root, data = tmp_path_factory.mktemp("rank"), images_of(folder_of_images)
    (root / "space.yaml").write_text(SPACE)
    space = load_space(root / "space.yaml")
    for seed, name in enumerate(("one", "two")):
        recipe = SearchRecipe.model_validate(
            {
                "seed": seed,
                "data": {"name": data.name, "val_images": 60},
                "supernet": {"epochs": 1, "batch_size": 46, "random_subnets": 1},
            }
        )
        folder = RunFolder.create(root / "runs", name, space, recipe, Settings())
        save_weights(folder.weights, trained(space, data, recipe.supernet, seed), {})
    write_bank(root / "bank.csv", space, data)
    return root


def run(here: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """The command, in a folder."""
    monkeypatch.chdir(here)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here / 'mlflow.db'}")
    monkeypatch.setattr(sys, "argv", ["rank", *words])
    assert rank.main() == 0


BOTH = ("--supernet", "runs/one", "--supernet", "two", "--bank", "bank.csv", "--bins", "2")


def test_the_whole_command(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scores, files, MLflow; and the same command again scores nothing anew."""
    words = (*BOTH, "--proxy-seeds", "1", "--proxy-images", "8", "--name", "whole")
    run(here, monkeypatch, *words)
    told, folder = capsys.readouterr(), here / "runs" / "whole"
    assert "supernet loss *" in told.out and "noise ceiling" in told.out
    assert "A member's score is of 60 validation images of its supernet." in told.out
    assert (
        "Over n = 6 networks of the held-out part of the bank bank, supernet loss has tau"
        in told.out
    )
    assert "supernet top-1 - MACs" in told.out and "Zen" in told.out
    lines = read(folder / "rank.csv")
    rankings = {line["ranking"] for line in lines}
    assert {"supernet loss", "supernet top-1", "supernet loss, two"} <= rankings
    assert {"MACs", "params", "random", "grad norm", "SynFlow", "NASWOT", "DSS", "Zen"} <= rankings
    assert all(line["n"] == "6" and line["low"] and line["high"] for line in lines)
    networks = read(folder / "networks.csv")
    assert [line["network"] for line in networks] == [f"net{at}" for at in range(TUNING, 7)]
    assert (folder / "scatter.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "rank.html").read_text()
    assert "<svg" in page and "<script" not in page
    markdown = (folder / "rank.md").read_text()
    assert "| supernet loss * |" in markdown and "equally many networks" in markdown
    before = (folder / "scores.csv").read_text()

    def never(*_: object) -> None:
        raise AssertionError("scored anew")

    monkeypatch.setattr("twins_nas.ranking.evaluate", never)
    monkeypatch.setattr("twins_nas.ranking.score", never)
    run(here, monkeypatch, *words)
    assert (folder / "scores.csv").read_text() == before
    assert capsys.readouterr().out == told.out

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{here / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("rank")
    assert experiment is not None
    logged = client.search_runs([experiment.experiment_id])[0]
    metrics = logged.data.metrics
    headline = next(line for line in lines if line["ranking"] == "supernet loss")
    assert headline["figure"] == "tau"
    assert metrics["supernet loss/tau"] == pytest.approx(float(headline["value"]))
    assert metrics["supernet loss/tau_low"] == pytest.approx(float(headline["low"]))
    names = {item.path for item in client.list_artifacts(logged.info.run_id)}
    assert {"rank.csv", "networks.csv", "scatter.png", "rank.md", "rank.html"} <= names


def test_scores_are_those_of_inherited_weights(
    here: Path, folder_of_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the evaluator on evenly spread validation images; a stopped command keeps what it has."""

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    words = ("--supernet", "one", "--bank", "bank.csv", "--bins", "2", "--images", "30")
    more = ("--name", "stopped", "--part", "all", "--score", "top1")
    monkeypatch.setattr(Ranking, "proxies", stopped)
    with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        run(here, monkeypatch, *words, *more)
    lines = read(here / "runs" / "stopped" / "scores.csv")
    assert len(lines) == 2 * 7 and {line["score"] for line in lines} == {"top1", "loss"}
    folder, space, _, _ = RunFolder.open(here / "runs", "one")
    data = images_of(folder_of_images)
    model = Backbone(space, data.in_chans, data.num_classes)
    from twins_nas.training.checkpoint import load_weights

    model.load_state_dict(load_weights(folder.weights)[0])
    images = data.val.subset(torch.arange(30) * 2)
    for arch in members(space)[:2]:
        found = evaluate(model, images, data.mean, data.std, arch)
        mine = {
            line["score"]: float(line["value"]) for line in lines if line["key"] == space.key(arch)
        }
        assert mine == {"top1": found.top1, "loss": found.loss}


def test_members_are_tuned_where_that_is_asked(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scores of their own, beside those without."""
    few = ("--proxy-seeds", "1", "--proxy-images", "8", "--name", "tuned")
    for more in ((), ("--calibrate-steps", "2")):
        run(here, monkeypatch, *BOTH, *few, *more)
    said = capsys.readouterr().out
    assert "images of its supernet, after 2 steps of its own." in said
    known = read(here / "runs" / "tuned" / "scores.csv")
    scores = {
        tuned: [one["value"] for one in known if one["score"] == "loss" and tuned in one["of"]]
        for tuned in ("two, weights", "calibrated by 2 steps")
    }
    assert len(scores["two, weights"]) == 2 * HELD_OUT == len(scores["calibrated by 2 steps"])
    assert len(set(scores["two, weights"])) == 2 * HELD_OUT
    with pytest.raises(UserError, match="--calibrate-steps needs at least 0"):
        run(here, monkeypatch, *BOTH, "--calibrate-steps", "-1")


def test_losses_are_moved_by_zen_scores_where_that_is_asked(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A headline of its own; the scores that it moves stay, and none is computed twice."""
    few = ("--proxy-seeds", "1", "--proxy-images", "8", "--name", "moved")
    run(here, monkeypatch, *BOTH, *few)
    before = read(here / "runs" / "moved" / "scores.csv")
    run(here, monkeypatch, *BOTH, *few, "--zen-weight", "0.5")
    said = capsys.readouterr().out
    assert "supernet loss and Zen *" in said and "supernet loss and Zen - params" in said
    after = read(here / "runs" / "moved" / "scores.csv")
    assert after[: len(before)] == before
    added = after[len(before) :]
    assert sum(line["score"] == "deviation" for line in added) == 2
    networks = read(here / "runs" / "moved" / "networks.csv")
    for line in networks:
        moved = float(line["supernet loss and Zen"]) - float(line["supernet loss"])
        each = [float(line[f"supernet loss, {name}"]) for name in ("one", "two")]
        assert moved != 0 and float(line["supernet loss"]) == pytest.approx(np.mean(each))
    # One unit a supernet, so what all moves have in common is the Zen-score.
    moves = np.array(
        [
            [
                float(line[f"supernet loss and Zen, {name}"])
                - float(line[f"supernet loss, {name}"])
                for line in networks
            ]
            for name in ("one", "two")
        ]
    )
    assert np.corrcoef(moves)[0, 1] == pytest.approx(1)

    def never(*_: object) -> None:
        raise AssertionError("scored anew")

    monkeypatch.setattr("twins_nas.ranking.evaluate", never)
    monkeypatch.setattr("twins_nas.prior.ZenScore.__call__", never)
    run(here, monkeypatch, *BOTH, *few, "--zen-weight", "0.5")
    run(here, monkeypatch, *BOTH, *few, "--zen-weight", "0.5", "--size-weight", "1")
    said = capsys.readouterr().out
    assert "supernet loss, Zen and size *" in said and "Zen and size, no supernet" in said
    assert "supernet loss, Zen and size - Zen and size, no supernet" in said
    assert "supernet loss, Zen and size - supernet loss" in said
    for line in read(here / "runs" / "moved" / "networks.csv"):
        # Both hints without a loss, and a loss moved by both, differ by the loss alone.
        for name in ("one", "two"):
            moved = float(line[f"supernet loss, Zen and size, {name}"])
            deviation = next(
                float(one["value"])
                for one in read(here / "runs" / "moved" / "scores.csv")
                if one["score"] == "deviation" and one["of"].startswith(f"{name}, ")
            )
            alone = deviation * float(line["Zen and size, no supernet"])
            assert moved - alone == pytest.approx(float(line[f"supernet loss, {name}"]))
    with pytest.raises(UserError, match="--size-weight needs at least 0"):
        run(here, monkeypatch, *BOTH, "--size-weight", "-1")
    with pytest.raises(UserError, match="--zen-weight needs at least 0"):
        run(here, monkeypatch, *BOTH, "--zen-weight", "-1")
    with pytest.raises(UserError, match="--score adjusted: a run has no zen_weight"):
        run(here, monkeypatch, *BOTH, "--score", "adjusted")


def test_what_the_user_can_mend(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence for each, before anything is scored."""
    one = ("--supernet", "one", "--bank")
    (here / "foreign.csv").write_text(
        (here / "bank.csv").read_text().replace("embed_dim: 8\n", "embed_dim: 24\n")
    )
    (here / "short.csv").write_text("network,seed\na,0\n")
    text = (here / "bank.csv").read_text()
    (here / "part.csv").write_text(text.replace("held-out", "heldout"))
    (here / "number.csv").write_text(text.replace(",0,", ",zero,", 1))
    rows = list(csv.DictReader(text.splitlines(keepends=True)))
    write_csv(here / "twice.csv", COLUMNS, [*rows, rows[0]])
    write_csv(here / "size.csv", COLUMNS, [{**rows[0], "macs": "nan"}, *rows[1:]])
    for words, said in (
        ((), "--supernet is missing"),
        (("--supernet", "one"), "--bank is missing"),
        (("--supernet", "onee", "--bank", "bank.csv"), "did you mean 'one'"),
        ((*one, "bank.csv", "--supernet", "runs/one"), "names a run twice"),
        ((*one, "bank.csv", "--bins", "3"), "at most 2 bins"),
        ((*one, "bank.csv", "--bins", "0"), "--bins needs at least 1"),
        ((*one, "bank.csv", "--bins", "2", "--part", "tuning"), "1 whole networks"),
        ((*one, "bank.csv", "--bins", "2", "--images", "999"), "keeps 60 images"),
        ((*one, "missing.csv"), "missing.csv: no such file"),
        ((*one, "short.csv"), "no column part, val_top1"),
        ((*one, "part.csv"), "allowed: tuning, held-out"),
        ((*one, "number.csv"), "invalid literal"),
        ((*one, "twice.csv"), "twice.csv:.*a second line of net0, seed 0"),
        ((*one, "size.csv"), "size.csv:.*macs and params must be numbers above 0"),
        ((*one, "foreign.csv", "--bins", "2"), "is no member of .*: stages.0.embed_dim"),
    ):
        with pytest.raises(UserError, match=said):
            run(here, monkeypatch, *words)
    RunFolder(here / "runs" / "two").weights.rename(here / "aside")
    with pytest.raises(UserError, match="its training is not finished"):
        run(here, monkeypatch, *BOTH)
    (here / "aside").rename(RunFolder(here / "runs" / "two").weights)


def test_a_bank_is_a_truth(here: Path) -> None:
    """What has a bank's arrays, by the protocol; and a missing run is nan."""
    known = read_truth(here / "bank.csv")

    class Bank:
        name, numbers, archs, seeds = "mine", tuple(range(7)), known.archs, (0, 1)
        macs_A, params_A, held_out_A = known.macs_N, known.params_N, known.held_out_N

        def values_AS(self, metric: str = "val_top1") -> np.ndarray:
            assert metric == "val_top1"
            return known.top1_NS

    found = Truth.of(Bank(), "fashion-mnist")
    assert (found.name, found.data, found.labels[3]) == ("mine", "fashion-mnist", "network 3")
    assert np.array_equal(found.means_N, known.means_N)
    lines = (here / "bank.csv").read_text()
    rows = list(csv.DictReader(lines.splitlines(keepends=True)))
    write_csv(here / "lacks.csv", COLUMNS, rows[:-1])
    lacks = read_truth(here / "lacks.csv")
    assert np.isnan(lacks.top1_NS[-1, 1]) and lacks.whole()[1] == ("net6",)


def read(path: Path) -> list[dict[str, str]]:
    """The lines of a CSV file."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_supernets_that_are_no_seeds_of_one_training() -> None:
    """Said beside the figures."""
    one, two = (SearchRecipe(seed=seed) for seed in (0, 1))
    small, other = (SearchSpace.point(arch, (32, 32)) for arch in MEMBERS)
    alike = [small, small]
    assert rank.unlike([one, two], alike) == []
    often = two.supernet.model_copy(update={"checkpoint_seconds": 5})
    assert rank.unlike([one, two.model_copy(update={"supernet": often})], alike) == []
    assert "more than their seeds" in rank.unlike([one, two], [small, other])[0]
    longer = two.model_copy(update={"supernet": two.supernet.model_copy(update={"epochs": 9})})
    assert "more than their seeds" in rank.unlike([one, longer], alike)[0]
    assert "share a seed" in rank.unlike([one, one], alike)[0]
