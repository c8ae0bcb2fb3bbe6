"""The runs of an ablation: which are to be done, where, and what became of those that died."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from twins_nas.ablation.results import AblationFolder, Run, RunResult, TestResult
from twins_nas.ablation.variants import Variant
from twins_nas.ablation.work import Place, Testing, Training
from twins_nas.ablation_recipe import RunsRecipe
from twins_nas.errors import UserError
from twins_nas.progress import duration, phase
from twins_nas.provenance import machine
from twins_nas.runs import Settings
from twins_nas.training.device import device_of
from twins_nas.tuning.jobs import Told, Work, run_jobs_local
from twins_nas.tuning.ray_cluster import RETRIES, Resources
from twins_nas.tuning.ray_jobs import run_jobs_ray

GIGA = 1e9
DIED = f"its process died {RETRIES + 1} times, perhaps for want of memory"


@dataclass
class Engine:
    """Does runs; `workers` None: in this process, one after the other.

    A result is in the folder before `on_result` is called with it, here and in no other process.
    """

    place: Place
    variants: tuple[Variant, ...]
    train_images: int
    workers: Resources | None
    on_result: Callable[[Run, RunResult], None] = lambda run, result: None
    _known: set[str] = field(default_factory=set)

    def runs(self, labels: Sequence[str], seeds: Sequence[int]) -> list[Run]:
        """The runs of some variants on some seeds, all of a seed before those of the next."""
        return [
            Run(number, variant, seed, self.place.identity(variant, seed))
            for seed in seeds
            for number, variant in enumerate(self.variants)
            if variant.label in labels
        ]

    def train(self, runs: Sequence[Run]) -> list[RunResult]:
        """The results of the runs; those that have none yet are done, or gone on with."""
        folder = self.place.folder
        by_name = {run.name: run for run in runs}
        steps = {run.name: self._steps(run) for run in runs}
        for run in runs:
            self._tell_known(run)
        left = [run.name for run in runs if folder.result(run) is None]
        done = sum(steps[name] for name in by_name if name not in left)
        began, before = time.monotonic(), folder.seconds()
        reached = dict.fromkeys(left, 0)
        finished = len(runs) - len(left)
        with phase("training", sum(steps.values()), "step", done) as line:

            def on_told(name: str, told: Told) -> None:
                nonlocal finished
                step = steps[name] if told.get("done") else min(told.get("step", 0), steps[name])
                forward = max(0, step - reached[name])
                reached[name] += forward
                if told.get("done"):
                    finished += 1
                    self._tell_known(by_name[name])
                    folder.write_seconds(before + time.monotonic() - began)
                line.advance(forward, note=f"{finished} of {len(runs)} runs done")

            died = self._lost(self._do(left, Training(self.place, by_name), on_told), by_name)
            again = [name for name in died if self._halve(by_name[name])]
            died = [name for name in died if name not in again]
            died += self._lost(self._do(again, Training(self.place, by_name), on_told), by_name)
            for name in died:
                self._give_up(by_name[name])
        folder.write_seconds(before + time.monotonic() - began)
        return [result for run in runs if (result := folder.result(run)) is not None]

    def test(self, runs: Sequence[Run]) -> dict[tuple[str, int], TestResult]:
        """The finished runs on the test images, by variant and seed; each network reads them once.

        To be called when no more networks are to be trained.

        Raises:
            UserError: processes died each time that they read them.
        """
        folder = self.place.folder
        finished = [
            run for run in runs if (found := folder.result(run)) and found.status == "finished"
        ]
        by_name = {run.name: run for run in finished}
        left = [run.name for run in finished if folder.test(run) is None]
        with phase("test images", len(finished), "network", len(finished) - len(left)) as line:

            def on_told(name: str, told: Told) -> None:
                if told.get("done"):
                    line.advance(1)

            died = self._do(left, Testing(self.place, by_name), on_told)
        if lost := [name for name in died if folder.test(by_name[name]) is None]:
            raise UserError(f"The test images of {', '.join(lost)}: {DIED}.")
        tests = {(run.variant.label, run.seed): folder.test(run) for run in finished}
        return {which: test for which, test in tests.items() if test is not None}

    def _do(
        self, names: Sequence[str], work: Work, on_told: Callable[[str, Told], None]
    ) -> list[str]:
        """Does jobs; gives those whose process died each time."""
        if not names:
            return []
        if self.workers is None:
            run_jobs_local(names, work, on_told)
            return []
        return run_jobs_ray(names, work, self.workers, on_told)

    def _lost(self, names: Sequence[str], runs: Mapping[str, Run]) -> list[str]:
        """Those that left no result: a process may die after it, before it tells of it."""
        for name in names:
            self._tell_known(runs[name])
        return [name for name in names if self.place.folder.result(runs[name]) is None]

    def _steps(self, run: Run) -> int:
        training = run.variant.training
        per_epoch = self.train_images // (training.batch_size * training.accumulate)
        return max(1, per_epoch * training.epochs)

    def _tell_known(self, run: Run) -> None:
        result = self.place.folder.result(run)
        if result is not None and run.name not in self._known:
            self._known.add(run.name)
            self.on_result(run, result)

    def _halve(self, run: Run) -> bool:
        """Has a run whose process died tried once more with half the batch, if that is possible."""
        if run.variant.training.batch_size % 2 or self.place.folder.retries(run):
            return False
        self.place.folder.add_retry(run, DIED)
        return True

    def _give_up(self, run: Run) -> None:
        about = (run.variant.label, run.seed, run.identity)
        retries = tuple(self.place.folder.retries(run))
        self.place.folder.write_result(run, RunResult(*about, "failed", DIED, retries))
        self._tell_known(run)


def place_of(folder: AblationFolder, recipe: RunsRecipe, settings: Settings) -> Place:
    """Where runs are done: on the device that was asked for, or on what there is.

    Raises:
        UserError: there is no such device, or the recipe gives a run no part of it.
    """
    share, local = recipe.resources.gpu, settings.local
    wanted = settings.device or ("cuda" if share and torch.cuda.is_available() else "cpu")
    device = device_of(wanted)
    if device.type == "cuda" and not share and not local:
        raise UserError(f"--device {wanted} needs a share of it: resources.gpu is 0.")
    # Workers may run in another folder, and see the GPU that is theirs as the first.
    whole = AblationFolder(folder.path.absolute())
    return Place(whole, recipe, settings, str(device) if local else device.type)


def spent(place: Place, results: Sequence[RunResult], at_once: int) -> str:
    """What runs took, in a sentence."""
    peak = max((result.peak_bytes for result in results), default=0)
    seconds = sum(result.seconds for result in results)
    return (
        f"{duration(place.folder.seconds())} of wall time for {len(results)} runs, {at_once} at"
        f" once ({duration(seconds)} of training steps; {peak / GIGA:.1f} GB at most a process),"
        f" {machine()}, device {place.device}"
    )


def workers(cpu: int, gpu: float, device: str, at_once: int | None) -> Resources:
    """How many runs go at once, and what each takes: what the machine holds, or what was asked."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    holds = max(1, (cores or 1) // cpu)
    share = gpu if device != "cpu" else 0.0
    if share:
        holds = max(1, min(holds, math.floor(torch.cuda.device_count() / share + 1e-9)))
    return Resources(at_once or holds, share, cpus=cpu)
