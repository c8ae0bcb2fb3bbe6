"""MLflow, and the only file that imports it; the import comes when a `Tracker` connects.

MLflow is a view of a run, never its record: the files that the caller writes are. So a store that
cannot be used when a run starts is the user's fault, in one sentence; a store that fails later is a
warning, what it lacks is kept and tried again, and training goes on.

There is one writer, the driver. Nothing is logged asynchronously, which was measured 11 to 40 times
slower than chunks; points are buffered here and leave every few seconds.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

from twins_nas.errors import UserError
from twins_nas.provenance import NO_COMMIT, command, git_commit, machine
from twins_nas.store import Store, clean_key, cut, flatten, reason_of

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
}
CHUNK, PARAM_CHUNK = 1000, 100
FLUSH_SECONDS, FIRST_WAIT, LAST_WAIT = 5.0, 10.0, 300.0
KIND = {"mlflow.experimentKind": "custom_model_development"}
PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"

Warn = Callable[[str], None]


class ScoredLike(Protocol):
    """What the curves of a search need to know of one scored architecture."""

    @property
    def number(self) -> int:
        """Counts the architectures that one search scored."""

    @property
    def seed(self) -> int:
        """Of the search."""

    @property
    def macs(self) -> int:
        """Of one image."""

    @property
    def params(self) -> int:
        """All of them, the classifier's too."""

    @property
    def top1(self) -> float:
        """In percent."""

    @property
    def loss(self) -> float:
        """In nats."""

    @property
    def adjusted(self) -> float:
        """The loss as a prior moves it; the loss itself without one."""


class _Point(NamedTuple):
    """One value of one curve, in the order of the fields of MLflow's `Metric`."""

    key: str
    value: float
    timestamp: int
    step: int


@dataclass
class _Child:
    """A run below a run: what tells it from another of the same name, and whether it is whole."""

    id: str
    params: dict[str, str]
    whole: bool


class Tracker:
    """One experiment of one MLflow store, made where it lacks; see `Store.of` for which store.

    Raises:
        UserError: the store cannot be written now.
    """

    def __init__(
        self,
        experiment: str,
        uri: str | None = None,
        folder: Path | None = None,
        warn: Warn | None = None,
    ) -> None:
        self.store = Store.of(uri, folder)
        self.warn = warn or _to_stderr
        self.commit = git_commit()
        self.store.probe()
        try:
            with self.store.locked():
                self.client = _client(self.store.uri)
                self.experiment_id = self._experiment(experiment)
        except Exception as error:
            raise self._refusal(error) from error

    def start(
        self,
        name: str,
        params: Mapping[str, object],
        tags: Mapping[str, str] | None = None,
        run_id: str | None = None,
    ) -> Run:
        """Starts a run, or goes on with the one of `run_id`; a store that lost it gets a new one.

        The caller keeps `Run.id` in a file. The params gain `git_commit` and `machine`.

        Raises:
            UserError: the store fails.
        """
        try:
            run = self._resume(run_id) if run_id else None
            if run_id and not run:
                self.warn(f"MLflow has no run {run_id} at {self.store}; a new one is written.")
            if not run:
                run = Run(self, self.create(name), {}, resumed=False)
            run.write_params({"git_commit": self.commit, "machine": machine(), **params})
            run.write_tags(tags or {})
        except Exception as error:
            raise self._refusal(error) from error
        return run

    def create(self, name: str, parent: str = "") -> str:
        """Makes a bare run, below that of the id `parent` if given; returns its id."""
        tags = {"mlflow.source.name": command(), "mlflow.source.type": "LOCAL"}
        if self.commit != NO_COMMIT:
            tags["mlflow.source.git.commit"] = self.commit.removesuffix("-dirty")
        if parent:
            tags[PARENT] = parent
        return str(self.client.create_run(self.experiment_id, run_name=name, tags=tags).info.run_id)

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found and found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        if found:
            return str(found.experiment_id)
        artifacts = self.store.artifacts
        return str(self.client.create_experiment(name, artifact_location=artifacts, tags=KIND))

    def _resume(self, run_id: str) -> Run | None:
        from mlflow.exceptions import MlflowException

        try:
            found = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        if found.info.lifecycle_stage == "deleted":
            return None
        self.client.update_run(run_id, status="RUNNING")
        return Run(self, run_id, dict(found.data.params), resumed=True)

    def _refusal(self, error: Exception) -> UserError:
        if isinstance(error, UserError):
            return error
        return UserError(f"MLflow cannot use {self.store}: {reason_of(error)}.")


