"""Asks a trained supernet which dimension matters: effects and interactions, with intervals.

`python -m twins_nas.insight --run runs/X`. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from twins_nas.errors import UserError, exit_with
from twins_nas.recipes import SearchRecipe
from twins_nas.runs import RunFolder, Settings
from twins_nas.space import SearchSpace

ROOT, RESULTS = Path("runs"), Path("experiments/results")
ARCHS, IMAGES = 2000, 2000
LEAST_ARCHS, LEAST_IMAGES = 20, 10

Opened = tuple[RunFolder, SearchSpace, SearchRecipe, Settings]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m twins_nas.insight", description=__doc__)
    add = parser.add_argument
    add(
        "--run",
        action="append",
        metavar="RUN",
        help="a run of twins_nas.search, by its name or folder; again for supernets of other seeds",
    )
    add("--archs", type=int, default=ARCHS, metavar="N", help=f"networks to score ({ARCHS})")
    add(
        "--images",
        type=int,
        default=IMAGES,
        metavar="N",
        help=f"search-validation images to score them on ({IMAGES}); the test images stay unread",
    )
    add("--seed", type=int, default=0, help="draws the networks (0)")
    add(
        "--ablation",
        action="append",
        metavar="RUN",
        help="a finished run of twins_nas.ablate to compare with; again for more (default: those"
        f" of {RESULTS}, of {ROOT} and beside the run that vary what the space searches)",
    )
    add("--evaluators", type=int, metavar="N", help="evaluator processes (default: the run's)")
    add("--local", action="store_true", help="score in this process, without Ray")
    add("--device", help="cpu, cuda, cuda:1 (default: the run's)")
    return parser


def opened(args: argparse.Namespace) -> list[Opened]:
    """The runs, all of one space and one data set, their supernets trained.

    Raises:
        UserError: a run is not there, not trained, or does not go with the first.
    """
    found: list[Opened] = []
    for name in args.run:
        folder, space, recipe, settings = RunFolder.open(ROOT, name)
        if not folder.weights.is_file():
            raise UserError(
                f"{folder.path}: its supernet is not trained to the end; go on with: python -m"
                f" twins_nas.search --resume {folder.path}"
            )
        if not space.choices:
            raise UserError(f"{folder.path}: its space has one network, nothing to vary.")
        if args.evaluators:
            recipe = recipe.model_copy(update={"evaluators": args.evaluators})
        settings = replace(settings, device=args.device or settings.device)
        if any(one[0].path.resolve() == folder.path.resolve() for one in found):
            raise UserError(f"--run {name} is given twice.")
        for first, other, before, _ in found:
            pair = f"{folder.path} and {first.path}"
            if other.fingerprint != space.fingerprint:
                raise UserError(f"{pair} are of different spaces.")
            if before.seed == recipe.seed:
                raise UserError(
                    f"{pair} are both of seed {recipe.seed}: several supernets say how much seeds"
                    " matter, so each needs its own."
                )
            if (before.data, before.supernet) != (recipe.data, recipe.supernet):
                raise UserError(f"{pair} are of different data or trainings: no mere other seeds.")
        found.append((folder, space, recipe, settings))
    return found


def ablations(args: argparse.Namespace) -> list[Path] | None:
    """The folders of `--ablation`; None without one.

    Raises:
        UserError: one is not there.
    """
    if args.ablation is None:
        return None
    found = []
    for name in args.ablation:
        paths = [root / name for root in (ROOT, RESULTS, Path())]
        here = [path for path in paths if path.is_dir()]
        if not here:
            raise UserError(f"--ablation {name}: there is no such folder, here or in {ROOT}.")
        found.append(here[0])
    return found


def main() -> int:
    """The command."""
    args = parser().parse_args()
    if not args.run:
        raise UserError("--run is missing, such as --run runs/svt (a run of twins_nas.search).")
    for name, least in (("archs", LEAST_ARCHS), ("images", LEAST_IMAGES), ("evaluators", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name} needs at least {least}, not {value}.")
    runs, given = opened(args), ablations(args)
    near = list(dict.fromkeys([RESULTS, ROOT, *(one[0].path.parent for one in runs)]))
    from twins_nas.instrument import Instrument

    again = "What is scored is kept; the same command goes on."
    about = (args.archs, args.images, args.seed, args.local, given, near)
    try:
        Instrument(runs, *about).run()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(again) from None
    return 0


if __name__ == "__main__":
    exit_with(main)
