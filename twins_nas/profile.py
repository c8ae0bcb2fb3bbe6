"""Parameters and MACs without building a model: `python -m twins_nas.profile --seeds`.

Of all published networks beside the papers' figures, or of one network (a name or a YAML file), or
the range of a space. Formulas only: torch is not imported.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

from twins_nas.arch import ArchConfig, Grid, why_unbuildable
from twins_nas.config import find, load_space, shipped_files
from twins_nas.cost import cost, stage_cost
from twins_nas.errors import UserError, did_you_mean, exit_with
from twins_nas.published import PUBLISHED, agrees
from twins_nas.seeds import SEEDS, native_size, seed
from twins_nas.space import SearchSpace

MEGA, GIGA = 10**6, 10**9
NUMBERS = ("params_m", "macs_g", "macs_no_attention_g")
OF_COST = {"params_m": "params", "macs_g": "macs", "macs_no_attention_g": "macs_no_attention"}
Row = dict[str, Any]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m twins_nas.profile",
        description="Parameters and MACs of published networks, of an architecture or of a space.",
    )
    add = parser.add_argument
    add("target", nargs="?", help="a network's name, or the YAML file of a network or of a space")
    add("--seeds", action="store_true", help="all published networks, beside the papers' figures")
    add("--input-size", type=int, nargs="+", metavar="PX", help="one side, or height and width")
    add("--classes", type=int, default=1000, help="outputs of the classifier (default: 1000)")
    add("--json", action="store_true", help="machine-readable")
    return parser


def row_of(name: str, arch: ArchConfig, size: Grid, classes: int) -> Row:
    """The figures of one network.

    Raises:
        UserError: it cannot be built at this input size; names the field.
    """
    if reason := why_unbuildable(arch, size):
        raise UserError(f"{name} cannot be built at {size[0]}x{size[1]}: {reason}.")
    found = cost(arch, size, num_classes=classes)
    return {
        "name": name,
        "params": found.params,
        "macs": found.macs,
        "macs_no_attention": found.macs_no_attention,
    }


def seed_rows(size: Grid | None, classes: int) -> list[Row]:
    """One row for each name; compared with its paper where it is profiled as its paper has it."""
    rows = []
    for name in SEEDS:
        own = (native_size(name),) * 2
        row = row_of(name, seed(name), size or own, classes)
        printed = PUBLISHED.get(name) if (size or own, classes) == ((224, 224), 1000) else None
        differs = []
        for number in NUMBERS:
            figure = getattr(printed, number) if printed else ""
            row[f"published_{number}"] = float(figure) if figure else None
            unit = MEGA if number == "params_m" else GIGA
            if figure and not agrees(row[OF_COST[number]], figure, unit):
                differs.append(OF_COST[number])
        row["published_top1"] = float(printed.top1) if printed and printed.top1 else None
        known = printed.known if printed and differs == ["params"] else ""
        row |= {"differs": differs, "known": known}
        rows.append(row)
    return rows


def seeds_text(rows: list[Row]) -> str:
    """The published table: ours, the papers' and what differs."""
    title = ("name", "params M", "paper", "MACs G", "paper", "no attn. G", "paper", "top-1 %", "")
    table = [title]
    for row in rows:
        printed = PUBLISHED.get(row["name"]) if row["published_params_m"] else None
        cells = [row["name"]]
        for number in NUMBERS:
            unit = MEGA if number == "params_m" else GIGA
            cells.append(f"{row[OF_COST[number]] / unit:.3f}")
            cells.append((getattr(printed, number) if printed else "") or "-")
        flag = "known deviation" if row["known"] else " and ".join(row["differs"])
        flag += " DIFFERS" if flag and not row["known"] else ""
        table.append((*cells, (printed.top1 if printed else "") or "-", flag))
    widths = [max(len(line[at]) for line in table) for at in range(len(title))]
    lines = []
    for line in table:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:-1], widths[1:-1], strict=True)]
        lines.append("  ".join([*cells, line[-1]]).rstrip())
    unexpected = [row for row in rows if row["differs"] and not row["known"]]
    known = sorted({row["known"] for row in rows if row["known"]})
    compared = sum(row["published_params_m"] is not None for row in rows)
    lines.append(f"{compared} compared with their papers, {len(unexpected)} differ unexpectedly.")
    return "\n".join([*lines, *(f"Known deviation: {said}." for said in known)])


