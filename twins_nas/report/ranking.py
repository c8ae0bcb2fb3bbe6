"""A ranking as a table, Markdown, CSV, a page and a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Any

import numpy as np

from twins_nas.agreement import EACH, Figure, Findings, Row, Scores
from twins_nas.ranks import Estimate
from twins_nas.report.ablation_page import card, frame
from twins_nas.report.ablation_plots import axes_of
from twins_nas.report.ablation_table import about_pairs, as_markdown, as_plain
from twins_nas.report.plots import INK, MEGA
from twins_nas.report.rows import About

FIGURES = {
    "tau": "tau",
    "within": "tau within bins",
    "rho": "Spearman",
    "regret1": "regret@1",
    "regret5": "regret@5",
}
HEADERS = ("ranking", *FIGURES.values())
DIFFERENCE_HEADERS = ("difference", FIGURES["tau"], FIGURES["within"])
LEFT = (0,)
CSV = ("ranking", "kind", "figure", "value", "low", "high", "n")
SCATTER = "scatter.png"


def cells(found: Findings) -> list[tuple[str, ...]]:
    """A tuple of texts for each ranking, in the order of `HEADERS`, and one for the ceiling."""
    lines = [
        (
            f"{row.name} *" if row.name == found.headline else row.name,
            *(_figure(row, name, signed=False) for name in FIGURES),
        )
        for row in found.rows
    ]
    return [*lines, ("noise ceiling", *_ceilings(found), "-", "-", "-")]


def difference_cells(found: Findings) -> list[tuple[str, ...]]:
    """The same of the differences, in the order of `DIFFERENCE_HEADERS`."""
    return [
        (row.name, *(_figure(row, name, signed=True) for name in ("tau", "within")))
        for row in found.differences
    ]


def answer(found: Findings) -> str:
    """The headline in a sentence."""
    row, n = found.answer, len(found.truth)
    if not row.figures:
        return f"{row.name} ranks nothing: {row.why}."
    said = (
        f"Over n = {n} networks of the {found.truth.title}, {row.name} has tau"
        f" {text(row.figures['tau'].estimate)} with the accuracy of networks trained alone, and"
        f" {text(row.figures['within'].estimate)} within bins of MACs"
    )
    if found.ceiling is None:
        return f"{said}; no noise ceiling is known of trainings of one seed, or without a spread."
    inner = found.ceiling.tau_within
    within = "unknown" if inner is None else text(inner)
    return (
        f"{said}; the noise ceilings are {text(found.ceiling.tau)} and {within}, and the split-half"
        f" reliability of the means is {text(found.ceiling.reliable)}."
    )


def reading(found: Findings) -> list[str]:
    """How the tables are to be read."""
    seeds, bins = found.truth.top1_NS.shape[1], int(found.bins_N.max()) + 1
    several = [row for row in found.rows if row.kind == EACH and row.figures]
    over = "networks and seeds of the bank" + (", and supernets" if several else "")
    said = [
        f"n = {len(found.truth)} networks of the {found.truth.title}, each trained alone on"
        f" {seeds} seed{'s' if seeds > 1 else ''}; all figures are of the means of their validation"
        f" top-1. [low, high] are 95 % bootstrap intervals over {over}, of"
        " the ceiling over networks.",
        f"tau is Kendall's tau-b; within bins it counts only pairs of the same of {bins} bins of"
        " MACs with equally many networks. regret@k: how many points of accuracy the best of the k"
        " first networks lacks to the best of all; its interval is rough. random: the mean of many"
        " rankings by chance, with the interval of a single one. noise ceiling: the tau that a"
        " perfect ranking is expected to reach with means of that split-half reliability.",
    ]
    if several:
        said.append(
            "The figures of all supernets are the means of those that each has alone; of a few"
            " supernets an interval knows little of how much another one would differ."
        )
    if found.among:
        said.append(
            f"The orders by {found.headline} of two of these supernets agree with tau"
            f" {_range(tau for tau, _ in found.among)}, within bins"
            f" {_range(within for _, within in found.among)}. The nearer that is to 1, the less of"
            " what lacks to the ceiling is noise of a training, and the more is common to them all."
        )
    if found.again:
        said.append(
            f"Two seeds of the bank order its networks with tau"
            f" {_range(tau for tau, _ in found.again)}, within bins"
            f" {_range(within for _, within in found.again)}: that is how far one whole training of"
            " each network alone agrees with another."
        )
    if not several:
        said.append("One supernet: the intervals say nothing of what another seed of it gives.")
    return said


def _range(values: Iterable[float]) -> str:
    """Mean, lowest and highest of pairs."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return "unknown"
    mean = sum(known) / len(known)
    if len(known) == 1:
        return f"{mean:.2f} (one pair)"
    return f"{mean:.2f} ({min(known):.2f} to {max(known):.2f} over {len(known)} pairs)"