class Run:
    """A run that is being written; as a context manager it ends FINISHED, FAILED or KILLED."""

    def __init__(
        self, tracker: Tracker, run_id: str, params: dict[str, str], resumed: bool
    ) -> None:
        self.id = run_id
        self._tracker, self._client = tracker, tracker.client
        self._params, self._resumed = params, resumed
        self._points: list[_Point] = []
        self._jobs: list[Callable[[], None]] = []
        self._sent: dict[str, set[int]] = {}
        self._children: dict[str, _Child] | None = None if resumed else {}
        self._not_finite: dict[str, list[int]] = {}
        self._due = time.monotonic() + FLUSH_SECONDS
        self._wait = 0.0
        self._warned = self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        if error is None:
            self.close()
        elif isinstance(error, Exception):
            self.close("FAILED", reason_of(error))
        else:
            self.close("KILLED", type(error).__name__)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Adds a point to each curve; a step that a curve has already is left as it is.

        NaN and infinities are left out, since one of them ruins a chart; the tag `not_finite` says
        where.
        """
        now = int(time.time() * 1000)
        for name, value in values.items():
            if math.isfinite(value):
                self._points.append(_Point(clean_key(name), float(value), now, step))
            else:
                self._left_out(name, step)
        if time.monotonic() >= self._due or (len(self._points) >= CHUNK and not self._wait):
            self.flush()

    def log_scored(self, rows: Iterable[ScoredLike]) -> None:
        """Adds scored architectures, at their number, to the curves of their search seed."""
        for row in rows:
            curve = f"search_seed{row.seed}"
            values = {f"{curve}/top1": row.top1, f"{curve}/loss": row.loss}
            values |= {f"{curve}/macs": row.macs, f"{curve}/params": row.params}
            if math.isfinite(row.adjusted) and row.adjusted != row.loss:
                values[f"{curve}/adjusted"] = row.adjusted
            self.log(values, row.number)

    def tag(self, tags: Mapping[str, str]) -> None:
        """Sets tags."""
        self._do(lambda: self.write_tags(tags))

    def describe(self, markdown: str) -> None:
        """Sets the text that MLflow's page of the run opens with."""
        self.tag({NOTE: markdown})

    def artifact(self, path: Path, folder: str = "") -> None:
        """Copies a file, or the files of a folder, to the run's artifacts."""
        assert path.exists(), path
        send = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
        self._do(lambda: send(self.id, str(path), folder or None))

    def child(
        self,
        name: str,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        tags: Mapping[str, str] | None = None,
        curves: Iterable[tuple[int, Mapping[str, float]]] = (),
    ) -> None:
        """Adds a finished run below this one; one of the same name and params is left as it is.

        `curves` are further metrics by step.
        """
        now = int(time.time() * 1000)
        points = [
            _Point(clean_key(key), float(value), now, step)
            for step, values in ((0, metrics), *curves)
            for key, value in values.items()
            if math.isfinite(value)
        ]
        self._do(lambda: self._write_child(name, params, points, tags or {}))

    def add_to_child(self, name: str, metrics: Mapping[str, float]) -> None:
        """Adds metrics to a run that `child` has made."""
        self._do(lambda: self._write_to_child(name, metrics))

    def flush(self) -> bool:
        """Sends what is buffered; False where something is left for a later try."""
        try:
            if self._points or self._jobs:
                self._tracker.store.probe()
            self._send_points()
            self._send_jobs()
        except Exception as error:
            self._wait = min(max(2 * self._wait, FIRST_WAIT), LAST_WAIT)
            self._due = time.monotonic() + self._wait
            if not self._warned:
                self._warned = True
                kept = "what it lacks is kept and tried again, and the run goes on."
                self._tracker.warn(f"MLflow could not be written ({reason_of(error)}); {kept}")
            return False
        self._wait, self._due = 0.0, time.monotonic() + FLUSH_SECONDS
        return True

    def close(self, status: str = "FINISHED", why: str = "") -> None:
        """Sends what is left and ends the run; only the first call counts."""
        if self._closed:
            return
        self._closed = True
        if why:
            self._jobs.append(lambda: self.write_tags({"error": why}))
        if self._not_finite:
            left_out = self._not_finite.items()
            note = "; ".join(f"{key}: {len(steps)} from step {steps[0]}" for key, steps in left_out)
            self._jobs.append(lambda: self.write_tags({"not_finite": note}))
        self._jobs.append(lambda: self._client.set_terminated(self.id, status))
        if not self.flush():
            self._tracker.warn(
                f"MLflow's run {self.id} lacks {len(self._points)} points and {len(self._jobs)}"
                " other entries; the files of the run are complete."
            )

    def write_params(self, params: Mapping[str, object]) -> None:
        """Writes params at once; MLflow never changes one, so another value becomes a tag."""
        from mlflow.entities import Param

        text = {clean_key(key): cut(value) for key, value in flatten(params).items()}
        fresh = [Param(key, value) for key, value in text.items() if key not in self._params]
        for start in range(0, len(fresh), PARAM_CHUNK):
            chunk = fresh[start : start + PARAM_CHUNK]
            self._client.log_batch(self.id, params=chunk, synchronous=True)
        self._params |= {param.key: param.value for param in fresh}
        changed = {key: value for key, value in text.items() if self._params[key] != value}
        self.write_tags({f"changed.{key}": value for key, value in changed.items()})

    def write_tags(self, tags: Mapping[str, str]) -> None:
        """Writes tags at once."""
        for key, value in tags.items():
            self._client.set_tag(self.id, clean_key(key), cut(value), synchronous=True)

    def _do(self, job: Callable[[], None]) -> None:
        self._jobs.append(job)
        if not self._wait:
            self.flush()

    def _left_out(self, name: str, step: int) -> None:
        if name not in self._not_finite:
            self._tracker.warn(f"{name} is not finite at step {step}; MLflow's curve skips it.")
        self._not_finite.setdefault(name, []).append(step)

    def _send_points(self) -> None:
        from mlflow.entities import Metric

        while self._points:
            chunk = self._points[:CHUNK]
            fresh: dict[tuple[str, int], _Point] = {}
            for point in chunk:
                if not self._has(point):
                    fresh.setdefault((point.key, point.step), point)
            if fresh:
                metrics = [Metric(*point) for point in fresh.values()]
                self._client.log_batch(self.id, metrics=metrics, synchronous=True)
            for key, step in fresh:
                self._sent[key].add(step)
            del self._points[: len(chunk)]

    def _has(self, point: _Point) -> bool:
        if point.key not in self._sent:
            old = self._client.get_metric_history(self.id, point.key) if self._resumed else []
            self._sent[point.key] = {metric.step for metric in old}
        return point.step in self._sent[point.key]

    def _send_jobs(self) -> None:
        errors: list[Exception] = []
        for job in list(self._jobs):
            try:
                job()
                self._jobs.remove(job)
            except Exception as error:
                errors.append(error)
                if len(errors) > 1:
                    break
        if errors:
            raise errors[0]

    def _write_child(
        self, name: str, params: Mapping[str, object], points: list[_Point], tags: Mapping[str, str]
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        text = {clean_key(key): cut(value) for key, value in flatten(params).items()}
        if self._children is None:
            self._children = self._find_children()
        child = self._children.get(name)
        if child and child.params != text:
            self._client.delete_run(child.id)
            child = None
        if not child:
            child = _Child(self._tracker.create(name, parent=self.id), text, whole=False)
            self._children[name] = child
        if child.whole:
            return
        pairs = list(text.items())
        for start in range(0, len(pairs), PARAM_CHUNK):
            chunk = [Param(*pair) for pair in pairs[start : start + PARAM_CHUNK]]
            self._client.log_batch(child.id, params=chunk, synchronous=True)
        run_tags = [RunTag(clean_key(key), cut(value)) for key, value in tags.items()]
        for start in range(0, len(points), CHUNK):
            metrics = [Metric(*point) for point in points[start : start + CHUNK]]
            self._client.log_batch(child.id, metrics, synchronous=True)
        self._client.log_batch(child.id, tags=run_tags, synchronous=True)
        self._client.set_terminated(child.id)
        child.whole = True

    def _write_to_child(self, name: str, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        child = (self._children or {}).get(name)
        if child is None:
            return
        now = int(time.time() * 1000)
        sent = [
            Metric(clean_key(key), float(value), now, 0)
            for key, value in metrics.items()
            if math.isfinite(value)
        ]
        self._client.log_batch(child.id, sent, synchronous=True)

    def _find_children(self) -> dict[str, _Child]:
        below = f"tags.`{PARENT}` = '{self.id}'"
        found = self._client.search_runs([self._tracker.experiment_id], below, max_results=CHUNK)
        return {
            run.info.run_name: _Child(
                run.info.run_id, run.data.params, whole=run.info.status == "FINISHED"
            )
            for run in found
        }


def _client(uri: str) -> Any:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in ("alembic", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.tracking import MlflowClient

        return MlflowClient(uri)


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)
