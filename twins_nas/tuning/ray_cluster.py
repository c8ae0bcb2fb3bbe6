"""Ray of this process alone, and the way of all that runs under Ray Tune.

What is finished lies in files of the caller before anybody is told, so neither Tune's snapshots nor
`Tuner.restore` are needed, which lose what came since the last snapshot (18 of 20 results where it
was measured): a trial or a driver that was killed is started again and goes on from those files.
Tune's own files lie in a temporary folder, and go with it.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twins_nas.errors import UserError

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_AUTH_MODE": "token",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
}
RETRIES = 2
LEAST_STORE = 128 * 2**20
FAULT = "fault"
"""The key of a trial's report that ends all of them: a sentence for the user."""


@dataclass(frozen=True)
class Resources:
    """How many workers there are, the share of a GPU and the cores of each, what they share.

    `ahead` evaluations are given to each at once: a second one hides the way to it, but is not to
    wait behind one that takes long.
    """

    evaluators: int = 2
    gpus: float = 0.0
    payload_bytes: int = 0
    cpus: int = 1
    ahead: int = 2

    @property
    def bundle(self) -> dict[str, float]:
        """What Ray reserves for one worker."""
        return {"CPU": float(self.cpus)} | ({"GPU": self.gpus} if self.gpus else {})


def fit(
    trainable: Any,
    trials: tuple[str, Sequence[Any]],
    take: Callable[[dict[str, Any]], None],
    temporary: Path,
    at_once: int,
    recovered: str,
    reuse: bool = False,
) -> list[BaseException]:
    """Runs a trial for each value of a parameter, `at_once` of them; gives what they died of.

    `take` is called in this process with each report of a trial. A trial whose process dies is
    started again `RETRIES` times, and `recovered` is printed. `reuse` keeps the processes for the
    next trials: starting one was measured to take 2.2 seconds, 3.5 with torch.

    Raises:
        UserError: a trial reported a `FAULT`.
        Exception: what `take` raised.
    """
    from ray import tune

    class Reports(tune.Callback):
        """Passes on what the trials report, in the driver."""

        error: Exception | None = None

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            try:
                if FAULT in result:
                    raise UserError(result[FAULT])
                take(result)
            except Exception as error:
                self.error = error
                raise

        def on_trial_recover(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            print(recovered, file=sys.stderr)

        def __deepcopy__(self, memo: object) -> Reports:
            return self

        def __reduce__(self) -> tuple[Any, ...]:
            # Tune keeps a copy for `Tuner.restore`, which is not used; `take` may hold anything.
            return (tune.Callback, ())

    callback = Reports()
    name, values = trials
    tuner = tune.Tuner(
        trainable,
        param_space={name: tune.grid_search(list(values))},
        tune_config=tune.TuneConfig(max_concurrent_trials=at_once, reuse_actors=reuse),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(temporary / "tune"),
            verbose=0,
            callbacks=[callback],
            failure_config=tune.FailureConfig(max_failures=RETRIES),
        ),
    )
    try:
        results = tuner.fit()
    except tune.TuneError:
        # Tune makes one long text of what a callback raises.
        if callback.error is not None:
            raise callback.error from None
        raise
    return list(results.errors)


@contextmanager
def cluster(resources: Resources) -> Iterator[Path]:
    """A Ray of this process alone, with a temporary folder, or the one that it has already."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # A token given here is written nowhere; Ray would write one into the home directory.
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # Ray's processes look for modules where this process does: no other way is told to them all.
    paths = [str(Path(__file__).parents[2]), *sys.path]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, dict.fromkeys(paths)))
    import ray

    temporary = Path(tempfile.mkdtemp(prefix="tn-"))
    started = not ray.is_initialized()
    try:
        if started:
            _start(resources, temporary)
        # What it says of a killed process, with a traceback, `Reports` says in a sentence.
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        yield temporary
    finally:
        if started:
            ray.shutdown()
        shutil.rmtree(temporary, ignore_errors=True)


def _start(resources: Resources, temporary: Path) -> None:
    import ray

    try:
        ray.init(
            address="local",
            num_cpus=resources.evaluators * resources.cpus,
            num_gpus=math.ceil(resources.evaluators * resources.gpus),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=LEAST_STORE + 2 * resources.payload_bytes,
            _temp_dir=str(temporary),
        )
    except Exception as error:  # Ray raises no other kind where its processes take over 30 seconds
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"Ray did not start: {first}\nTry again when the machine is less busy, or with --local."
        ) from error