def plain(found: Findings) -> str:
    """Both tables as text."""
    tables = [as_plain(HEADERS, cells(found), LEFT)]
    if found.differences:
        tables.append(as_plain(DIFFERENCE_HEADERS, difference_cells(found), LEFT))
    return "\n\n".join(tables)


def markdown(found: Findings, about: About) -> str:
    """The whole report."""
    parts = [f"# {about.title}", f"**{answer(found)}**", as_markdown(HEADERS, cells(found), LEFT)]
    if found.differences:
        parts.append(as_markdown(DIFFERENCE_HEADERS, difference_cells(found), LEFT))
    parts += [*reading(found), *found.notes, f"![scatter]({SCATTER})", "## How it was made"]
    parts.append("\n".join(f"- {name}: {value}" for name, value in about_pairs(about)))
    return "\n\n".join(parts) + "\n"


def page(found: Findings, about: About, svg: str) -> str:
    """The report as one HTML file."""
    tables = _table(HEADERS, cells(found))
    if found.differences:
        tables += _table(DIFFERENCE_HEADERS, difference_cells(found))
    tables += "".join(f"<p>{escape(said)}</p>" for said in (*found.notes, *reading(found)))
    pairs = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in about_pairs(about)
    )
    body = [
        f"<header><h1>{escape(about.title)}</h1></header>",
        card("The answer", f"<p class='answer'>{escape(answer(found))}</p>"),
        card("The rankings", tables),
        card("Supernet against training alone", f"<figure>{svg}</figure>"),
        card("How it was made", f"<dl>{pairs}</dl>"),
    ]
    return frame(about.title, body)


def lines(found: Findings) -> Iterator[dict[str, object]]:
    """The lines of `rank.csv`, see `CSV`."""
    for row in (*found.rows, *found.differences):
        for name, figure in row.figures.items():
            yield _line(row.name, row.kind, name, figure.estimate)
    for name, estimate in _ceiling_estimates(found).items():
        yield _line("noise ceiling", "ceiling", name, estimate)


def metrics(found: Findings) -> dict[str, float]:
    """All figures for MLflow: `<ranking>/<figure>` with `_low` and `_high` beside it."""
    shown: dict[str, float] = {"networks": len(found.truth)}
    for line in lines(found):
        name = f"{line['ranking']}/{line['figure']}"
        shown |= {name: line["value"], f"{name}_low": line["low"], f"{name}_high": line["high"]}  # type: ignore[dict-item]
    return shown


def networks(
    found: Findings, scores: Sequence[Scores]
) -> tuple[tuple[str, ...], list[dict[str, object]]]:
    """Columns and lines of `networks.csv`: each network with its accuracies and all scores."""
    truth = found.truth
    seeds = [f"alone_seed_{seed}" for seed in truth.seeds]
    columns = ("network", "macs", "params", "bin", "alone_mean", *seeds)
    made = []
    for at, label in enumerate(truth.labels):
        line: dict[str, object] = {
            "network": label,
            "macs": int(truth.macs_N[at]),
            "params": int(truth.params_N[at]),
            "bin": int(found.bins_N[at]),
            "alone_mean": truth.means_N[at],
            **dict(zip(seeds, truth.top1_NS[at], strict=True)),
        }
        line |= {one.name: one.values_MN[:, at].mean() for one in scores}
        made.append(line)
    return (*columns, *(one.name for one in scores)), made


