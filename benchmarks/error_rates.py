"""How often the statistics of an ablation are wrong, by simulated experiments.

    python benchmarks/error_rates.py                  # a minute; prints the tables
    python benchmarks/error_rates.py --write          # and keeps them under benchmarks/results/

An experiment is a baseline and variants over shared seeds. What a seed does to all of them alike
cancels in the differences; each one's own noise has standard deviation 1, so differences have
sqrt(2), and any two variants' differences are correlated by 1/2, because they share the baseline.
Every p comes from the package's own functions; tests/test_error_rates.py holds these rates to their
promises with 10,000 experiments each, and this file's arrays to the package's `compare` and `look`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from twins_nas.power import minimum_detectable
from twins_nas.provenance import command, git_commit, machine
from twins_nas.ranks import kendall, spearman, top_k_regret
from twins_nas.sequential import Schedule, schedule
from twins_nas.stats import Vector, bootstrap, difference_p, paired, tost_p
from twins_nas.verdicts import Rule, corrected, seeds_needed

ALPHA = 0.05
SD = math.sqrt(2)
SIZES = (3, 5, 10)
NULL = (0.0, 0.0, 0.0, 0.0)
Rng = np.random.Generator
Flags = npt.NDArray[np.bool_]
Noise = Callable[[Rng, tuple[int, ...]], Vector]

NOISES: dict[str, Noise] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "heavy tails (t, 3 df)": lambda rng, shape: rng.standard_t(3, shape) / math.sqrt(3),
    "skewed (exponential)": lambda rng, shape: rng.exponential(size=shape) - 1,
    "coarse (steps of 0.5 sd)": lambda rng, shape: np.round(2 * rng.normal(size=shape)) / 2,
}
"""What a variant's own noise is like; the baseline's is normal beside `skewed`, or the skew would
cancel in the differences."""


@dataclass(frozen=True)
class Outcome:
    """What experiments ended with, one row each, one column a variant.

    `mean` and `half`: the middle and half the width of the interval reported at the stop.
    """

    differs: Flags
    equivalent: Flags
    mean: Vector
    half: Vector
    pairs: Vector

    def false_verdicts(self, effects: Sequence[float], margin: float) -> float:
        """The share of experiments with a verdict that is wrong, of whatever kind."""
        truth = np.array(effects)
        wrong = self.differs & (np.sign(self.mean) != np.sign(truth))
        wrong |= self.equivalent & (np.abs(truth) >= margin)
        return float(wrong.any(axis=1).mean())

    def coverage(self, effects: Sequence[float]) -> float:
        """How often the interval holds the true difference."""
        return float(np.mean(np.abs(self.mean - np.array(effects)) <= self.half))


def differences(
    rng: Rng, draws: int, n: int, effects: Sequence[float], noise: str = "normal"
) -> Vector:
    """Differences from the baseline: draws x variants x seeds."""
    other = NOISES["normal" if noise.startswith("skewed") else noise]
    own = NOISES[noise](rng, (draws, len(effects), n)) + np.array(effects)[:, None]
    found: Vector = own - other(rng, (draws, 1, n))
    return found


def uncorrected(found: Vector, margin: float | None) -> Vector:
    """Uncorrected p: draws x tests x variants; 1 where the differences do not vary."""
    mean, sd, n = found.mean(axis=-1), found.std(axis=-1, ddof=1), found.shape[-1]
    flat = sd < 1e-9
    sd = np.where(flat, 1.0, sd)
    rows = [difference_p(mean, sd, n)] + ([] if margin is None else [tost_p(mean, sd, n, margin)])
    p: Vector = np.where(flat[:, None], 1.0, np.stack(rows, axis=1))
    return p


def judged(found: Vector, margin: float | None, plan: Schedule | None = None) -> Outcome:
    """The verdicts of experiments: of all seeds at once, or of successive looks at more of them."""
    plan = plan or Schedule((found.shape[-1],), (1.0,))
    shape = found.shape[:2]
    kept_p = np.ones((shape[0], 1 if margin is None else 2, shape[1]))
    mean, half, pairs = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    open_ = np.ones(shape, bool)
    for n, part in zip(plan.looks, plan.shares, strict=True):
        seen = found[..., :n]
        kept_p = np.where(open_[:, None], uncorrected(seen, margin) / part, kept_p)
        mean = np.where(open_, seen.mean(axis=-1), mean)
        critical = stdtrit(n - 1, 1 - part * ALPHA / 2) / math.sqrt(n)
        half = np.where(open_, critical * seen.std(axis=-1, ddof=1), half)
        pairs = np.where(open_, n, pairs)
        verdicts = corrected(kept_p) <= ALPHA
        open_ &= ~verdicts.any(axis=1)
    equivalent = verdicts[:, 1] if margin is not None else np.zeros(shape, bool)
    return Outcome(verdicts[:, 0], equivalent, mean, half, pairs)


def coverage(rng: Rng, draws: int, n: int, noise: str = "normal") -> float:
    """How often the paired t interval holds the true difference."""
    return judged(differences(rng, draws, n, (0.7,), noise), None).coverage((0.7,))


def resampled(rng: Rng, draws: int, n: int, resamples: int = 1000) -> float:
    """How often the percentile bootstrap's 95 % interval of a mean difference holds the truth."""
    held = 0
    for one in np.array_split(differences(rng, draws, n, (0.0,))[:, 0], max(1, draws // 500)):
        picks = rng.integers(0, n, (len(one), resamples, n), dtype=np.int32)
        means = np.take_along_axis(one[:, None], picks, axis=2).mean(axis=2)
        low, high = np.quantile(means, [0.025, 0.975], axis=1)
        held += int(np.sum((low <= 0) & (high >= 0)))
    return held / draws


def resampled_bca(rng: Rng, draws: int, n: int) -> float:
    """The same of the package's bootstrap."""
    held = 0
    for one in differences(rng, draws, n, (0.0,))[:, 0]:
        interval = bootstrap(paired(dict(enumerate(one)), dict.fromkeys(range(n), 0.0)), rng)
        held += interval.low <= 0 <= interval.high
    return held / draws


def two_holms(found: Vector, effects: Sequence[float], margin: float) -> float:
    """False verdicts when differences and equivalences are corrected by Holm apart, beside it."""
    p = uncorrected(found, margin)
    rejected = [corrected(p[:, row : row + 1])[:, 0] <= ALPHA for row in (0, 1)]
    mean = found.mean(axis=-1)
    outcome = Outcome(rejected[0], rejected[1], mean, mean, mean)
    return outcome.false_verdicts(effects, margin)


def family_error(
    rng: Rng,
    draws: int,
    n: int,
    effects: Sequence[float] = NULL,
    margin: float | None = None,
    noise: str = "normal",
) -> float:
    """The share of experiments with any false verdict."""
    outcome = judged(differences(rng, draws, n, effects, noise), margin)
    return outcome.false_verdicts(effects, margin or math.inf)


def equivalence_error(rng: Rng, draws: int, n: int, margin: float) -> float:
    """How often one variant whose difference is the margin itself is called equivalent."""
    return float(judged(differences(rng, draws, n, (margin,)), margin).equivalent.mean())


def power_at_the_detectable(rng: Rng, draws: int, n: int, comparisons: int) -> float:
    """How often the minimum detectable difference is seen, at the first step of Holm."""
    effect = minimum_detectable(n, SD, ALPHA / comparisons)
    assert effect is not None
    p = uncorrected(differences(rng, draws, n, (effect,)), None)
    return float(np.mean(p <= ALPHA / comparisons))


def topped_up(rng: Rng, draws: int, n: int, effect: float, only_open: bool) -> tuple[float, float]:
    """Adding the seeds said to be missing and testing again with the whole of alpha, once.

    One comparison, no margin; whoever is told of more than 1000 seeds stops. The median of the
    seeds said to be missing, and how often a difference is claimed in the end: of all experiments,
    or only of those that were told a number. In the null case that is the error of looking twice.
    """
    told: list[int] = []
    claimed: list[bool] = []
    while len(claimed) < draws:
        one = differences(rng, 1, n, (effect,))[0, 0]
        difference = paired(dict(enumerate(one)), dict.fromkeys(range(n), 0.0))
        assert difference.p is not None
        more = None if difference.p <= ALPHA else seeds_needed(difference, ALPHA, Rule())
        if more is not None:
            later = np.concatenate([one, differences(rng, 1, more, (effect,))[0, 0]])
            told.append(more)
            claimed.append(uncorrected(later[None, None], None).item() <= ALPHA)
        elif not only_open:
            claimed.append(difference.p <= ALPHA)
    return float(np.median(told)), float(np.mean(claimed))


def successive(
    rng: Rng, draws: int, plan: Schedule, effects: Sequence[float], margin: float | None
) -> dict[str, float]:
    """Rates of a sequential design: false verdicts, verdicts, seeds, coverage at the stop."""
    outcome = judged(differences(rng, draws, plan.looks[-1], effects), margin, plan)
    return {
        "false": outcome.false_verdicts(effects, margin or math.inf),
        "verdict": float((outcome.differs | outcome.equivalent).mean()),
        "seeds": float(outcome.pairs.mean()),
        "held": outcome.coverage(effects),
    }


def ranks(rng: Rng, draws: int, n: int, correlation: float) -> tuple[float, float, float, float]:
    """How often rank intervals hold the truth, and how wide tau's is: n items with normal values.

    Coverage and mean width of Kendall's tau, coverage of Spearman's rho, and that of the best 3's
    regret, whose truth is the mean over the experiments.
    """
    truths = (2 / math.pi * math.asin(correlation), 6 / math.pi * math.asin(correlation / 2))
    held, widths, regrets = np.zeros(2), [], []
    for _ in range(draws):
        truth, other = rng.normal(size=(2, n))
        score = correlation * truth + math.sqrt(1 - correlation**2) * other
        found = [one(score, truth, rng, draws=500).interval for one in (kendall, spearman)]
        held += [e.low <= t <= e.high for e, t in zip(found, truths, strict=True)]
        widths.append(found[0].high - found[0].low)
        regrets.append(top_k_regret(score, truth, 3, rng, draws=500))
    mean = np.mean([one.value for one in regrets])
    regret = float(np.mean([one.interval.low <= mean <= one.interval.high for one in regrets]))
    return float(held[0] / draws), float(np.mean(widths)), float(held[1] / draws), regret


def plans(first: int, most: int) -> dict[str, Schedule]:
    """The package's schedule beside others over the same looks, and one look at the end."""
    looks = np.array(schedule(first, most).looks)
    shares = {
        "in proportion to the seeds (ours)": looks,
        "equal": np.ones(len(looks)),
        "in proportion to the seeds added": np.diff(looks, prepend=0),
        "half for the last look": np.r_[np.ones(len(looks) - 1), len(looks) - 1],
    }
    found = {
        name: Schedule(tuple(looks), tuple(part / part.sum())) for name, part in shares.items()
    }
    return found | {f"one look, at {most}": Schedule((most,), (1.0,))}


@dataclass(frozen=True)
class Table:
    """A part of the result; rates are in percent."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str | float, ...]]

    def markdown(self) -> str:
        """The table as text."""
        lines = [f"### {self.title}", "", " | ".join(self.columns)]
        lines.append(" | ".join(["---"] * len(self.columns)))
        for row in self.rows:
            cells = (one if isinstance(one, str) else f"{one:.1f}" for one in row)
            lines.append(" | ".join(cells))
        return "\n".join([*lines[:2], *(f"| {line} |" for line in lines[2:])])


def tables(rng: Rng, draws: int) -> list[Table]:
    """All of it; what resamples or plans each experiment by itself gets fewer experiments."""
    sizes = tuple(f"n = {n}" for n in SIZES)
    mixed, few = (0.0, 0.0, 6.0, 6.0), max(draws // 10, 1)
    one_look: list[tuple[str | float, ...]] = [
        ("95 % t interval holds the truth", *(coverage(rng, draws, n) for n in SIZES)),
        ("any false verdict, all equal", *(family_error(rng, draws, n) for n in SIZES)),
        (
            "any false verdict, two equal, two at the margin",
            *(family_error(rng, draws, n, mixed, 6.0) for n in SIZES),
        ),
        (
            "the same, by two separate Holm corrections",
            *(two_holms(differences(rng, draws, n, mixed), mixed, 6.0) for n in SIZES),
        ),
        ("equivalent, at the margin", *(equivalence_error(rng, draws, n, 6.0) for n in SIZES)),
        ("minimum detectable seen", *(power_at_the_detectable(rng, draws, n, 4) for n in SIZES)),
    ]
    noises: list[tuple[str | float, ...]] = [
        (name, n, coverage(rng, draws, n, name), family_error(rng, draws, n, noise=name))
        for name in NOISES
        for n in SIZES
    ]
    resampling: list[tuple[str | float, ...]] = [
        (n, resampled(rng, few, n), resampled_bca(rng, few, n) if n >= 20 else "refused")
        for n in (5, 10, 20, 40)
    ]
    again: list[tuple[str | float, ...]] = []
    for effect in (0.0, SD, 2 * SD):
        median, end = topped_up(rng, max(few // 5, 1), 5, effect, only_open=effect > 0)
        again.append((effect / SD, median, 100 * end))
    looks: list[tuple[str | float, ...]] = []
    for name, plan in plans(5, 20).items():
        null = successive(rng, draws, plan, NULL, None)
        same = successive(rng, draws, plan, NULL, 1.5)
        half = successive(rng, draws, plan, (0.0, 0.0, 1.5, 1.5), 1.5)
        real = successive(rng, draws, plan, (SD,) * 4, None)
        large = successive(rng, draws, plan, (3 * SD,) * 4, None)
        errors = (100 * one["false"] for one in (null, half))
        found = (cell for one in (same, real) for cell in (100 * one["verdict"], one["seeds"]))
        held = min(one["held"] for one in (null, same, half, real, large))
        looks.append((name, *errors, *found, large["seeds"], 100 * held))
    agreement: list[tuple[str | float, ...]] = []
    for correlation in (0.5, 0.9):
        for n in (8, 13, 20, 50):
            tau, width, rho, regret = ranks(rng, max(few // 10, 1), n, correlation)
            cells = (100 * tau, f"{width:.2f}", 100 * rho, 100 * regret)
            agreement.append((f"{correlation}", f"{n}", *cells))
    percent = [(row[0], *(100 * float(cell) for cell in row[1:])) for row in one_look]
    return [
        Table("Four variants against one baseline, in %", ("", *sizes), [*percent]),
        Table(
            "Noise that is not normal, four variants equal to the baseline, in %",
            ("noise", "n", "interval holds", "any false verdict"),
            [(row[0], f"{row[1]}", *(100 * float(cell) for cell in row[2:])) for row in noises],
        ),
        Table(
            "What a 95 % bootstrap interval of a mean difference holds, in %",
            ("pairs", "percentile", "BCa"),
            [
                (f"{row[0]}", *(one if isinstance(one, str) else 100 * one for one in row[1:]))
                for row in resampling
            ],
        ),
        Table(
            "Adding once the seeds that `no verdict` asks for, testing again with all of alpha",
            ("true difference in sd", "seeds asked for, median", "claimed in the end, %"),
            again,
        ),
        Table(
            f"Successive seeds, looks at {', '.join(map(str, schedule(5, 20).looks))}; in %, and"
            " seeds on average",
            (
                *("shares of alpha", "false, all equal", "false, half at the margin of 1.5"),
                *("verdict, equal, margin 1.5", "seeds", "verdict, differ by 1 sd", "seeds"),
                *("seeds, differ by 3 sd", "interval holds, at least"),
            ),
            looks,
        ),
        Table(
            "What 95 % bootstrap intervals of rank agreement hold, in %",
            ("correlation", "items", "tau", "width of tau's", "rho", "regret of the best 3"),
            agreement,
        ),
    ]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--draws", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="keep them under benchmarks/results/")
    args = parser.parse_args()
    found = tables(np.random.default_rng(args.seed), args.draws)
    about: dict[str, Any] = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": f"python benchmarks/{command()}",
        "seed": args.seed,
        "draws": args.draws,
        "machine": machine(),
        "commit": git_commit(),
        "versions": {name: version(name) for name in ("numpy", "scipy")},
    }
    text = "\n\n".join(table.markdown() for table in found)
    print(text)
    if args.write:
        stem = Path(__file__).parent / "results" / "error_rates"
        head = "\n".join(f"- {name}: {value}" for name, value in about.items())
        stem.with_suffix(".md").write_text(f"# Error rates, simulated\n\n{head}\n\n{text}\n")
        result = about | {"tables": [asdict(table) for table in found]}
        stem.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
