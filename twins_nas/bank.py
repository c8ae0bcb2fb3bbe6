"""Banks of networks that were each trained alone: a benchmark for whatever ranks architectures.

`python -m twins_nas.bank build bank_svt --data-root DIR` trains one, `show NAME` tells what it can
tell, and `twins_nas.bank.load("svt-micro")` gives a shipped one, or that of a folder.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from twins_nas.ablation.header import check_own
from twins_nas.ablation.results import AblationFolder
from twins_nas.bank_recipe import BANK
from twins_nas.banks.bank import Bank, load, shipped_banks
from twins_nas.banks.plan import BankPlan, grown, plan_bank
from twins_nas.banks.taken import source
from twins_nas.config import find
from twins_nas.errors import UserError, exit_with
from twins_nas.explore_recipe import SPACE
from twins_nas.files import write_text
from twins_nas.recipes import IMAGES, UNREAD, absolute_data
from twins_nas.runs import Settings
from twins_nas.yaml_nodes import Document, parse, read, write

__all__ = ["Bank", "load"]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m twins_nas.bank", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="build | show")
    _add_build(commands.add_parser("build", help="train a bank's networks, or more of them"))
    show = commands.add_parser("show", help="what a bank holds, and how much it can tell")
    show.add_argument(
        "bank", nargs="?", metavar="BANK", help="a shipped bank, or a folder (default: list them)"
    )
    show.add_argument(
        "--test", action="store_true", help="the test accuracies; they are for the last look"
    )
    return parser


def _add_build(build: argparse.ArgumentParser) -> None:
    add = build.add_argument
    add(
        "recipe",
        nargs="?",
        metavar="YAML",
        help="a recipe: a file, or the name of a shipped one (bank_svt, bank_families)",
    )
    add("--space", metavar="YAML", help="the space: a file or a shipped name; needs no recipe")
    add("--archs", type=int, metavar="N", help="networks; with --resume: more of them")
    add("--seeds", type=int, metavar="K", help="seeds of each; with --resume: more of them")
    add("--epochs", type=int, metavar="N", help="epochs of each training")
    add("--resume", metavar="RUN", help="go on with a build, by its name or folder")
    add(
        "--from",
        dest="source",
        metavar="BANK",
        help="take the runs that this bank of the same recipe has: a name, a folder",
    )
    add("--retry-failed", action="store_true", help="with --resume: do failed runs again")
    add("--name", help="the bank's name, and its folder's (default: the recipe's, the space's)")
    add(
        "--out",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="where builds are kept (default: runs)",
    )
    add("--data", metavar="NAME", help="another data set than the recipe's")
    add("--data-root", metavar="DIR", help="where the files of --data lie")
    add("--download", action="store_true", help="allow --data to be downloaded into --data-root")
    add("--parallel", type=int, metavar="N", help="runs at once (default: what the machine holds)")
    add("--local", action="store_true", help="run in this process, without Ray")
    add("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    add("--write-result", action="store_true", help="put cost and result into the recipe's comment")
    add("--check", action="store_true", help="check the recipe and list its networks; run nothing")


def overrides(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line changes in the recipe, by dotted key."""
    given = {
        SPACE: args.space,
        "bank.archs": args.archs,
        "bank.name": args.name,
        "seeds": args.seeds,
        "training.epochs": args.epochs,
        "data.name": absolute_data(args.data),
    }
    return {name: value for name, value in given.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class Work:
    """A plan with its folder."""

    folder: AblationFolder
    plan: BankPlan
    settings: Settings


def asked(args: argparse.Namespace) -> tuple[Document, Path | None]:
    """The recipe of a command, and its file if it has one.

    Raises:
        UserError: there is neither recipe nor space, or all faults of the recipe's text.
    """
    if args.recipe:
        path = find("experiments", args.recipe)
        return read(path).changed(overrides(args)), path
    if not args.space:
        raise UserError("A recipe or a space is missing, such as bank_svt, or --space svt.")
    question = f"How accurate are networks of {args.space}, each trained alone?"
    document = parse(write({"question": question, BANK: {}}), "the command line")
    return document.changed(overrides(args)), None


def begin(args: argparse.Namespace, plan: BankPlan, path: Path | None) -> Work:
    """A new build's folder, with what it was asked for.

    Raises:
        UserError: the folder is taken, or cannot be written.
    """
    root = None if args.data_root is None else str(Path(args.data_root).absolute())
    recipe = None if path is None else str(path.absolute())
    about = (root, args.download, args.local, args.device)
    settings = Settings(*about, parallel=args.parallel, recipe=recipe)
    if args.write_result:
        _check_own(plan, recipe)
    folder = AblationFolder.make(args.out, plan.name)
    write_text(folder.recipe_file, write(plan.document.value))
    folder.write_settings(settings)
    return Work(folder, plan, settings)


def resumed(args: argparse.Namespace) -> Work:
    """A build that is there, perhaps with more networks or seeds than it was asked for.

    Raises:
        UserError: there is none of that name, its files are damaged, or the command changes what
            its networks have in common.
    """
    if args.recipe or set(overrides(args)) - {"bank.archs", "seeds"}:
        raise UserError(
            "--resume goes on with what the build was asked for; besides more --archs and --seeds,"
            " give no recipe or other change with it."
        )
    folder = AblationFolder.locate(args.out, args.resume)
    settings = folder.read_settings()
    plan = plan_bank(read(folder.recipe_file))
    if args.source:
        source(args.source, plan)
    if args.archs is not None or args.seeds is not None:
        plan = grown(plan, args.archs, args.seeds)
    if args.write_result:
        _check_own(plan, settings.recipe)
    if not args.check:
        write_text(folder.recipe_file, write(plan.document.value))
    about = (args.data_root, args.download, args.local, args.device, args.parallel)
    return Work(folder, plan, settings.again(*about))


def build(args: argparse.Namespace) -> int:
    """The command `build`."""
    if args.parallel is not None and args.parallel < 1:
        raise UserError("--parallel needs at least 1.")
    if args.resume:
        work = resumed(args)
        if args.check:
            _list(work.plan)
            return 0
    else:
        document, path = asked(args)
        plan = plan_bank(document)
        if args.source:
            source(args.source, plan)
        if args.check:
            _list(plan)
            return 0
        work = begin(args, plan, path)
    resume = f"python -m twins_nas.bank build --resume {work.folder.path.name}" + (
        "" if args.out == Path("runs") else f" --out {args.out}"
    )
    try:
        from twins_nas.banking import Build

        about = (work.folder, work.plan, work.settings, args.retry_failed, args.write_result)
        Build(*about, args.source).run()
    except UserError as error:
        raise UserError(f"{error}\nWhat is finished is kept; go on with: {resume}") from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"What is finished is kept; go on with: {resume}") from None
    return 0


