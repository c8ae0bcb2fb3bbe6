"""Independent jobs, each of which leaves its outcome in a file: here, or under Ray Tune.

A job is known by its name; what is done for it is a `Work`, which can be sent to other processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

Told = dict[str, Any]
Tell = Callable[[Told], None]


class Work(Protocol):
    """What is done for a job; its outcome is durable when it returns."""

    def __call__(self, job: str, tell: Tell) -> None:
        """Does the job, or goes on with it; `tell` says how far it is, in plain values.

        Raises:
            UserError: what ends all jobs, such as a full disk; other faults are the job's outcome.
        """


def run_jobs_local(jobs: Sequence[str], work: Work, on_told: Callable[[str, Told], None]) -> None:
    """Does the jobs in this process, one after the other.

    Raises:
        UserError: what `work` raised.
    """
    for job in jobs:

        def tell(told: Told, job: str = job) -> None:
            on_told(job, told)

        work(job, tell)
        on_told(job, {"done": True})
