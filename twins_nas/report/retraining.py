"""A front retrained alone, as a table, Markdown, CSV and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import cycle
from typing import Any

from twins_nas.arch import ArchConfig
from twins_nas.report.ablation_plots import axes_of
from twins_nas.report.ablation_table import about_pairs, as_markdown, as_plain
from twins_nas.report.plots import FRONT, INK, MEGA, NAMED, log_axis, log_is_better
from twins_nas.report.rows import About, macs_text
from twins_nas.stats import Interval, Summary, summarise

NEAR = 0.5
"""Points within which inherited accuracy is called the same as alone."""
HEADERS = ("network", "MACs", "inherited test", "alone test", "distance test", "distance val")
LEFT = (0,)
CSV = (
    *("network", "name", "macs", "params", "seed"),
    *("inherited_val", "alone_val", "inherited_test", "alone_test"),
)
TUNED_MARKS = "s^vP"


@dataclass(frozen=True)
class Accuracies:
    """Top-1 in percent on the validation and on the test images."""

    val: float
    test: float

    def on(self, test: bool) -> float:
        """One of the two."""
        return self.test if test else self.val


@dataclass(frozen=True)
class Retrained:
    """A network of the front: accuracies in percent, inherited and alone by seed.

    `tuned` are those of inherited weights after so many steps of the network's own.
    """

    label: str
    name: str
    arch: ArchConfig
    macs: int
    params: int
    inherited: Accuracies
    alone_val: Mapping[int, float]
    alone_test: Mapping[int, float]
    tuned: Mapping[int, Accuracies] = field(default_factory=dict)

    @cached_property
    def by_steps(self) -> dict[int, Accuracies]:
        """Accuracies with the supernet's weights by steps of tuning; 0: as they are inherited."""
        return {0: self.inherited, **self.tuned}

    def distance(self, test: bool = True, steps: int = 0) -> Summary:
        """Supernet's weights minus alone, over the seeds of the latter.

        The validation images chose the network by its inherited score.
        """
        alone, own = self.alone_test if test else self.alone_val, self.by_steps[steps].on(test)
        return summarise({seed: own - one for seed, one in alone.items()})

    @property
    def title(self) -> str:
        """Number and name."""
        return f"{self.label} ({self.name})" if self.name else self.label


def headers(rows: Sequence[Retrained]) -> tuple[str, ...]:
    """Of the table."""
    every = [steps for steps in rows[0].by_steps if steps]
    return HEADERS + tuple(f"after {steps:,} steps" for steps in every)


def cells(rows: Sequence[Retrained]) -> list[tuple[str, ...]]:
    """A tuple of texts for each network, in the order of `headers`."""
    return [
        (
            row.title,
            macs_text(row.macs),
            f"{row.inherited.test:.2f}",
            f"{sum(row.alone_test.values()) / len(row.alone_test):.2f}",
            distance(row.distance()),
            distance(row.distance(test=False)),
            *(distance(row.distance(steps=steps)) for steps in row.tuned),
        )
        for row in rows
    ]


def distance(of: Summary) -> str:
    """A mean with its interval over seeds."""
    return f"{of.mean:+.2f}" + _ends(of.interval)


def over_members(rows: Sequence[Retrained], on_test: bool, steps: int = 0) -> Summary:
    """The mean distance of all networks over their seeds, which are the same."""
    every = [row.alone_test if on_test else row.alone_val for row in rows]
    mean = sum(row.by_steps[steps].on(on_test) for row in rows) / len(rows)
    return summarise({s: mean - sum(one[s] for one in every) / len(rows) for s in every[0]})


def near(rows: Sequence[Retrained], steps: int = 0) -> int:
    """How many networks are within `NEAR` points of their mean alone, on the test images."""
    return sum(abs(row.distance(steps=steps).mean) <= NEAR for row in rows)


