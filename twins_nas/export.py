"""Writes one network for deployment: ONNX, safetensors, YAML.

`python -m twins_nas.export 03 --run runs/X --onnx 03.onnx`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twins_nas.arch import Grid
from twins_nas.cost import cost
from twins_nas.deployable import (
    Target,
    drawn,
    find_target,
    images_of,
    notes_of,
    of_file,
    of_run,
)
from twins_nas.errors import UserError, exit_with
from twins_nas.files import write_bytes, write_text
from twins_nas.onnx_export import OPSET, OPSETS, TOLERANCE, compare, describe, need_onnx, to_onnx
from twins_nas.runs import RunFolder

if TYPE_CHECKING:
    from twins_nas.model.backbone import Backbone

RUNS = Path("runs")
BATCHES = (1, 3, 8)
Row = dict[str, Any]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m twins_nas.export", description=__doc__)
    add = parser.add_argument
    add("arch", metavar="ARCH", help="a network's name or YAML file, or 03 for that of --run")
    add("--onnx", type=Path, metavar="FILE", help="write ONNX, checked against torch")
    add("--safetensors", type=Path, metavar="FILE", help="write the weights")
    add("--yaml", type=Path, metavar="FILE", help="write the architecture")
    add("--run", metavar="RUN", help="take the weights out of the supernet of a search")
    add("--weights", type=Path, metavar="FILE", help="take those of a safetensors file")
    add("--seed", type=int, default=0, help="of random weights, without --run and --weights")
    add("--input-size", type=int, nargs="+", metavar="PX", help="one side, or height and width")
    add("--classes", type=int, help="outputs (default: those of the weights, or 1000)")
    add("--in-chans", type=int, help="channels (default: those of the weights, or 3)")
    add("--opset", type=int, default=OPSET, help=f"of the ONNX file (default: {OPSET})")
    add("--check-batches", type=int, nargs="+", default=BATCHES, metavar="N", help="default: 1 3 8")
    add("--tolerance", type=float, default=TOLERANCE, help="largest |difference| (default: 1e-4)")
    add("--json", action="store_true", help="machine-readable")
    return parser


def check(args: argparse.Namespace) -> None:
    """Raises UserError for arguments that cannot be, before any work."""
    outputs = [path for path in (args.onnx, args.safetensors, args.yaml) if path]
    if not outputs:
        raise UserError("Say what to write: --onnx FILE, --safetensors FILE or --yaml FILE.")
    if len({path.absolute() for path in outputs}) < len(outputs):
        raise UserError("--onnx, --safetensors and --yaml need a file each.")
    for path in outputs:
        _check_place(path)
    if args.run and args.weights:
        raise UserError("Give --run or --weights, not both.")
    sides = args.input_size
    if sides and (len(sides) > 2 or min(sides) < 1):
        raise UserError("--input-size takes one side or two, in pixels, such as 224 or 192 256.")
    for option, value in (("--classes", args.classes), ("--in-chans", args.in_chans)):
        if value is not None and value < 1:
            raise UserError(f"{option} must be at least 1.")
    if args.seed < 0:
        raise UserError("--seed must be at least 0.")
    if min(args.check_batches) < 1:
        raise UserError("--check-batches takes numbers of images, each at least 1.")
    if not 0 <= args.tolerance < math.inf:
        raise UserError("--tolerance must be a number of at least 0.")
    if args.opset not in OPSETS:
        raise UserError(f"--opset must be from {OPSETS[0]} to {OPSETS[-1]}.")
    if args.onnx:
        need_onnx()


def _check_place(path: Path) -> None:
    """Raises UserError where a file cannot be written, as far as that is known beforehand."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file in it.")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise UserError(f"{path} cannot be written: {folder} is no folder.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{path} cannot be written: {folder} does not permit it.")


