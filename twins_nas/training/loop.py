"""The training loop. A supernet and a single network go the same way.

The latter is a space with one member.
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from twins_nas.arch import ArchConfig
from twins_nas.data import ImageData, augment, batches, epoch_order, normalise
from twins_nas.errors import UserError
from twins_nas.evaluate import evaluate
from twins_nas.model.backbone import Backbone
from twins_nas.recipes import SupernetRecipe, TrainingRecipe
from twins_nas.training.average import average_of
from twins_nas.training.checkpoint import load_checkpoint, save_checkpoint
from twins_nas.training.gradients import gradients_of
from twins_nas.training.losses import DISTILL, hard_loss
from twins_nas.training.optimizer import learning_rate, optimizer_of
from twins_nas.training.policy import policy_of
from twins_nas.training.threads import ThreadChooser

LOG_EVERY = 10


@dataclass
class Progress:
    """What a step tells: `losses` of the teacher and of the others (mean).

    Images a second over the last steps.
    """

    step: int
    steps: int
    metrics: dict[str, float]


@dataclass
class Trainer:
    """Trains `model` in place over its space.

    Every random draw follows from `seed` and the step's number.

    With a `checkpoint` path the state is written there every `recipe.checkpoint_seconds` and when
    it is stopped, and a training that finds one there goes on from it, exactly.

    Raises:
        UserError: the checkpoint is damaged or another training's, a file cannot be written, the
        loss is no number, or a step takes more images than there are.
    """

    model: Backbone
    data: ImageData
    recipe: TrainingRecipe
    seed: int = 0
    checkpoint: Path | None = None
    on_progress: Callable[[Progress], None] = lambda progress: None
    history: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    step: int = 0

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device
        self.steps_per_epoch = len(self.data.train) // (
            self.recipe.batch_size * self.recipe.accumulate
        )
        if not self.steps_per_epoch:
            raise UserError(
                f"A step of {self.recipe.batch_size} x {self.recipe.accumulate} images (batch_size"
                f" x accumulate) is more than the {len(self.data.train)} that there are to train."
            )
        self.steps = self.steps_per_epoch * self.recipe.epochs
        self.optimizer = optimizer_of(self.model, self.recipe)
        self.policy = policy_of(self.model, self.recipe, self.seed, self.steps)
        self.gradients = gradients_of(self.model, self.recipe, self.seed)
        self.average = average_of(self.model, self.optimizer, self.recipe)
        supernet = self.recipe if isinstance(self.recipe, SupernetRecipe) else None
        self.drops_all = supernet is None or supernet.drop_path_for == "all"
        self.deep_supervision = supernet.deep_supervision if supernet else 0.0
        self._saved = time.monotonic()
        if self.checkpoint is not None and self.checkpoint.exists():
            self._restore(load_checkpoint(self.checkpoint, self.identity))

    @property
    def identity(self) -> str:
        """What a checkpoint must agree on: space, recipe, data and seed."""
        recipe = self.recipe.substance
        data = [self.data.name, len(self.data.train), self.data.input_size]
        return json.dumps([self.model.space.fingerprint, recipe, data, self.seed], sort_keys=True)

    @property
    def scored(self) -> Backbone:
        """The network with the weights that are scored: the last ones, or their average."""
        return self.model if self.average is None else self.average.model

    def run(self) -> list[tuple[int, dict[str, float]]]:
        """Trains to the end; gives the curves as (step, metrics).

        Ctrl-C ends the present step, writes a checkpoint and then raises KeyboardInterrupt; a
        second one raises at once.
        """
        self.model.train()
        with deferred_interrupt() as interrupted:
            self._loop(interrupted)
            self._save()
        return self.history

    def _loop(self, interrupted: threading.Event) -> None:
        minibatches = self._minibatches()
        window: list[dict[str, float]] = []
        threads = ThreadChooser(enabled=self.device.type == "cpu")
        started = time.monotonic()
        while self.step < self.steps and not interrupted.is_set():
            before = time.monotonic()
            window.append(self._one_step(minibatches))
            threads.took(time.monotonic() - before)
            self.step += 1
            ended = self.step % self.steps_per_epoch == 0 or self.step == self.steps
            if self.step % LOG_EVERY == 0 or ended:
                metrics = means(window)
                images = len(window) * self.recipe.batch_size * self.recipe.accumulate
                metrics["images_per_second"] = images / (time.monotonic() - started)
                if not math.isfinite(metrics["loss"]):
                    self._diverged()
                if ended:
                    metrics |= self._validate()
                self.history.append((self.step, metrics))
                self.on_progress(Progress(self.step, self.steps, metrics))
                window, started = [], time.monotonic()
                if time.monotonic() - self._saved > self.recipe.checkpoint_seconds:
                    self._save()

    def _one_step(self, minibatches: Iterator[tuple[Tensor, Tensor]]) -> dict[str, float]:
        rate = learning_rate(self.step, self.steps, self.recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        first = next(minibatches)
        archs = self.policy.draw(self.step, partial(self._present_loss, *first))
        teacher_loss, subnet_loss = torch.zeros(()), torch.zeros(())
        for pixels, labels in chain([first], islice(minibatches, self.recipe.accumulate - 1)):
            teacher: Tensor | None = None
            for place, arch in enumerate(archs):
                self.model.train(teacher is None or self.drops_all)
                with self._autocast():
                    *early, logits = self.model.forward_all(pixels, arch)
                loss = whole = self._loss(logits, labels, teacher)
                for other in early:
                    hard = hard_loss(other, labels, self.recipe.label_smoothing)
                    whole = whole + self.deep_supervision * hard
                torch.autograd.backward(whole / self.recipe.accumulate)
                self.gradients.keep(place)
                if teacher is None:
                    teacher, teacher_loss = logits.detach(), teacher_loss + loss.detach()
                else:
                    subnet_loss = subnet_loss + loss.detach()
        self.gradients.join(self.step)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        metrics = {
            "loss": float(teacher_loss) / self.recipe.accumulate,
            "lr": rate,
            "grad_norm": float(norm),
        }
        if len(archs) > 1:
            metrics["subnet_loss"] = float(subnet_loss) / self.recipe.accumulate / (len(archs) - 1)
        return metrics

    def _autocast(self) -> torch.autocast:
        kind = self.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda")

    @torch.no_grad()
    def _present_loss(self, pixels: Tensor, labels: Tensor, arch: ArchConfig) -> float:
        """The loss of a member on a minibatch with the present weights; draws nothing."""
        self.model.eval()
        with self._autocast():
            logits = self.model(pixels, arch)
        return float(hard_loss(logits, labels, 0.0))

    def _loss(self, logits: Tensor, labels: Tensor, teacher: Tensor | None) -> Tensor:
        if teacher is None or not isinstance(self.recipe, SupernetRecipe):
            return hard_loss(logits, labels, self.recipe.label_smoothing)
        if self.recipe.distill == "none":
            return hard_loss(logits, labels, self.recipe.label_smoothing)
        weight = self.recipe.distill_weight
        loss = weight * DISTILL[self.recipe.distill](logits, teacher)
        if weight < 1:
            loss = loss + (1 - weight) * hard_loss(logits, labels, self.recipe.label_smoothing)
        return loss

    def _minibatches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented, normalised minibatches from the present step on, without end."""
        per_epoch = self.steps_per_epoch * self.recipe.accumulate
        number = self.step * self.recipe.accumulate
        while True:
            epoch, start = divmod(number, per_epoch)
            order = epoch_order(len(self.data.train), self.seed, epoch)
            for pixels, labels in batches(self.data.train, self.recipe.batch_size, order, start):
                if number == (epoch + 1) * per_epoch:
                    break
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
                pixels = augment(
                    pixels.to(self.device),
                    generator,
                    pad=self.recipe.crop_padding,
                    flip=self.recipe.flip,
                )
                yield normalise(pixels, self.data.mean, self.data.std), labels.to(self.device)
                number += 1

    def _validate(self) -> dict[str, float]:
        space = self.model.space
        archs = {"largest_": space.extreme(+1), "smallest_": space.extreme(-1)}
        if not isinstance(self.recipe, SupernetRecipe):
            archs = {"": self.model.arch}
        found: dict[str, float] = {}
        for name, arch in archs.items():
            score = evaluate(self.scored, self.data.val, self.data.mean, self.data.std, arch)
            found |= {f"{name}val_top1": score.top1, f"{name}val_loss": score.loss}
        return found

    def _diverged(self) -> None:
        place = "supernet" if isinstance(self.recipe, SupernetRecipe) else "training"
        raise UserError(
            f"The training's loss is no number at step {self.step}; lower {place}.lr in the"
            f" recipe, or raise {place}.warmup."
        )

    def _save(self) -> None:
        self._saved = time.monotonic()
        if self.checkpoint is not None:
            save_checkpoint(self.checkpoint, self._state())

    def _state(self) -> dict[str, Any]:
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        return {
            "identity": self.identity,
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": cuda,
            "history": self.history,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)
        self.step = int(state["step"])
        self.history = [(int(step), dict(metrics)) for step, metrics in state["history"]]


def means(rows: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure, over the rows that have it."""
    columns = {name: [row[name] for row in rows if name in row] for row in rows for name in row}
    return {name: sum(values) / len(values) for name, values in columns.items()}


@contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """Within, the first Ctrl-C sets the event only.

    KeyboardInterrupt follows at the end. The main thread's alone.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def note(number: int, frame: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
    if event.is_set():
        raise KeyboardInterrupt
