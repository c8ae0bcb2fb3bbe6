"""Exports the published networks to ONNX at their own size, and compares onnxruntime with torch.

    python benchmarks/onnx_seeds.py                          # all 27, about 15 minutes on one core
    python benchmarks/onnx_seeds.py swin_micro pvt_tiny --json some.json

Initial weights have zero biases and unit norms, which hide errors and which the exporter merges:
all of them, and the position tables, get normal noise on top. Batches 1, 3 and 8; the export saw a
batch of 2. Ends with 1 where a network differs by more than 1e-4.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from twins_nas.deployable import drawn, find_target, notes_of
from twins_nas.model.backbone import Backbone
from twins_nas.onnx_export import TOLERANCE, compare, describe, to_onnx
from twins_nas.provenance import command, git_commit, machine
from twins_nas.seeds import SEEDS

BATCHES = (1, 3, 8)


def shake(model: Backbone, seed: int) -> None:
    """Adds noise to biases, norms and position tables, which are constant or tiny at the start."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        if value.dim() == 1 or "table" in name:
            value.data += 0.2 * torch.randn(value.shape, generator=generator)


def row_of(name: str, seed: int = 0) -> dict[str, Any]:
    """One network: its graph and its differences."""
    target = find_target(name)
    model = drawn(target, seed)
    shake(model, seed)
    start = time.perf_counter()
    data = to_onnx(model, 3, target.size, notes_of(target, f"random, drawn with seed {seed}"))
    seconds = time.perf_counter() - start
    checked, graph = compare(model, data, 3, target.size, BATCHES), describe(data)
    return {
        "name": name,
        "input_size": target.size,
        "export_seconds": round(seconds, 1),
        "nodes": graph.nodes,
        "megabytes": round(graph.bytes / 1e6, 2),
        "differences": checked.differences,
        "largest_logit": checked.scale,
        "ops": graph.ops,
    }


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(SEEDS))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    result: dict[str, Any] = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": command(),
        "machine": machine(),
        "commit": git_commit(),
        "versions": {
            name: version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime")
        },
        "tolerance": TOLERANCE,
        "rows": [],
    }
    print(
        f"{'network':18} {'px':>4} {'nodes':>5} {'MB':>6}  largest |difference| (of logits up to)"
    )
    for name in args.names:
        row = row_of(name)
        result["rows"].append(row)
        each = ", ".join(f"{value:.1e}" for value in row["differences"].values())
        print(
            f"{name:18} {row['input_size'][0]:4} {row['nodes']:5} {row['megabytes']:6.1f}"
            f"  {each} ({row['largest_logit']:.1f})",
            flush=True,
        )
        if args.json:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(result, indent=2) + "\n")
    worst = max(max(row["differences"].values()) for row in result["rows"])
    print(f"{len(result['rows'])} networks, batches {BATCHES}: largest |difference| {worst:.1e}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    raise SystemExit(main())
