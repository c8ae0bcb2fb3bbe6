"""The one search loop, and evaluators in this process; `ray_runner` has the others."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, Protocol

from twins_nas.arch import ArchConfig
from twins_nas.errors import UserError
from twins_nas.tuning.results import Score, Scored, Stopped
from twins_nas.tuning.study import Search, SearchStudy

DEATHS = 2
PATIENCE = 10

Evaluator = Callable[[ArchConfig], Score | str]
"""Gives the score of an architecture or, in a line, why there is none."""
Factory = Callable[[], Evaluator]


class Done(NamedTuple):
    """An evaluation that ended: its score, or why there is none; `died`: its process is gone."""

    ticket: int
    outcome: Score | str
    died: bool = False


class EvaluatorPool(Protocol):
    """Evaluators that work on submitted architectures in their order."""

    @property
    def size(self) -> int:
        """How many work at once."""

    def submit(self, ticket: int, arch: ArchConfig) -> None:
        """Queues an evaluation."""

    def next_done(self) -> Done:
        """Waits for any evaluation to end."""

    def close(self) -> None:
        """Ends the evaluators."""


class LocalPool:
    """One evaluator, in this process."""

    size = 1

    def __init__(self, factory: Factory) -> None:
        self._evaluator = factory()
        self._queue: deque[tuple[int, ArchConfig]] = deque()

    def submit(self, ticket: int, arch: ArchConfig) -> None:
        """Queues an evaluation."""
        self._queue.append((ticket, arch))

    def next_done(self) -> Done:
        """Evaluates the first of the queue."""
        ticket, arch = self._queue.popleft()
        return Done(ticket, outcome_of(self._evaluator, arch))

    def close(self) -> None:
        """Lets the evaluator go."""
        self._queue.clear()


def outcome_of(evaluator: Evaluator, arch: ArchConfig) -> Score | str:
    """The score of an architecture, or the exception in a line.

    Raises:
        UserError: what ends the search, such as a full disk.
    """
    try:
        return evaluator(arch)
    except UserError:
        raise
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def run_search(
    study: SearchStudy,
    pool: EvaluatorPool,
    on_scored: Callable[[Scored], None] = lambda row: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Scores what the study proposes until it is finished; rows are in its journal when given.

    An evaluation whose process dies is tried `DEATHS` times more, any other failure is recorded at
    once. The study may be stopped at any moment; to go on, open it anew.

    Raises:
        UserError: the journal cannot be written, or `PATIENCE` evaluations in a row failed.
    """
    spec = study.search.spec
    if pool.size > spec.window:
        print(
            f"Only {spec.window} of {pool.size} evaluators are busy: with more trials in flight"
            f" {spec.sampler} (population {spec.population}) would propose worse.",
            file=sys.stderr,
        )
    deaths: Counter[int] = Counter()
    in_a_row = 0
    while True:
        step = study.advance()
        for asked in step.to_score:
            pool.submit(asked.number, asked.arch)
        for row in step.told:
            if isinstance(row, Scored):
                on_scored(row)
        if study.finished or should_stop():
            return
        done = pool.next_done()
        failed = isinstance(done.outcome, str) and not isinstance(done.outcome, Stopped)
        in_a_row = in_a_row + 1 if failed else 0
        if in_a_row >= PATIENCE:
            raise UserError(
                f"{PATIENCE} evaluations in a row failed, the last one so: {done.outcome}"
            )
        if done.died and deaths[done.ticket] < DEATHS:
            deaths[done.ticket] += 1
            pool.submit(done.ticket, study.asked(done.ticket).arch)
        else:
            study.record(done.ticket, done.outcome)


def run_local(
    folder: Path,
    search: Search,
    seeds: Sequence[int],
    factory: Factory,
    on_scored: Callable[[Scored], None] = lambda row: None,
) -> list[Scored]:
    """Runs, or goes on with, the search of each seed in this process; gives all their rows.

    `on_scored` is called for each row that was not in a journal before.

    Raises:
        UserError: a journal cannot be used, or all evaluations fail.
    """
    rows: list[Scored] = []
    pool = LocalPool(factory)
    for seed in seeds:
        with closing(SearchStudy(folder, search, seed)) as study:
            run_search(study, pool, on_scored)
            rows += study.scored
    return rows
