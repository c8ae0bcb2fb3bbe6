"""The front as a picture, `front.png`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from twins_nas.files import write_bytes
from twins_nas.report.rows import FrontRow, drawable, seed_fronts, staircase
from twins_nas.tuning.results import Scored

INK, FAINT, FRONT, NAMED = "#1b2733", "#9aa7b4", "#1f5fa8", "#c2410c"
LOG_FROM = 6.0
LINE = 0.065
MEGA = 1e6


class NamePlace(NamedTuple):
    """A row's name stands at `y` and at the MACs of the row, where it `ends` or begins."""

    row: FrontRow
    y: float
    ends: bool


def write_front_png(
    path: Path,
    rows: Sequence[FrontRow],
    scored: Sequence[Scored],
    title: str,
    log_x: bool | None = None,
) -> None:
    """Draws validation accuracy over MACs: all scored networks, the front, names and intervals.

    The axis of MACs is logarithmic where they span a factor of six, or as `log_x` says.

    Raises:
        UserError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 5.2), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    dots = [(row.macs / MEGA, row.top1) for row in drawable(scored)]
    if dots:
        label = f"scored, {len(dots):,}"
        x, y = zip(*dots, strict=True)
        axes.scatter(x, y, s=9, color=FAINT, alpha=0.45, lw=0, label=label)
    fronts = seed_fronts(scored)
    for index, front in enumerate(fronts.values() if len(fronts) > 1 else ()):
        x, y = zip(*((macs / MEGA, top1) for macs, top1 in front), strict=True)
        label = "front of each search seed" if not index else "_"
        axes.step(x, y, where="post", color=FRONT, alpha=0.3, lw=1, label=label)
    _draw_rows(axes, rows)
    _scale(axes, rows, dots, log_x)
    axes.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold")
    axes.set_xlabel("MACs (M)", color=INK)
    axes.set_ylabel("validation top-1 (%)", color=INK)
    axes.grid(color="#e4e9ee", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=4,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_bytes(path, buffer.getvalue())


def log_is_better(macs: Sequence[float]) -> bool:
    """Whether the MACs span so much that a linear axis would hide the small ones."""
    return bool(macs) and min(macs) > 0 and max(macs) / min(macs) >= LOG_FROM


def log_axis(axes: Any) -> None:
    """Makes the axis of MACs logarithmic, its numbers plain."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def lowest_shown(rows: Sequence[FrontRow], top1: Sequence[float]) -> float:
    """Where the axis of accuracies begins: below all rows, and all but a tenth of the scores."""
    bottom = min(row.val_interval[0] for row in rows)
    tenth = sorted(top1)[len(top1) // 10] if top1 else bottom
    highest = max(row.val_interval[1] for row in rows)
    return min(bottom, tenth) - 0.04 * (highest - min(bottom, tenth))


def name_places(
    rows: Sequence[FrontRow], bottom: float, log: bool
) -> tuple[list[NamePlace], float]:
    """Where the names stand, in lines below `bottom`, and where the axis then begins.

    Names of the right half end at the MACs of their row, those of the left half begin there, and
    each has a line of its own, so that neither names nor the strokes down to them cross.
    """
    named = sorted((row for row in rows if row.name), key=lambda row: row.macs)
    low, high = min(row.macs for row in rows), max(row.macs for row in rows)
    middle = (low * high) ** 0.5 if log else (low + high) / 2
    left = [row for row in named if row.macs <= middle]
    right = [row for row in named if row.macs > middle]
    line = LINE * (max(row.val_interval[1] for row in rows) - bottom)
    places = [
        NamePlace(row, bottom - (level + 0.5) * line, side == "end")
        for side, group in (("begin", left[::-1]), ("end", right))
        for level, row in enumerate(group)
    ]
    return places, bottom - (max(len(left), len(right)) + 0.4) * line


def _draw_rows(axes: Any, rows: Sequence[FrontRow]) -> None:
    steps = staircase((row.macs / MEGA, row.val_top1) for row in rows)
    right = max(row.macs for row in rows) / MEGA
    x, y = zip(*steps, (right, steps[-1][1]), strict=True)
    axes.step(x, y, where="post", color=FRONT, lw=1.8, label="front, with 95 % intervals")
    for named, colour in ((False, FRONT), (True, NAMED)):
        chosen = [row for row in rows if bool(row.name) == named]
        if not chosen:
            continue
        low = [row.val_top1 - row.val_interval[0] for row in chosen]
        high = [row.val_interval[1] - row.val_top1 for row in chosen]
        axes.errorbar(
            [row.macs / MEGA for row in chosen],
            [row.val_top1 for row in chosen],
            yerr=[low, high],
            fmt="D" if named else "o",
            ms=6 if named else 5,
            color=colour,
            ecolor=colour,
            elinewidth=1,
            capsize=2.5,
            zorder=3,
        )


def _draw_names(axes: Any, places: Sequence[NamePlace]) -> None:
    for row, y, ends in places:
        x = row.macs / MEGA
        axes.plot([x, x], [row.val_interval[0], y], color=NAMED, lw=0.8, ls=":", zorder=1)
        axes.annotate(
            row.name,
            (x, y),
            xytext=(-5 if ends else 5, 0),
            textcoords="offset points",
            ha="right" if ends else "left",
            va="center",
            color=NAMED,
            fontsize=9.5,
            fontweight="bold",
        )


def _scale(
    axes: Any, rows: Sequence[FrontRow], dots: Sequence[tuple[float, float]], log_x: bool | None
) -> None:
    macs = [row.macs / MEGA for row in rows] + [x for x, _ in dots]
    log = log_is_better(macs) if log_x is None else log_x
    if log:
        log_axis(axes)
    bottom = lowest_shown(rows, [y for _, y in dots])
    places, begin = name_places(rows, bottom, log)
    _draw_names(axes, places)
    axes.set_ylim(bottom=begin)
    below = sum(y < bottom for _, y in dots)
    if below:
        text = f"{below:,} scored below the axis"
        axes.annotate(text, (0.01, 0.015), xycoords="axes fraction", color=INK, fontsize=8)
