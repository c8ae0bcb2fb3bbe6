"""The way of one retraining: the networks of a front, each trained alone, beside what they inherit.

All trainings have the supernet's own parts of the images, so both accuracies are of the same
validation images, and of the same test images. The latter are read once, at the end.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from twins_nas.ablation.engine import Engine, place_of, spent, workers
from twins_nas.ablation.results import AblationFolder, Run, RunResult, TestResult
from twins_nas.ablation.variants import Variant
from twins_nas.ablation.work import Place
from twins_nas.ablation_recipe import RunsRecipe
from twins_nas.config import load_arch
from twins_nas.data import ImageData
from twins_nas.errors import UserError
from twins_nas.evaluate import evaluate
from twins_nas.files import told, write_bytes, write_csv, write_text
from twins_nas.progress import phase
from twins_nas.provenance import command, git_commit, machine
from twins_nas.ranking import Book, digest, trained
from twins_nas.recipes import SearchRecipe
from twins_nas.report import retraining as report
from twins_nas.report.ablation_plots import as_png
from twins_nas.report.retraining import Accuracies, Retrained
from twins_nas.report.rows import About, arch_params
from twins_nas.runs import RunFolder, Settings
from twins_nas.space import SearchSpace
from twins_nas.space_yaml import dump_arch
from twins_nas.tracking import Run as Tracked
from twins_nas.tracking import Tracker
from twins_nas.training.calibrate import Calibration
from twins_nas.truth import COLUMNS, TUNING
from twins_nas.tuning.ray_cluster import Resources, cluster

EXPERIMENT = "retrain"
PICTURE = "retrain.png"


@dataclass(frozen=True)
class Member:
    """A network of the front with what it inherits, in percent."""

    variant: Variant
    name: str
    val_top1: float
    test_top1: float


@dataclass(frozen=True)
class SplitPlace(Place):
    """Where runs share the parts of the images: those of one seed, whatever their own is."""

    split: int

    def data(self, seed: int) -> ImageData:
        """The images, parted as the supernet's were."""
        return super().data(self.split)


