"""The way of one exploration: Optuna's search over networks trained alone, further seeds, report.

Each step is durable when it is done: a trial in the study's journal, a training in its own files.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from twins_nas.ablation.engine import Engine, place_of, spent, workers
from twins_nas.ablation.exploring import Alone, ExplorePlan
from twins_nas.ablation.header import write_result
from twins_nas.ablation.results import AblationFolder, Run, RunResult, TestResult
from twins_nas.ablation.variants import Images
from twins_nas.ablation.work import Place
from twins_nas.arch import ArchConfig
from twins_nas.cost import cost
from twins_nas.data import ImageData
from twins_nas.errors import UserError
from twins_nas.files import write_bytes, write_text
from twins_nas.layer_cost import Cost
from twins_nas.progress import phase
from twins_nas.provenance import command, git_commit, machine
from twins_nas.report.ablation_plots import as_png, as_svg
from twins_nas.report.exploration import (
    Explored,
    markdown,
    page,
    shares_figure,
    write_trials_csv,
)
from twins_nas.report.files import arch_files, write_archs, write_front_csv
from twins_nas.report.page import write_front_page
from twins_nas.report.plots import write_front_png
from twins_nas.report.rows import About, FrontRow, arch_params, on_front, row_metrics
from twins_nas.report.table import by_macs, plain_table, print_front
from twins_nas.runs import Settings
from twins_nas.space_yaml import dump_arch
from twins_nas.stats import Summary, summarise
from twins_nas.tracking import Run as Tracked
from twins_nas.tracking import Tracker
from twins_nas.tuning.importance import Importance, importances
from twins_nas.tuning.pareto import front
from twins_nas.tuning.ray_cluster import Resources, cluster
from twins_nas.tuning.ray_runner import run_ray
from twins_nas.tuning.results import Failed, Scored
from twins_nas.tuning.runner import run_local
from twins_nas.tuning.spec import StudySpec
from twins_nas.tuning.study import Search, SearchStudy

EXPERIMENT = "explore"
Again = tuple[tuple[int, Summary, Summary | None], ...]


@dataclass
class Exploration:
    """One exploration from images to report.

    Raises:
        UserError: what the user can mend: a data set, a device, a disk, a store.
    """

    folder: AblationFolder
    plan: ExplorePlan
    settings: Settings
    into_recipe: bool = False

    def run(self) -> Explored:
        """Does what is not done yet, and reports."""
        tracker = Tracker(EXPERIMENT)
        name, tags = self.folder.path.name, {"question": self.plan.recipe.question}
        with tracker.start(name, self.params, tags, self.settings.mlflow_run) as tracked:
            settings = dataclasses.replace(self.settings, mlflow_run=tracked.id)
            self.folder.write_settings(settings)
            look = SearchStudy.look(self.studies, self.search, self.seeds[0])
            left = self.crew if look is None or not look.finished else None
            with cluster(left) if left else nullcontext():
                study = self.searched(tracked)
                rows = self.rows(study.scored)
                self.keep_weights(rows)
                tests, again = self.trained_again(rows, tracked)
            found = self.explored(study, self.tested(rows, tests), again)
            self.report(found, tracked)
        print(f"\nThe run: {self.folder.path}\nMLflow:  {tracker.store.look}", flush=True)
        return found

    @cached_property
    def place(self) -> Place:
        """Where the networks are trained."""
        return place_of(self.folder, self.plan.recipe, self.settings)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of all trials, and those that the front's networks are trained on, too."""
        return self.plan.recipe.seeds.numbers

    @property
    def studies(self) -> Path:
        """The folder of the study's journal."""
        return self.place.folder.path / "studies"

    @cached_property
    def data(self) -> ImageData:
        """The images of the first seed: channels, classes and numbers are those of all seeds."""
        return self.place.data(self.seeds[0])

    @cached_property
    def alone(self) -> Alone:
        """What trains a network."""
        size = (self.data.input_size,) * 2
        images = Images(size, self.data.in_chans, self.data.num_classes)
        return Alone(self.place, self.plan.space, self.plan.recipe.training, images, self.seeds[0])

    @cached_property
    def afresh(self) -> Alone:
        """What trains on further seeds: to the end, or the means were of those that went well."""
        recipe = self.plan.recipe.model_copy(update={"asha": None})
        return dataclasses.replace(self.alone, place=dataclasses.replace(self.place, recipe=recipe))

    @cached_property
    def search(self) -> Search:
        """What the study is asked for."""
        wanted = self.plan.recipe.explore
        spec = StudySpec(wanted.trials, wanted.objectives, wanted.sampler, wanted.generation)
        return Search(self.plan.space, spec, self.cost_of, self.alone.context)

    @cached_property
    def crew(self) -> Resources | None:
        """The workers; None: this process."""
        if self.settings.local:
            return None
        wanted, device = self.plan.recipe.resources, self.place.device
        found = workers(wanted.cpu, wanted.gpu, device, self.settings.parallel)
        return dataclasses.replace(found, ahead=1)

    @property
    def params(self) -> dict[str, Any]:
        """What MLflow shows of the whole."""
        plan, space = self.plan, self.plan.space
        recipe = plan.recipe.model_dump(exclude={"question", "paper", "space"})
        about = {
            "name": space.name,
            "fingerprint": space.fingerprint,
            "members": f"{space.size():.3g}",
            "choices": len(space.choices),
            "base": space.base,
        }
        return {"recipe": recipe, "space": about, "device": self.place.device}

    def cost_of(self, arch: ArchConfig) -> Cost:
        """Parameters and MACs with this data set's channels and classes."""
        return cost(arch, self.plan.space.input_size, self.data.in_chans, self.data.num_classes)

    def searched(self, tracked: Tracked) -> SearchStudy:
        """The study with all of its trials; each is in its journal before it is told."""
        folder, seed = self.place.folder, self.seeds[0]
        look = SearchStudy.look(self.studies, self.search, seed)
        known = look.scored if look else []
        done = len(known) + len(look.failed if look else ())
        began, before = time.monotonic(), folder.seconds()
        for row in known:
            self.tell(row, tracked)
        trials = self.plan.recipe.explore.trials
        with phase("exploration", trials, "trial", done) as line:
            best = max((row.top1 for row in known), default=0.0)

            def told(row: Scored) -> None:
                nonlocal best
                best = max(best, row.top1)
                self.tell(row, tracked)
                folder.write_seconds(before + time.monotonic() - began)
                line.advance(1, note=f"best val top-1 {best:.2f} %")

            about = (self.studies, self.search, (seed,), self.alone)
            if self.crew is None:
                run_local(*about, told)
            else:
                run_ray(*about, self.crew, told)
            study = SearchStudy.look(self.studies, self.search, seed)
            assert study is not None
            line.advance(max(0, len(study.failed) - (done - len(known))))
        for one in study.failed:
            self.tell(one, tracked)
        if not study.scored:
            raise UserError(
                f"None of the {trials} networks was trained to its end; the last one:"
                f" {study.failed[-1].reason}."
            )
        return study

    def tell(self, row: Scored | Failed, tracked: Tracked) -> None:
        """Tells MLflow of a trial."""
        result = self.place.folder.result(self.alone.run(row.arch, row.seed))
        numbers: dict[str, float] = {"macs": row.macs, "params": row.params}
        tags = {"trial": str(row.number)} | ({"name": row.name} if row.name else {})
        if isinstance(row, Scored):
            tracked.log_scored([row])
            numbers |= {"val_top1": row.top1, "val_loss": row.loss, "seconds": row.seconds}
            tags["status"] = "cached" if row.cached else "finished"
        else:
            tags |= {"status": "stopped" if row.stopped else "failed", "reason": row.reason}
        shown = {"trial": row.number, "seed": row.seed, **arch_params(row.arch)}
        curve = result.curve if result else ()
        tracked.child(f"trial {row.number:03d}", shown, numbers, tags, curve)

    def rows(self, scored: Sequence[Scored]) -> list[FrontRow]:
        """The validation front and the named networks, in the order of the report's table."""
        first = {row.key: row for row in reversed(scored)}
        named = {row.key: row.name for row in reversed(scored) if row.name}
        found = front(scored, self.plan.recipe.explore.objectives)
        chosen = [first[key] for key in dict.fromkeys([*(row.key for row in found), *named])]
        made = [
            FrontRow(
                arch=row.arch,
                macs=row.macs,
                params=row.params,
                val_top1=row.top1,
                n_val=row.n,
                name=named.get(row.key, ""),
                seeds=(row.seed,),
            )
            for row in chosen
        ]
        return by_macs(made)

    def keep_weights(self, rows: Sequence[FrontRow]) -> None:
        """Puts the trained networks of the table beside their YAML, before they are tested."""
        for row, name in zip(rows, arch_files(rows), strict=True):
            weights = self.place.folder.weights(self.alone.run(row.arch, self.seeds[0]))
            if weights.is_file():
                target = (self.folder.path / "archs" / name).with_suffix(".safetensors")
                write_bytes(target, weights.read_bytes())

    def trained_again(
        self, rows: Sequence[FrontRow], tracked: Tracked
    ) -> tuple[list[TestResult | None], Again]:
        """The first seed's test score of each row, and what further seeds say of the front."""

        def on_result(run: Run, result: RunResult) -> None:
            number = numbers[run.variant.arch]
            if run.seed == self.seeds[0]:
                return
            shown = {"network": number, "seed": run.seed, **arch_params(run.variant.arch)}
            found: dict[str, float] = {"macs": run.variant.macs}
            if result.val_top1 is not None:
                found["val_top1"] = result.val_top1
            tags = {"status": result.status, "network": str(number)}
            name = f"front {number:02d} seed {run.seed}"
            tracked.child(name, shown, found, tags, result.curve)

        numbers = {row.arch: number for number, row in enumerate(rows)}
        engine = Engine(self.afresh.place, (), len(self.data.train), self.crew, on_result)
        first = [self.alone.run(row.arch, self.seeds[0]) for row in rows]
        more = [self.afresh.run(row.arch, seed) for seed in self.seeds[1:] for row in rows]
        if more:
            engine.train(more)
        tests = engine.test([*first, *more])
        for run in first + more:
            if (test := tests.get((run.variant.label, run.seed))) and run.seed != self.seeds[0]:
                number = numbers[run.variant.arch]
                scores = {"test_top1": test.test_top1, "test_loss": test.test_loss}
                tracked.add_to_child(f"front {number:02d} seed {run.seed}", scores)
        again = []
        for number, run in enumerate(first):
            own = [one for one in more if one.variant.arch == run.variant.arch]
            fresh = {
                one.seed: result.val_top1
                for one in own
                if (result := self.place.folder.result(one))
                and result.status == "finished"
                and result.val_top1 is not None
            }
            scored = {
                one.seed: test.test_top1
                for one in [run, *own]
                if (test := tests.get((one.variant.label, one.seed)))
            }
            if fresh:
                again.append((number, summarise(fresh), summarise(scored) if scored else None))
        return [tests.get((run.variant.label, run.seed)) for run in first], tuple(again)

    def tested(
        self, rows: Sequence[FrontRow], tests: Sequence[TestResult | None]
    ) -> tuple[FrontRow, ...]:
        """The rows with their test scores; the weights of all others have done their service."""
        for weights in self.place.folder.path.glob("work/*/weights.safetensors"):
            weights.unlink(missing_ok=True)
        found = [
            row
            if test is None
            else dataclasses.replace(row, test_top1=test.test_top1, n_test=test.n_test)
            for row, test in zip(rows, tests, strict=True)
        ]
        held = on_front([(row.macs, row.test_top1 or 0.0) for row in found])
        return tuple(
            dataclasses.replace(row, on_test_front=on) for row, on in zip(found, held, strict=True)
        )

    def explored(self, study: SearchStudy, rows: tuple[FrontRow, ...], again: Again) -> Explored:
        """All that was found."""
        with phase("importances", 1, "table") as line:
            shares: list[Importance] = importances(self.plan.space, study.scored)
            line.advance(1)
        recipe = self.plan.recipe
        about = (recipe.question, recipe.paper, self.plan.space, recipe.explore.objectives)
        trials = (tuple(study.scored), tuple(study.failed))
        return Explored(*about, rows, *trials, tuple(shares), again)

    def report(self, found: Explored, tracked: Tracked) -> None:
        """The table on the console, the files in the folder and in MLflow."""
        folder, space = self.folder.path, self.plan.space
        every: list[Scored | Failed] = [*found.scored, *found.failed]
        runs = {run.name: run for row in every for run in [self.alone.run(row.arch, row.seed)]}
        for row in found.rows:
            for seed in self.seeds[1:]:
                run = self.afresh.run(row.arch, seed)
                runs[run.name] = run
        results = [one for run in runs.values() if (one := self.place.folder.result(run))]
        about = About(
            title=found.question,
            command=command(),
            data=self.data.name,
            n_train=len(self.data.train),
            seeds=self.seeds,
            commit=git_commit(),
            machine=machine(),
            date=datetime.now().astimezone(),
            notes=(spent(self.place, results, self.crew.evaluators if self.crew else 1),),
        )
        write_front_csv(folder / "front.csv", found.rows, space.key)
        write_trials_csv(folder / "trials.csv", found)
        title = f"{space.name} on {self.data.name}"
        write_front_png(folder / "front.png", found.rows, found.scored, title)
        write_front_page(folder / "front.html", found.rows, found.scored, about)
        write_archs(folder / "archs", found.rows, lambda arch: dump_arch(arch, space.input_size))
        pictures, svg = ["front.png"], ""
        if found.importances:
            figure = shares_figure(found.importances)
            write_bytes(folder / "importances.png", as_png(figure))
            pictures, svg = [*pictures, "importances.png"], as_svg(figure)
        write_text(folder / "report.md", markdown(found, about, pictures))
        drawn = (folder / "front.png").read_bytes()
        write_text(folder / "report.html", page(found, about, drawn, svg))
        files = ("report.md", "report.html", "front.html", "front.csv", "trials.csv")
        for name in (*files, *pictures, self.folder.MARK):
            tracked.artifact(folder / name)
        tracked.artifact(folder / "archs", "archs")
        for number, row in enumerate(by_macs(found.rows)):
            name = row.name or f"front {number:02d}"
            tags = {"on_test_front": str(row.on_test_front)}
            tracked.child(name, arch_params(row.arch), row_metrics(row), tags)
        tracked.describe(f"{found.answer}\n\n```\n{plain_table(found.rows)}\n```")
        print()
        print_front(found.rows)
        for note in found.notes:
            print(note)
        print(f"\n{found.answer}")
        if self.into_recipe:
            path = write_result(self.settings.recipe, about.notes[0], found.answer)
            print(f"\nCost and result are written into {path}.")