def scatter(found: Findings, score: Scores, is_loss: bool) -> Any:
    """The headline's score against the accuracy of networks trained alone, coloured by MACs.

    A negative loss is drawn as the loss, downwards, so that good is up.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    truth = found.truth
    figure, axes = axes_of((7.2, 5.2))
    y_MN, macs_N = -score.values_MN if is_loss else score.values_MN, truth.macs_N / MEGA
    y_N = y_MN.mean(axis=0)
    for values_N, ends, along in (
        (truth.means_N, truth.top1_NS.T, "x"),
        (y_N, y_MN, "y"),
    ):
        error = np.stack([values_N - ends.min(axis=0), ends.max(axis=0) - values_N])
        axes.errorbar(
            truth.means_N,
            y_N,
            fmt="none",
            ecolor="#c3ccd5",
            elinewidth=1,
            zorder=1,
            **{f"{along}err": np.maximum(error, 0.0)},
        )
    norm = LogNorm(macs_N.min(), macs_N.max()) if macs_N.max() > 1.5 * macs_N.min() else None
    dots = axes.scatter(
        truth.means_N, y_N, c=macs_N, norm=norm, cmap="viridis", s=46, ec="white", lw=0.8, zorder=2
    )
    bar = figure.colorbar(dots, ax=axes, pad=0.02)
    bar.set_label("MACs (M)", color=INK)
    if norm is not None:
        bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        bar.ax.yaxis.set_minor_formatter(NullFormatter())
    row = found.answer
    said = f"tau {text(row.figures['tau'].estimate)}" if row.figures else row.why
    axes.set_title(
        f"{said}, n = {len(truth)}", loc="left", fontsize=11, fontweight="bold", color=INK
    )
    axes.set_xlabel(
        "trained alone: validation top-1 (%), mean; lines: smallest to largest of the seeds"
    )
    mean = f", mean of {len(y_MN)} supernets" if len(y_MN) > 1 else ""
    axes.set_ylabel(f"{score.name} ({'nats' if is_loss else '%'}){mean}")
    if is_loss:
        axes.invert_yaxis()
    return figure


def text(estimate: Estimate, signed: bool = False) -> str:
    """Value and interval; a dash for what is not defined."""
    if not math.isfinite(estimate.value):
        return "-"
    ends = (estimate.value, estimate.interval.low, estimate.interval.high)
    value, low, high = (f"{end:+z.2f}" if signed else f"{end:z.2f}" for end in ends)
    return f"{value} [{low}, {high}]"


def _figure(row: Row, name: str, signed: bool) -> str:
    figure: Figure | None = row.figures.get(name)
    return "-" if figure is None else text(figure.estimate, signed)


def _ceiling_estimates(found: Findings) -> dict[str, Estimate]:
    if found.ceiling is None:
        return {}
    known = {"tau": found.ceiling.tau, "reliability": found.ceiling.reliable}
    inner = found.ceiling.tau_within
    return known if inner is None else {**known, "within": inner}


def _ceilings(found: Findings) -> tuple[str, str]:
    known = _ceiling_estimates(found)
    first, second = (text(known[name]) if name in known else "-" for name in ("tau", "within"))
    return first, second


def _line(ranking: str, kind: str, figure: str, of: Estimate) -> dict[str, object]:
    bounds = of.interval
    known = {"value": of.value, "low": bounds.low, "high": bounds.high, "n": of.n}
    return {"ranking": ranking, "kind": kind, "figure": figure, **known}


def _table(headers: Sequence[str], found: Sequence[Sequence[str]]) -> str:
    head = "".join(
        f"<th class='{'left' if at in LEFT else ''}'>{escape(name)}</th>"
        for at, name in enumerate(headers)
    )
    body = "\n".join(f"<tr>{''.join(map(_cell, range(len(one)), one))}</tr>" for one in found)
    return (
        f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
        "</table></div>"
    )


def _cell(at: int, words: str) -> str:
    if at in LEFT:
        return f"<td class='left'><b>{escape(words)}</b></td>"
    value, space, bounds = escape(words).partition(" ")
    return f"<td>{value}{space and f'<small>{bounds}</small>'}</td>"
