"""The way of one search: images, supernet, search, test images, report.

Each step is durable when it is done, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from twins_nas.arch import ArchConfig
from twins_nas.cost import cost
from twins_nas.data import ImageData, load
from twins_nas.deployable import Target, notes_of
from twins_nas.errors import UserError
from twins_nas.evaluate import evaluate
from twins_nas.layer_cost import Cost
from twins_nas.model.backbone import Backbone, initialise
from twins_nas.model.separate import supernet_of
from twins_nas.model.transfer import from_timm_state, inherit
from twins_nas.prior import REFERENCE, Hint, Prior, hints_of, loss_deviation, reference
from twins_nas.progress import Line, phase
from twins_nas.provenance import command, git_commit, machine
from twins_nas.recipes import SearchRecipe
from twins_nas.report.files import write_archs, write_front_csv, write_scored_csv
from twins_nas.report.page import write_front_page
from twins_nas.report.plots import write_front_png
from twins_nas.report.rows import About, FrontRow, arch_params, on_front, row_metrics
from twins_nas.report.table import by_macs, plain_table, print_front
from twins_nas.runs import RunFolder, Settings
from twins_nas.space import SearchSpace
from twins_nas.space_yaml import dump_arch
from twins_nas.tracking import Run, Tracker
from twins_nas.training.calibrate import Calibration
from twins_nas.training.checkpoint import load_foreign, load_weights, save_weights
from twins_nas.training.device import device_of
from twins_nas.training.loop import Progress, Trainer
from twins_nas.tuning.objective import Payload, factory
from twins_nas.tuning.pareto import front, over_seeds, worst
from twins_nas.tuning.ray_cluster import Resources
from twins_nas.tuning.ray_runner import run_ray
from twins_nas.tuning.results import Scored
from twins_nas.tuning.runner import run_local
from twins_nas.tuning.spec import Budget, StudySpec
from twins_nas.tuning.study import Search, SearchStudy

EXPERIMENT = "search"


@dataclass
class Pipeline:
    """One run from images to report.

    Raises:
        UserError: what the user can mend: a data set, a device, a disk, a store.
    """

    folder: RunFolder
    space: SearchSpace
    recipe: SearchRecipe
    settings: Settings
    tuned: dict[ArchConfig, Backbone] = field(default_factory=dict, init=False)

    def run(self) -> list[FrontRow]:
        """Does what is not done yet; gives the front, and the named networks beside it."""
        tracker = Tracker(EXPERIMENT)
        name = self.folder.path.name
        with tracker.start(name, self.params, run_id=self.settings.mlflow_run) as run:
            self.folder.write_settings(dataclasses.replace(self.settings, mlflow_run=run.id))
            model = self.supernet(run)
            scored = self.search(model, run)
            rows = self.front(model, scored)
            self.report(rows, scored, run)
        print(f"\nThe run: {self.folder.path}\nMLflow:  {tracker.store.look}", flush=True)
        return rows

    @cached_property
    def data(self) -> ImageData:
        """The images, their test part unread."""
        if self.space.input_size[0] != self.space.input_size[1]:
            raise UserError(
                f"{self.space.name}: a search takes square images; give one input_size."
            )
        return load(
            self.recipe.data.name,
            root=Path(self.settings.data_root) if self.settings.data_root else None,
            input_size=self.space.input_size[0],
            download=self.settings.download,
            val_images=self.recipe.data.val_images,
            seed=self.recipe.seed,
        )

    @cached_property
    def device(self) -> torch.device:
        """Where it trains and scores."""
        return device_of(self.settings.device)

    def cost_of(self, arch: ArchConfig) -> Cost:
        """Parameters and MACs with this data set's channels and classes."""
        return cost(arch, self.space.input_size, self.data.in_chans, self.data.num_classes)

    @property
    def params(self) -> dict[str, Any]:
        """What MLflow shows of the run."""
        space = {
            "name": self.space.name,
            "fingerprint": self.space.fingerprint,
            "input_size": self.space.input_size,
            "members": f"{self.space.size():.3g}",
            "choices": len(self.space.choices),
            "base": self.space.base,
        }
        return {"recipe": self.recipe.model_dump(), "space": space, "device": str(self.device)}

    def supernet(self, run: Run) -> Backbone:
        """The trained supernet: read from the run's folder, or trained (on) and written there."""
        recipe, data = self.recipe.supernet, self.data
        model = supernet_of(self.space, data.in_chans, data.num_classes, recipe)
        initialise(model, self.recipe.seed, zero_peg=recipe.zero_peg)
        if recipe.init_from and not self.folder.weights.exists():
            self.start_from(Path(recipe.init_from), model)
        model.to(self.device)
        torch.manual_seed(self.recipe.seed)
        trainer = Trainer(model, data, recipe, self.recipe.seed, self.folder.checkpoint)
        for step, metrics in trainer.history:
            run.log(_curves(metrics), step)
        if self.folder.weights.exists():
            weights, metadata = load_weights(self.folder.weights)
            if metadata.get("identity") != trainer.identity:
                raise UserError(f"{self.folder.weights} belongs to another training; remove it.")
            model.load_state_dict(weights)
            return model
        with phase("supernet training", trainer.steps, "step", done=trainer.step) as line:
            trainer.on_progress = _Follow(run, line, trainer.step)
            trainer.run()
        save_weights(self.folder.weights, trainer.scored, {"identity": trainer.identity})
        return trainer.scored

    def start_from(self, path: Path, model: Backbone) -> None:
        """Puts timm's weights of the space's base into the supernet's slices of it."""
        state = load_foreign(path)
        base = from_timm_state(state, self.space.base, self.space.input_size, self.data.in_chans)
        inherit(model, base, head=base.num_classes == model.num_classes)

    def search(self, model: Backbone, run: Run) -> list[Scored]:
        """The scored networks of all search seeds; each is in its journal before it is told."""
        recipe, data = self.recipe, self.data
        budget = Budget(recipe.budget.max_macs, recipe.budget.max_params)
        sampler = recipe.sampler
        spec = StudySpec(recipe.trials, recipe.objectives, sampler.name, sampler.population, budget)
        search = Search(self.space, spec, self.cost_of, self.context(model))
        seeds = range(recipe.seed, recipe.seed + recipe.seeds)
        looks = [SearchStudy.look(self.folder.studies, search, seed) for seed in seeds]
        known = [row for look in looks if look is not None for row in look.scored]
        run.log_scored(known)
        payload = Payload.of(
            model,
            data.val,
            data.mean,
            data.std,
            self.scoring_device,
            threads=0 if self.settings.local else 1,
            calibration=self.calibration,
            recipe=recipe.supernet,
            prior=self.prior(model) if len(known) < recipe.trials * recipe.seeds else None,
        )
        with phase("search", recipe.trials * recipe.seeds, "trial", len(known)) as line:
            best = max((row.top1 for row in known), default=0.0)

            def told(row: Scored) -> None:
                nonlocal best
                best = max(best, row.top1)
                run.log_scored([row])
                line.advance(1, note=f"best val top-1 {best:.2f} %")

            arguments = (self.folder.studies, search, seeds, factory(payload))
            if self.settings.local:
                return run_local(*arguments, told)
            return run_ray(*arguments, self.resources(payload), told)

    @cached_property
    def calibration(self) -> Calibration | None:
        """What is done to a network before it is scored."""
        return Calibration.of(self.data, self.recipe.supernet, self.recipe.seed)

    @property
    def scoring_device(self) -> str:
        """Where a process scores networks; Ray says which of several GPUs is its own."""
        return str(self.device) if self.settings.local else self.device.type

    def prior(self, model: Backbone) -> Prior | None:
        """What moves the losses of members, where the recipe asks for it."""
        weights, data = self.recipe.supernet.hints, self.data
        if not weights:
            return None
        size, device = self.space.input_size, self.scoring_device
        deviation = loss_deviation("reference members", model, data, data.val)
        hints = []
        for name, of in hints_of(weights, size, data.in_chans, data.num_classes, device).items():
            values = []
            with phase(f"{name} of reference members", REFERENCE, "network") as line:
                for arch in reference(self.space):
                    values.append(of(arch))
                    line.advance(1)
            hints.append(Hint.measured(of, weights[name], values, deviation))
        return Prior(tuple(hints))

    def images_and_weights(self, model: Backbone) -> str:
        """What scores with inherited weights are of."""
        digest = hashlib.sha256()
        for value in model.state_dict().values():
            digest.update(value.cpu().numpy().tobytes())
        return f"{self.data.name}, {len(self.data.val)} images, weights {digest.hexdigest()[:16]}"

    def context(self, model: Backbone) -> str:
        """What the scores of the search are of: images, weights, and what is done to them."""
        said = self.images_and_weights(model)
        if self.calibration:
            said += f", {self.calibration.words}"
        words = {"Zen": "Zen-scores", "size": "size"}
        moved = [f"{words[key]}, weight {w:g}" for key, w in self.recipe.supernet.hints.items()]
        return f"{said}, adjusted by {' and '.join(moved)}" if moved else said

    def resources(self, payload: Payload) -> Resources:
        """Evaluators for Ray: one a core, or two that share the GPU, unless the recipe says."""
        cuda = self.device.type == "cuda"
        asked = self.recipe.evaluators
        cores = (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
        number = asked if isinstance(asked, int) else 2 if cuda else cores
        return Resources(number, 1 / number if cuda else 0.0, payload.bytes)

    def front(self, model: Backbone, scored: Sequence[Scored]) -> list[FrontRow]:
        """The validation front and the named networks, on the test images: their only reading."""
        found = front(scored, self.recipe.objectives)
        named = {row.key: row for row in reversed(scored) if row.name}
        chosen = {row.key: row for row in [*found, *named.values()]}
        kept = {row.key for row in found}
        seeds: dict[str, set[int]] = {}
        for row in scored:
            seeds.setdefault(row.key, set()).add(row.seed)
        test, rows = self.data.test(), []
        with phase("test images", len(chosen), "network") as line:
            for key, row in chosen.items():
                subject = model
                if self.calibration:
                    subject = self.tuned[row.arch] = self.calibration(model, row.arch)
                score = evaluate(subject, test, self.data.mean, self.data.std, row.arch)
                name = named[key].name if key in named else ""
                rows.append(
                    FrontRow(
                        arch=row.arch,
                        macs=row.macs,
                        params=row.params,
                        val_top1=row.top1,
                        n_val=row.n,
                        test_top1=score.top1,
                        n_test=score.n,
                        chosen=row.key in kept,
                        name=name,
                        seeds=tuple(sorted(seeds[key])),
                    )
                )
                line.advance(1)
        held = on_front([(row.macs, row.test_top1 or 0.0) for row in rows])
        return [
            dataclasses.replace(row, on_test_front=on) for row, on in zip(rows, held, strict=True)
        ]

    def report(self, rows: Sequence[FrontRow], scored: Sequence[Scored], run: Run) -> None:
        """The table on the console, and the files in the run's folder and in MLflow."""
        folder, title = self.folder.path, f"{self.space.name} on {self.data.name}"
        if "adjusted" in self.recipe.objectives:
            title += f", front by {self.recipe.supernet.adjusted_words}"
        about = About(
            title=title,
            command=command(),
            data=self.data.name,
            n_train=len(self.data.train),
            seeds=tuple(sorted({row.seed for row in scored})),
            commit=git_commit(),
            machine=machine(),
            date=datetime.now().astimezone(),
            notes=(*self.chosen_by(), *self.spread(scored)),
        )
        size = self.space.input_size
        write_front_csv(folder / "front.csv", rows, self.space.key)
        write_scored_csv(folder / "scored.csv", scored, self.space.key)
        write_front_png(folder / "front.png", rows, scored, title)
        write_front_page(folder / "front.html", rows, scored, about)
        paths = write_archs(folder / "archs", rows, lambda arch: dump_arch(arch, size))
        for path, row in zip(paths, by_macs(rows), strict=True):
            if row.arch in self.tuned:
                said = f"from the supernet of {folder.name}, tuned by its recipe"
                notes = notes_of(Target(path.stem, row.arch, size), said)
                save_weights(path.with_suffix(".safetensors"), self.tuned[row.arch], notes)
        for name in ("front.csv", "scored.csv", "front.png", "front.html", "archs"):
            run.artifact(folder / name, "archs" if name == "archs" else "")
        for file in (self.folder.space_file, self.folder.recipe_file, self.folder.weights):
            run.artifact(file)
        for number, row in enumerate(by_macs(rows)):
            name = row.name or f"front {number:02d}"
            run.child(
                name,
                arch_params(row.arch),
                row_metrics(row),
                {"on_test_front": str(row.on_test_front)},
            )
        run.describe(f"```\n{plain_table(rows)}\n```")
        print()
        print_front(rows)
        for note in about.notes:
            print(note)

    def chosen_by(self) -> tuple[str, ...]:
        """What put networks on the front, in a sentence, where accuracies alone do not tell."""
        if "adjusted" not in self.recipe.objectives:
            return ()
        hints = self.recipe.supernet.hints
        weights = ", ".join(f"{name.lower()}_weight {hints[name]:g}" for name in hints)
        return (
            f"The front was chosen by {self.recipe.supernet.adjusted_words}: what sharing hides"
            f" is how a network learns by itself ({weights}; docs/supernet.md). So its members may"
            " have lower inherited accuracies than others of equal cost; python -m"
            " twins_nas.retrain trains them alone.",
        )

    def spread(self, scored: Sequence[Scored]) -> tuple[str, ...]:
        """How much the searches of several seeds differ, in a sentence; none for one seed."""
        if self.recipe.seeds < 2:
            return ()
        objectives = self.recipe.objectives
        reference = worst((row for row in scored if row.name), objectives)
        sizes, spread = over_seeds(scored, objectives, reference)
        each = ", ".join(f"{seed}: {size:.2f}" for seed, size in sizes.items())
        return (
            f"Hypervolume of {' and '.join(objectives)} by search seed, in % of the box below the"
            f" worst named network: {each}; mean {spread.mean:.2f}, sd {spread.sd:.2f}"
            f" (n = {spread.n}, one supernet).",
        )


@dataclass
class _Follow:
    """Passes a training's progress on to the line and to MLflow."""

    run: Run
    line: Line
    step: int

    def __call__(self, progress: Progress) -> None:
        note = f"loss {progress.metrics['loss']:.3f}"
        if "largest_val_top1" in progress.metrics:
            note += f", val top-1 {progress.metrics['smallest_val_top1']:.1f}"
            note += f" (smallest) {progress.metrics['largest_val_top1']:.1f} % (largest)"
        self.line.advance(progress.step - self.step, note=note)
        self.step = progress.step
        self.run.log(_curves(progress.metrics), progress.step)


def _curves(metrics: dict[str, float]) -> dict[str, float]:
    return {f"supernet/{name}": value for name, value in metrics.items()}
