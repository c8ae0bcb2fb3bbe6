"""Does a supernet rank? Its members' accuracy against that of networks trained alone.

`python -m twins_nas.rank --supernet runs/X --bank svt-micro`: Kendall's tau, Spearman's rho and
top-k regret with intervals, beside the noise ceiling, MACs, params, chance and zero-cost proxies.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from twins_nas.errors import UserError, exit_with
from twins_nas.files import locked
from twins_nas.recipes import SearchRecipe
from twins_nas.runs import RunFolder
from twins_nas.space import SearchSpace
from twins_nas.supernets.plan import left_out, load_truth, other_images, strangers


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m twins_nas.rank", description=__doc__)
    add = parser.add_argument
    add(
        "--supernet",
        action="append",
        metavar="RUN",
        help="a search's run, by its name or folder; again for each further seed",
    )
    add(
        "--bank",
        metavar="BANK",
        help="networks trained alone: a shipped bank, the folder of one, or a CSV file with a line"
        " for each run",
    )
    add(
        "--part",
        choices=("tuning", "held-out", "all"),
        default="held-out",
        help="the bank's networks to rank (default: held-out)",
    )
    add("--images", type=int, metavar="N", help="validation images of a score (default: all)")
    add(
        "--score",
        choices=("loss", "top1", "adjusted"),
        help="the headline; all are told (default: adjusted, the loss moved by hints, where the"
        " runs have a zen_weight or a size_weight; else loss, which is finer than top1)",
    )
    add("--bins", type=int, default=4, metavar="N", help="bins of MACs (default: 4)")
    add(
        "--calibrate-steps",
        type=int,
        metavar="N",
        help="batches that a member is tuned on, alone, before it is scored (default: the run's)",
    )
    add(
        "--zen-weight",
        type=float,
        metavar="W",
        help="how far Zen-scores move the loss of a member (default: as the runs say)",
    )
    add(
        "--size-weight",
        type=float,
        metavar="W",
        help="how far log MACs + log params move the loss of a member (default: as the runs say)",
    )
    add(
        "--proxy-images",
        type=int,
        default=64,
        metavar="N",
        help="training images of the zero-cost proxies' batch (default: 64)",
    )
    add(
        "--proxy-seeds",
        type=int,
        default=3,
        metavar="N",
        help="initial weights that a proxy is the mean over (default: 3)",
    )
    add("--seed", type=int, default=0, help="of the resamples and the proxies' batch")
    add("--name", help="the ranking's name (default: of bank, part and first supernet)")
    add(
        "--out",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="where runs are kept (default: runs)",
    )
    add("--data-root", metavar="DIR", help="where the data set's files lie (default: the run's)")
    add("--download", action="store_true", help="allow the data to be downloaded into --data-root")
    add("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    return parser


def checked(args: argparse.Namespace) -> None:
    """Refuses what is seen from the command line alone.

    Raises:
        UserError: an option lacks, or a number is too small.
    """
    if not args.supernet:
        raise UserError("--supernet is missing, such as --supernet runs/svt-nsga2.")
    if not args.bank:
        raise UserError("--bank is missing: the networks that were trained alone.")
    for name in ("images", "bins", "proxy_images", "proxy_seeds"):
        value, least = getattr(args, name), 2 if name == "proxy_images" else 1
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} needs at least {least}.")
    for name in ("seed", "calibrate_steps", "zen_weight", "size_weight"):
        if (getattr(args, name) or 0) < 0:
            raise UserError(f"--{name.replace('_', '-')} needs at least 0.")


def unlike(recipes: Sequence[SearchRecipe], spaces: Sequence[SearchSpace]) -> list[str]:
    """What keeps supernets from being seeds of one training, in sentences."""
    said = []
    trainings = [
        (recipe.supernet.model_dump(exclude={"checkpoint_seconds"}), recipe.data, space.fingerprint)
        for recipe, space in zip(recipes, spaces, strict=True)
    ]
    if any(training != trainings[0] for training in trainings):
        said.append("The supernets differ in more than their seeds: their mean is of no training.")
    if len({recipe.seed for recipe in recipes}) < len(recipes):
        said.append("Supernets share a seed, so they are not independent.")
    return said


def main() -> int:
    """The command."""
    args = parser().parse_args()
    checked(args)
    opened = [RunFolder.open(args.out, name) for name in args.supernet]
    for folder, *_ in opened:
        if not folder.weights.is_file():
            raise UserError(
                f"{folder.path} has no {folder.weights.name}: its training is not finished; go on"
                f" with it by python -m twins_nas.search --resume {folder.path}."
            )
    if len({folder.path.resolve() for folder, *_ in opened}) < len(opened):
        raise UserError("--supernet names a run twice; each counts as a seed of its own.")
    truth, lacking = load_truth(args.bank).part(args.part).whole()
    notes = left_out(lacking)
    from twins_nas.agreement import check_size

    check_size(truth, args.bins)
    notes += unlike([recipe for _, _, recipe, _ in opened], [space for _, space, *_ in opened])
    names = {recipe.data.name for _, _, recipe, _ in opened}
    notes += other_images(truth, names, [space for _, space, *_ in opened])
    from twins_nas.ranking import Asked, Ranking, Supernet

    supernets = [
        Supernet(folder, space, recipe, settings.data_root)
        for folder, space, recipe, settings in opened
    ]
    strange = [said for _, space, *_ in opened for said in strangers(space, truth)]
    if strange:
        raise UserError("\n".join(f"{said}." for said in dict.fromkeys(strange)))
    asked = Asked(
        images=args.images,
        headline=args.score,
        bins=args.bins,
        calibrate_steps=args.calibrate_steps,
        zen_weight=args.zen_weight,
        size_weight=args.size_weight,
        proxy_images=args.proxy_images,
        proxy_seeds=args.proxy_seeds,
        seed=args.seed,
        device=args.device,
        data_root=args.data_root,
        download=args.download,
    )
    folder = args.out / (args.name or f"rank-{truth.name}-{args.part}-{supernets[0].name}")
    ranking = Ranking(folder, supernets, truth, asked, tuple(notes))
    if ranking.headline not in ranking.told:
        raise UserError(
            "--score adjusted: a run has no zen_weight and no size_weight; give one by --zen-weight"
            " or --size-weight."
        )
    with locked(folder, f"Another process ranks in {folder}; give another --name."):
        try:
            ranking.run()
        except KeyboardInterrupt:
            raise KeyboardInterrupt("Scores are kept; the same command goes on.") from None
    return 0


if __name__ == "__main__":
    exit_with(main)
