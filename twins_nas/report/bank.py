"""A bank in words and as a picture: its networks, their spread, the noise of their seeds."""

from __future__ import annotations

from typing import Any

import numpy as np

from twins_nas.banks.bank import VAL_TOP1, Bank
from twins_nas.banks.draw import PARTS
from twins_nas.banks.quality import quality
from twins_nas.report.ablation_plots import axes_of
from twins_nas.report.ablation_table import as_plain
from twins_nas.report.plots import FRONT, INK, MEGA, NAMED, log_axis, log_is_better
from twins_nas.report.rows import macs_text, params_text

HEADERS = ("#", "name", "part", "stratum", "MACs", "params", "mean", "of single seeds", "arch")
LEFT = (1, 2, 8)
COLOURS = (FRONT, NAMED)
WORDS = {
    "val_top1": ("validation top-1", "%"),
    "val_loss": ("validation loss", "nats"),
    "test_top1": ("test top-1", "%"),
    "test_loss": ("test loss", "nats"),
    "seconds": ("time of training steps", "s"),
}


def bank_table(bank: Bank, metric: str = VAL_TOP1) -> str:
    """A line for each network."""
    means_A, values_AS = bank.means_A(metric), bank.values_AS(metric)
    lines = [
        (
            str(number),
            bank.names[at],
            PARTS[int(bank.held_out_A[at])],
            str(bank.strata_A[at]),
            macs_text(bank.macs_A[at]),
            params_text(bank.params_A[at]),
            _number(means_A[at]),
            " ".join(_number(value) for value in values_AS[at]),
            str(bank.archs[at]),
        )
        for at, number in enumerate(bank.numbers)
    ]
    return as_plain(HEADERS, lines, LEFT)


def bank_words(bank: Bank, metric: str = VAL_TOP1) -> list[str]:
    """What the bank is and how much it can tell, a sentence a line."""
    header, found = bank.header, quality(bank, metric)
    what, unit = WORDS[metric]
    runs = len(bank.archs) * len(bank.seeds)
    images = header.images
    said = [
        f"{bank.name}: {len(bank.archs)} networks x {len(bank.seeds)} seeds of space"
        f" {bank.space.name} on {header.data.name} ({images.train:,} images to train,"
        f" {images.val:,} to validate), {counted(header.training.epochs, 'epoch')};"
        f" {runs - len(bank.failed)} of {runs} runs finished.",
        f"{what}: {found.low:.2f} to {found.high:.2f} {unit} (means of {found.n} networks)."
        if found.n
        else f"{what}: no network was trained on all seeds.",
    ]
    if found.spread is not None and found.noise is not None and found.apart is not None:
        times = "" if found.ratio is None else f", {found.ratio:.1f} times the noise"
        said.append(
            f"Noise of one run: sd {found.noise:.3g} {unit}, pooled over networks"
            f" ({found.apart:.3g} without what all networks of a seed share). Spread of the"
            f" networks' means: sd {found.spread:.3g} {unit}{times}."
        )
    if found.reliable is not None:
        low, high = found.reliable.interval.low, found.reliable.interval.high
        said.append(
            f"Split-half reliability of the means of {found.seeds} seeds:"
            f" {found.reliable.value:.3f} [{low:.3f}, {high:.3f}] (n = {found.n} networks), so a"
            f" perfect ranking would reach a Kendall tau of about {found.ceiling:.2f} with them."
        )
    held = int(bank.held_out_A.sum())
    said.append(f"{len(bank.archs) - held} networks are for tuning, {held} are held out.")
    several = (f"Failed: network {n}, seed {s}: {why}." for (n, s), why in bank.failed.items())
    return [*said, *several, f"Cost: {header.cost}."]


def bank_figure(bank: Bank, metric: str = VAL_TOP1) -> Any:
    """A metric over MACs: each network's mean, its single seeds, the strata; None: nothing to draw.

    The bars are from the lowest to the highest seed, no intervals.
    """
    values_AS, means_A = bank.values_AS(metric), bank.means_A(metric)
    if not np.isfinite(means_A).any():
        return None
    what, unit = WORDS[metric]
    figure, axes = axes_of((8.4, 5.0))
    macs_A = bank.macs_A / MEGA
    for edge in bank.header.strata:
        axes.axvline(edge / MEGA, color="#d3dbe3", lw=0.8, ls=":", zorder=0)
    for held, (part, colour) in enumerate(zip(PARTS, COLOURS, strict=True)):
        chosen = (bank.held_out_A == bool(held)) & np.isfinite(means_A)
        if not chosen.any():
            continue
        own_AS = values_AS[chosen]
        low, high = np.nanmin(own_AS, axis=1), np.nanmax(own_AS, axis=1)
        x, y = macs_A[chosen], means_A[chosen]
        label = f"{part}, {int(chosen.sum())} networks"
        style: dict[str, Any] = {"ms": 5, "elinewidth": 1.2, "capsize": 0, "label": label}
        # A mean of equal values may be off by a rounding, and no bar is of a negative length.
        bars = np.maximum([y - low, high - y], 0)
        axes.errorbar(x, y, bars, fmt="o", color=colour, **style)
        axes.plot(np.repeat(x, own_AS.shape[1]), own_AS.ravel(), "_", color=colour, ms=5)
    for at, name in enumerate(bank.names):
        if name and np.isfinite(means_A[at]):
            where = (macs_A[at], means_A[at])
            words: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7.5, "color": INK}
            axes.annotate(name, where, xytext=(4, -9), **words)
    if log_is_better(macs_A.tolist()):
        log_axis(axes)
    axes.set_title(f"{bank.name}: each network trained alone", loc="left", fontsize=11, color=INK)
    axes.set_xlabel("MACs (M); dotted: strata")
    axes.set_ylabel(f"{what} ({unit}): mean, and single seeds")
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    return figure


def counted(count: int, unit: str) -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{count} {unit}" + "s" * (count != 1)


def _number(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "-"
