"""The pictures of a supernet's insight: a forest of main effects, a map of interactions."""

from __future__ import annotations

from typing import Any

from twins_nas.effects.findings import Insight
from twins_nas.report.ablation_plots import axes_of
from twins_nas.report.plots import FAINT, FRONT, INK, NAMED

ROW = 0.21
"""Inches of a line of the forest."""


def figures(found: Insight) -> dict[str, Any]:
    """The figures by name."""
    made = {"effects": forest(found)}
    if found.variance is not None:
        made["interactions"] = heat_map(found)
    return made


def forest(found: Insight) -> Any:
    """Main effects with their intervals, raw and at equal MACs; dimensions divided by lines."""
    rows = [one for one in found.effects if one.n]
    figure, axes = axes_of((8.6, 1.4 + ROW * len(rows)))
    axes.axvline(0, color=INK, lw=1)
    for shift, colour, label, which in (
        (-0.16, FAINT, "as it is", "raw"),
        (0.16, FRONT, "at equal MACs", "adjusted"),
    ):
        for place, one in enumerate(rows):
            mark = getattr(one, which)
            tint = NAMED if which == "adjusted" and mark.shown else colour
            if mark.interval is not None:
                ends = (mark.interval.low, mark.interval.high)
                axes.plot(ends, (place + shift,) * 2, color=tint, lw=1.6, solid_capstyle="butt")
            axes.plot(mark.mean, place + shift, "o", color=tint, ms=3.6)
        axes.plot([], [], "o-", color=colour, ms=3.6, label=label)
    if any(one.adjusted.shown for one in rows):
        axes.plot([], [], "o-", color=NAMED, ms=3.6, label="at equal MACs, shown (Holm)")
    before = ""
    for place, one in enumerate(rows):
        if place and one.dimension != before:
            axes.axhline(place - 0.5, color="#c9d2da", lw=0.7)
        before = one.dimension
    labels = [
        f"{one.dimension.replace('stages.', 'stage ').replace('.', ' ')}:"
        f" {one.choice} - {one.reference}"
        for one in rows
    ]
    axes.set_yticks(range(len(rows)), labels, fontsize=7.5)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("points of validation top-1, with 95 % intervals")
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, frameon=False, fontsize=8)
    return figure


def heat_map(found: Insight) -> Any:
    """Shares of the variance: main effects on the diagonal, interactions below it."""
    import numpy as np

    assert found.variance is not None
    count = len(found.dimensions)
    shares = np.full((count, count), np.nan)
    for share in found.variance.shares:
        shares[share.dimension, share.dimension] = share.percent
    for pair in found.variance.pairs:
        shares[max(pair.dimensions), min(pair.dimensions)] = pair.percent
    side = 2.6 + 0.25 * count
    figure, axes = axes_of((side + 1.0, side))
    axes.grid(visible=False)
    image = axes.imshow(np.sqrt(shares), cmap="YlGnBu", aspect="equal", vmin=0)
    known = {pair.dimensions for pair in found.variance.pairs if pair.p <= 0.05}
    largest = float(np.nanmax(shares))
    for row in range(count):
        for column in range(row + 1):
            value = shares[row, column]
            sure = (column, row) in known
            if value >= 1 or sure:
                light = value > 0.35 * largest
                axes.text(
                    column,
                    row,
                    f"{value:.0f}" if value >= 9.95 else f"{value:.1f}",
                    ha="center",
                    va="center",
                    fontsize=6,
                    color="white" if light else INK,
                    fontweight="bold" if sure else "normal",
                )
    words = [one.words for one in found.dimensions]
    axes.set_xticks(range(count), words, rotation=90, fontsize=7)
    axes.set_yticks(range(count), words, fontsize=7)
    bar = figure.colorbar(image, ax=axes, shrink=0.6)
    ticks = [tick for tick in (0, 0.5, 1, 2, 5, 10, 20, 40, 80) if tick <= largest]
    bar.set_ticks([tick**0.5 for tick in ticks], labels=[f"{tick:g}" for tick in ticks])
    bar.set_label("% of the variance of top-1", color=INK)
    axes.set_title(
        "Diagonal: main effects; below: interactions (bold: shown after Holm; white: no telling)",
        loc="left",
        fontsize=9,
        color=INK,
    )
    return figure