def weighted(args: argparse.Namespace) -> tuple[Target, Backbone, str, RunFolder | None]:
    """The network at the size of its weights, as a module, where its weights are from, its run.

    Raises:
        UserError: no such network, run or weights, or arguments that contradict them.
    """
    run = RunFolder.open(RUNS, args.run)[0] if args.run else None
    own = find_target(args.arch, run)
    sides = args.input_size
    target = own.at((sides[0], sides[-1])) if sides else own
    if not run and not args.weights:
        model = drawn(target, args.seed, args.in_chans or 3, args.classes or 1000)
        return target, model, f"random, drawn with seed {args.seed}", None
    weights = of_run(run, own) if run else of_file(args.weights, own)
    for option, asked, theirs in (
        ("--classes", args.classes, weights.num_classes),
        ("--in-chans", args.in_chans, weights.in_chans),
    ):
        if asked not in (None, theirs):
            raise UserError(f"{option} is {asked}, but the weights are for {theirs}.")
    return weights.target, weights.model(), weights.said, run


def export(args: argparse.Namespace) -> Row:
    """Writes what was asked for; the row says what.

    An ONNX file that does not compute what torch does is not put in its place.

    Raises:
        UserError: what the user can mend: a name, a file, a disk.
    """
    target, model, said, run = weighted(args)
    sides = args.input_size
    size: Grid = (sides[0], sides[-1]) if sides else target.size
    found = cost(target.arch, size, model.in_chans, model.num_classes)
    notes = notes_of(target, said)
    row: Row = {"name": target.name, "input_size": size, "in_chans": model.in_chans}
    row |= {"classes": model.num_classes, "params": found.params, "macs": found.macs}
    row |= {"weights": said, "files": {}}
    if args.yaml:
        write_text(args.yaml, notes["arch"])
        row["files"]["yaml"] = str(args.yaml)
    if args.safetensors:
        from twins_nas.training.checkpoint import save_weights

        save_weights(args.safetensors, model, notes)
        row["files"]["safetensors"] = str(args.safetensors)
    if args.onnx:
        notes |= {"input_size": f"{size[0]} {size[1]}", **(images_of(run) if run else {})}
        notes |= {name: str(row[name]) for name in ("params", "macs", "in_chans", "classes")}
        data = to_onnx(model, model.in_chans, size, notes, args.opset)
        graph = describe(data)
        checked = compare(model, data, model.in_chans, size, args.check_batches)
        row |= {"bytes": graph.bytes, "opset": graph.opset, "nodes": graph.nodes}
        row |= {"ops": graph.ops, "runtimes": checked.runtimes, "tolerance": args.tolerance}
        row |= {"differences": checked.differences, "largest_logit": checked.scale}
        row["equal"] = checked.worst <= args.tolerance
        if row["equal"]:
            write_bytes(args.onnx, data)
            row["files"]["onnx"] = str(args.onnx)
    return row


def text(row: Row) -> str:
    """The row for the console."""
    height, width = row["input_size"]
    lines = [
        f"{row['name']} at {height}x{width}: {row['params']:,} params, {row['macs']:,} MACs,"
        f" {row['in_chans']} channels, {row['classes']} classes; weights {row['weights']}"
    ]
    if "nodes" in row:
        ops = ", ".join(f"{count} {name}" for name, count in row["ops"].items())
        lines.append(
            f"graph: {row['bytes'] / 1e6:.1f} MB, opset {row['opset']}, {row['nodes']} nodes: {ops}"
        )
        each = ", ".join(f"{value:.1e} (batch {n})" for n, value in row["differences"].items())
        lines.append(
            f"checked: onnx.checker, and {row['runtimes']}: largest |difference| {each},"
            f" of logits up to {row['largest_logit']:.2g}"
        )
    lines += [f"wrote {path}" for path in row["files"].values()]
    return "\n".join(lines)


def main() -> int:
    """The command; 1 where the ONNX file does not compute what torch does."""
    args = parser().parse_args()
    check(args)
    row = export(args)
    print(json.dumps(row, indent=1) if args.json else text(row))
    if not row.get("equal", True):
        worst = max(row["differences"].values())
        said = f"onnxruntime and torch differ by {worst:.1e}, over {args.tolerance:g}"
        print(f"{args.onnx} was not written: {said} (see --tolerance).", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    exit_with(main)
