"""What a process does for a run: train its network alone, and later score it on the test images.

Runs of one seed are paired: their networks start from the same weights where names and shapes
agree, and see the same images in the same order, with the same augmentation, validated on the same
split. What differs between them is what the recipe varies, and nothing else; a stochastic depth
draws for the blocks that there are, so it is paired between networks of equal depth only.
"""

from __future__ import annotations

import hashlib
import json
import math
import resource
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from twins_nas.ablation.asha import Rungs
from twins_nas.ablation.results import AblationFolder, Run, RunResult, Status, TestResult
from twins_nas.ablation.variants import Variant
from twins_nas.ablation_recipe import RunsRecipe
from twins_nas.data import ImageData, load
from twins_nas.errors import UserError
from twins_nas.evaluate import evaluate
from twins_nas.files import locked
from twins_nas.model.backbone import Backbone, build, initialise
from twins_nas.recipes import TrainingRecipe
from twins_nas.runs import Settings
from twins_nas.training.checkpoint import load_weights, save_weights
from twins_nas.training.loop import Progress, Trainer
from twins_nas.tuning.jobs import Tell

BUSY = "{}: another process is at this run; wait for it or stop it."


class _StoppedError(Exception):
    """A run is behind, and ends here."""


@dataclass(frozen=True)
class Place:
    """Where runs are done, and with what."""

    folder: AblationFolder
    recipe: RunsRecipe
    settings: Settings
    device: str

    def identity(self, variant: Variant, seed: int) -> str:
        """What a result must agree on: network, training, images, seed."""
        recipe = self.recipe
        parts = [
            asdict(variant.arch),
            variant.training.substance,
            recipe.data.model_dump(),
            recipe.input_size,
            recipe.asha.model_dump() if recipe.asha else None,
            seed,
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def data(self, seed: int) -> ImageData:
        """The images, parted by the seed; all variants of a seed have the same parts."""
        root = self.settings.data_root
        return load(
            self.recipe.data.name,
            root=Path(root) if root else None,
            input_size=self.recipe.input_size,
            download=self.settings.download,
            val_images=self.recipe.data.val_images,
            seed=seed,
        )

    def network(self, run: Run, data: ImageData) -> Backbone:
        """The network of a run with its first weights."""
        size, drop_path = (data.input_size,) * 2, run.variant.training.drop_path
        model = build(run.variant.arch, size, data.in_chans, data.num_classes, drop_path)
        initialise(model, run.seed, by_name=True, zero_peg=run.variant.training.zero_peg)
        return model.to(self.device)

    def outcome(self, trainer: Trainer) -> dict[str, float]:
        """What a finished training is judged by, `val_top1` and `val_loss` among it."""
        last = trainer.history[-1][1]
        return {name: last[name] for name in ("val_top1", "val_loss")}

    def rungs(self, run: Run) -> Rungs | None:
        """Where runs of the same base are stopped that are behind."""
        if self.recipe.asha is None:
            return None
        folder = self.folder.path / "rungs" / (run.variant.group or "all")
        return Rungs(folder, self.recipe.asha, run.variant.training.epochs)

    @contextmanager
    def threads(self) -> Iterator[None]:
        """Torch on the cores of one run: sums of floats depend on their number."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.recipe.resources.cpu)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@dataclass(frozen=True)
class Training:
    """Trains the network of a run; its result is in the folder when it returns."""

    place: Place
    runs: Mapping[str, Run]

    def __call__(self, job: str, tell: Tell) -> None:
        """Trains, or goes on from the checkpoint."""
        run, folder = self.runs[job], self.place.folder
        with locked(folder.work(run), BUSY.format(job)), self.place.threads():
            if folder.result(run) is None:
                folder.write_result(run, self._result(run, tell))

    def _result(self, run: Run, tell: Tell) -> RunResult:
        """The run's result; out of memory, it is tried again with the batch halved."""
        folder = self.place.folder
        while True:
            retries = tuple(folder.retries(run))
            recipe = halved(run.variant.training, len(retries))
            try:
                return self._train(run, recipe, retries, tell)
            except Exception as error:
                if isinstance(error, UserError) and isinstance(error.__cause__, OSError):
                    raise  # a full disk fails every run
                reason = reason_of(error)
                if not out_of_memory(error) or recipe.batch_size % 2:
                    about = (run.variant.label, run.seed, run.identity)
                    sizes = (recipe.batch_size, recipe.accumulate)
                    return RunResult(*about, "failed", reason, retries, *sizes)
                folder.add_retry(run, reason)
            if self.place.device != "cpu":
                torch.cuda.empty_cache()

    def _train(
        self, run: Run, recipe: TrainingRecipe, retries: tuple[str, ...], tell: Tell
    ) -> RunResult:
        place = self.place
        data = place.data(run.seed)
        model = place.network(run, data)
        torch.manual_seed(run.seed)
        trainer = Trainer(model, data, recipe, run.seed, place.folder.checkpoint(run))
        rungs = place.rungs(run)

        def on_progress(progress: Progress) -> None:
            tell({"step": progress.step, "steps": progress.steps})
            epoch, within = divmod(progress.step, trainer.steps_per_epoch)
            if rungs and not within and not rungs.goes_on(run.name, epoch, _val_top1(progress)):
                raise _StoppedError(f"behind after {epoch} of {recipe.epochs} epochs")

        trainer.on_progress = on_progress
        status: Status = "finished"
        reason = ""
        try:
            trainer.run()
            save_weights(place.folder.weights(run), trainer.scored, {"identity": run.identity})
        except _StoppedError as stop:
            status, reason = "stopped", str(stop)
        found = place.outcome(trainer)
        if not math.isfinite(found["val_loss"]):
            status, reason = "failed", "its validation loss is no number"
        return RunResult(
            label=run.variant.label,
            seed=run.seed,
            identity=run.identity,
            status=status,
            reason=reason,
            retries=retries,
            batch_size=recipe.batch_size,
            accumulate=recipe.accumulate,
            val_top1=found.pop("val_top1"),
            val_loss=found.pop("val_loss"),
            n_val=len(data.val),
            epochs=trainer.history[-1][0] // trainer.steps_per_epoch,
            seconds=_seconds(trainer),
            peak_bytes=_peak_bytes(place.device),
            curve=tuple(trainer.history),
            more=found,
        )


@dataclass(frozen=True)
class Testing:
    """Scores the trained network of a run on the test images; the score is in the folder then."""

    place: Place
    runs: Mapping[str, Run]

    def __call__(self, job: str, tell: Tell) -> None:
        """Reads the test images for one run."""
        run, folder = self.runs[job], self.place.folder
        with locked(folder.work(run), BUSY.format(job)), self.place.threads():
            if folder.test(run) is not None:
                return
            data = self.place.data(run.seed)
            model = self.place.network(run, data)
            weights, metadata = load_weights(folder.weights(run))
            if metadata.get("identity") != run.identity:
                raise UserError(f"{folder.weights(run)} belongs to another run; remove its folder.")
            model.load_state_dict(weights)
            score = evaluate(model, data.test(), data.mean, data.std)
            folder.write_test(run, TestResult(score.top1, score.loss, score.n))


def halved(recipe: TrainingRecipe, times: int) -> TrainingRecipe:
    """The same training with the batch halved so often, and as many more batches to a step."""
    sizes = {"batch_size": recipe.batch_size >> times, "accumulate": recipe.accumulate << times}
    return recipe.model_copy(update=sizes)


def out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch may mend it."""
    said = str(error).lower()
    short = "out of memory" in said or "can't allocate memory" in said
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and short)


def reason_of(error: BaseException) -> str:
    """An error in a line: a sentence for the user as it is, others with their kind."""
    first = (str(error).strip().splitlines() or [""])[0]
    return first if isinstance(error, UserError) else f"{type(error).__name__}: {first}"


def _val_top1(progress: Progress) -> float:
    return progress.metrics["val_top1"]


def _seconds(trainer: Trainer) -> float:
    """The time of all steps, those before a kill too, from the speed that the curve tells."""
    total, before = 0.0, 0
    images = trainer.recipe.batch_size * trainer.recipe.accumulate
    for step, metrics in trainer.history:
        total += (step - before) * images / metrics["images_per_second"]
        before = step
    return round(total, 2)


def _peak_bytes(device: str) -> int:
    """The most memory that this process has had: the GPU's where it trains there."""
    if device != "cpu":
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
