"""Retrains the front of a search from scratch: is inherited accuracy what each reaches alone?

`python -m twins_nas.retrain --run runs/X --seeds 3`. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from twins_nas.ablation_recipe import RunsRecipe
from twins_nas.errors import UserError, exit_with
from twins_nas.files import locked
from twins_nas.recipes import SearchRecipe, TrainingRecipe
from twins_nas.runs import RunFolder

QUESTION = "Do the networks of the front reach alone what they reach with inherited weights?"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m twins_nas.retrain", description=__doc__)
    add = parser.add_argument
    add("--run", metavar="RUN", help="a finished run of twins_nas.search, by its name or folder")
    add("--seeds", type=int, default=3, metavar="N", help="trainings of each network (default: 3)")
    add("--epochs", type=int, metavar="N", help="of each training (default: the supernet's)")
    add(
        "--calibrate-steps",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="also the front with inherited weights that are tuned on so many batches, alone",
    )
    add("--parallel", type=int, metavar="N", help="runs at once (default: what the machine holds)")
    add("--local", action="store_true", help="run in this process, without Ray")
    add("--device", help="cpu, cuda, cuda:1 (default: the run's)")
    add(
        "--out",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="where runs are kept (default: runs)",
    )
    add("--data-root", metavar="DIR", help="where the data set's files lie (default: the run's)")
    return parser


def alone(recipe: SearchRecipe, epochs: int | None, seeds: int) -> RunsRecipe:
    """The recipe of a search's networks, each trained alone, as the supernet was."""
    # PEGs that begin as nothing serve what shares weights; alone they cost accuracy (docs/LOG.md).
    alike = set(TrainingRecipe.model_fields) - {"zero_peg"}
    shared = recipe.supernet.model_dump(include=alike)
    shared |= {} if epochs is None else {"epochs": epochs}
    if recipe.supernet.drop_path_for == "largest":
        shared["drop_path"] = 0.0
    return RunsRecipe(
        question=QUESTION,
        training=TrainingRecipe(**shared),
        data=recipe.data,
        seeds=seeds,  # type: ignore[arg-type]
    )


def main() -> int:
    """The command."""
    args = parser().parse_args()
    if not args.run:
        raise UserError("--run is missing, such as --run runs/svt (a run of twins_nas.search).")
    for name, least in (("seeds", 2), ("epochs", 1), ("parallel", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name} needs at least {least}, not {value}.")
    for steps in args.calibrate_steps:
        if not 1 <= steps <= 10_000:
            raise UserError(f"--calibrate-steps needs 1 to 10,000, not {steps:,}.")
    run, space, search, settings = RunFolder.open(args.out, args.run)
    if not (run.path / "front.csv").is_file():
        raise UserError(
            f"{run.path} has no front.csv: the search is not finished; go on with it by python -m"
            f" twins_nas.search --resume {run.path}."
        )
    recipe = alone(search, args.epochs, args.seeds)
    settings = dataclasses.replace(
        settings,
        local=args.local or settings.local,
        device=args.device or settings.device,
        parallel=args.parallel,
        mlflow_run=None,
        data_root=str(Path(args.data_root).absolute()) if args.data_root else settings.data_root,
    )
    folder = run.path / f"retrain-{recipe.training.epochs}-epochs"
    from twins_nas.retraining import Retraining

    with locked(folder, f"Another process retrains in {folder}; wait for it."):
        try:
            tuned = tuple(sorted(set(args.calibrate_steps)))
            Retraining(run, folder, space, search, recipe, settings, tuned).run()
        except KeyboardInterrupt:
            raise KeyboardInterrupt("What is trained is kept; the same command goes on.") from None
    return 0


if __name__ == "__main__":
    exit_with(main)
