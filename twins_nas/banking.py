"""The way of one bank: its networks, runs seed by seed, test images, the bank's files, report."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from hashlib import sha256
from typing import Any

from twins_nas.ablation.engine import Engine, place_of, spent, workers
from twins_nas.ablation.header import write_result
from twins_nas.ablation.results import AblationFolder, Run, RunResult, TestResult
from twins_nas.ablation.variants import Variant
from twins_nas.ablation.work import Place
from twins_nas.banks.bank import Bank, load
from twins_nas.banks.draw import Member, Strata
from twins_nas.banks.files import (
    ARCHS,
    CURVES,
    FORMAT,
    POINT,
    RUNS,
    SCORES,
    BankHeader,
    BankImages,
    Line,
    write_bank,
)
from twins_nas.banks.plan import BankPlan
from twins_nas.banks.taken import TAKEN, source, take
from twins_nas.data import ImageData
from twins_nas.errors import UserError
from twins_nas.files import write_bytes, write_text
from twins_nas.progress import duration
from twins_nas.provenance import command, git_commit, machine
from twins_nas.report.ablation_plots import as_png
from twins_nas.report.bank import bank_figure, bank_table, bank_words
from twins_nas.report.rows import arch_params
from twins_nas.runs import Settings
from twins_nas.space_yaml import dump_arch
from twins_nas.tracking import Run as Tracked
from twins_nas.tracking import Tracker
from twins_nas.tuning.ray_cluster import Resources, cluster
from twins_nas.yaml_nodes import parse

EXPERIMENT = "bank"
PLACES = ("--data-root", "--out")
Tests = dict[tuple[str, int], TestResult]


@dataclass
class Build:
    """The build of one bank from images to report; the bank is in `bank/` of its folder.

    Raises:
        UserError: what the user can mend: a data set, a device, a disk, a store.
    """

    folder: AblationFolder
    plan: BankPlan
    settings: Settings
    retry_failed: bool = False
    into_recipe: bool = False
    grown_from: str | None = None

    def run(self) -> Bank:
        """Does what is not done yet, and reports."""
        tracker = Tracker(EXPERIMENT)
        tags = {"question": self.plan.recipe.question, "bank": self.plan.name}
        name = self.folder.path.name
        with tracker.start(name, self.params, tags, self.settings.mlflow_run) as tracked:
            self.folder.write_settings(dataclasses.replace(self.settings, mlflow_run=tracked.id))
            engine = self.engine(tracked)
            labels = [variant.label for variant in engine.variants]
            runs = engine.runs(labels, self.plan.recipe.seeds.numbers)
            self.forget_failed(runs)
            self.take_over(runs)
            left = any(self.folder.result(run) is None for run in runs)
            with cluster(engine.workers) if engine.workers and left else nullcontext():
                results = engine.train(runs)
                tests = engine.test(runs)
            if not tests:
                raise UserError(
                    f"None of the {len(runs)} runs was trained to its end; the last one:"
                    f" {results[-1].reason}."
                )
            for run in runs:
                if test := tests.get((run.variant.label, run.seed)):
                    scores = {"test_top1": test.test_top1, "test_loss": test.test_loss}
                    tracked.add_to_child(run.name, scores)
            at_once = engine.workers.evaluators if engine.workers else 1
            self.write(runs, results, tests, self.cost(results, at_once))
            bank = load(self.folder.path / "bank")
            self.report(bank, tracked)
        print(
            f"\nThe bank: {self.folder.path / 'bank'}\nMLflow:   {tracker.store.look}", flush=True
        )
        return bank

    @cached_property
    def place(self) -> Place:
        """Where the networks are trained."""
        return place_of(self.folder, self.plan.recipe, self.settings)

    @cached_property
    def data(self) -> ImageData:
        """The images of the first seed: channels, classes and numbers are those of all seeds."""
        return self.place.data(self.plan.recipe.seeds.numbers[0])

    @cached_property
    def drawn(self) -> tuple[Strata, tuple[Member, ...]]:
        """The strata and the networks."""
        return self.plan.drawn(self.data.in_chans, self.data.num_classes)

    @property
    def params(self) -> dict[str, Any]:
        """What MLflow shows of the whole."""
        space = self.plan.space
        recipe = self.plan.recipe.model_dump(exclude={"question", "paper", "space"})
        about = {"name": space.name, "fingerprint": space.fingerprint, "base": space.base}
        edges = self.drawn[0].edges
        return {"recipe": recipe, "space": about, "strata": edges, "device": self.place.device}

    def variant(self, member: Member) -> Variant:
        """A network as what is trained; its files have a hash of its key in their names."""
        label = sha256(self.plan.space.key(member.arch).encode()).hexdigest()[:12]
        training = self.plan.recipe.training
        return Variant(label, "", member.arch, training, member.macs, member.params)

    def engine(self, tracked: Tracked) -> Engine:
        """What does the runs, and tells MLflow of each that has ended."""
        members = self.drawn[1]

        def on_result(run: Run, result: RunResult) -> None:
            member = members[run.number]
            shown = {"network": run.number, "seed": run.seed, **arch_params(member.arch)}
            numbers = {"macs": member.macs, "params": member.params, "seconds": result.seconds}
            tags = {"status": result.status, "part": member.part, "stratum": str(member.stratum)}
            tags |= {"name": member.name} if member.name else {}
            tags |= {"reason": result.reason} if result.reason else {}
            tracked.child(run.name, shown, numbers, tags, result.curve)
            if result.status == "failed":
                said = f"network {run.number}, seed {run.seed}, failed: {result.reason}"
                print(said, file=sys.stderr, flush=True)

        variants = tuple(self.variant(member) for member in members)
        return Engine(self.place, variants, len(self.data.train), self.crew, on_result)

    @cached_property
    def crew(self) -> Resources | None:
        """The workers; None: this process."""
        if self.settings.local:
            return None
        wanted = self.plan.recipe.resources
        return workers(wanted.cpu, wanted.gpu, self.place.device, self.settings.parallel)

    def forget_failed(self, runs: list[Run]) -> None:
        """Has failed runs done again, if that was asked for."""
        for run in runs if self.retry_failed else ():
            result = self.folder.result(run)
            if result is not None and result.status == "failed":
                self.folder.forget(run)

    def take_over(self, runs: list[Run]) -> None:
        """Takes runs from the bank that this one is to grow from, if there is one."""
        if self.grown_from:
            found = source(self.grown_from, self.plan)
            count = take(self.folder, runs, *found, self.images)
            print(f"{count} of {len(runs)} runs are {TAKEN}{found[1].name}.", flush=True)

    @property
    def images(self) -> BankImages:
        """The images of the bank; none of them is known to be for tests before those were read."""
        data = self.data
        about = {"channels": data.in_chans, "classes": data.num_classes}
        return BankImages(**about, train=len(data.train), val=len(data.val), test=0)

    def cost(self, results: list[RunResult], at_once: int) -> str:
        """What the bank's own runs took, and whence the others are, in a sentence."""
        taken = [result for result in results if result.reason.startswith(TAKEN)]
        own = spent(self.place, [one for one in results if one not in taken], at_once)
        parts = [own]
        for reason in dict.fromkeys(one.reason for one in taken):
            seconds = [one.seconds for one in taken if one.reason == reason]
            steps = duration(sum(seconds))
            parts.append(f"{len(seconds)} runs more, of {steps} of training steps, {reason}")
        return "; ".join(parts)

    def write(self, runs: list[Run], results: list[RunResult], tests: Tests, cost: str) -> None:
        """The files of the bank."""
        import torch

        plan = self.plan
        strata, members = self.drawn
        header = BankHeader(
            format=FORMAT,
            name=plan.name,
            question=plan.recipe.question,
            seeds=plan.recipe.seeds.numbers,
            strata=strata.edges,
            images=self.images.model_copy(
                update={"test": max(test.n_test for test in tests.values())}
            ),
            training=plan.recipe.training,
            data=plan.recipe.data,
            space=plan.document.value["space"],
            cost=cost,
            device=self.place.device,
            machine=machine(),
            torch=str(torch.__version__),
            commit=git_commit(),
            command=portable(command()),
            date=datetime.now().astimezone().isoformat(timespec="seconds"),
            files={},
        )
        pairs = list(zip(runs, results, strict=True))
        tables = {
            ARCHS: [self.arch_line(member) for member in members],
            RUNS: [run_line(run, result, tests) for run, result in pairs],
            CURVES: [line for pair in pairs for line in curve_lines(*pair)],
        }
        write_bank(self.folder.path / "bank", header, tables)

    def arch_line(self, member: Member) -> Line:
        """A network's line."""
        text = dump_arch(member.arch, self.plan.space.input_size)
        values = dataclasses.asdict(member) | {
            "key": self.variant(member).label,
            # Words of an architecture need no quotes in YAML, and a table would double them.
            "arch": json.dumps(parse(text, "arch").value).replace('"', ""),
        }
        return values

    def report(self, bank: Bank, tracked: Tracked) -> None:
        """The table on the console, the picture in the folder and in MLflow."""
        folder, words, table = self.folder.path, bank_words(bank), bank_table(bank)
        write_text(folder / "report.txt", "\n".join([*words, "", table, ""]))
        write_bytes(folder / "bank.png", as_png(bank_figure(bank)))
        for name in ("report.txt", "bank.png", self.folder.MARK):
            tracked.artifact(folder / name)
        tracked.artifact(folder / "bank", "bank")
        tracked.describe("\n\n".join(words) + f"\n\n```\n{table}\n```")
        print(f"\n{table}\n")
        print("\n".join(words))
        if self.into_recipe:
            result = " ".join(word for word in words[1:] if not word.startswith("Cost: "))
            path = write_result(self.settings.recipe, bank.header.cost, result)
            print(f"\nCost and result are written into {path}.")


