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
from twins_nas.training.checkpoint import load_checkpoint, save_checkpoint
from twins_nas.training.losses import hard_loss, soft_loss
from twins_nas.training.policy import sandwich
from twins_nas.training.threads import ThreadChooser

NO_DECAY = ("table", "cpe")
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
        UserError: the checkpoint is damaged or another training's, a file cannot be written, or
        the loss is no number.
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
        self.steps = max(1, self.steps_per_epoch * self.recipe.epochs)
        self.optimizer = optimizer_of(self.model, self.recipe)
        self._saved = time.monotonic()
        if self.checkpoint is not None and self.checkpoint.exists():
            self._restore(load_checkpoint(self.checkpoint, self.identity))

    @property
    def identity(self) -> str:
        """What a checkpoint must agree on: space, recipe, data and seed."""
        recipe = self.recipe.model_dump(exclude={"checkpoint_seconds"})
        data = [self.data.name, len(self.data.train), self.data.input_size]
        return json.dumps([self.model.space.fingerprint, recipe, data, self.seed], sort_keys=True)

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
                metrics = {
                    name: sum(row[name] for row in window) / len(window) for name in window[-1]
                }
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
        archs = self._archs()
        teacher_loss, subnet_loss = torch.zeros(()), torch.zeros(())
        for _ in range(self.recipe.accumulate):
            pixels, labels = next(minibatches)
            teacher: Tensor | None = None
            for arch in archs:
                with torch.autocast(
                    self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"
                ):
                    logits = self.model(pixels, arch)
                loss = self._loss(logits, labels, teacher)
                torch.autograd.backward(loss / self.recipe.accumulate)
                if teacher is None:
                    teacher, teacher_loss = logits.detach(), teacher_loss + loss.detach()
                else:
                    subnet_loss = subnet_loss + loss.detach()
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

    def _archs(self) -> list[ArchConfig]:
        """What this step trains, the teacher of the others first; a single network alone."""
        if not isinstance(self.recipe, SupernetRecipe):
            assert not self.model.space.choices
            return [self.model.arch]
        return sandwich(self.model.space, self.recipe.random_subnets, self.seed, self.step)

    def _loss(self, logits: Tensor, labels: Tensor, teacher: Tensor | None) -> Tensor:
        if teacher is None or not isinstance(self.recipe, SupernetRecipe):
            return hard_loss(logits, labels, self.recipe.label_smoothing)
        if self.recipe.distill == "none":
            return hard_loss(logits, labels, self.recipe.label_smoothing)
        weight = self.recipe.distill_weight
        loss = weight * soft_loss(logits, teacher)
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
            score = evaluate(self.model, self.data.val, self.data.mean, self.data.std, arch)
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
            "rng": torch.get_rng_state(),
            "cuda_rng": cuda,
            "history": self.history,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)
        self.step = int(state["step"])
        self.history = [(int(step), dict(metrics)) for step, metrics in state["history"]]


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


def learning_rate(step: int, steps: int, recipe: TrainingRecipe) -> float:
    """Linear warm-up to `recipe.lr`, then a cosine to 1 % of it."""
    warm = max(1, round(recipe.warmup * steps))
    if step < warm:
        return recipe.lr * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return recipe.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def optimizer_of(model: nn.Module, recipe: TrainingRecipe) -> torch.optim.AdamW:
    """AdamW; biases, norms, position tables and PEGs are not decayed, as in the papers' code."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        spared = parameter.ndim < 2 or any(part in name.split(".") for part in NO_DECAY)
        (free if spared else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=True)
