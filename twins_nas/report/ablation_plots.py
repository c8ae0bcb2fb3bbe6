"""The pictures of an ablation: effects, learning curves, accuracy over MACs."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

from twins_nas.ablation.analysis import Findings, Row
from twins_nas.report.plots import FAINT, FRONT, INK, MEGA, NAMED, log_is_better
from twins_nas.stats import Summary, summarise

COLOURS = (
    "#1f5fa8",
    "#c2410c",
    "#0f766e",
    "#7c3aed",
    "#b45309",
    "#be185d",
    "#4d7c0f",
    "#475569",
)
NEARLY_EQUAL = 1.03
"""Factor of MACs below which points would hide each other."""
VERDICT_COLOURS = {"better": "#0f766e", "worse": NAMED, "equivalent": FRONT, "none": FAINT}


def figures(findings: Findings) -> dict[str, Any]:
    """The figures by name; those that nothing can be drawn of are absent."""
    makers: dict[str, Callable[[Findings], Any]] = {
        "effects": effects,
        "curves": curves,
        "macs": over_macs,
    }
    made = {name: maker(findings) for name, maker in makers.items()}
    return {name: figure for name, figure in made.items() if figure is not None}


def as_png(figure: Any) -> bytes:
    """The picture's file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140)
    return buffer.getvalue()


