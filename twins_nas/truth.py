"""What networks reach when each is trained alone: the truth that a ranking is held against.

Shape suffixes: N networks, S seeds.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from twins_nas.arch import ArchConfig
from twins_nas.config import parse_arch
from twins_nas.errors import UserError
from twins_nas.files import told
from twins_nas.stats import Vector

TUNING, HELD_OUT = PARTS = "tuning", "held-out"
COLUMNS = ("network", "part", "seed", "val_top1", "macs", "params", "arch")


class BankLike(Protocol):
    """What is asked of a bank; arrays and tuples are in the order of its networks."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of each network's trainings."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """What its networks are called."""

    @property
    def archs(self) -> tuple[ArchConfig, ...]:
        """Its networks."""

    @property
    def macs_A(self) -> Any:
        """Of one image."""

    @property
    def params_A(self) -> Any:
        """All of them, the classifier's too."""

    @property
    def held_out_A(self) -> Any:
        """Which networks are of the held-out part."""

    def values_AS(self, metric: str = "val_top1") -> Any:
        """The metric of each network and seed; nan where a run is missing."""


@dataclass(frozen=True, eq=False)
class Truth:
    """Validation accuracies in percent of networks that were trained alone, on the same seeds.

    `top1_NS` is nan where a run is missing. `data` names the data set (empty: not known), `seeds`
    the columns, `part_name` what is here of the bank's networks, `size` the images' height and
    width (None: not known).
    """

    name: str
    data: str
    seeds: tuple[int, ...]
    labels: tuple[str, ...]
    archs: tuple[ArchConfig, ...]
    macs_N: Vector
    params_N: Vector
    top1_NS: Vector
    held_out_N: Vector
    part_name: str = "all"
    size: tuple[int, int] | None = None

    def __len__(self) -> int:
        """How many networks."""
        return len(self.archs)

    @property
    def means_N(self) -> Vector:
        """The mean of each network over its seeds."""
        found: Vector = self.top1_NS.mean(axis=1)
        return found

    @classmethod
    def of(cls, bank: BankLike, data: str = "", size: tuple[int, int] | None = None) -> Self:
        """The truth of a bank that was trained on this data set, at this size."""
        return cls(
            bank.name,
            data,
            tuple(bank.seeds),
            tuple(f"network {number}" for number in bank.numbers),
            bank.archs,
            np.array(bank.macs_A, dtype=float),
            np.array(bank.params_A, dtype=float),
            np.array(bank.values_AS("val_top1"), dtype=float),
            np.array(bank.held_out_A, dtype=bool),
            size=size,
        )

    def part(self, name: str) -> Truth:
        """The networks of a part; of all parts if that is the word.

        Raises:
            UserError: there are none.
        """
        chosen_N = np.ones(len(self), dtype=bool)
        if name != "all":
            chosen_N = self.held_out_N == (name == HELD_OUT)
        if not chosen_N.any():
            raise UserError(f"The bank {self.name} has no {name} part; give --part all.")
        return replace(self._kept(chosen_N), part_name=name)

    @property
    def title(self) -> str:
        """Part and bank in words."""
        part = "" if self.part_name == "all" else f"{self.part_name} part of the "
        return f"{part}bank {self.name}"

    def whole(self) -> tuple[Truth, tuple[str, ...]]:
        """The networks that lack no run, and the labels of the others."""
        whole_N = np.isfinite(self.top1_NS).all(axis=1)
        others = np.flatnonzero(~whole_N)
        return self._kept(whole_N), tuple(self.labels[place] for place in others)

    def _kept(self, chosen_N: Any) -> Truth:
        places = np.flatnonzero(chosen_N)
        return replace(
            self,
            labels=tuple(self.labels[place] for place in places),
            archs=tuple(self.archs[place] for place in places),
            macs_N=self.macs_N[places],
            params_N=self.params_N[places],
            top1_NS=self.top1_NS[places],
            held_out_N=self.held_out_N[places],
        )


def read_truth(path: Path) -> Truth:
    """The truth of a CSV file, for trainings of one's own: a line for each run, see `COLUMNS`.

    `network` is any name. A network's `arch` (YAML), `macs`, `params` and `part` are those of its
    last line.

    Raises:
        UserError: the file is missing, or a line is wrong.
    """
    with told(path):
        text = path.read_text(encoding="utf-8", errors="replace")
    reader = csv.DictReader(io.StringIO(text, newline=""))
    lacking = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if lacking:
        raise UserError(
            f"{path} has no column {', '.join(lacking)} (needed: {', '.join(COLUMNS)})."
        )
    archs: dict[str, ArchConfig] = {}
    costs: dict[str, tuple[float, float]] = {}
    held_out: dict[str, bool] = {}
    found: dict[tuple[str, int], float] = {}
    for line in reader:
        place, label = f"{path}:{reader.line_num}", line["network"]
        if line["part"] not in PARTS:
            raise UserError(f"{place}: part: {line['part']!r} (allowed: {', '.join(PARTS)})")
        try:
            which = label, int(line["seed"])
            top1 = float(line["val_top1"] or "nan")
            costs[label] = size = float(line["macs"]), float(line["params"])
        except (TypeError, ValueError) as error:
            raise UserError(f"{place}: {error}.") from error
        if not all(math.isfinite(one) and one > 0 for one in size):
            raise UserError(f"{place}: macs and params must be numbers above 0.")
        if which in found:
            raise UserError(f"{place}: a second line of {label}, seed {which[1]}.")
        found[which] = top1
        archs[label], _ = parse_arch(line["arch"] or "", place)
        held_out[label] = line["part"] == HELD_OUT
    labels, seeds = tuple(archs), sorted({seed for _, seed in found})
    return Truth(
        name=path.stem,
        data="",
        seeds=tuple(seeds),
        labels=labels,
        archs=tuple(archs.values()),
        macs_N=np.array([macs for macs, _ in costs.values()]),
        params_N=np.array([params for _, params in costs.values()]),
        top1_NS=np.array(
            [[found.get((label, seed), np.nan) for seed in seeds] for label in labels]
        ),
        held_out_N=np.array(list(held_out.values()), dtype=bool),
    )
