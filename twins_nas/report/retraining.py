"""A front retrained alone, as a table, Markdown, CSV and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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


@dataclass(frozen=True)
class Retrained:
    """A network of the front: accuracies in percent, inherited and alone by seed."""

    label: str
    name: str
    arch: ArchConfig
    macs: int
    params: int
    inherited_val: float
    inherited_test: float
    alone_val: Mapping[int, float]
    alone_test: Mapping[int, float]

    @cached_property
    def on_test(self) -> Summary:
        """Inherited minus alone, over the seeds of the latter, on the test images."""
        return summarise({s: self.inherited_test - one for s, one in self.alone_test.items()})

    @cached_property
    def on_val(self) -> Summary:
        """The same on the validation images, which chose the network by its inherited score."""
        return summarise({s: self.inherited_val - one for s, one in self.alone_val.items()})

    @property
    def title(self) -> str:
        """Number and name."""
        return f"{self.label} ({self.name})" if self.name else self.label


def cells(rows: Sequence[Retrained]) -> list[tuple[str, ...]]:
    """A tuple of texts for each network, in the order of `HEADERS`."""
    return [
        (
            row.title,
            macs_text(row.macs),
            f"{row.inherited_test:.2f}",
            f"{sum(row.alone_test.values()) / len(row.alone_test):.2f}",
            distance(row.on_test),
            distance(row.on_val),
        )
        for row in rows
    ]


def distance(of: Summary) -> str:
    """A mean with its interval over seeds."""
    return f"{of.mean:+.2f}" + _ends(of.interval)


def over_members(rows: Sequence[Retrained], on_test: bool) -> Summary:
    """The mean distance of all networks over their seeds, which are the same."""
    every = [row.alone_test if on_test else row.alone_val for row in rows]
    inherited = [row.inherited_test if on_test else row.inherited_val for row in rows]
    mean = sum(inherited) / len(rows)
    return summarise({s: mean - sum(one[s] for one in every) / len(rows) for s in every[0]})


def answer(rows: Sequence[Retrained], epochs: int, n_test: int) -> str:
    """How far inherited accuracy is from that of training alone, in a sentence or two."""
    near = sum(abs(row.on_test.mean) <= NEAR for row in rows)
    tested, seen = over_members(rows, True), over_members(rows, False)
    return (
        f"{near} of {len(rows)} networks ({100 * near / len(rows):.0f} %) have an inherited test"
        f" top-1 within {NEAR:g} points of their mean over {tested.n} trainings alone, of"
        f" {epochs} epochs each. Inherited minus alone, mean of the networks: {distance(tested)}"
        f" points on n = {n_test:,} test images, {distance(seen)} on the validation images that"
        f" chose them (95 % t intervals over n = {tested.n} seeds of training alone; one supernet)."
    )


def plain(rows: Sequence[Retrained]) -> str:
    """The table as text."""
    return as_plain(HEADERS, cells(rows), LEFT)


def markdown(rows: Sequence[Retrained], said: str, about: About, picture: str) -> str:
    """The whole report."""
    parts = [f"# {about.title}", f"**{said}**", as_markdown(HEADERS, cells(rows), LEFT)]
    parts += [
        "Accuracies in percent. distance: inherited minus the mean of the trainings alone, with a"
        " 95 % t interval over their seeds.",
        f"![inherited and alone]({picture})",
        "## How it was made",
        "\n".join(f"- {name}: {value}" for name, value in about_pairs(about)),
    ]
    return "\n\n".join(parts) + "\n"


def lines(rows: Sequence[Retrained]) -> list[dict[str, object]]:
    """The lines of the CSV file: one for each training."""
    return [
        dict(
            zip(
                CSV,
                (
                    *(row.label, row.name, row.macs, row.params, seed),
                    *(row.inherited_val, f"{row.alone_val[seed]:.6g}"),
                    *(row.inherited_test, f"{row.alone_test[seed]:.6g}"),
                ),
                strict=True,
            )
        )
        for row in rows
        for seed in row.alone_test
    ]


def figure(rows: Sequence[Retrained]) -> Any:
    """Test accuracy over MACs: inherited, and alone from the worst to the best seed."""
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
    inherited = [row.inherited_test for row in rows]
    axes.plot(macs, inherited, "D", color=NAMED, ms=5, label="inherited")
    if log_is_better(macs):
        log_axis(axes)
    axes.set_xlabel("MACs (M)", color=INK)
    axes.set_ylabel("test top-1 (%)", color=INK)
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    return made


def _ends(bounds: Interval | None) -> str:
    return "" if bounds is None else f" [{bounds.low:+.2f}, {bounds.high:+.2f}]"
