"""The way of one insight: a plan, scores with inherited weights, effects, report.

Scores lie in the run's own folder, each on the disk before the next is taken, so the same command
goes on where it was stopped, and asks for more networks without repeating one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path

import torch

from twins_nas.arch import ArchConfig
from twins_nas.effects.estimates import Hits
from twins_nas.effects.findings import Insight, insight
from twins_nas.effects.plan import Plan, draw
from twins_nas.effects.scores import Scores, score_all, scorer
from twins_nas.effects.standalone import Counterpart, finished, sought
from twins_nas.errors import UserError
from twins_nas.files import write_bytes, write_text
from twins_nas.model.backbone import Backbone
from twins_nas.model.separate import supernet_of
from twins_nas.pipeline import Pipeline
from twins_nas.progress import phase
from twins_nas.provenance import command, git_commit, machine
from twins_nas.recipes import SearchRecipe
from twins_nas.report.ablation_plots import as_png, as_svg
from twins_nas.report.insight_page import page
from twins_nas.report.insight_plots import figures
from twins_nas.report.insight_table import markdown, notes, plain, scope, write_csv
from twins_nas.report.rows import About
from twins_nas.runs import RunFolder, Settings
from twins_nas.space import SearchSpace
from twins_nas.tracking import Tracker
from twins_nas.training.checkpoint import load_weights
from twins_nas.tuning.objective import Payload
from twins_nas.tuning.ray_runner import ray_pool
from twins_nas.tuning.runner import EvaluatorPool, LocalPool

EXPERIMENT, FOLDER, JOURNAL = "insight", "insight", "scores.journal"

Opened = tuple[RunFolder, SearchSpace, SearchRecipe, Settings]


@dataclass
class Instrument:
    """The supernets of one space and what they are asked; `ablations` None: those that are near.

    Raises:
        UserError: what the user can mend: weights, ablations, a data set, a device, a disk.
    """

    runs: Sequence[Opened]
    archs: int
    images: int
    seed: int
    local: bool
    ablations: Sequence[Path] | None = None
    near: Sequence[Path] = ()

    def run(self) -> Insight:
        """Scores what has no score yet, and reports."""
        tracker = Tracker(EXPERIMENT)
        found = self.findings()
        self.report(found, self.write(found), tracker)
        return found

    def findings(self) -> Insight:
        """Scores what has no score yet; gives what all scores show."""
        models = [self.supernet(pipeline) for pipeline in self.pipelines]
        counterparts, without = self.counterparts()
        plan = self.plan(counterparts)
        scores = [
            self.scored(pipeline, model, plan)
            for pipeline, model in zip(self.pipelines, models, strict=True)
        ]
        cost_of = self.pipelines[0].cost_of
        macs = {key: cost_of(arch).macs for key, arch in plan.archs.items()}
        about = (counterparts, without, self.seed)
        try:
            return insight(self.space, plan, scores, macs, *about)
        except ValueError as error:
            raise UserError(f"--archs {self.archs} is too few ({error}); ask for more.") from error

    @property
    def space(self) -> SearchSpace:
        """The space of all runs."""
        return self.runs[0][1]

    @cached_property
    def pipelines(self) -> list[Pipeline]:
        """The runs as a search has them: data, device, cost."""
        return [Pipeline(*one) for one in self.runs]

    def supernet(self, pipeline: Pipeline) -> Backbone:
        """The trained supernet of a run."""
        data, path = pipeline.data, pipeline.folder.weights
        weights, metadata = load_weights(path)
        if json.loads(metadata.get("identity", "[null]"))[0] != self.space.fingerprint:
            raise UserError(f"{path} is of another space than {pipeline.folder.space_file}.")
        recipe = pipeline.recipe.supernet
        model = supernet_of(self.space, data.in_chans, data.num_classes, recipe)
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise UserError(f"{path} does not fit its space and data: {error}") from error
        return model.to(pipeline.device)

    def counterparts(self) -> tuple[list[Counterpart], list[str]]:
        """What the supernets can be asked of stand-alone ablations, and what has no counterpart."""
        data = self.runs[0][2].data.name
        found: dict[str, Counterpart] = {}
        without: list[str] = []
        near = {path.resolve(): path for root in self.near[::-1] for path in root.glob("*/")}
        folders = self.ablations or sorted(path for path in near.values() if finished(path))
        for folder in folders:
            try:
                here = sought(folder, self.space, data)
                if self.ablations and not here.counterparts:
                    said = f"{folder} varies nothing that {self.space.name} searches"
                    raise UserError(f"{said}: {'; '.join(here.without)}.")
            except UserError as error:
                if self.ablations:
                    raise
                without.append(f"{folder.name} ({str(error).rstrip('.')})")
                continue
            without += here.without
            for one in here.counterparts:
                if one.ablation in found:
                    without.append(f"{folder} (another ablation has the same name)")
                found.setdefault(one.ablation, one)
        return list(found.values()), without

    def plan(self, counterparts: Sequence[Counterpart]) -> Plan:
        """The networks to score, the ablations' own ones too."""
        plan = draw(self.space, self.archs, self.seed, [one.dimension for one in counterparts])
        own: dict[str, ArchConfig] = {
            self.space.key(arch): arch for one in counterparts for arch in one.archs.values()
        }
        return replace(plan, archs={**plan.archs, **own})

    def scored(self, pipeline: Pipeline, model: Backbone, plan: Plan) -> dict[str, Hits]:
        """The scores of the plan in one supernet."""
        data = pipeline.data
        count = min(self.images, len(data.val))
        # Evenly over all of them: those of a folder lie class by class.
        images = data.val.subset(torch.arange(count) * len(data.val) // count)
        local = self.local
        payload = Payload.of(
            model,
            images,
            data.mean,
            data.std,
            str(pipeline.device) if local else pipeline.device.type,
            threads=0 if local else 1,
            recipe=pipeline.recipe.supernet,
        )
        path = pipeline.folder.path / FOLDER / JOURNAL
        context = f"{pipeline.images_and_weights(model)}, {count} of them scored"
        with Scores.opened(path, context) as scores:
            known = sum(key in scores.known for key in plan.archs)
            name = f"scoring in {pipeline.folder.path.name}"
            with phase(name, len(plan.archs), "network", known) as line:
                total, top = 0, 0.0

                def told(top1: float) -> None:
                    nonlocal total, top
                    total, top = total + 1, top + top1
                    line.advance(1, note=f"mean top-1 {top / total:.2f} %")

                if known < len(plan.archs):
                    with self._pool(pipeline, payload) as pool:
                        score_all(scores, plan.archs, pool, told)
            return {key: scores.known[key] for key in plan.archs}

    @contextmanager
    def _pool(self, pipeline: Pipeline, payload: Payload) -> Iterator[EvaluatorPool]:
        factory = scorer(payload)
        if self.local:
            yield LocalPool(factory)
        else:
            with ray_pool(factory, pipeline.resources(payload)) as pool:
                yield pool

    @property
    def folder(self) -> Path:
        """Where the report lies: in the folder of the first run."""
        return self.runs[0][0].path / FOLDER

    def write(self, found: Insight) -> list[str]:
        """Writes the report's files; gives their names."""
        first, folder = self.pipelines[0], self.folder
        about = About(
            title=f"What the supernet of {self.space.name} tells of its dimensions",
            command=command(),
            data=first.data.name,
            n_train=len(first.data.train),
            seeds=tuple(one.recipe.seed for one in self.pipelines),
            commit=git_commit(),
            machine=machine(),
            date=datetime.now().astimezone(),
            notes=(f"networks drawn with seed {self.seed}",),
        )
        drawn = figures(found)
        for name, figure in drawn.items():
            write_bytes(folder / f"{name}.png", as_png(figure))
        pictures = [f"{name}.png" for name in drawn]
        svgs = {name: as_svg(figure) for name, figure in drawn.items()}
        write_text(folder / "insight.md", markdown(found, about, pictures))
        write_text(folder / "insight.html", page(found, about, svgs))
        write_csv(folder / "insight.csv", found)
        return ["insight.md", "insight.html", "insight.csv", JOURNAL, *pictures]

    def report(self, found: Insight, files: Sequence[str], tracker: Tracker) -> None:
        """The tables on the console, and all of it in MLflow."""
        first, runs = self.pipelines[0], [one.folder.path.name for one in self.pipelines]
        params = {
            "runs": runs,
            "space": {"name": self.space.name, "fingerprint": self.space.fingerprint},
            "archs": self.archs,
            "images": found.images,
            "seed": self.seed,
            "data": first.data.name,
            "ablations": [one.counterpart.ablation for one in found.agreements],
        }
        tags = {"search_run": first.settings.mlflow_run} if first.settings.mlflow_run else {}
        with tracker.start(f"{runs[0]} insight", params, tags) as tracked:
            tracked.log(_metrics(found), 0)
            for name in files:
                tracked.artifact(self.folder / name)
            tracked.describe(f"{found.answer}\n\n```\n{plain(found)}\n```")
        print(f"\n{plain(found)}\n\n{scope(found)}.")
        for text in (*found.caveats, *notes(found)):
            print(text)
        print(f"\n{found.answer}\n\nThe report: {self.folder / 'insight.html'}")
        print(f"MLflow:     {tracker.store.look}", flush=True)


def _metrics(found: Insight) -> dict[str, float]:
    """The figures that MLflow compares."""
    made = {"top1_mean": found.top1, "macs_doubled_points": found.rate.points}
    for one in found.effects:
        name = f"{one.dimension}/{one.choice}"
        made |= {f"effect/{name}": one.raw.mean, f"adjusted/{name}": one.adjusted.mean}
    for share in found.variance.shares if found.variance else ():
        made[f"share/{found.dimensions[share.dimension].name}"] = share.percent
    return {name: value for name, value in made.items() if value == value}
