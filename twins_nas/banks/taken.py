"""Runs of a bank that is there, taken over by a build of the same recipe: how a bank grows.

A shipped bank has no folder of its build, and need not be trained again for having more networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from twins_nas.ablation.exploring import space_of
from twins_nas.ablation.results import AblationFolder, Run, RunResult, TestResult
from twins_nas.banks.bank import find_bank
from twins_nas.banks.files import (
    ARCHS,
    CURVES,
    HEADER,
    POINT,
    RUNS,
    SCORES,
    BankHeader,
    BankImages,
    read_header,
    read_table,
)
from twins_nas.banks.plan import BankPlan
from twins_nas.errors import UserError
from twins_nas.yaml_nodes import read

TAKEN = "taken from the bank "
"""How the reason of a taken run begins."""


def source(name: str, plan: BankPlan) -> tuple[Path, BankHeader]:
    """The bank whose runs are to be taken, and its folder.

    Raises:
        UserError: there is none, it is damaged, or of another recipe; says what differs.
    """
    folder = find_bank(name)
    header = read_header(folder)
    wanted = plan.recipe
    unlike = [
        f"training.{key}: {getattr(header.training, key)}, here {value}"
        for key, value in wanted.training
        if getattr(header.training, key) != value and key != "checkpoint_seconds"
    ]
    unlike += [
        f"data.{key}: {getattr(header.data, key)}, here {value}"
        for key, value in wanted.data
        if getattr(header.data, key) != value
    ]
    if space_of(read(folder / HEADER), header.space).fingerprint != plan.space.fingerprint:
        unlike.append("space: another one")
    if unlike:
        raise UserError(
            f"No run of the bank {header.name} can be taken, as it was made by another recipe"
            f" ({'; '.join(unlike)})."
        )
    return folder, header


def take(
    folder: AblationFolder, runs: Sequence[Run], bank: Path, header: BankHeader, images: BankImages
) -> int:
    """Puts the finished runs of a bank among the results of a build that has none yet.

    Gives how many it took; `images` are those of the build, whose `test` is not looked at.

    Raises:
        UserError: the bank is of other images, damaged, or has none of the build's runs.
    """
    mine = images.model_copy(update={"test": header.images.test})
    if header.images != mine:
        raise UserError(
            f"No run of the bank {header.name} can be taken: it is of other images"
            f" ({header.images}; here {mine})."
        )
    archs, lines, curves = (read_table(bank, name, header) for name in (ARCHS, RUNS, CURVES))
    labels = {line["number"]: line["key"] for line in archs}
    found = {
        (labels[line["number"]], int(line["seed"])): line
        for line in lines
        if line["status"] == "finished"
    }
    here = [run for run in runs if (run.variant.label, run.seed) in found]
    if not here:
        raise UserError(f"The bank {header.name} has none of the runs of this build.")
    left = [run for run in here if folder.result(run) is None]
    for run in left:
        line = found[run.variant.label, run.seed]
        val_top1, val_loss, test_top1, test_loss = (float(line[name]) for name in SCORES)
        curve = tuple(
            (int(point["step"]), {name: float(point[name]) for name in POINT if point[name]})
            for point in curves
            if (point["number"], point["seed"]) == (line["number"], line["seed"])
        )
        # The result is what tells that a run is done, so it comes last.
        folder.write_test(run, TestResult(test_top1, test_loss, header.images.test))
        folder.write_result(
            run,
            RunResult(
                run.variant.label,
                run.seed,
                run.identity,
                "finished",
                line["reason"] or f"{TAKEN}{header.name} of {header.date[:10]}",
                batch_size=int(line["batch_size"]),
                accumulate=int(line["accumulate"]),
                val_top1=val_top1,
                val_loss=val_loss,
                n_val=header.images.val,
                epochs=int(line["epochs"]),
                seconds=float(line["seconds"]),
                curve=curve,
            ),
        )
    return len(left)
