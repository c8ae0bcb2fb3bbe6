"""What shifted windows cost when deployed, beside LSA and GSA: graphs, files, latency on the CPU.

    OMP_NUM_THREADS=1 python benchmarks/deployment.py --json one.json
    OMP_NUM_THREADS=2 python benchmarks/deployment.py --threads 2 --variants twins "all off"
    OMP_NUM_THREADS=1 python benchmarks/deployment.py --variants twins swin_tiny --batches 1

About 8, 3 and 2 minutes on two cores, and 10 GB of memory for all networks at once.

All networks have the channels and depths of Twins-SVT-S: Twins' own, Swin's, each with the other's
mixer, and Swin's with one of its parts switched off at a time. A part that no field of an
architecture names is switched off by a patch in this file. Weights are random.

Each round times every network once, in an order drawn anew: onnxruntime, then torch. Figures are
medians over rounds; the interval is the sign test's, of at least 95 %; ratios are of one round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from torch import Tensor

from twins_nas.arch import CONV, GSA, LSA, MERGE, SHIFTED, ArchConfig, Grid, StageConfig
from twins_nas.cost import cost
from twins_nas.deployable import Target, drawn
from twins_nas.model import attention
from twins_nas.model.position import RelativeBias
from twins_nas.onnx_export import INPUT, compare, describe, to_onnx
from twins_nas.provenance import command, git_commit, machine
from twins_nas.seeds import RATIOS, SEEDS, seed

BASE = "swin"
ABOUT = {
    "swin": "Swin: LS, rpe, merge",
    "twins": "Twins-SVT: LG, cpe, conv",
    "swin LG": "swin with Twins' mixer: LG, rpe, merge",
    "twins LS": "twins with Swin's mixer: LS, cpe, conv",
    "no roll": "swin, masked but not rolled (patch)",
    "no mask": "swin, rolled but not masked (patch)",
    "no shift": "swin, neither: mixer L",
    "read once": "swin, RPE's table read once (patch)",
    "no rpe": "swin, pe none",
    "conv": "swin, downsample conv",
    "all off": "swin, mixer L, pe none, conv",
    "swin_tiny": "the published one: other channels and depths",
}


class NoMask:
    """Stands for the mask of shifted windows, and adds nothing."""

    def __getitem__(self, _: object) -> NoMask:
        """Still nothing."""
        return self

    def __add__(self, bias: Tensor) -> Tensor:
        """The bias alone."""
        return bias


@contextlib.contextmanager
def patched(place: Any, name: str, value: Any) -> Iterator[None]:
    """Replaces an attribute for the while."""
    before = getattr(place, name)
    setattr(place, name, value)
    try:
        yield
    finally:
        setattr(place, name, before)


BIASES: dict[tuple[int, int, Grid], Tensor] = {}
WINDOW = RelativeBias.window


def read_once(self: RelativeBias, heads: int, window: Grid) -> Tensor:
    """The bias of a window, from the second time on without reading its table."""
    key = (id(self), heads, window)
    if key not in BIASES:
        BIASES[key] = WINDOW(self, heads, window)
    return BIASES[key]


PATCHES: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "no roll": lambda: patched(torch.Tensor, "roll", lambda x, *_: x),
    "no mask": lambda: patched(attention, "shift_mask", lambda *_: NoMask()),
    "read once": lambda: patched(RelativeBias, "window", read_once),
}


def arch_of(name: str, dims: Sequence[int], depths: Sequence[int]) -> ArchConfig:
    """The network of a name, before it is patched."""
    if name in SEEDS:
        return seed(name)
    mixer = LSA + GSA if name in ("twins", "swin LG") else LSA + SHIFTED
    mixer = LSA if name in ("no shift", "all off") else mixer
    pe = "cpe" if name.startswith("twins") else "none" if name in ("no rpe", "all off") else "rpe"
    conv = name.startswith("twins") or name in ("conv", "all off")
    stages = tuple(
        StageConfig(dim, 32, depth, mixer, (7,) * depth, (ratio,) * depth, pe, (4.0,) * depth)
        for dim, depth, ratio in zip(dims, depths, RATIOS, strict=True)
    )
    return ArchConfig(stages, downsample=CONV if conv else MERGE)


class Variant:
    """A network ready to run in torch and in onnxruntime, and its row of the table."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        size = (args.input_size, args.input_size)
        arch = arch_of(name, args.dims, args.depths)
        self.model = drawn(Target(name, arch, size), 0)
        self.patch = PATCHES.get(name, nullcontext)
        with torch.no_grad(), self.patch():
            data = to_onnx(self.model, 3, size, {})
            checked = compare(self.model, data, 3, size, (1, 3))
        assert checked.worst < 1e-4, name
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = args.threads, 3
        # Threads that wait by spinning would take the cores from the network whose turn is next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        with tempfile.TemporaryDirectory() as folder:
            options.optimized_model_filepath = str(Path(folder, "optimized.onnx"))
            self.runtime = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
            optimized = onnx.load(options.optimized_model_filepath, load_external_data=False)
        graph, found = describe(data), cost(arch, size)
        self.row: dict[str, Any] = {
            "name": name,
            "about": ABOUT[name],
            "macs": found.macs,
            "params": found.params,
            "megabytes": round(graph.bytes / 1e6, 2),
            "nodes": graph.nodes,
            "ops": graph.ops,
            "nodes_optimized": len(optimized.graph.node),
            "difference": checked.worst,
        }

    def seconds(self, images: Tensor, backend: str) -> float:
        """The time of one batch."""
        if backend == "onnxruntime":
            feed = {INPUT: images.numpy()}
            start = time.perf_counter()
            self.runtime.run(None, feed)
            return time.perf_counter() - start
        with torch.inference_mode(), self.patch():
            start = time.perf_counter()
            self.model(images)
            return time.perf_counter() - start


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Of the median, by the sign test: the narrowest pair of ranks that covers 95 %."""
    n, ordered = len(values), sorted(values)
    tail, rank = 0.5**n, 0
    while rank < n // 2 and 2 * (tail + math.comb(n, rank + 1) * 0.5**n) <= 0.05:
        rank += 1
        tail += math.comb(n, rank) * 0.5**n
    return ordered[rank], ordered[n - 1 - rank]


def timed(variants: list[Variant], batch: int, rounds: int, size: int) -> None:
    """Times all of them in turns, after a round to get warm; fills in their rows."""
    images, order = torch.randn(batch, 3, size, size), random.Random(0)
    for backend in ("onnxruntime", "torch"):
        times: dict[str, list[float]] = {one.row["name"]: [] for one in variants}
        for number in range(rounds + 1):
            for one in order.sample(variants, len(variants)):
                value = 1000 * one.seconds(images, backend)
                if number:
                    times[one.row["name"]].append(value)
        for one in variants:
            own = times[one.row["name"]]
            ratios = [a / b for a, b in zip(own, times[BASE], strict=True)]
            one.row[f"{backend} batch {batch}"] = {
                "n": rounds,
                "median_ms": statistics.median(own),
                "interval_ms": interval(own),
                "least_ms": min(own),
                "ratio": statistics.median(ratios),
                "ratio_interval": interval(ratios),
                "ms": [round(value, 3) for value in own],
            }


def show(rows: list[dict[str, Any]]) -> None:
    """The table."""
    kinds = [key for key in rows[0] if " batch " in key]
    print(f"{'':10} {'GMACs':>6} {'MB':>6} {'nodes':>5} {'opt.':>5}", end="")
    print("".join(f"  {kind:>28}" for kind in kinds))
    for row in rows:
        print(
            f"{row['name']:10} {row['macs'] / 1e9:6.3f} {row['megabytes']:6.1f}"
            f" {row['nodes']:5} {row['nodes_optimized']:5}",
            end="",
        )
        for kind in kinds:
            low, high = row[kind]["ratio_interval"]
            figures = f"{row[kind]['median_ms']:.1f} ms x{row[kind]['ratio']:.3f}"
            print(f"  {figures:>15} {low:.3f}-{high:.3f}", end="")
        print()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--variants", nargs="+", choices=list(ABOUT), default=list(ABOUT)[:-1])
    add("--dims", type=int, nargs=4, default=(64, 128, 256, 512))
    add("--depths", type=int, nargs=4, default=(2, 2, 10, 4))
    add("--input-size", type=int, default=224)
    add("--batches", type=int, nargs="+", default=[1, 8])
    add("--rounds", type=int, default=25, help="of batch 1; a half of it for larger ones")
    add("--threads", type=int, default=1)
    add("--json", type=Path)
    args = parser.parse_args()
    names = list(dict.fromkeys([BASE, *args.variants]))
    torch.set_num_threads(args.threads)
    result: dict[str, Any] = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": command(),
        "machine": machine(),
        "commit": git_commit(),
        "versions": {
            name: version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime")
        },
        "threads": args.threads,
        "input_size": args.input_size,
        "dims": args.dims,
        "depths": args.depths,
        "rows": [],
    }
    variants = [Variant(name, args) for name in names]
    for batch in args.batches:
        timed(variants, batch, args.rounds if batch == 1 else -(-args.rounds // 2), args.input_size)
    result["rows"] = [one.row for one in variants]
    show(result["rows"])
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
