"""Searches under Ray Tune.

One Tune trial is one search (a seed). Its evaluators are actors inside the trial's placement group,
and keep the supernet and the images as long as the search lasts. Seeds follow each other, so that
they share all scores. What a search finished is in its journal before anybody is told.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twins_nas.arch import ArchConfig
from twins_nas.errors import UserError
from twins_nas.tuning.ray_cluster import FAULT, RETRIES, Resources, cluster, fit
from twins_nas.tuning.results import Score, Scored
from twins_nas.tuning.runner import Done, Factory, outcome_of, run_search
from twins_nas.tuning.study import Search, SearchStudy

REPORT_SECONDS = 0.5


@dataclass(frozen=True)
class _Job:
    """What a Tune trial is given."""

    folder: Path
    search: Search
    resources: Resources


def run_ray(
    folder: Path,
    search: Search,
    seeds: Sequence[int],
    factory: Factory,
    resources: Resources,
    on_scored: Callable[[Scored], None] = lambda row: None,
) -> list[Scored]:
    """Runs, or goes on with, the search of each seed; gives all rows, in the order of the seeds.

    `on_scored` is called in this process for each row that was not in a journal before.

    Raises:
        UserError: a journal cannot be used, or all evaluations fail.
        RuntimeError: a search ended otherwise; its cause.
        KeyboardInterrupt: Ctrl-C, after Ray has been shut down.
    """
    looks = {seed: SearchStudy.look(folder, search, seed) for seed in seeds}
    rows = {
        (row.seed, row.number): row
        for look in looks.values()
        if look is not None
        for row in look.scored
    }
    left = [seed for seed, look in looks.items() if look is None or not look.finished]
    if left:

        def take(row: Scored) -> None:
            if (row.seed, row.number) not in rows:
                rows[row.seed, row.number] = row
                on_scored(row)

        with cluster(resources) as temporary:
            _fit(_Job(folder.absolute(), search, resources), left, factory, take, temporary)
        # The journals count: where a process dies, a report of its rows may die with it.
        for look in (SearchStudy.look(folder, search, seed) for seed in left):
            for row in look.scored if look is not None else ():
                take(row)
    order = {seed: index for index, seed in enumerate(seeds)}
    return sorted(rows.values(), key=lambda row: (order[row.seed], row.number))


def _fit(
    job: _Job, seeds: list[int], factory: Factory, take: Callable[[Scored], None], temporary: Path
) -> None:
    import ray
    from ray import tune

    def rows(result: dict[str, Any]) -> None:
        for row in json.loads(result.get("rows", "[]")):
            take(Scored.from_dict(row))

    bundles = [{"CPU": 0.0}, *[job.resources.bundle] * job.resources.evaluators]
    trainable = tune.with_resources(
        tune.with_parameters(_search, job=job, factory=[ray.put(factory)]),
        tune.PlacementGroupFactory(bundles),
    )
    recovered = "A search's process ended; it goes on from its journal."
    for error in fit(trainable, ("seed", seeds), rows, temporary, 1, recovered):
        raise RuntimeError(f"A search under Ray was given up after {RETRIES + 1} tries.") from error


def _search(config: dict[str, Any], job: _Job, factory: list[Any]) -> None:
    """A Tune trial: the search of a seed."""
    from ray import tune

    last = 0.0
    rows: list[Scored] = []

    def report() -> None:
        nonlocal last
        tune.report({"rows": json.dumps([row.to_dict() for row in rows])})
        rows.clear()
        last = time.monotonic()

    def on_scored(row: Scored) -> None:
        rows.append(row)
        if time.monotonic() - last > REPORT_SECONDS:
            report()

    try:
        with (
            closing(SearchStudy(job.folder, job.search, config["seed"])) as study,
            closing(RayPool(factory[0], job.resources)) as pool,
        ):
            rows += study.scored
            report()
            run_search(study, pool, on_scored)
            report()
    except UserError as error:
        tune.report({FAULT: str(error)})


class RayPool:
    """Evaluators in processes of their own, each with `ahead` evaluations at once in its hands.

    A process that dies is started again; what it did is given as `died`, what was queued behind it
    is done by another.

    Raises:
        UserError: an evaluator cannot be made; says why.
    """

    def __init__(self, factory: Any, resources: Resources) -> None:
        import ray

        self.size, self._ahead = resources.evaluators, resources.ahead
        bundle = resources.bundle
        made: Any = ray.remote(_Evaluator).options(
            num_cpus=bundle["CPU"], num_gpus=bundle.get("GPU", 0), max_restarts=-1
        )
        self._actors = [made.remote(factory) for _ in range(self.size)]
        fault = max(ray.get([actor.fault.remote() for actor in self._actors]))
        if fault:
            raise UserError(f"An evaluator could not be started: {fault}")
        self._queue: deque[tuple[int, ArchConfig]] = deque()
        self._given: list[dict[Any, tuple[int, ArchConfig]]] = [{} for _ in self._actors]
        self._innocent: set[Any] = set()

    def submit(self, ticket: int, arch: ArchConfig) -> None:
        """Queues an evaluation."""
        self._queue.append((ticket, arch))
        self._deal()

    def next_done(self) -> Done:
        """Waits for any evaluation to end."""
        import ray

        while True:
            under_way = [reference for given in self._given for reference in given]
            (reference,), _ = ray.wait(under_way, num_returns=1)
            given = next(given for given in self._given if reference in given)
            first = next(iter(given)) == reference and reference not in self._innocent
            ticket, arch = given.pop(reference)
            self._innocent.discard(reference)
            try:
                outcome = ray.get(reference)
            except ray.exceptions.RayActorError:
                if first:
                    self._innocent |= given.keys()
                    return Done(ticket, "its process died", died=True)
                self._queue.appendleft((ticket, arch))
                self._deal()
            except ray.exceptions.RayTaskError as error:
                # Ray makes one long text of what an evaluator raises.
                if isinstance(error.cause, UserError):
                    raise UserError(str(error.cause)) from None
                raise
            else:
                self._deal()
                return Done(ticket, outcome)

    def close(self) -> None:
        """Ends the processes."""
        import ray

        for actor in self._actors:
            ray.kill(actor)

    def _deal(self) -> None:
        while self._queue:
            index = min(range(self.size), key=lambda index: len(self._given[index]))
            if len(self._given[index]) >= self._ahead:
                return
            ticket, arch = self._queue.popleft()
            reference = self._actors[index].score.remote(arch)
            self._given[index][reference] = (ticket, arch)


class _Evaluator:
    """What runs in an evaluator's process."""

    def __init__(self, factory: Factory) -> None:
        try:
            self._evaluator, self._fault = factory(), ""
        except Exception as error:
            self._fault = f"{type(error).__name__}: {error}"

    def fault(self) -> str:
        """Why there is no evaluator; empty where there is one."""
        return self._fault

    def score(self, arch: ArchConfig) -> Score | str:
        """The score, or why there is none."""
        return outcome_of(self._evaluator, arch)


@contextmanager
def ray_pool(factory: Factory, resources: Resources) -> Iterator[RayPool]:
    """Evaluators for a caller that needs no search, under a Ray of this process.

    Raises:
        UserError: as `RayPool`.
    """
    with cluster(resources):
        import ray

        with closing(RayPool(ray.put(factory), resources)) as pool:
            yield pool
