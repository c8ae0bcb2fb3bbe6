"""Searches a space: supernet training, search, report.

`python -m twins_nas.search --space space/svt.yaml`.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twins_nas.config import collect, find, load_space
from twins_nas.cost import cost
from twins_nas.errors import UserError, exit_with
from twins_nas.recipes import SearchRecipe, absolute_data, check_switches, load_recipe
from twins_nas.runs import RunFolder, Settings
from twins_nas.space import SearchSpace
from twins_nas.tuning.spec import Budget, check_budget


@dataclass(frozen=True)
class Plan:
    """A checked command: from here on only a disk or a machine can fail."""

    folder: RunFolder
    space: SearchSpace
    recipe: SearchRecipe
    settings: Settings


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m twins_nas.search", description=__doc__)
    add = parser.add_argument
    add(
        "--space",
        metavar="YAML",
        help="a space: a file, or the name of a shipped one (svt, pcpvt, imagenet/svt_small)",
    )
    add(
        "--recipe",
        metavar="YAML",
        default="nsga2",
        help="how to search: a file, or nsga2 (default), tpe, random, quick, thorough",
    )
    add("--resume", metavar="RUN", help="go on with a run, by its name or folder")
    add("--name", help="the run's name (default: space, recipe and time)")
    add(
        "--out",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="where runs are kept (default: runs)",
    )
    add(
        "--data",
        metavar="NAME",
        help="fashion-mnist-mini (embedded, default), fashion-mnist, mnist, cifar10, cifar100,"
        " imagefolder:PATH",
    )
    add("--data-root", metavar="DIR", help="where the files of --data lie")
    add("--download", action="store_true", help="allow --data to be downloaded into --data-root")
    add("--seeds", type=int, metavar="N", help="repeat the search with N seeds")
    add("--seed", type=int, help="the first seed; weights and splits follow from it")
    add("--trials", type=int, metavar="N", help="architectures to score in each search")
    add("--epochs", type=int, metavar="N", help="epochs of the supernet's training")
    add(
        "--evaluators",
        type=int,
        metavar="N",
        help="evaluator processes (default: one a core or GPU)",
    )
    add("--max-macs", type=float, metavar="N", help="largest MACs of a front member, such as 5e6")
    add(
        "--max-params",
        type=float,
        metavar="N",
        help="largest number of parameters of a front member",
    )
    add("--local", action="store_true", help="search in this process, without Ray")
    add("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    return parser


def overrides(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line changes in the recipe, by dotted key."""
    given = {
        "seeds": args.seeds,
        "seed": args.seed,
        "trials": args.trials,
        "evaluators": args.evaluators,
        "supernet.epochs": args.epochs,
        "budget.max_macs": args.max_macs,
        "budget.max_params": args.max_params,
        "data.name": absolute_data(args.data),
    }
    return {name: value for name, value in given.items() if value is not None}


def plan(args: argparse.Namespace) -> Plan:
    """Checks everything that can be checked before any work, and makes or opens the run's folder.

    Raises:
        UserError: all faults of all files; an impossible budget; a folder that is taken or cannot
        be written.
    """
    if args.resume:
        if args.space or overrides(args):
            raise UserError(
                "--resume goes on with what the run was asked for; give no --space or other change"
                " with it."
            )
        folder, space, recipe, settings = RunFolder.open(args.out, args.resume)
        about = (args.data_root, args.download, args.local, args.device)
        return Plan(folder, space, recipe, settings.again(*about))
    if not args.space:
        raise UserError(
            "--space is missing, such as --space svt or --space space/svt.yaml (or --resume RUN)."
        )
    space, recipe = collect(
        lambda: load_space(find("space", args.space)),
        lambda: load_recipe(find("search", args.recipe), overrides(args)),
    )
    budget = Budget(recipe.budget.max_macs, recipe.budget.max_params)
    check_budget(space, lambda arch: cost(arch, space.input_size, 1, 2), budget)
    check_switches(recipe.supernet, space)
    name = args.name or f"{space.name}-{Path(args.recipe).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    root = None if args.data_root is None else str(Path(args.data_root).absolute())
    settings = Settings(root, args.download, args.local, args.device)
    return Plan(RunFolder.create(args.out, name, space, recipe, settings), space, recipe, settings)


def main() -> int:
    """The command."""
    args = parser().parse_args()
    work = plan(args)
    from twins_nas.pipeline import Pipeline

    resume = f"python -m twins_nas.search --resume {work.folder.path.name}" + (
        "" if args.out == Path("runs") else f" --out {args.out}"
    )
    try:
        Pipeline(work.folder, work.space, work.recipe, work.settings).run()
    except UserError as error:
        raise UserError(f"{error}\nWhat is finished is kept; go on with: {resume}") from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"What is finished is kept; go on with: {resume}") from None
    return 0


if __name__ == "__main__":
    exit_with(main)