def show(args: argparse.Namespace) -> int:
    """The command `show`."""
    if args.bank is None:
        names = shipped_banks()
        print("\n".join(names) if names else "No bank is shipped; give a folder.")
        return 0
    found = load(args.bank)
    from twins_nas.report.bank import bank_table, bank_words

    metric = "test_top1" if args.test else "val_top1"
    print(f"{bank_table(found, metric)}\n")
    print("\n".join(bank_words(found, metric)))
    return 0


def main() -> int:
    """The command."""
    args = parser().parse_args()
    return build(args) if args.command == "build" else show(args)


def _check_own(plan: BankPlan, recipe: str | None) -> None:
    check_own(recipe, plan.document.value, lambda path: plan_bank(read(path)).document.value)


def _list(plan: BankPlan) -> None:
    """What would be trained."""
    recipe = plan.recipe
    strata, members = plan.drawn(*IMAGES.get(recipe.data.name, UNREAD))
    print(f"{plan.name}: {recipe.question}")
    edges = ", ".join(f"{edge:,}" for edge in strata.edges)
    print(f"{len(members)} networks; strata at {edges} MACs")
    for one in members:
        name = f" {one.name}:" if one.name else ""
        print(f"{one.number:3d}{name} {one.macs:,} MACs, {one.params:,} params, {one.part}")
        print(f"    {one.arch}")
    seeds = ", ".join(map(str, recipe.seeds.numbers))
    print(
        f"{len(members)} networks x {len(recipe.seeds.numbers)} seeds ({seeds}),"
        f" epochs of each: {recipe.training.epochs}"
    )


if __name__ == "__main__":
    exit_with(main)
