"""Independent jobs under Ray Tune: each is a trial, as many at once as there are workers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from twins_nas.errors import UserError
from twins_nas.tuning.jobs import Told, Work
from twins_nas.tuning.ray_cluster import FAULT, RETRIES, Resources, cluster, fit

REPORT_SECONDS = 1.0


def run_jobs_ray(
    jobs: Sequence[str], work: Work, resources: Resources, on_told: Callable[[str, Told], None]
) -> list[str]:
    """Does the jobs, in their order, several at once; gives those whose process died each time.

    `on_told` is called in this process.

    Raises:
        UserError: what `work` raised.
        KeyboardInterrupt: Ctrl-C, after Ray has been shut down.
    """
    if not jobs:
        return []
    import ray
    from ray import tune

    left = set(jobs)

    def take(result: dict[str, Any]) -> None:
        told = json.loads(result.get("told", "{}"))
        if told.get("done"):
            left.discard(result["job"])
        on_told(result["job"], told)

    with cluster(resources) as temporary:
        request = {name.lower(): amount for name, amount in resources.bundle.items()}
        trainable = tune.with_resources(tune.with_parameters(_job, work=[ray.put(work)]), request)
        recovered = f"A run's process ended; it is tried again, {RETRIES} times at most."
        trials = ("job", list(jobs))
        fit(trainable, trials, take, temporary, resources.evaluators, recovered, reuse=True)
    return [job for job in jobs if job in left]


def _job(config: dict[str, Any], work: list[Any]) -> None:
    """A Tune trial: one job."""
    import ray
    from ray import tune

    job, last = config["job"], 0.0

    def tell(told: Told) -> None:
        nonlocal last
        if told.get("done") or time.monotonic() - last > REPORT_SECONDS:
            tune.report({"job": job, "told": json.dumps(told)})
            last = time.monotonic()

    try:
        ray.get(work[0])(job, tell)
        tell({"done": True})
    except UserError as error:
        tune.report({FAULT: str(error)})