def as_svg(figure: Any) -> str:
    """The picture as an element of a page."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "twins_nas"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def effects(findings: Findings) -> Any:
    """A forest plot: each variant's paired difference with its interval, and the margin."""
    rows = [row for row in findings.rows if row.comparison and row.comparison.difference.n]
    if not rows:
        return None
    figure, axes = axes_of((7.6, 1.3 + 0.42 * len(rows)))
    margin = findings.rule.margin
    if margin is not None:
        axes.axvspan(-margin, margin, color="#e6eef7", lw=0, label=f"within {margin:g}")
    axes.axvline(0, color=INK, lw=1)
    for place, row in enumerate(rows):
        assert row.comparison is not None
        difference = row.comparison.difference
        colour = VERDICT_COLOURS[row.comparison.verdict.word]
        if difference.interval:
            ends = (difference.interval.low, difference.interval.high)
            axes.plot(ends, (place, place), color=colour, lw=2.2, solid_capstyle="butt")
        axes.plot(difference.mean, place, "o", color=colour, ms=6)
        axes.plot(difference.differences, [place] * difference.n, "|", color=INK, ms=7, alpha=0.5)
    axes.set_yticks(range(len(rows)), [f"{row.variant.label}" for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    of = f"{findings.metric}, {findings.rule.unit}".removesuffix(", ")
    axes.set_xlabel(f"difference from the baseline ({of})")
    if margin is not None:
        axes.legend(loc="best", frameon=False, fontsize=8)
    return figure


def curves(findings: Findings) -> Any:
    """Validation accuracy by epoch: the mean over seeds, and a band of one standard deviation."""
    from matplotlib.ticker import MaxNLocator

    groups = list(dict.fromkeys(row.variant.group for row in findings.rows))
    figure, several = axes_of((7.6, 3.8 * len(groups)), len(groups))
    drawn = False
    for axes, group in zip(several if len(groups) > 1 else [several], groups, strict=True):
        rows = [row for row in findings.rows if row.variant.group == group]
        for place, row in enumerate(rows):
            points = _by_epoch(row)
            if not points:
                continue
            drawn = True
            colour, x = COLOURS[place % len(COLOURS)], list(points)
            style = "-" if place < len(COLOURS) else "--"
            means = [points[epoch].mean for epoch in x]
            sds = [points[epoch].sd or 0.0 for epoch in x]
            axes.plot(
                x, means, style, color=colour, lw=1.8, marker="o", ms=3, label=row.variant.name
            )
            low = [mean - sd for mean, sd in zip(means, sds, strict=True)]
            high = [mean + sd for mean, sd in zip(means, sds, strict=True)]
            axes.fill_between(x, low, high, color=colour, alpha=0.13, lw=0)
        axes.set_title(group, loc="left", fontsize=10, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel("validation top-1 (%)")
        if drawn:
            axes.legend(loc="lower right", frameon=False, fontsize=8)
    return figure if drawn else None


def over_macs(findings: Findings) -> Any:
    """The metric over MACs, with 95 % intervals over seeds."""
    rows = [row for row in findings.rows if row.summary is not None]
    if not rows:
        return None
    from matplotlib.transforms import ScaledTranslation

    figure, axes = axes_of((8.6, 4.2))
    asides = beside([row.variant.macs for row in rows])
    for place, (row, aside) in enumerate(zip(rows, asides, strict=True)):
        assert row.summary is not None
        bounds, mean = row.summary.interval, row.summary.mean
        error = [[mean - bounds.low], [bounds.high - mean]] if bounds else None
        colour = COLOURS[place % len(COLOURS)]
        shape = "D" if row.is_baseline else "os^v"[place // len(COLOURS) % 4]
        x = row.variant.macs / MEGA
        # The shift is of the drawing, not of the figures.
        moved = ScaledTranslation(7 * aside / 72, 0, figure.dpi_scale_trans)
        label, style = row.variant.label, {"ms": 6, "elinewidth": 1, "capsize": 2.5}
        where = axes.transData + moved
        axes.errorbar(
            x, mean, error, fmt=shape, color=colour, label=label, transform=where, **style
        )
        axes.update_datalim([(x, mean)])
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
    ends = [
        end
        for row in rows
        if row.summary is not None
        for end in (
            (row.summary.interval.low, row.summary.interval.high)
            if row.summary.interval
            else (row.summary.mean,)
        )
    ]
    room = 0.06 * (max(ends) - min(ends)) or 1.0
    axes.set_ylim(min(ends) - room, max(ends) + room)
    macs = [row.variant.macs / MEGA for row in rows]
    if log_is_better(macs):
        axes.set_xscale("log")
    else:
        middle, half = (max(macs) + min(macs)) / 2, (max(macs) - min(macs)) / 2
        half = max(1.3 * half, 0.05 * middle)
        axes.set_xlim(middle - half, middle + half)
    axes.set_xlabel("MACs (M), points moved aside a little where they would hide each other")
    unit = {"points": " (%)"}.get(findings.rule.unit, f" ({findings.rule.unit})")
    axes.set_ylabel(findings.metric + (unit if findings.rule.unit else ""))
    return figure


def beside(macs: Sequence[float]) -> list[float]:
    """How many places each point stands aside: those of about equal MACs, around their middle."""
    order = sorted(range(len(macs)), key=lambda at: macs[at])
    groups: list[list[int]] = []
    for at in order:
        if groups and macs[at] <= NEARLY_EQUAL * macs[groups[-1][-1]]:
            groups[-1].append(at)
        else:
            groups.append([at])
    found = [0.0] * len(macs)
    for group in groups:
        for place, at in enumerate(sorted(group)):
            found[at] = place - (len(group) - 1) / 2
    return found


def _by_epoch(row: Row) -> dict[int, Summary]:
    """The validation accuracy after each epoch over the seeds of the finished runs."""
    found: dict[int, dict[int, float]] = {}
    for result in row.results:
        if result.status != "finished":
            continue
        ends = [metrics["val_top1"] for _, metrics in result.curve if "val_top1" in metrics]
        for epoch, value in enumerate(ends, start=1):
            found.setdefault(epoch, {})[result.seed] = value
    return {epoch: summarise(values) for epoch, values in sorted(found.items())}


def axes_of(size: tuple[float, float], rows: int = 1) -> tuple[Any, Any]:
    """A figure of so many inches, and its axes, several where there are several rows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    found = figure.subplots(rows)
    every: Sequence[Any] = list(found) if rows > 1 else [found]
    for axes in every:
        axes.grid(color="#e4e9ee", lw=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.label.set_color(INK)
        axes.yaxis.label.set_color(INK)
    return figure, every if rows > 1 else every[0]
