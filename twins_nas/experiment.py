"""The way of one ablation: images, runs seed by seed, test images, verdicts, report."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from twins_nas.ablation.analysis import METRICS, Findings, findings, look_at, plan_of
from twins_nas.ablation.engine import Engine, place_of, spent, workers
from twins_nas.ablation.header import write_result
from twins_nas.ablation.results import AblationFolder, Run, RunResult, TestResult
from twins_nas.ablation.variants import Images, Variant, expand
from twins_nas.ablation.work import Place
from twins_nas.ablation_recipe import AblationRecipe
from twins_nas.data import ImageData
from twins_nas.files import write_bytes, write_text
from twins_nas.provenance import command, git_commit, machine
from twins_nas.report.ablation_page import page
from twins_nas.report.ablation_plots import as_png, as_svg, figures
from twins_nas.report.ablation_table import markdown, plain_table, write_runs_csv
from twins_nas.report.rows import About, arch_params
from twins_nas.runs import Settings
from twins_nas.supernets.recipe import SupernetsRecipe
from twins_nas.tracking import Run as Tracked
from twins_nas.tracking import Tracker
from twins_nas.tuning.ray_cluster import Resources, cluster
from twins_nas.yaml_nodes import Document

EXPERIMENT = "ablation"


@dataclass
class Experiment:
    """One ablation from images to report.

    Raises:
        UserError: what the user can mend: a data set, a device, a disk, a store.
    """

    folder: AblationFolder
    document: Document
    recipe: AblationRecipe | SupernetsRecipe
    settings: Settings
    retry_failed: bool = False
    into_recipe: bool = False

    def run(self) -> Findings:
        """Does what is not done yet, and reports."""
        tracker = Tracker(EXPERIMENT)
        name = self.folder.path.name
        tags = {"question": self.recipe.question, "baseline": self.recipe.compare.baseline}
        with tracker.start(name, self.params, tags, self.settings.mlflow_run) as tracked:
            settings = dataclasses.replace(self.settings, mlflow_run=tracked.id)
            self.folder.write_settings(settings)
            engine = self.engine(tracked)
            crew = self.to_do(engine)
            with cluster(crew) if crew else nullcontext():
                runs, results = self.trained(engine)
                tests = self.tested(engine, runs)
            for run in runs:
                test = tests.get((run.variant.label, run.seed))
                if test is not None:
                    scores = {"test_top1": test.test_top1, "test_loss": test.test_loss}
                    tracked.add_to_child(run.name, scores)
            found = findings(self.recipe, self.variants, results, tests)
            self.report(found, tests, engine, tracked)
        print(f"\nThe run: {self.folder.path}\nMLflow:  {tracker.store.look}", flush=True)
        return found

    @cached_property
    def place(self) -> Place:
        """Where the runs are done."""
        return place_of(self.folder, self.recipe, self.settings)

    @cached_property
    def data(self) -> ImageData:
        """The images of the first seed: channels, classes and numbers are those of all seeds."""
        return self.place.data(self.recipe.seeds.numbers[0])

    @cached_property
    def variants(self) -> tuple[Variant, ...]:
        """The variants with the channels and classes of these images."""
        assert isinstance(self.recipe, AblationRecipe)
        size = (self.data.input_size,) * 2
        images = Images(size, self.data.in_chans, self.data.num_classes)
        return expand(self.document, self.recipe, images)

    @property
    def params(self) -> dict[str, Any]:
        """What MLflow shows of the whole."""
        recipe = self.recipe.model_dump(exclude={"question", "paper", "base", "vary", "variants"})
        names = ", ".join(variant.label for variant in self.variants)
        return {"recipe": recipe, "variants": names, "device": self.place.device}

    def engine(self, tracked: Tracked) -> Engine:
        """What does the runs, and tells MLflow of each that has ended."""

        def on_result(run: Run, result: RunResult) -> None:
            variant = run.variant
            shown = {
                "variant": variant.name,
                "base": variant.group,
                "seed": run.seed,
                "training": variant.training.model_dump(exclude={"checkpoint_seconds"}),
                **self.shown(variant),
            }
            numbers = {"macs": variant.macs, "params": variant.params, "seconds": result.seconds}
            numbers |= {name: value for name, value in result.more.items() if name in METRICS}
            tags = {
                "variant": variant.label,
                "seed": str(run.seed),
                "status": result.status,
                "is_baseline": str(variant.name == self.recipe.compare.baseline).lower(),
            }
            tags |= {"reason": result.reason} if result.reason else {}
            tracked.child(run.name, shown, numbers, tags, result.curve)
            if result.status == "failed":
                said = f"{variant.label}, seed {run.seed}, failed: {result.reason}"
                print(said, file=sys.stderr, flush=True)

        wanted = self.recipe.resources
        at_once = self.settings.parallel
        crew = workers(wanted.cpu, wanted.gpu, self.place.device, at_once)
        local = None if self.settings.local else crew
        return Engine(self.place, self.variants, len(self.data.train), local, on_result)

    def to_do(self, engine: Engine) -> Resources | None:
        """The workers, where anything is left to do for them."""
        seeds = self.recipe.seeds
        first = engine.runs([one.label for one in self.variants], seeds.numbers[: seeds.first])
        left = any(self.folder.result(run) is None for run in first)
        return engine.workers if left or seeds.auto else None

    def trained(self, engine: Engine) -> tuple[list[Run], list[RunResult]]:
        """All runs with their results; with `seeds: auto` look by look until all have a verdict."""
        recipe, plan = self.recipe, plan_of(self.recipe)
        labels = [variant.label for variant in self.variants]
        if plan is None:
            return self._trained(engine, labels, recipe.seeds.numbers)
        done: dict[str, tuple[Run, RunResult]] = {}
        seeds, number = plan.looks[0], 0
        while True:
            runs, results = self._trained(engine, labels, recipe.seeds.numbers[:seeds])
            done |= {pair[0].name: pair for pair in zip(runs, results, strict=True)}
            seen = look_at(recipe, self.variants, [result for _, result in done.values()], number)
            if seen.next_seeds is None:
                return [run for run, _ in done.values()], [result for _, result in done.values()]
            labels = [
                one.label
                for one in self.variants
                if one.label in seen.open or one.name == recipe.compare.baseline
            ]
            print(f"{seeds} seeds give no verdict on {', '.join(seen.open)}: more seeds run.")
            seeds, number = seen.next_seeds, number + 1

    def tested(self, engine: Engine, runs: list[Run]) -> dict[tuple[str, int], TestResult]:
        """The finished runs on the test images."""
        return engine.test(runs)

    def shown(self, variant: Variant) -> dict[str, Any]:
        """What MLflow shows of a variant, besides its training."""
        return arch_params(variant.arch)

    def notes(self, found: Findings) -> tuple[str, ...]:
        """What the report says of what was found, besides the answer and the cost."""
        return ()

    def more(self, result: RunResult) -> dict[str, float]:
        """Further columns of `runs.csv` for a run."""
        return {}

    def _trained(
        self, engine: Engine, labels: Sequence[str], seeds: Sequence[int]
    ) -> tuple[list[Run], list[RunResult]]:
        runs = engine.runs(labels, seeds)
        for run in runs if self.retry_failed else ():
            result = self.folder.result(run)
            if result is not None and result.status == "failed":
                self.folder.forget(run)
        return runs, engine.train(runs)

    def report(
        self,
        found: Findings,
        tests: dict[tuple[str, int], TestResult],
        engine: Engine,
        tracked: Tracked,
    ) -> None:
        """The table on the console, the files in the folder and in MLflow."""
        folder, recipe = self.folder.path, self.recipe
        results = [result for row in found.rows for result in row.results]
        at_once = engine.workers.evaluators if engine.workers else 1
        seeds = tuple(sorted({result.seed for result in results}))
        about = About(
            title=recipe.question,
            command=command(),
            data=self.data.name,
            n_train=len(self.data.train),
            seeds=seeds,
            commit=git_commit(),
            machine=machine(),
            date=datetime.now().astimezone(),
            notes=(spent(self.place, results, at_once), *self.notes(found)),
        )
        drawn = figures(found)
        for name, figure in drawn.items():
            write_bytes(folder / f"{name}.png", as_png(figure))
        pictures = [f"{name}.png" for name in drawn]
        text = markdown(recipe.question, recipe.paper, found, about, pictures)
        write_text(folder / "report.md", text)
        svgs = {name: as_svg(figure) for name, figure in drawn.items()}
        write_text(folder / "report.html", page(recipe.question, recipe.paper, found, about, svgs))
        write_runs_csv(folder / "runs.csv", found, dict(tests), self.more)
        for name in ("report.md", "report.html", "runs.csv", *pictures, self.folder.MARK):
            tracked.artifact(folder / name)
        tracked.describe(f"{found.answer}\n\n```\n{plain_table(found)}\n```")
        print(f"\n{plain_table(found)}\n")
        for note in (*found.notes, *about.notes[1:]):
            print(note)
        print(f"\n{found.answer}")
        if self.into_recipe:
            path = write_result(self.settings.recipe, about.notes[0], found.answer)
            print(f"\nCost and result are written into {path}.")
