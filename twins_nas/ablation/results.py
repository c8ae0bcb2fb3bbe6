"""What an ablation leaves in its folder: one file a finished run, whole or absent."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from twins_nas.ablation.variants import Variant
from twins_nas.errors import UserError
from twins_nas.files import told, write_text
from twins_nas.runs import Folder

Status = Literal["finished", "stopped", "failed"]
Curve = tuple[tuple[int, dict[str, float]], ...]


@dataclass(frozen=True)
class RunResult:
    """One training: a variant on a seed.

    `reason` says why it was stopped or failed, or whence it was taken; `retries` why it was tried
    again with a halved batch and twice the accumulation. `seconds` are those of its training steps,
    whatever was killed between; `curve` its metrics by step. Accuracies in percent, losses in nats;
    `more` are further figures by name.
    """

    label: str
    seed: int
    identity: str
    status: Status
    reason: str = ""
    retries: tuple[str, ...] = ()
    batch_size: int = 0
    accumulate: int = 1
    val_top1: float | None = None
    val_loss: float | None = None
    n_val: int = 0
    epochs: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0
    curve: Curve = ()
    more: dict[str, float] = field(default_factory=dict)

    def value(self, metric: str) -> float | None:
        """A figure by its name; None where the training came to none."""
        found: float | None = self.more.get(metric, getattr(self, metric, None))
        return found

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The result that went through JSON."""
        curve = tuple((int(step), dict(metrics)) for step, metrics in values["curve"])
        return cls(**{**values, "retries": tuple(values["retries"]), "curve": curve})


@dataclass(frozen=True)
class TestResult:
    """What a trained network scores on the test images."""

    __test__: ClassVar[bool] = False  # no test of pytest's

    test_top1: float
    test_loss: float
    n_test: int


@dataclass(frozen=True)
class Run:
    """A variant on a seed, before it has run; `number` counts the variants of the recipe."""

    number: int
    variant: Variant
    seed: int
    identity: str

    @property
    def name(self) -> str:
        """The name of its files."""
        word = re.sub(r"[^a-z0-9]+", "-", self.variant.label.lower()).strip("-")[:60]
        return f"{self.number:02d}-{word}-seed{self.seed}"


@dataclass(frozen=True)
class AblationFolder(Folder):
    """The folder of an ablation."""

    KIND: ClassVar[str] = "ablation"
    MARK: ClassVar[str] = "experiment.yaml"

    @property
    def recipe_file(self) -> Path:
        """The recipe, with what the command line changed."""
        return self.path / self.MARK

    def work(self, run: Run) -> Path:
        """Where a run keeps what it needs while it goes on."""
        return self.path / "work" / run.name

    def checkpoint(self, run: Run) -> Path:
        """The state of a run's training."""
        return self.work(run) / "checkpoint.pt"

    def weights(self, run: Run) -> Path:
        """The trained network, until the test images were read."""
        return self.work(run) / "weights.safetensors"

    def retries(self, run: Run) -> list[str]:
        """Why a run was to be tried again with a halved batch, one entry each time."""
        found = _read(self.work(run) / "retries.json")
        return list(found["reasons"]) if found else []

    def add_retry(self, run: Run, reason: str) -> None:
        """Has a run tried again with a halved batch, from its start."""
        reasons = [*self.retries(run), reason]
        self.checkpoint(run).unlink(missing_ok=True)
        write_text(self.work(run) / "retries.json", json.dumps({"reasons": reasons}) + "\n")

    def result(self, run: Run) -> RunResult | None:
        """What a run came to; None: it is not finished.

        Raises:
            UserError: the file is damaged, or of another recipe.
        """
        path = self._result(run)
        found = _read(path)
        if found is None:
            return None
        try:
            result = RunResult.from_dict(found)
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(path, error) from error
        if result.identity != run.identity:
            raise UserError(
                f"{path} is of another recipe than {self.recipe_file}; give another --name."
            )
        return result

    def write_result(self, run: Run, result: RunResult) -> None:
        """Keeps what a run came to, for good."""
        write_text(self._result(run), json.dumps(asdict(result)) + "\n")
        self.checkpoint(run).unlink(missing_ok=True)

    def forget(self, run: Run) -> None:
        """Has a run done again."""
        for path in (self._result(run), self.work(run) / "retries.json"):
            path.unlink(missing_ok=True)

    def test(self, run: Run) -> TestResult | None:
        """What a run's network scored on the test images; None: they were not read for it."""
        path = self._test(run)
        found = _read(path)
        try:
            return TestResult(**found) if found else None
        except TypeError as error:
            raise _damaged(path, error) from error

    def write_test(self, run: Run, result: TestResult) -> None:
        """Keeps a test score, for good; the weights have done their service."""
        write_text(self._test(run), json.dumps(asdict(result)) + "\n")
        self.weights(run).unlink(missing_ok=True)

    def seconds(self) -> float:
        """The wall time of all sessions so far, up to their last finished run."""
        found = _read(self._clock)
        return float(found["seconds"]) if found else 0.0

    def write_seconds(self, seconds: float) -> None:
        """Keeps the wall time."""
        write_text(self._clock, json.dumps({"seconds": round(seconds, 1)}) + "\n")

    @property
    def _clock(self) -> Path:
        return self.path / "clock.json"

    def _result(self, run: Run) -> Path:
        return self.path / "results" / f"{run.name}.json"

    def _test(self, run: Run) -> Path:
        return self.path / "tests" / f"{run.name}.json"


def values_of(
    results: Sequence[RunResult], tests: Mapping[tuple[str, int], TestResult], metric: str
) -> dict[str, dict[int, float]]:
    """A metric of the finished runs by variant and seed; stopped and failed ones have none."""
    found: dict[str, dict[int, float]] = {}
    for result in results:
        value = result.value(metric)
        if metric.startswith("test"):
            value = getattr(tests.get((result.label, result.seed)), metric, None)
        if result.status == "finished" and value is not None:
            found.setdefault(result.label, {})[result.seed] = value
    return found


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        with told(path):
            values = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(values, dict)
    except (ValueError, AssertionError) as error:
        if isinstance(error, UserError):
            raise
        raise _damaged(path, error) from error
    return values


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is damaged ({error}); remove it to have that run done again.")