def answer(rows: Sequence[Retrained], epochs: int, n_test: int) -> str:
    """How far inherited accuracy is from that of training alone, in a few sentences."""
    tested, seen = over_members(rows, True), over_members(rows, False)
    said = (
        f"{near(rows)} of {len(rows)} networks ({100 * near(rows) / len(rows):.0f} %) have an"
        f" inherited test"
        f" top-1 within {NEAR:g} points of their mean over {tested.n} trainings alone, of"
        f" {epochs} epochs each. Inherited minus alone, mean of the networks: {distance(tested)}"
        f" points on n = {n_test:,} test images, {distance(seen)} on the validation images that"
        f" chose them (95 % t intervals over n = {tested.n} seeds of training alone; one supernet)."
    )
    for steps in rows[0].tuned:
        said += (
            f" After {steps:,} steps of each network's own: {near(rows, steps)} of {len(rows)},"
            f" {distance(over_members(rows, True, steps))} points on the test images."
        )
    return said


def metrics(rows: Sequence[Retrained]) -> dict[str, float]:
    """What MLflow shows: mean distances on the test images, in points."""
    names = {
        steps: f"distance_test_{steps}_steps" if steps else "distance_test"
        for steps in rows[0].by_steps
    }
    return {name: over_members(rows, True, steps).mean for steps, name in names.items()}


def plain(rows: Sequence[Retrained]) -> str:
    """The table as text."""
    return as_plain(headers(rows), cells(rows), LEFT)


def markdown(rows: Sequence[Retrained], said: str, about: About, picture: str) -> str:
    """The whole report."""
    parts = [f"# {about.title}", f"**{said}**", as_markdown(headers(rows), cells(rows), LEFT)]
    parts += [
        "Accuracies in percent. distance: inherited minus the mean of the trainings alone, with a"
        " 95 % t interval over their seeds; after steps: the same on the test images, the inherited"
        " weights tuned on so many batches for this network alone.",
        f"![inherited and alone]({picture})",
        "## How it was made",
        "\n".join(f"- {name}: {value}" for name, value in about_pairs(about)),
    ]
    return "\n\n".join(parts) + "\n"


def columns(rows: Sequence[Retrained]) -> tuple[str, ...]:
    """Of the CSV file."""
    tuned = (f"tuned_{steps}_{part}" for steps in rows[0].tuned for part in ("val", "test"))
    return CSV + tuple(tuned)


def lines(rows: Sequence[Retrained]) -> list[dict[str, object]]:
    """The lines of the CSV file: one for each training."""
    return [
        dict(
            zip(
                columns(rows),
                (
                    *(row.label, row.name, row.macs, row.params, seed),
                    *(row.inherited.val, f"{row.alone_val[seed]:.6g}"),
                    *(row.inherited.test, f"{row.alone_test[seed]:.6g}"),
                    *(value for one in row.tuned.values() for value in (one.val, one.test)),
                ),
                strict=True,
            )
        )
        for row in rows
        for seed in row.alone_test
    ]


def figure(rows: Sequence[Retrained]) -> Any:
    """Test accuracy over MACs: inherited, tuned, and alone from the worst to the best seed."""
    made, axes = axes_of((7.6, 4.4))
    macs = [row.macs / MEGA for row in rows]
    every = [list(row.alone_test.values()) for row in rows]
    means = [sum(one) / len(one) for one in every]
    error = [
        [max(0.0, mean - min(one)) for mean, one in zip(means, every, strict=True)],
        [max(0.0, max(one) - mean) for mean, one in zip(means, every, strict=True)],
    ]
    label = "alone: mean, smallest to largest of the seeds"
    axes.errorbar(macs, means, error, fmt="o", color=FRONT, ms=5, capsize=2.5, label=label)
    inherited = [row.inherited.test for row in rows]
    axes.plot(macs, inherited, "D", color=NAMED, ms=5, label="inherited")
    for steps, mark in zip(rows[0].tuned, cycle(TUNED_MARKS)):
        after, label = (
            [row.tuned[steps].test for row in rows],
            f"inherited, {steps:,} steps of its own",
        )
        axes.plot(macs, after, mark, color=NAMED, mfc="none", ms=5, label=label)
    if log_is_better(macs):
        log_axis(axes)
    axes.set_xlabel("MACs (M)", color=INK)
    axes.set_ylabel("test top-1 (%)", color=INK)
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    return made


def _ends(bounds: Interval | None) -> str:
    return "" if bounds is None else f" [{bounds.low:+.2f}, {bounds.high:+.2f}]"
