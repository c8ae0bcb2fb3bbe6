"""The rows that every part of the report is made of, and the words that they are written in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from twins_nas.arch import ArchConfig
from twins_nas.stats import wilson
from twins_nas.tuning.results import Scored

LEVEL = 0.95
BASE = "base"


@dataclass(frozen=True)
class FrontRow:
    """One member of the validation front, or a network with a name beside it.

    Accuracies are in percent of `n_val` and `n_test` images; `seeds` are those of the searches that
    found it; `on_test_front` says that no other row beats it in both MACs and test accuracy.
    `chosen` says whether it is on the front of the search's objectives; None: MACs and validation
    accuracy tell.
    """

    arch: ArchConfig
    macs: int
    params: int
    val_top1: float
    n_val: int
    test_top1: float | None = None
    n_test: int = 0
    name: str = ""
    seeds: tuple[int, ...] = ()
    on_test_front: bool = False
    chosen: bool | None = None

    @property
    def val_interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the validation accuracy, in percent."""
        return interval(self.val_top1, self.n_val)

    @property
    def test_interval(self) -> tuple[float, float] | None:
        """95 % Wilson interval of the test accuracy, in percent; None where it was not read."""
        return None if self.test_top1 is None else interval(self.test_top1, self.n_test)


@dataclass(frozen=True)
class About:
    """What a reader must know to believe a report, or to make it again."""

    title: str
    command: str
    data: str
    n_train: int
    seeds: tuple[int, ...]
    commit: str
    machine: str
    date: datetime
    notes: tuple[str, ...] = ()


def interval(top1: float, n: int) -> tuple[float, float]:
    """95 % Wilson interval of an accuracy in percent over `n` images."""
    return wilson(round(top1 * n / 100), n, LEVEL)


def on_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which points (cost, accuracy) no other one beats; equal ones do not beat each other."""
    return [
        not any(c <= cost and a >= top1 and (c, a) != (cost, top1) for c, a in points)
        for cost, top1 in points
    ]


def val_front(rows: Sequence[FrontRow]) -> list[FrontRow]:
    """The rows on the validation front, by MACs."""
    on = [row.chosen for row in rows]
    if None in on:
        on = list(on_front([(row.macs, row.val_top1) for row in rows]))
    return sorted((row for row, is_on in zip(rows, on, strict=True) if is_on), key=lambda r: r.macs)


def staircase(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The best accuracy up to each cost, as the points where it rises; quick for thousands."""
    best, steps = -math.inf, []
    for cost, top1 in sorted(points, key=lambda point: (point[0], -point[1])):
        if top1 > best:
            best = top1
            steps.append((cost, top1))
    return steps


def drawable(scored: Iterable[Scored]) -> list[Scored]:
    """The scores that are numbers, each once."""
    return [row for row in scored if math.isfinite(row.top1) and not row.cached]


def seed_fronts(scored: Iterable[Scored]) -> dict[int, list[tuple[float, float]]]:
    """The front (MACs, accuracy) that each search seed found."""
    points: dict[int, list[tuple[float, float]]] = {}
    for row in scored:
        if math.isfinite(row.top1):
            points.setdefault(row.seed, []).append((row.macs, row.top1))
    return {seed: staircase(found) for seed, found in sorted(points.items())}


def summary(rows: Sequence[FrontRow]) -> list[str]:
    """What the table says in words: how much of the front holds on test, and what n can tell."""
    front = val_front(rows)
    tested = [row for row in front if row.test_top1 is not None]
    said = [f"{_members(len(front))} on the validation front."]
    if tested:
        held = sum(row.on_test_front for row in tested)
        said.append(
            f"{held} of {len(tested)} stay non-dominated on the test images; each was chosen by its"
            " score on the validation images, so trust the test column."
        )
    else:
        said.append("The test images were not read.")
    sizes = [f"n = {row.n_val:,} validation" for row in front[:1]]
    sizes += [f"n = {row.n_test:,} test images" for row in tested[:1]]
    said.append(
        f"[low, high]: 95 % Wilson intervals, {' and '.join(sizes)}; they cover the drawing of the"
        " images, not the seeds of the training."
    )
    return said


def is_base(name: str) -> bool:
    """Whether a row's name says that it is the space's base: `base`, `base, twins_svt_micro`."""
    return name.split(", ")[0] == BASE


def base_of(rows: Sequence[FrontRow]) -> FrontRow | None:
    """The row of the space's base."""
    return next((row for row in rows if is_base(row.name)), None)


def stage_words(arch: ArchConfig) -> list[str]:
    """The stages in words, one line each."""
    return [f"stage {index}: {stage}" for index, stage in enumerate(arch.stages)]


def arch_params(arch: ArchConfig) -> dict[str, object]:
    """Every dimension of the architecture by its dotted name, for MLflow."""
    found = asdict(arch)
    found["stages"] = dict(enumerate(found["stages"]))
    return {"arch": str(arch), **found}


def row_metrics(row: FrontRow) -> dict[str, float]:
    """The row's numbers by the names of `front.csv`, without those that were not measured."""
    low, high = row.val_interval
    found = {"val_top1": row.val_top1, "val_low": low, "val_high": high}
    if row.test_top1 is not None and row.test_interval:
        low, high = row.test_interval
        found |= {"test_top1": row.test_top1, "test_low": low, "test_high": high}
    rounded = {name: round(value, 2) for name, value in found.items()}
    return {"macs": row.macs, "params": row.params, **rounded}


def macs_text(macs: float) -> str:
    """MACs as `940 k`, `12.3 M` or `2.93 G`."""
    return _scaled(macs, (("G", 1e9, 2), ("M", 1e6, 1), ("k", 1e3, 0)))


def params_text(params: float) -> str:
    """Parameters as `512 k` or `24.1 M`."""
    return _scaled(params, (("M", 1e6, 2), ("k", 1e3, 0)))


def percent(value: float | None) -> str:
    """Two decimals; a dash for what was not measured."""
    return "-" if value is None else f"{value:.2f}"


def percent_with_interval(value: float | None, bounds: tuple[float, float] | None) -> str:
    """`91.20 [89.88, 92.36]`."""
    return (
        percent(value) if bounds is None else f"{percent(value)} [{bounds[0]:.2f}, {bounds[1]:.2f}]"
    )


def _scaled(value: float, units: Sequence[tuple[str, float, int]]) -> str:
    for letter, size, digits in units:
        if value >= 0.9995 * size:
            return f"{value / size:.{digits}f} {letter}"
    return f"{value:.0f}"


def _members(count: int) -> str:
    return "1 network is" if count == 1 else f"{count} networks are"
