"""Answers a design question by trained networks: variants, paired seeds, verdicts, report.

`python -m twins_nas.ablate experiments/pe.yaml`. Where the recipe has `explore`, Optuna chooses the
networks, and the answer is a front: `python -m twins_nas.ablate experiments/explore_svt.yaml`.
Where it has `rank`, trainings of a supernet are compared by how well each ranks a bank.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from twins_nas.ablation.exploring import ExplorePlan, is_exploration, plan_exploration
from twins_nas.ablation.header import check_own
from twins_nas.ablation.results import AblationFolder
from twins_nas.ablation.variants import Images, Variant, expand
from twins_nas.ablation_recipe import AblationRecipe
from twins_nas.bank_recipe import BANK
from twins_nas.config import find, validated
from twins_nas.cost import cost
from twins_nas.errors import ConfigError, UserError, exit_with
from twins_nas.files import write_text
from twins_nas.recipes import IMAGES, UNREAD, absolute_data
from twins_nas.runs import Settings
from twins_nas.supernets.plan import SupernetsPlan, plan_supernets
from twins_nas.supernets.recipe import RANK
from twins_nas.tuning.spec import named_members
from twins_nas.yaml_nodes import Document, read, write


@dataclass(frozen=True)
class Plan:
    """A checked recipe: from here on only a disk or a machine can fail."""

    document: Document
    recipe: AblationRecipe
    variants: tuple[Variant, ...]


AnyPlan = Plan | ExplorePlan | SupernetsPlan
AnyPlanned = TypeVar("AnyPlanned", Plan, SupernetsPlan)


@dataclass(frozen=True)
class Work:
    """A plan with its folder."""

    folder: AblationFolder
    plan: AnyPlan
    settings: Settings


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m twins_nas.ablate", description=__doc__)
    add = parser.add_argument
    add(
        "recipe",
        nargs="?",
        metavar="YAML",
        help="a recipe: a file, or the name of a shipped one (pe, families, explore_svt, smoke)",
    )
    add("--resume", metavar="RUN", help="go on with a run, by its name or folder")
    add("--retry-failed", action="store_true", help="with --resume: do failed runs again")
    add("--name", help="the run's name (default: recipe and time)")
    add(
        "--out",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="where runs are kept (default: runs)",
    )
    add("--data", metavar="NAME", help="another data set than the recipe's")
    add("--data-root", metavar="DIR", help="where the files of --data lie")
    add("--download", action="store_true", help="allow --data to be downloaded into --data-root")
    add("--seeds", type=int, metavar="N", help="another number of seeds")
    add("--trials", type=int, metavar="N", help="another number of trials, of an exploration")
    add("--epochs", type=int, metavar="N", help="epochs of each training")
    add("--parallel", type=int, metavar="N", help="runs at once (default: what the machine holds)")
    add("--local", action="store_true", help="run in this process, without Ray")
    add("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    add("--write-result", action="store_true", help="put cost and result into the recipe's comment")
    add("--check", action="store_true", help="check the recipe and list its variants; run nothing")
    return parser


def overrides(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line changes in the recipe, by dotted key."""
    given = {
        "seeds": args.seeds,
        "explore.trials": args.trials,
        "training.epochs": args.epochs,
        "data.name": absolute_data(args.data),
    }
    return {name: value for name, value in given.items() if value is not None}


def load_plan(path: str | Path, changes: dict[str, Any] | None = None) -> Plan:
    """A recipe, all of it checked: every variant can be built, and there can be a verdict.

    Raises:
        ConfigError: all faults.
    """
    document = read(path).changed(changes or {})
    recipe = validated(document, AblationRecipe)
    images = Images((recipe.input_size,) * 2, *IMAGES.get(recipe.data.name, UNREAD))
    return checked(Plan(document, recipe, expand(document, recipe, images)))


def checked(plan: AnyPlanned) -> AnyPlanned:
    """The plan, where its seeds can give a verdict.

    Raises:
        ConfigError: they are too few.
    """
    from twins_nas.ablation.analysis import too_few

    if said := too_few(plan.recipe, plan.variants):
        raise ConfigError([plan.document.fault(("seeds",), said)])
    return plan


def planned(path: str | Path, changes: dict[str, Any] | None = None) -> AnyPlan:
    """A recipe of either kind, all of it checked.

    Raises:
        UserError: all faults.
    """
    document = read(path)
    if isinstance(document.value, dict) and BANK in document.value:
        said = f"is of a bank; build it by: python -m twins_nas.bank build {path}"
        raise ConfigError([document.fault((BANK,), said)])
    if isinstance(document.value, dict) and RANK in document.value:
        found = dict(changes or {})
        if "training.epochs" in found:
            found["supernet.epochs"] = found.pop("training.epochs")
        _no_trials(path, found)
        return checked(plan_supernets(document.changed(found)))
    if is_exploration(document):
        return plan_exploration(document.changed(changes or {}))
    _no_trials(path, changes or {})
    return load_plan(path, changes)


def _no_trials(path: str | Path, changes: dict[str, Any]) -> None:
    if "explore.trials" in changes:
        raise UserError(f"--trials is of explorations; {path} has no `explore`.")


