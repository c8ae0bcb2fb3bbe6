"""Our backbone beside timm's, with the same weights, in turns in one run.

    python benchmarks/backbone.py                                   # about 6 minutes on two cores
    python benchmarks/backbone.py --models swin_tiny --device cuda  # eager and compiled, bf16

On a CPU fp32 in eager mode; on CUDA bf16 (autocast) in eager mode and compiled. For each network
the relative difference of the logits, then, for inference and for a training step (forward,
cross-entropy, backward), the medians of `--rounds` and timm's over ours, with the range of the
rounds' own ratios. Each round takes both, in turns the one or the other first. `share`: the rate of
ours (2 x MACs an image and second; three times as much for a training step) over the best rate of
one large matrix product in the same run: the floor that no network of these MACs goes below.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import nn

from twins_nas.cost import cost
from twins_nas.model.transfer import from_timm
from twins_nas.provenance import git_commit, machine

MODELS = {
    "twins_svt_small": "twins_svt_small",
    "twins_pcpvt_small": "twins_pcpvt_small",
    "swin_tiny": "swin_tiny_patch4_window7_224",
}
SIDE = 224


@dataclass(frozen=True)
class Row:
    """A comparison: medians in milliseconds, timm's over ours, and the rounds' lowest and highest.

    `share` is the part of the machine's matrix rate that ours reaches.
    """

    model: str
    job: str
    mode: str
    timm_ms: float
    ours_ms: float
    ratio: float
    lowest: float
    highest: float
    share: float
    rounds: int

    def __str__(self) -> str:
        return (
            f"{self.model:18} {self.job:9} {self.mode:14} timm {self.timm_ms:8.1f} ms"
            f"  ours {self.ours_ms:8.1f} ms  ratio {self.ratio:.2f}"
            f" [{self.lowest:.2f}, {self.highest:.2f}]  share {self.share:.0%}"
        )


def randomised(name: str) -> nn.Module:
    """Timm's network with weights beyond its initialisation: no bias is zero."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """The time of one call, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """The best rate of a large matrix product here, in operations a second (2 a multiply-add)."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    a @ b
    return 2 * side**3 / min(seconds(lambda: a @ b, device) for _ in range(10))


def jobs(model: nn.Module, images: torch.Tensor, dtype: torch.dtype) -> dict[str, Any]:
    """What is timed: inference, and a training step without the optimizer's."""
    labels = torch.zeros(len(images), dtype=torch.long, device=images.device)
    half = dtype != torch.float32
    parameters = list(model.parameters())

    def inference() -> None:
        with torch.inference_mode(), torch.autocast(images.device.type, dtype, enabled=half):
            model(images)

    def training() -> None:
        with torch.autocast(images.device.type, dtype, enabled=half):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        for parameter in parameters:
            parameter.grad = None

    return {"inference": inference, "training": training}


def compare(name: str, args: argparse.Namespace, rate: float, compiled: bool) -> list[Row]:
    """Both jobs of one network."""
    device = torch.device(args.device)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    theirs = randomised(MODELS[name]).to(device).eval()
    ours = from_timm(theirs)
    images = torch.randn(args.batch, 3, SIDE, SIDE, device=device)
    with torch.inference_mode():
        wanted, got = theirs(images[:2]), ours(images[:2])
    distance = ((wanted - got).abs().max() / wanted.abs().max()).item()
    limit = 1e-5 if device.type == "cpu" else 1e-2
    assert distance <= limit, f"{name}: the logits differ by {distance:.1e}"
    print(f"{name}: logits agree to {distance:.1e} relative", flush=True)
    macs = cost(ours.arch, (SIDE, SIDE), 3, 1000).macs
    mode = ("compiled" if compiled else "eager") + (" fp32" if device.type == "cpu" else " bf16")
    rows = []
    for job, passes in (("inference", 2), ("training", 6)):
        pair = []
        for model in (theirs, ours):
            model.train(job == "training")
            made = torch.compile(model, dynamic=False) if compiled else model
            pair.append(jobs(made, images, dtype)[job])
        for call in pair * 2:
            call()
        times: list[tuple[float, float]] = []
        for turn in range(args.rounds):
            if turn % 2:
                second, first = seconds(pair[1], device), seconds(pair[0], device)
            else:
                first, second = seconds(pair[0], device), seconds(pair[1], device)
            times.append((first, second))
        timm_s, ours_s = (statistics.median(column) for column in zip(*times, strict=True))
        ratios = [first / second for first, second in times]
        share = passes * macs * args.batch / ours_s / rate
        rows.append(
            Row(
                name,
                job,
                mode,
                timm_s * 1e3,
                ours_s * 1e3,
                timm_s / ours_s,
                min(ratios),
                max(ratios),
                share,
                args.rounds,
            )
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="writes the rows there")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    rate = matrix_rate(device, torch.float32 if device.type == "cpu" else torch.bfloat16)
    print(f"matrix products: {rate / 1e9:.0f} GFLOP/s at best; batch {args.batch}, {SIDE} px")
    modes = (False,) if device.type == "cpu" else (False, True)
    rows = [
        row for name in args.models for mode in modes for row in compare(name, args, rate, mode)
    ]
    if args.json:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        about = {
            "device": name,
            "machine": machine(),
            "torch": torch.__version__,
            "timm": timm.__version__,
            "threads": args.threads,
            "batch": args.batch,
            "matrix_gflops": rate / 1e9,
            "commit": git_commit(),
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "rows": [asdict(row) for row in rows],
        }
        args.json.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