@dataclass
class Retraining:
    """One retraining from a search's front to a report in `folder`.

    Raises:
        UserError: what the user can mend: a data set, a device, a disk, a store, a damaged front.
    """

    searched: RunFolder
    folder: Path
    space: SearchSpace
    search: SearchRecipe
    recipe: RunsRecipe
    settings: Settings
    steps: tuple[int, ...] = ()
    """Of tuning of each network with inherited weights, beside those."""

    def run(self) -> list[Retrained]:
        """Does what is not done yet, and reports."""
        tracker, members = Tracker(EXPERIMENT), self.members
        params = {"run": self.searched.path.name, "recipe": self.recipe.model_dump()}
        name = f"{self.searched.path.name}, {self.recipe.training.epochs} epochs"
        with tracker.start(name, params) as tracked:
            engine = self.engine(tracked)
            labels = [one.variant.label for one in members]
            runs = engine.runs(labels, self.recipe.seeds.numbers)
            left = any(self.place.folder.result(run) is None for run in runs)
            with cluster(engine.workers) if engine.workers and left else nullcontext():
                results = engine.train(runs)
                tests = engine.test(runs)
            tuned = self.tuned()
            rows = [row for one in members if (row := self.row(one, results, tests, tuned))]
            if not rows:
                why = next(one.reason for one in results if one.status != "finished")
                raise UserError(f"No network was trained to its end on all seeds: {why}.")
            at_once = engine.workers.evaluators if engine.workers else 1
            self.report(rows, spent(self.place, results, at_once), tests, tracked)
        print(f"\nThe report: {self.folder}\nMLflow:     {tracker.store.look}", flush=True)
        return rows

    @cached_property
    def place(self) -> SplitPlace:
        """Where the networks are trained."""
        recipe = self.recipe.model_copy(update={"input_size": self.space.input_size[0]})
        found = place_of(AblationFolder(self.folder), recipe, self.settings)
        return SplitPlace(**vars(found), split=self.search.seed)

    @cached_property
    def data(self) -> ImageData:
        """The images, their test part unread."""
        return self.place.data(self.search.seed)

    @cached_property
    def members(self) -> list[Member]:
        """The front, and the named networks beside it, with what `front.csv` says of them."""
        path = self.searched.path / "front.csv"
        with told(path), path.open(encoding="utf-8", newline="") as file:
            found = list(csv.DictReader(file))
        members = []
        try:
            for line in found:
                arch, _ = load_arch(self.searched.path / line["file"])
                cost = (int(line["macs"]), int(line["params"]))
                label = Path(line["file"]).stem
                variant = Variant(label, "", arch, self.recipe.training, *cost)
                scores = (float(line["val_top1"]), float(line["test_top1"]))
                members.append(Member(variant, line["name"], *scores))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error!r}); resume the search.") from error
        return members

    def engine(self, tracked: Tracked) -> Engine:
        """What does the runs, and tells MLflow of each that has ended."""

        def on_result(run: Run, result: RunResult) -> None:
            shown = {"seed": run.seed, **arch_params(run.variant.arch)}
            numbers = {"macs": run.variant.macs, "params": run.variant.params}
            tags = {"network": run.variant.label, "status": result.status}
            tracked.child(run.name, shown, numbers, tags, result.curve)
            if result.status == "failed":
                said = f"{run.variant.label}, seed {run.seed}, failed: {result.reason}"
                print(said, file=sys.stderr, flush=True)

        wanted = self.recipe.resources
        crew: Resources | None = None
        if not self.settings.local:
            crew = workers(wanted.cpu, wanted.gpu, self.place.device, self.settings.parallel)
        variants = tuple(one.variant for one in self.members)
        return Engine(self.place, variants, len(self.data.train), crew, on_result)

    def tuned(self) -> dict[str, dict[int, Accuracies]]:
        """Validation and test top-1 of each network after so many steps of its own, by steps.

        From inherited weights, on the supernet's part of the images. Each is on the disk when it
        is known (`tuned.csv`).
        """
        found: dict[str, dict[int, Accuracies]] = {one.variant.label: {} for one in self.members}
        book, parts, data = Book(self.folder / "tuned.csv"), ("val", "test"), self.data
        of = f"weights {digest(self.searched.weights)}" if self.steps else ""
        every = [(one, steps) for steps in self.steps for one in self.members]

        def name(part: str, steps: int) -> str:
            return f"{part} top-1 after {steps} steps"

        def known(one: Member, steps: int) -> bool:
            return book.has(of, name("test", steps), one.variant.label)

        left = [(one, steps) for one, steps in every if not known(one, steps)]
        if left:
            device = torch.device(self.place.device)
            model = trained(self.searched, self.space, self.search, data, device)
            images = {"val": data.val, "test": data.test()}
            total, to_do = (sum(steps for _, steps in some) for some in (every, left))
            with phase("tuning", total, "step", total - to_do) as line:
                for one, steps in left:
                    recipe = self.search.supernet.model_copy(update={"calibrate_steps": steps})
                    calibration = Calibration.of(data, recipe, self.search.seed)
                    assert calibration is not None
                    subject = calibration(model, one.variant.arch)
                    scores = {
                        name(part, steps): evaluate(subject, images[part], data.mean, data.std).top1
                        for part in parts
                    }
                    book.put(of, one.variant.label, scores)
                    line.advance(steps)
        for one, steps in every:
            label = one.variant.label
            val, test = (book.get(of, name(part, steps), [label])[0] for part in parts)
            found[label][steps] = Accuracies(val, test)
        return found

    def row(
        self,
        member: Member,
        results: Sequence[RunResult],
        tests: dict[tuple[str, int], TestResult],
        tuned: dict[str, dict[int, Accuracies]],
    ) -> Retrained | None:
        """A network's accuracies; None where a training of it did not come to its end."""
        variant = member.variant
        own = [one for one in results if one.label == variant.label and one.status == "finished"]
        if len(own) < len(self.recipe.seeds.numbers):
            return None
        return Retrained(
            label=variant.label,
            name=member.name,
            arch=variant.arch,
            macs=variant.macs,
            params=variant.params,
            inherited=Accuracies(member.val_top1, member.test_top1),
            tuned=tuned[variant.label],
            alone_val={one.seed: one.val_top1 for one in own if one.val_top1 is not None},
            alone_test={one.seed: tests[variant.label, one.seed].test_top1 for one in own},
        )

    def report(
        self,
        rows: list[Retrained],
        cost: str,
        tests: dict[tuple[str, int], TestResult],
        tracked: Tracked,
    ) -> None:
        """The table on the console, the files in the folder and in MLflow."""
        epochs = self.recipe.training.epochs
        said = report.answer(rows, epochs, max(test.n_test for test in tests.values()))
        about = About(
            title=f"{self.recipe.question} ({self.searched.path.name})",
            command=command(),
            data=self.data.name,
            n_train=len(self.data.train),
            seeds=self.recipe.seeds.numbers,
            commit=git_commit(),
            machine=machine(),
            date=datetime.now().astimezone(),
            notes=(cost, f"supernet of seed {self.search.seed}", *self.left_out(rows)),
        )
        write_csv(self.folder / "retrain.csv", report.columns(rows), report.lines(rows))
        bank = f"{self.searched.path.name}-{epochs}-epochs.csv"
        write_csv(self.folder / bank, COLUMNS, self.bank_lines(rows))
        write_bytes(self.folder / PICTURE, as_png(report.figure(rows)))
        write_text(self.folder / "retrain.md", report.markdown(rows, said, about, PICTURE))
        for name in ("retrain.csv", bank, PICTURE, "retrain.md"):
            tracked.artifact(self.folder / name)
        tracked.log(report.metrics(rows), 0)
        tracked.describe(f"{said}\n\n```\n{report.plain(rows)}\n```")
        print(f"\n{report.plain(rows)}\n\n{said}")
        for note in self.left_out(rows):
            print(note.capitalize() + ".")

    def left_out(self, rows: Sequence[Retrained]) -> tuple[str, ...]:
        """The networks of which a training failed, in a sentence; nothing where there is none."""
        known = {row.label for row in rows}
        lost = [one.variant.label for one in self.members if one.variant.label not in known]
        return (f"left out, for a training failed: {', '.join(lost)}",) if lost else ()

    def bank_lines(self, rows: Sequence[Retrained]) -> list[dict[str, Any]]:
        """The trainings as a bank of one's own; its networks were chosen, so none is held out."""
        return [
            dict(
                zip(
                    COLUMNS,
                    (
                        *(row.label, TUNING, seed, top1, row.macs, row.params),
                        dump_arch(row.arch, self.space.input_size),
                    ),
                    strict=True,
                )
            )
            for row in rows
            for seed, top1 in row.alone_val.items()
        ]
