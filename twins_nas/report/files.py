"""The report's files: `front.csv`, `scored.csv`, `archs/*.yaml`; none is ever seen half written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from twins_nas.arch import ArchConfig
from twins_nas.files import write_csv, write_text
from twins_nas.report.rows import FrontRow, interval
from twins_nas.report.table import by_macs
from twins_nas.tuning.results import Scored

FRONT_COLUMNS = (
    "arch",
    "macs",
    "params",
    "val_top1",
    "test_top1",
    "val_low",
    "val_high",
    "test_low",
    "test_high",
    "n_val",
    "n_test",
    "on_test_front",
    "name",
    "seed",
    "file",
    "key",
)
SCORED_COLUMNS = (
    "number",
    "seed",
    "name",
    "arch",
    "macs",
    "params",
    "val_top1",
    "val_low",
    "val_high",
    "loss",
    "adjusted",
    "n_val",
    "seconds",
    "cached",
    "feasible",
    "key",
)
Words = Callable[[ArchConfig], str]


def write_front_csv(path: Path, rows: Sequence[FrontRow], key: Words) -> None:
    """One line for each row, by MACs; accuracies in percent; `key` is the space's.

    Raises:
        UserError: the file cannot be written.
    """
    lines = []
    for row, name in zip(by_macs(rows), arch_files(rows), strict=True):
        test = row.test_interval or (None, None)
        lines.append(
            {
                "arch": str(row.arch),
                "macs": row.macs,
                "params": row.params,
                "val_top1": two(row.val_top1),
                "test_top1": two(row.test_top1),
                "val_low": two(row.val_interval[0]),
                "val_high": two(row.val_interval[1]),
                "test_low": two(test[0]),
                "test_high": two(test[1]),
                "n_val": row.n_val,
                "n_test": row.n_test if row.test_top1 is not None else "",
                "on_test_front": "" if row.test_top1 is None else _word(row.on_test_front),
                "name": row.name,
                "seed": " ".join(map(str, row.seeds)),
                "file": f"archs/{name}",
                "key": key(row.arch),
            }
        )
    write_csv(path, FRONT_COLUMNS, lines)


def write_scored_csv(path: Path, scored: Iterable[Scored], key: Words) -> None:
    """One line for each scored architecture; scores that are not finite stay empty.

    Raises:
        UserError: the file cannot be written.
    """
    lines = []
    for row in scored:
        known = math.isfinite(row.top1)
        low, high = interval(row.top1, row.n) if known else (None, None)
        lines.append(
            {
                "number": row.number,
                "seed": row.seed,
                "name": row.name,
                "arch": str(row.arch),
                "macs": row.macs,
                "params": row.params,
                "val_top1": two(row.top1 if known else None),
                "val_low": two(low),
                "val_high": two(high),
                "loss": f"{row.loss:.6g}" if math.isfinite(row.loss) else "",
                "adjusted": f"{row.adjusted:.6g}" if math.isfinite(row.adjusted) else "",
                "n_val": row.n,
                "seconds": f"{row.seconds:.3f}",
                "cached": _word(row.cached),
                "feasible": _word(row.feasible),
                "key": key(row.arch),
            }
        )
    write_csv(path, SCORED_COLUMNS, lines)


def write_archs(folder: Path, rows: Sequence[FrontRow], dump_arch: Words) -> list[Path]:
    """Writes each row's architecture, named as the table numbers it; those of an older front go.

    Raises:
        UserError: a file cannot be written.
    """
    paths = [folder / name for name in arch_files(rows)]
    for path, row in zip(paths, by_macs(rows), strict=True):
        write_text(path, dump_arch(row.arch))
    for old in set(folder.glob("[0-9][0-9]*.yaml")) - set(paths):
        old.unlink(missing_ok=True)
        old.with_suffix(".safetensors").unlink(missing_ok=True)
    return paths


def arch_files(rows: Sequence[FrontRow]) -> list[str]:
    """The file names in `archs/`, in the order of the table: `03.yaml`, `04_base.yaml`."""
    return [
        f"{number:02d}{'_' if row.name else ''}{row.name.replace(', ', '_')}.yaml"
        for number, row in enumerate(by_macs(rows))
    ]


def two(value: float | None) -> str:
    """Two decimals; nothing for what is not known."""
    return "" if value is None else f"{value:.2f}"


def _word(value: bool) -> str:
    return "yes" if value else "no"
