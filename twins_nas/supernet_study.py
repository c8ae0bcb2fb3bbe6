"""The way of one comparison of supernets: an ablation whose runs are supernets that rank a bank."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from twins_nas.ablation.analysis import METRICS, Findings
from twins_nas.ablation.engine import Engine, place_of
from twins_nas.ablation.results import Run, RunResult, TestResult
from twins_nas.ablation.variants import Variant
from twins_nas.agreement import EACH, findings
from twins_nas.experiment import Experiment
from twins_nas.report.ranking import text
from twins_nas.stats import described, summarise
from twins_nas.supernets.plan import SupernetsPlan
from twins_nas.supernets.work import SIGNS, SupernetPlace, scores_of
from twins_nas.verdicts import paired_with

COSTS = (
    "MACs are those of the forward passes of a training step, of one image; params those of the"
    " supernet."
)


@dataclass
class SupernetStudy(Experiment):
    """One comparison from images to report; a supernet reads no test images.

    Raises:
        UserError: what the user can mend: a data set, a device, a disk, a store.
    """

    plan: SupernetsPlan | None = None

    @property
    def asked(self) -> SupernetsPlan:
        """The plan."""
        assert self.plan is not None
        return self.plan

    @cached_property
    def place(self) -> SupernetPlace:
        """Where the supernets are trained."""
        plan, found = self.asked, place_of(self.folder, self.recipe, self.settings)
        about = (found.folder, found.recipe, found.settings, found.device)
        asked = (plan.recipe.rank.bins, plan.recipe.compare.metric)
        return SupernetPlace(*about, plan.space, plan.truth, *asked)

    @cached_property
    def variants(self) -> tuple[Variant, ...]:
        """The variants with the cost of their training and the size of their supernet."""
        return tuple(
            replace(
                variant,
                macs=self.place.step_macs(variant.training, self.data),
                params=sum(
                    weight.numel()
                    for weight in self.place.supernet(variant.training, self.data).parameters()
                ),
            )
            for variant in self.asked.variants
        )

    def tested(self, engine: Engine, runs: list[Run]) -> dict[tuple[str, int], TestResult]:
        """Nothing: supernets are compared on validation images alone."""
        return {}

    def shown(self, variant: Variant) -> dict[str, Any]:
        """What MLflow shows of a variant, besides its training."""
        rank = self.asked.recipe.rank
        return {"space": self.asked.space.name, "bank": rank.bank, "part": rank.part}

    def notes(self, found: Findings) -> tuple[str, ...]:
        """What is ranked, scores by loss against scores by top-1, and intervals over networks."""
        truth, part = self.asked.truth, self.asked.recipe.rank.part
        about = (
            f"Ranked are the n = {len(truth)} networks of the {part} part of the bank"
            f" {truth.name}, each trained alone on {truth.top1_NS.shape[1]} seeds."
        )
        done = {
            row.variant.name: [one for one in row.results if one.status == "finished"]
            for row in found.rows
        }
        members = self.members(done)
        return (
            *(COSTS, about, *self.asked.notes),
            *(*members, *self.by_loss(done), *self.over_networks(done)),
        )

    def more(self, result: RunResult) -> dict[str, float]:
        """Tau by each score, and the mean top-1 and loss of the networks as members."""
        if result.status != "finished":
            return {}
        known, values = result.more, {}
        for score in SIGNS:
            own = [value for key, value in known.items() if key.startswith(f"{score} ")]
            values[f"members_{score}"] = sum(own) / len(own)
        return {key: known[key] for key in known if key in METRICS} | values

    def members(self, done: dict[str, list[RunResult]]) -> tuple[str, ...]:
        """What the networks reach as members: the mean of all, against the baseline."""
        baseline = self.recipe.compare.baseline
        values = {
            name: {one.seed: self.more(one)["members_top1"] for one in own}
            for name, own in done.items()
        }
        if len(values) < 2 or not values.get(baseline):
            return ()
        own = summarise(values[baseline])
        parts = [
            f"{name} {described(difference, 'points')}"
            for name, difference in paired_with(values, baseline).items()
        ]
        return (
            f"Mean top-1 of the networks as members, against {baseline}"
            f" ({own.mean:.2f} %, n = {own.n}): {'; '.join(parts)}.",
        )

    def by_loss(self, done: dict[str, list[RunResult]]) -> tuple[str, ...]:
        """What scoring by loss gives over scoring by top-1, with the same supernets."""
        parts = []
        for name, results in done.items():
            both = [one for one in results if all(f"tau_{score}" in one.more for score in SIGNS)]
            values = {
                score: {one.seed: one.more[f"tau_{score}"] for one in both} for score in SIGNS
            }
            if both:
                difference = paired_with(values, "top1")["loss"]
                parts.append(f"{name} {described(difference, '')}")
        said = f"Tau by loss minus tau by top-1, same supernets: {'; '.join(parts)}."
        return (said,) if parts else ()

    def over_networks(self, done: dict[str, list[RunResult]]) -> tuple[str, ...]:
        """Differences from the baseline with intervals over networks, seeds and supernets.

        Of the seeds that all variants with a result have, so that resamples are paired.
        """
        compare, truth = self.recipe.compare, self.asked.truth
        of, _, score = compare.metric.partition("_")
        found = {name: {one.seed: one for one in own} for name, own in done.items() if own}
        shared = sorted(set.intersection(*map(set, found.values()))) if found else []
        if compare.baseline not in found or not shared:
            return ()
        alike = {name: [own[seed] for seed in shared] for name, own in found.items()}
        scores = [
            scores_of(name, [one.more for one in results], score, EACH)
            for name, results in alike.items()
        ]
        rng = np.random.default_rng(0)
        rows = findings(truth, scores, compare.baseline, self.asked.recipe.rank.bins, rng).rows
        known = {row.name: row for row in rows if row.figures}
        if compare.baseline not in known:
            return ()
        base, parts = known[compare.baseline].figures[of], []
        for name in [name for name in alike if name in known]:
            figure = known[name].figures[of]
            beside = (
                f" ({text((figure - base).estimate, signed=True)})" if figure is not base else ""
            )
            parts.append(f"{name} {text(figure.estimate)}{beside}")
        words = METRICS[compare.metric].words
        return (
            f"{words.capitalize()} with 95 % bootstrap intervals over networks, their seeds and"
            f" n = {len(shared)} supernets (in brackets: minus {compare.baseline}):"
            f" {'; '.join(parts)}.",
        )
