"""Our backbone beside timm's, with the same weights, in turns.

    python benchmarks/backbone.py                                   # about 8 minutes on two cores
    python benchmarks/backbone.py --models swin_tiny --device cuda  # eager and compiled, bf16

On a CPU fp32 in eager mode; on CUDA bf16 (autocast) in eager mode and compiled. Inference and a
training step (forward, cross-entropy, backward) of each network have a process of their own, in
which both take turns. Printed are the medians of the rounds, and timm's over ours with the range of
the rounds' own ratios; the logits are compared first. `share`: the rate of ours (2 x MACs an image
and second; three times as much for a training step) over that of one large matrix product in the
same process: the floor that no network of these MACs goes below.

`pages`: on a CPU much of timm's time may go into page faults: the C library gives large blocks back
to the system, and takes them anew at each forward pass. `default` leaves it so; `kept` tells it to
keep all memory (MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_THRESHOLD_), for both networks.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
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
from twins_nas.provenance import command, git_commit, machine

MODELS = {
    "twins_svt_small": "twins_svt_small",
    "twins_pcpvt_small": "twins_pcpvt_small",
    "swin_tiny": "swin_tiny_patch4_window7_224",
}
SIDE = 224


@dataclass(frozen=True)
class Row:
    """A comparison: medians in milliseconds, timm's over ours, and the rounds' lowest and highest.

    `logits`: the relative difference; page faults are those of one call; `share` is the part of the
    matrix rate `gflops` that ours reaches.
    """

    model: str
    job: str
    mode: str
    pages: str
    logits: float
    timm_ms: float
    ours_ms: float
    ratio: float
    lowest: float
    highest: float
    timm_faults: int
    ours_faults: int
    share: float
    gflops: float
    rounds: int

    def __str__(self) -> str:
        return (
            f"{self.model:17} {self.job:9} {self.mode} pages {self.pages:7}"
            f" timm {self.timm_ms:7.1f} ms ({self.timm_faults:,} faults)"
            f"  ours {self.ours_ms:7.1f} ms ({self.ours_faults:,})  ratio {self.ratio:.2f}"
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


def compare(name: str, job: str, args: argparse.Namespace) -> Row:
    """One job of one network, in this process."""
    device = torch.device(args.device)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    rate = matrix_rate(device, dtype)
    theirs = randomised(MODELS[name]).to(device).eval()
    ours = from_timm(theirs)
    images = torch.randn(args.batch, 3, SIDE, SIDE, device=device)
    with torch.inference_mode():
        wanted, got = theirs(images[:2]), ours(images[:2])
    distance = ((wanted - got).abs().max() / wanted.abs().max()).item()
    assert distance <= 1e-5, f"{name}: the logits differ by {distance:.1e}"
    pair = []
    for model in (theirs, ours):
        model.train(job == "training")
        made = torch.compile(model, dynamic=False) if args.compiled else model
        pair.append(jobs(made, images, dtype)[job])
    for call in pair * 2:
        call()
    times: list[tuple[float, float]] = []
    faults = [0, 0]
    for turn in range(args.rounds):
        took = [0.0, 0.0]
        for which in (1, 0) if turn % 2 else (0, 1):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            took[which] = seconds(pair[which], device)
            faults[which] += resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        times.append((took[0], took[1]))
    timm_s, ours_s = (statistics.median(column) for column in zip(*times, strict=True))
    ratios = [first / second for first, second in times]
    macs = cost(ours.arch, (SIDE, SIDE), 3, 1000).macs
    passes = 2 if job == "inference" else 6
    return Row(
        model=name,
        job=job,
        mode=("compiled " if args.compiled else "eager ") + str(dtype).removeprefix("torch."),
        pages=args.pages,
        logits=distance,
        timm_ms=timm_s * 1e3,
        ours_ms=ours_s * 1e3,
        ratio=timm_s / ours_s,
        lowest=min(ratios),
        highest=max(ratios),
        timm_faults=faults[0] // args.rounds,
        ours_faults=faults[1] // args.rounds,
        share=passes * macs * args.batch / ours_s / rate,
        gflops=rate / 1e9,
        rounds=args.rounds,
    )


def in_a_process(name: str, job: str, args: argparse.Namespace, pages: str, compiled: bool) -> Row:
    """The same in a fresh process."""
    kept = {"MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_MMAP_THRESHOLD_": "4000000000"}
    words = [sys.executable, __file__, "--one", name, job, "--pages", pages]
    for key in ("device", "batch", "rounds", "threads"):
        words += [f"--{key}", str(getattr(args, key))]
    done = subprocess.run(
        [*words, *["--compiled"] * compiled],
        env={**os.environ, **(kept if pages == "kept" else {})},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Row(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pages", choices=("default", "kept"), help="one of them alone")
    parser.add_argument("--json", type=Path, help="writes the rows there")
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "JOB"), help="one row, in this process")
    parser.add_argument("--compiled", action="store_true", help="of --one: torch.compile")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.one:
        print(json.dumps(asdict(compare(*args.one, args))))
        return
    cpu = torch.device(args.device).type == "cpu"
    pages = [args.pages] if args.pages else ["default", "kept"] if cpu else ["default"]
    rows = []
    for name in args.models:
        for job in ("inference", "training"):
            for kind in pages:
                for compiled in (False,) if cpu else (False, True):
                    rows.append(in_a_process(name, job, args, kind, compiled))
                    print(rows[-1], flush=True)
    if args.json:
        about = {
            "device": "CPU" if cpu else torch.cuda.get_device_name(args.device),
            "machine": machine(),
            "torch": torch.__version__,
            "timm": timm.__version__,
            "threads": args.threads,
            "batch": args.batch,
            "command": command(),
            "commit": git_commit(),
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "rows": [asdict(row) for row in rows],
        }
        args.json.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
