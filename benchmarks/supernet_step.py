"""A supernet's step beside the steps of the same networks, each extracted and trained alone.

    python benchmarks/supernet_step.py                               # two threads on a CPU
    python benchmarks/supernet_step.py --space imagenet/svt_small --batch 64 --device cuda

A step is the trainer's own: forward and backward passes, clipping, AdamW. The supernet's trains
what its recipe says (`search/nsga2.yaml`: the largest and two random members); theirs is the sum of
so many steps, on the same batch by the same recipe, each with an optimizer of its own. Each round
draws other members, takes each step once unmeasured, and then both sides in turns; on CUDA the
device's work is waited for. Printed are the medians over the rounds, their ratio, and the range of
the rounds' own ratios. The aim is 1.05.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import repeat
from pathlib import Path

import torch

from twins_nas.arch import ArchConfig
from twins_nas.config import find, load_space
from twins_nas.data import ImageData, Images, normalise
from twins_nas.model.backbone import initialise
from twins_nas.model.separate import supernet_of
from twins_nas.model.transfer import extract
from twins_nas.provenance import command, git_commit, machine
from twins_nas.recipes import TrainingRecipe, load_recipe
from twins_nas.training.loop import Trainer
from twins_nas.training.policy import LossOf

MEAN, STD = 0.5, 0.25


@dataclass(frozen=True)
class Fixed:
    """A policy that draws these members."""

    archs: list[ArchConfig]

    def draw(self, step: int, loss_of: LossOf) -> list[ArchConfig]:
        """See `twins_nas.training.policy.Policy`."""
        return self.archs


@dataclass(frozen=True)
class Result:
    """Medians in milliseconds, their ratio, the lowest and highest of the rounds' own ratios."""

    space: str
    recipe: str
    networks: int
    supernet_ms: float
    alone_ms: float
    ratio: float
    lowest: float
    highest: float
    rounds: int

    def __str__(self) -> str:
        return (
            f"{self.space}, {self.recipe}: supernet {self.supernet_ms:.1f} ms,"
            f" {self.networks} networks alone {self.alone_ms:.1f} ms;"
            f" ratio of medians {self.ratio:.3f} [{self.lowest:.3f}, {self.highest:.3f}]"
            f" (n = {self.rounds} rounds)"
        )


def noise(args: argparse.Namespace, side: int) -> ImageData:
    """One batch of random images."""
    generator = torch.Generator().manual_seed(0)
    shape = (args.batch, args.channels, side, side)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, args.classes, (args.batch,), generator=generator)
    images = Images(pixels, labels)
    names = tuple(str(number) for number in range(args.classes))
    moments = ((MEAN,) * args.channels, (STD,) * args.channels)
    about = ("noise", args.classes, names, args.channels, side)
    return ImageData(*about, *moments, images, images, lambda: images)


def compare(args: argparse.Namespace) -> Result:
    """Both sides in turns."""
    device = torch.device(args.device)
    space = load_space(find("space", args.space))
    data = noise(args, space.input_size[0])
    shipped = load_recipe(find("search", args.recipe)).supernet
    recipe = shipped.model_copy(update={"batch_size": args.batch, "epochs": 1000})
    own = {name: getattr(recipe, name) for name in TrainingRecipe.model_fields}
    model = supernet_of(space, args.channels, args.classes, recipe)
    initialise(model, 0)
    together = Trainer(model.to(device).train(), data, recipe)
    draws = together.policy
    pixels, labels = data.train.batch(torch.arange(args.batch))
    batch = (normalise(pixels.to(device), data.mean, data.std), labels.to(device))

    def seconds(trainers: list[Trainer]) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for trainer in trainers:
            trainer._one_step(repeat(batch))
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    times: list[tuple[float, float]] = []
    networks = len(draws.draw(0, lambda arch: 0.0))
    for number in range(args.rounds):
        archs = draws.draw(number, lambda arch: 0.0)
        together.policy = Fixed(archs)
        alone = [Trainer(extract(model, arch), data, TrainingRecipe(**own)) for arch in archs]
        sides = [[together], alone]
        for side in sides:
            seconds(side)
        took = [0.0, 0.0]
        for which in ((0, 1), (1, 0))[number % 2]:
            took[which] = min(seconds(sides[which]) for _ in range(args.repeats))
        times.append((took[0], took[1]))
    supernet_s, alone_s = (statistics.median(column) for column in zip(*times, strict=True))
    ratios = [one / other for one, other in times]
    return Result(
        space=args.space,
        recipe=args.recipe,
        networks=networks,
        supernet_ms=supernet_s * 1e3,
        alone_ms=alone_s * 1e3,
        ratio=supernet_s / alone_s,
        lowest=min(ratios),
        highest=max(ratios),
        rounds=args.rounds,
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--space", default="svt")
    parser.add_argument("--recipe", default="nsga2", help="a search's: a file, or a shipped name")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--repeats", type=int, default=1, help="of a step; the quickest counts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="writes the result there")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = compare(args)
    print(result)
    if args.json:
        cuda = torch.device(args.device).type == "cuda"
        about = {
            "device": torch.cuda.get_device_name(args.device) if cuda else "CPU",
            "machine": machine(),
            "torch": torch.__version__,
            "threads": args.threads,
            "batch": args.batch,
            "command": command(),
            "commit": git_commit(),
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            **asdict(result),
        }
        args.json.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