def run_line(run: Run, result: RunResult, tests: Tests) -> Line:
    """A run's line, whatever became of it; only finished ones have scores."""
    line: dict[str, object] = {
        "number": run.number,
        "seed": run.seed,
        "status": result.status,
        "reason": result.reason,
        "epochs": result.epochs,
        "batch_size": result.batch_size,
        "accumulate": result.accumulate,
        "seconds": f"{result.seconds:.2f}",
    }
    test = tests.get((run.variant.label, run.seed))
    for name in SCORES:
        value = getattr(test if name.startswith("test") else result, name, None)
        known = result.status == "finished" and value is not None
        line[name] = f"{value:.6g}" if known else ""
    return line


def curve_lines(run: Run, result: RunResult) -> list[Line]:
    """The ends of a run's epochs."""
    ends = [(step, metrics) for step, metrics in result.curve if "val_top1" in metrics]
    return [
        {
            "number": run.number,
            "seed": run.seed,
            "epoch": epoch,
            "step": step,
            **{name: f"{metrics[name]:.6g}" for name in POINT},
        }
        for epoch, (step, metrics) in enumerate(ends, start=1)
    ]


def portable(text: str) -> str:
    """A command line without the folders of this machine."""
    words = shlex.split(text)
    for at, word in enumerate(words):
        option, given, _ = word.partition("=")
        if option in PLACES and given:
            words[at] = f"{option}=DIR"
        elif at and words[at - 1] in PLACES:
            words[at] = "DIR"
    return shlex.join(words)