def network_text(row: Row, arch: ArchConfig, size: Grid) -> str:
    """A network's figures, and those of the blocks of each stage."""
    lines = [f"{row['name']} at {size[0]}x{size[1]}: {_figures(row)}"]
    for index, (stage, grid) in enumerate(zip(arch.stages, arch.grids(size), strict=True)):
        part = stage_cost(stage, grid, arch.window_fit, arch.class_tokens(index))
        figures = f"{part.params:,} params, {part.macs:,} MACs"
        lines.append(
            f"  stage {index}, {grid[0]}x{grid[1]} tokens, {stage}: {figures} in its blocks"
        )
    return "\n".join(lines)


def space_row(space: SearchSpace, classes: int) -> Row:
    """A space's size, and the figures of its extremes and of its base."""
    archs = {"smallest": space.extreme(-1), "largest": space.extreme(+1), "base": space.base}
    rows = {name: row_of(name, arch, space.input_size, classes) for name, arch in archs.items()}
    return {"name": space.name, "size": space.size(), "choices": len(space.choices), **rows}


def space_text(row: Row, size: Grid) -> str:
    """A space in four lines."""
    lines = [
        f"space {row['name']} at {size[0]}x{size[1]}: {row['size']:,} different networks"
        f" ({row['size']:.1e}), {row['choices']} choices"
    ]
    lines += [f"  {name}: {_figures(row[name])}" for name in ("smallest", "largest", "base")]
    return "\n".join([*lines, "The extremes have the base's unordered values (pe, mixer, ...)."])


def _figures(row: Row) -> str:
    macs = f"{row['macs']:,} MACs ({row['macs_no_attention']:,} without attention's products)"
    return f"{row['params']:,} params, {macs}"


def space_of(target: str, size: Grid | None) -> SearchSpace:
    """The space of a file or of a name; one point for a network, at another input size if given.

    Raises:
        UserError: neither is known, a file is faulty, or a member cannot be built at that size.
    """
    if target in SEEDS:
        return _at(seed(target), size or (native_size(target),) * 2, target)
    names = [*SEEDS, *shipped_files("space")]
    try:
        path = find("space", target)
    except UserError:
        hint = did_you_mean(target, names)
        known = ", ".join(names)
        raise UserError(
            f"{target}: no such file, network or space{hint} (there are: {known})"
        ) from None
    space = load_space(path)
    if not size:
        return space
    try:
        return replace(space, input_size=size)
    except ValueError as error:
        said = "; ".join(str(error).splitlines())
        raise UserError(f"{target} cannot be built at {size[0]}x{size[1]}: {said}.") from None


def _at(arch: ArchConfig, size: Grid, name: str) -> SearchSpace:
    if reason := why_unbuildable(arch, size):
        raise UserError(f"{name} cannot be built at {size[0]}x{size[1]}: {reason}.")
    return SearchSpace.point(arch, size, name)


def main() -> int:
    """The command; 1 where a published figure differs unexpectedly."""
    args = parser().parse_args()
    if args.seeds == bool(args.target):
        raise UserError("Give --seeds, or one name or YAML file of a network or of a space.")
    sides = args.input_size
    if sides and (len(sides) > 2 or min(sides) < 1):
        raise UserError("--input-size takes one side or two, in pixels, such as 224 or 192 256.")
    if args.classes < 1:
        raise UserError("--classes must be at least 1.")
    size: Grid | None = (sides[0], sides[-1]) if sides else None
    if args.seeds:
        rows = seed_rows(size, args.classes)
        print(json.dumps(rows, indent=1) if args.json else seeds_text(rows))
        return int(any(row["differs"] and not row["known"] for row in rows))
    space = space_of(args.target, size)
    if space.choices:
        row = space_row(space, args.classes)
        text = space_text(row, space.input_size)
    else:
        row = row_of(space.name, space.base, space.input_size, args.classes)
        text = network_text(row, space.base, space.input_size)
    print(json.dumps(row, indent=1) if args.json else text)
    return 0


if __name__ == "__main__":
    exit_with(main)
