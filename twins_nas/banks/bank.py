"""A bank in memory: what each network reaches on each seed, trained alone.

Shape suffixes: A networks, S seeds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from twins_nas.ablation.exploring import space_of
from twins_nas.arch import ArchConfig
from twins_nas.banks.draw import HELD_OUT, PARTS
from twins_nas.banks.files import (
    ARCHS,
    COLUMNS,
    HEADER,
    POINT,
    SCORES,
    BankHeader,
    Lines,
    read_header,
    read_table,
)
from twins_nas.config import parse_arch
from twins_nas.cost import cost
from twins_nas.errors import UserError, did_you_mean
from twins_nas.space import SearchSpace
from twins_nas.yaml_nodes import read

Array = NDArray[Any]
VAL_TOP1 = "val_top1"
METRICS = (*SCORES, "seconds")
SHIPPED = Path(__file__).parent


class Point(NamedTuple):
    """The end of an epoch: losses in nats, the accuracy in percent."""

    epoch: int
    step: int
    loss: float
    val_top1: float
    val_loss: float


@dataclass(frozen=True, eq=False)
class Bank:
    """Networks of a space, each trained alone on the same seeds by one recipe.

    Everything is in the order of the networks' numbers: `names` are empty for networks that were
    drawn, `strata_A` are bins of MACs, `curves` are by number and seed, and so is
    `failed`, why a run has no result. Arrays are read-only.
    """

    header: BankHeader
    space: SearchSpace
    seeds: tuple[int, ...]
    numbers: tuple[int, ...]
    names: tuple[str, ...]
    archs: tuple[ArchConfig, ...]
    macs_A: Array
    params_A: Array
    strata_A: Array
    held_out_A: Array
    curves: Mapping[tuple[int, int], tuple[Point, ...]] = field(repr=False)
    failed: Mapping[tuple[int, int], str]
    _values: Mapping[str, Array] = field(repr=False)

    @property
    def name(self) -> str:
        """Its name."""
        return self.header.name

    @property
    def tuning_A(self) -> Array:
        """The networks that a method may be tuned by; the others are held out for what it gets."""
        return ~self.held_out_A

    def values_AS(self, metric: str = VAL_TOP1) -> Array:
        """A metric of each run; nan where a run failed.

        The test images are for the last look: give "test_top1" to have them.

        Raises:
            UserError: an unknown metric; lists those that there are.
        """
        if metric not in METRICS:
            raise UserError(
                f"A bank has no {metric!r}{did_you_mean(metric, METRICS)} (there are:"
                f" {', '.join(METRICS)})."
            )
        return self._values[metric]

    def means_A(self, metric: str = VAL_TOP1) -> Array:
        """The mean of each network over the seeds that did not fail; nan where all did."""
        values_AS = self.values_AS(metric)
        done_A = np.isfinite(values_AS).sum(axis=1)
        return np.where(done_A > 0, np.nansum(values_AS, axis=1) / np.maximum(done_A, 1), np.nan)

    def part(self, name: str) -> Bank:
        """The tuning or the held-out part alone.

        Raises:
            UserError: another word.
        """
        if name not in PARTS:
            raise UserError(f"A bank has no part {name!r} (there are: {', '.join(PARTS)}).")
        chosen = np.flatnonzero(self.held_out_A if name == HELD_OUT else self.tuning_A)
        kept = {self.numbers[at] for at in chosen}
        return replace(
            self,
            numbers=tuple(self.numbers[at] for at in chosen),
            names=tuple(self.names[at] for at in chosen),
            archs=tuple(self.archs[at] for at in chosen),
            macs_A=_frozen(self.macs_A[chosen]),
            params_A=_frozen(self.params_A[chosen]),
            strata_A=_frozen(self.strata_A[chosen]),
            held_out_A=_frozen(self.held_out_A[chosen]),
            curves={which: curve for which, curve in self.curves.items() if which[0] in kept},
            failed={which: why for which, why in self.failed.items() if which[0] in kept},
            _values={word: _frozen(found[chosen]) for word, found in self._values.items()},
        )


def load(name: str | Path) -> Bank:
    """The shipped bank of that name, or else the one of a folder: its own, or of its build.

    Raises:
        UserError: there is none, it is of another format, or damaged.
    """
    folder = find_bank(name)
    header = read_header(folder)
    space = space_of(read(folder / HEADER), header.space)
    try:
        return _bank(folder, header, space)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(folder, str(error)) from error


def find_bank(name: str | Path) -> Path:
    """The folder of a bank, see `load`."""
    shipped = shipped_banks()
    if str(name) in shipped:
        return shipped[str(name)]
    with contextlib.suppress(OSError, ValueError):  # no path at all
        for folder in (Path(name), Path(name) / "bank"):
            if (folder / HEADER).is_file():
                return folder
    hint = did_you_mean(name, shipped)
    known = ", ".join(shipped) or "none"
    raise UserError(
        f"{name}: no folder with a {HEADER}, and no shipped bank{hint} (shipped: {known})."
    )


def shipped_banks() -> dict[str, Path]:
    """The banks that come with the package, by name."""
    return {path.parent.name: path.parent for path in sorted(SHIPPED.glob(f"*/{HEADER}"))}


def _bank(folder: Path, header: BankHeader, space: SearchSpace) -> Bank:
    archs, runs, curves = (read_table(folder, name, header) for name in COLUMNS)
    place = {int(line["number"]): at for at, line in enumerate(archs)}
    column = {seed: at for at, seed in enumerate(header.seeds)}
    values = {name: np.full((len(archs), len(header.seeds)), np.nan) for name in METRICS}
    failed = {}
    for line in runs:
        at = place[int(line["number"])], column[int(line["seed"])]
        for name in METRICS:
            values[name][at] = float(line[name] or "nan")
        if line["status"] != "finished":
            failed[int(line["number"]), int(line["seed"])] = line["reason"]
    bank = Bank(
        header=header,
        space=space,
        seeds=header.seeds,
        numbers=tuple(place),
        names=tuple(line["name"] for line in archs),
        archs=tuple(
            parse_arch(line["arch"], f"{folder / ARCHS}, network {line['number']}")[0]
            for line in archs
        ),
        macs_A=_whole(archs, "macs"),
        params_A=_whole(archs, "params"),
        strata_A=_whole(archs, "stratum"),
        held_out_A=_frozen(np.array([PARTS.index(line["part"]) == 1 for line in archs])),
        curves=_curves(curves),
        failed=failed,
        _values={name: _frozen(found) for name, found in values.items()},
    )
    _check_costs(folder, bank)
    return bank


def _check_costs(folder: Path, bank: Bank) -> None:
    """Raises UserError where a network has not the cost that is told of it: it is another one."""
    images = bank.header.images
    for number, arch, macs in zip(bank.numbers, bank.archs, bank.macs_A, strict=True):
        found = cost(arch, bank.space.input_size, images.channels, images.classes)
        if found.macs != macs:
            said = f"network {number} has {found.macs:,} MACs, not {macs:,}"
            raise _damaged(folder, said)


def _curves(lines: Lines) -> dict[tuple[int, int], tuple[Point, ...]]:
    found: dict[tuple[int, int], list[Point]] = {}
    for line in lines:
        numbers = (float(line[name] or "nan") for name in POINT)
        point = Point(int(line["epoch"]), int(line["step"]), *numbers)
        found.setdefault((int(line["number"]), int(line["seed"])), []).append(point)
    return {which: tuple(points) for which, points in found.items()}


def _whole(lines: Lines, name: str) -> Array:
    return _frozen(np.array([int(line[name]) for line in lines], dtype=np.int64))


def _frozen(array: Array) -> Array:
    array.setflags(write=False)
    return array


def _damaged(folder: Path, said: str) -> UserError:
    return UserError(f"The bank in {folder} is damaged ({said}); get it whole again.")