def begin(args: argparse.Namespace, plan: AnyPlan, path: Path) -> Work:
    """A new run's folder, with what it was asked for.

    Raises:
        UserError: the folder is taken, or cannot be written.
    """
    name = args.name or f"{path.stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    root = None if args.data_root is None else str(Path(args.data_root).absolute())
    about = (root, args.download, args.local, args.device)
    settings = Settings(*about, parallel=args.parallel, recipe=str(path.absolute()))
    if args.write_result:
        _check_own(plan, settings.recipe)
    folder = AblationFolder.make(args.out, name)
    write_text(folder.recipe_file, write(plan.document.value))
    folder.write_settings(settings)
    return Work(folder, plan, settings)


def resumed(args: argparse.Namespace) -> Work:
    """A run that is there.

    Raises:
        UserError: there is none of that name, its files are damaged, or the command changes it.
    """
    if args.recipe or overrides(args):
        raise UserError(
            "--resume goes on with what the run was asked for; give no recipe or other change"
            " with it."
        )
    folder = AblationFolder.locate(args.out, args.resume)
    plan, settings = planned(folder.recipe_file), folder.read_settings()
    if args.write_result:
        _check_own(plan, settings.recipe)
    about = (args.data_root, args.download, args.local, args.device, args.parallel)
    return Work(folder, plan, settings.again(*about))


def main() -> int:
    """The command."""
    args = parser().parse_args()
    if args.parallel is not None and args.parallel < 1:
        raise UserError("--parallel needs at least 1.")
    if not args.recipe and not args.resume:
        raise UserError("A recipe is missing, such as pe or experiments/pe.yaml.")
    if args.resume:
        work = resumed(args)
        if args.check:
            _list(work.plan)
            return 0
    else:
        path = find("experiments", args.recipe)
        plan = planned(path, overrides(args))
        if args.check:
            _list(plan)
            return 0
        work = begin(args, plan, path)
    folder = work.folder
    resume = f"python -m twins_nas.ablate --resume {folder.path.name}" + (
        "" if args.out == Path("runs") else f" --out {args.out}"
    )
    try:
        _run(work, args.retry_failed, args.write_result)
    except UserError as error:
        raise UserError(f"{error}\nWhat is finished is kept; go on with: {resume}") from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"What is finished is kept; go on with: {resume}") from None
    return 0


def _run(work: Work, retry_failed: bool, into_recipe: bool) -> None:
    """Does all of the work; what is slow to import is imported here."""
    plan, folder = work.plan, work.folder
    if isinstance(plan, ExplorePlan):
        if retry_failed:
            raise UserError(
                "--retry-failed: later trials of an exploration were chosen knowing that earlier"
                " ones had failed, so these stay as they are."
            )
        from twins_nas.exploration import Exploration

        Exploration(folder, plan, work.settings, into_recipe).run()
        return
    from twins_nas.experiment import Experiment

    about = (folder, plan.document, plan.recipe, work.settings, retry_failed, into_recipe)
    if isinstance(plan, SupernetsPlan):
        from twins_nas.supernet_study import SupernetStudy

        SupernetStudy(*about, plan).run()
        return
    Experiment(*about).run()


def _check_own(plan: AnyPlan, recipe: str | None) -> None:
    check_own(recipe, plan.document.value, lambda path: planned(path).document.value)


def _list(plan: AnyPlan) -> None:
    """What would run."""
    if isinstance(plan, ExplorePlan):
        _list_exploration(plan)
    elif isinstance(plan, SupernetsPlan):
        _list_supernets(plan)
    else:
        _list_variants(plan)


def _list_supernets(plan: SupernetsPlan) -> None:
    """What would be trained."""
    recipe, truth = plan.recipe, plan.truth
    print(recipe.question)
    for variant in plan.variants:
        mark = "*" if variant.name == recipe.compare.baseline else " "
        training = variant.training.model_dump(exclude_unset=True)
        said = ", ".join(f"{name}: {value}" for name, value in training.items())
        print(f"{mark} {variant.name}: {said or 'the defaults'}")
    print(
        f"{len(plan.variants)} trainings x {len(recipe.seeds.numbers)} seeds of a supernet of"
        f" {plan.space.name}; each ranks {len(truth)} networks of the bank {truth.name}"
        f" ({recipe.rank.part} part); * is what the others are compared with"
    )
    for said in plan.notes:
        print(said)


def _list_variants(plan: Plan) -> None:
    """What would be compared."""
    print(plan.recipe.question)
    seeds = plan.recipe.seeds
    many = f"{seeds.first} to {len(seeds.numbers)}" if seeds.auto else str(seeds.first)
    for variant in plan.variants:
        mark = "*" if variant.name == plan.recipe.compare.baseline else " "
        print(f"{mark} {variant.label}: {variant.macs:,} MACs, {variant.params:,} params")
        print(f"    {variant.arch}")
    print(f"{len(plan.variants)} variants x {many} seeds; * is what the others are compared with")


def _list_exploration(plan: ExplorePlan) -> None:
    """What would be explored."""
    recipe, space, wanted = plan.recipe, plan.space, plan.recipe.explore
    print(recipe.question)
    for choice in space.choices:
        print(f"  {choice.name}: {', '.join(map(str, choice.values))}")
    for name, arch in named_members(space):
        found = cost(arch, space.input_size, *IMAGES.get(recipe.data.name, UNREAD))
        print(f"{name}: {found.macs:,} MACs, {found.params:,} params")
        print(f"    {arch}")
    print(
        f"{wanted.trials} trials by {wanted.sampler} of {space.size():.3g} networks, for"
        f" {', '.join(wanted.objectives)}; {recipe.training.epochs} epochs each;"
        f" {len(recipe.seeds.numbers)} seeds for the front"
    )


if __name__ == "__main__":
    exit_with(main)
