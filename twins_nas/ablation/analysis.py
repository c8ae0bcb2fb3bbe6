"""What the results show: rows of a table, verdicts of one family, an answer in a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from twins_nas.ablation.results import RunResult, TestResult, values_of
from twins_nas.ablation.variants import Variant, baselines
from twins_nas.ablation_recipe import SeedsRecipe
from twins_nas.sequential import Look, Schedule, look, schedule
from twins_nas.stats import Paired, Summary, described, summarise
from twins_nas.verdicts import Comparison, Rule, family_p, judged, paired_with, why_too_few


class Metric(NamedTuple):
    """What is compared, in words, its unit (none: it has none), and which way is better."""

    words: str
    unit: str
    higher_is_better: bool


METRICS = {
    "val_top1": Metric("validation top-1", "points", True),
    "val_loss": Metric("validation loss", "nats", False),
    "test_top1": Metric("test top-1", "points", True),
    "test_loss": Metric("test loss", "nats", False),
    "tau_loss": Metric("tau by loss", "", True),
    "tau_top1": Metric("tau by top-1", "", True),
    "within_loss": Metric("tau within bins of MACs by loss", "", True),
    "within_top1": Metric("tau within bins of MACs by top-1", "", True),
}


class Compare(Protocol):
    """What is compared with what, and by how much it has to differ to matter."""

    @property
    def baseline(self) -> str:
        """A variant's name."""

    @property
    def metric(self) -> str:
        """A word of `METRICS`."""

    @property
    def margin(self) -> float | None:
        """In the metric's unit."""


class Comparing(Protocol):
    """A recipe of variants that are compared."""

    @property
    def compare(self) -> Compare:
        """How."""

    @property
    def seeds(self) -> SeedsRecipe:
        """On which seeds."""


@dataclass(frozen=True)
class Row:
    """One variant: `summary` of the metric, `test` of the test accuracy, None without a run.

    `comparison` is None for the baseline.
    """

    variant: Variant
    summary: Summary | None
    test: Summary | None
    comparison: Comparison | None
    results: tuple[RunResult, ...]

    @property
    def is_baseline(self) -> bool:
        """Whether the others are compared with it."""
        return self.comparison is None

    def count(self, status: str) -> int:
        """How many of its runs ended so."""
        return sum(result.status == status for result in self.results)


@dataclass(frozen=True)
class Findings:
    """The rows in the order of the recipe, how they were judged, and the answer in words."""

    rows: tuple[Row, ...]
    rule: Rule
    metric: str
    answer: str
    notes: tuple[str, ...]


def rule_of(recipe: Comparing) -> Rule:
    """How the recipe's family is judged."""
    metric = METRICS[recipe.compare.metric]
    return Rule(recipe.compare.margin, metric.higher_is_better, metric.unit)


def plan_of(recipe: Comparing) -> Schedule | None:
    """The looks of `seeds: auto`."""
    seeds = recipe.seeds
    return schedule(seeds.first, len(seeds.numbers)) if seeds.auto else None


def too_few(recipe: Comparing, variants: Sequence[Variant]) -> str | None:
    """Why the seeds cannot give any verdict; None where they can."""
    comparisons = sum(one.name != recipe.compare.baseline for one in variants)
    return why_too_few(len(recipe.seeds.numbers), comparisons, rule_of(recipe))


def look_at(
    recipe: Comparing, variants: Sequence[Variant], results: Sequence[RunResult], number: int
) -> Look:
    """The verdicts of `seeds: auto` after a look."""
    plan = plan_of(recipe)
    assert plan is not None
    found = values_of(results, {}, recipe.compare.metric)
    values = {one.label: found.get(one.label, {}) for one in variants}
    (baseline,) = baselines(recipe.compare.baseline, variants).values()
    return look(values, baseline.label, rule_of(recipe), plan, recipe.seeds.numbers, number)


def findings(
    recipe: Comparing,
    variants: Sequence[Variant],
    results: Sequence[RunResult],
    tests: Mapping[tuple[str, int], TestResult],
) -> Findings:
    """All that the results show; several bases are one family."""
    rule, metric = rule_of(recipe), recipe.compare.metric
    found = values_of(results, tests, metric)
    tested = values_of(results, tests, "test_top1")
    values = {one.label: found.get(one.label, {}) for one in variants}
    comparisons = _compared(recipe, variants, results, values, rule)
    rows = tuple(
        Row(
            one,
            summarise(values[one.label]) if values[one.label] else None,
            summarise(tested[one.label]) if one.label in tested else None,
            comparisons.get(one.label),
            tuple(result for result in results if result.label == one.label),
        )
        for one in variants
    )
    return Findings(rows, rule, METRICS[metric].words, _answer(recipe, rows, rule), _notes(rows))


def _compared(
    recipe: Comparing,
    variants: Sequence[Variant],
    results: Sequence[RunResult],
    values: Mapping[str, Mapping[int, float]],
    rule: Rule,
) -> dict[str, Comparison]:
    plan = plan_of(recipe)
    if plan is not None:
        tried = [sum(one.label == result.label for result in results) for one in variants]
        most = max(tried, default=0)
        number = sum(n <= most for n in plan.looks) - 1
        if number >= 0:
            seen = look_at(recipe, variants, results, number)
            return {one.name: one for one in seen.comparisons}
    differences: dict[str, Paired] = {}
    for group, baseline in baselines(recipe.compare.baseline, variants).items():
        own = {one.label: values[one.label] for one in variants if one.group == group}
        differences |= paired_with(own, baseline.label)
    return {one.name: one for one in judged(differences, family_p(differences, rule), rule)}


def _answer(recipe: Comparing, rows: Sequence[Row], rule: Rule) -> str:
    """The verdicts in a sentence for each base, each with its difference, interval and n."""
    sentences = []
    for group in dict.fromkeys(row.variant.group for row in rows):
        parts = []
        for row in rows:
            if row.variant.group == group and row.comparison is not None:
                one = row.comparison
                said = one.verdict.text
                words = f"has {said}" if one.verdict.word == "none" else f"is {said}"
                parts.append(f"{row.variant.name} {words}: {described(one.difference, rule.unit)}")
        place = f"In {group}, against" if group else "Against"
        baseline = recipe.compare.baseline
        metric = METRICS[recipe.compare.metric].words
        sentences.append(f"{place} {baseline} ({metric}): {'; '.join(parts)}.")
    return " ".join(sentences)


def _notes(rows: Sequence[Row]) -> tuple[str, ...]:
    """What stands below the table: runs that do not count, and why numbers lack."""
    notes = []
    for row in rows:
        for result in row.results:
            who = f"{row.variant.label}, seed {result.seed}"
            if result.status == "failed":
                notes.append(f"Failed, and not counted: {who}: {result.reason}.")
            if result.status == "stopped":
                notes.append(f"Stopped early, and not counted: {who}, {result.reason}.")
            if result.retries:
                notes.append(
                    f"{who} was tried again with {result.accumulate} batches of"
                    f" {result.batch_size} to a step ({result.retries[-1]})."
                )
        if row.summary is not None and row.summary.note:
            notes.append(f"{row.variant.label}: {row.summary.note}.")
    return tuple(notes)
