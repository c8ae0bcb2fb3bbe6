"""The front as a table: for a terminal, for a log, and as cells for the page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

from twins_nas.progress import is_terminal
from twins_nas.report.rows import (
    FrontRow,
    base_of,
    is_base,
    macs_text,
    params_text,
    percent_with_interval,
    summary,
    val_front,
)

HEADERS = (
    "#",
    "name",
    "MACs",
    "of base",
    "params",
    "val top-1 %",
    "test top-1 %",
    "on front",
    "seeds",
    "arch",
)
LEFT = (1, len(HEADERS) - 1)
BASE_STYLE = {True: "bold cyan", False: ""}
NARROW, LEFT_OUT_WHERE_NARROW = 150, ("of base", "seeds", "arch")


def cells(rows: Sequence[FrontRow]) -> list[tuple[str, ...]]:
    """One tuple of texts for each row, by MACs, in the order of `HEADERS`."""
    base, front = base_of(rows), val_front(rows)
    return [
        (
            str(number),
            row.name,
            macs_text(row.macs),
            f"{100 * row.macs / base.macs:.0f} %" if base else "-",
            params_text(row.params),
            percent_with_interval(row.val_top1, row.val_interval),
            percent_with_interval(row.test_top1, row.test_interval),
            _fronts(row in front, row.on_test_front),
            " ".join(map(str, row.seeds)) or "-",
            str(row.arch),
        )
        for number, row in enumerate(by_macs(rows))
    ]


def by_macs(rows: Sequence[FrontRow]) -> list[FrontRow]:
    """The rows in the order of the table."""
    return sorted(rows, key=lambda row: (row.macs, row.val_top1))


def plain_table(rows: Sequence[FrontRow]) -> str:
    """The table and its summary as text without colours or frames."""
    table = [HEADERS, *cells(rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(
            text.ljust(width) if index in LEFT else text.rjust(width)
            for index, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    ]
    return "\n".join([*lines, "", *summary(rows)])


def print_front(rows: Sequence[FrontRow], stream: TextIO | None = None) -> None:
    """Prints the front: drawn by rich at a terminal, plain text elsewhere."""
    stream = stream or sys.stdout
    if is_terminal(stream):
        _print_rich(rows, stream)
    else:
        print(plain_table(rows), file=stream, flush=True)


def _print_rich(rows: Sequence[FrontRow], stream: TextIO) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=stream)
    narrow = console.width < NARROW
    kept = [
        index
        for index, header in enumerate(HEADERS)
        if not (narrow and header in LEFT_OUT_WHERE_NARROW)
    ]
    gap = 0 if narrow else 1
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for index in kept:
        header = HEADERS[index]
        if header in ("name", "arch"):
            table.add_column(header, overflow="fold", min_width=8)
        else:
            table.add_column(header, justify="left" if index in LEFT else "right", no_wrap=True)
    lines = cells(rows)
    for row, line in zip(by_macs(rows), lines, strict=True):
        table.add_row(*(Text(line[index]) for index in kept), style=BASE_STYLE[is_base(row.name)])
    console.print(table)
    console.print()
    if narrow:
        for line in lines:
            console.print(f"{line[0]:>2}  {line[-1]}", style="dim", markup=False, highlight=False)
        console.print()
    for text in summary(rows):
        console.print(text, markup=False, highlight=False)


def _fronts(val: bool, test: bool) -> str:
    return ", ".join(name for name, on in (("val", val), ("test", test)) if on) or "-"
