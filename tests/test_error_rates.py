"""The statistics keep their promises in 10,000 simulated experiments each."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from twins_nas.sequential import look, schedule
from twins_nas.verdicts import Rule, compare

DRAWS = 10_000
SIZES = (3, 5, 10)


@pytest.fixture(scope="module")
def rates(repo: Path) -> ModuleType:
    """The simulations, which are a benchmark."""
    spec = importlib.util.spec_from_file_location("rates", repo / "benchmarks" / "error_rates.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["rates"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def rng() -> np.random.Generator:
    """The same experiments each time."""
    return np.random.default_rng(2024)


@pytest.mark.parametrize("n", SIZES)
def test_t_interval_covers(rates: ModuleType, rng: np.random.Generator, n: int) -> None:
    """94 to 96 %."""
    assert 0.94 <= rates.coverage(rng, DRAWS, n) <= 0.96


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("margin", [None, 1.0, 6.0])
def test_null_family_error(
    rates: ModuleType, rng: np.random.Generator, n: int, margin: float | None
) -> None:
    """Four variants equal to the shared baseline: any better or worse in at most 5.5 %."""
    assert rates.family_error(rng, DRAWS, n, margin=margin) <= 0.055


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("margin", [1.0, 3.0, 6.0])
@pytest.mark.parametrize("at_margin", [1, 2, 4])
def test_mixed_family_error(
    rates: ModuleType, rng: np.random.Generator, n: int, margin: float, at_margin: int
) -> None:
    """Some equal, some at the margin: any false verdict of either kind in at most 5.5 %."""
    effects = (margin,) * at_margin + (0.0,) * (4 - at_margin)
    assert rates.family_error(rng, DRAWS, n, effects, margin) <= 0.055


def test_two_separate_corrections_would_not_do(rates: ModuleType, rng: np.random.Generator) -> None:
    """Why both kinds of verdict share one error."""
    effects = (0.0, 0.0, 6.0, 6.0)
    assert rates.two_holms(rates.differences(rng, DRAWS, 5, effects), effects, 6.0) > 0.08


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("margin", [1.0, 3.0, 6.0])
def test_equivalence_error(
    rates: ModuleType, rng: np.random.Generator, n: int, margin: float
) -> None:
    """A variant at the margin is called equivalent in at most 5.5 %."""
    assert rates.equivalence_error(rng, DRAWS, n, margin) <= 0.055


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("comparisons", [1, 4])
def test_minimum_detectable_is_detected(
    rates: ModuleType, rng: np.random.Generator, n: int, comparisons: int
) -> None:
    """In 78 to 82 %."""
    assert 0.78 <= rates.power_at_the_detectable(rng, DRAWS, n, comparisons) <= 0.82


@pytest.mark.parametrize(
    "noise", ["heavy tails (t, 3 df)", "skewed (exponential)", "coarse (steps of 0.5 sd)"]
)
@pytest.mark.parametrize("n", SIZES)
def test_other_noise(rates: ModuleType, rng: np.random.Generator, noise: str, n: int) -> None:
    """The family's error holds without the normal distribution too."""
    assert rates.family_error(rng, DRAWS, n, noise=noise) <= 0.055


def test_the_bootstrap_of_five_pairs_covers_too_little(
    rates: ModuleType, rng: np.random.Generator
) -> None:
    """Why it is refused: about 84 %, not 95."""
    assert 0.82 <= rates.resampled(rng, 4000, 5) <= 0.86


@pytest.mark.parametrize(("first", "most"), [(3, 20), (5, 20), (5, 40)])
@pytest.mark.parametrize(
    ("effects", "margin"),
    [
        ((0.0,) * 4, None),
        ((0.0,), None),
        ((0.0,) * 4, 1.5),
        ((1.5,) * 4, 1.5),
        ((0.0, 0.0, 1.5, 1.5), 1.5),
        ((0.0, 0.0, 0.0, 1.5), None),
    ],
    ids=["null", "null of one", "null, margin", "at the margin", "mixed", "one differs"],
)
def test_successive_seeds(
    rates: ModuleType,
    rng: np.random.Generator,
    first: int,
    most: int,
    effects: tuple[float, ...],
    margin: float | None,
) -> None:
    """Looking again and again: any false verdict in at most 5.5 %, intervals hold 95 %."""
    found = rates.successive(rng, DRAWS, schedule(first, most), effects, margin)
    assert found["false"] <= 0.055
    assert found["held"] >= 0.95


def test_successive_seeds_save_seeds(rates: ModuleType, rng: np.random.Generator) -> None:
    """Large differences end after few seeds, and the power is near that of all seeds at once."""
    large = rates.successive(rng, 2000, schedule(5, 20), (4.0,) * 4, None)
    assert large["seeds"] < 8
    real = rates.successive(rng, 2000, schedule(5, 20), (1.4,) * 4, None)
    assert real["verdict"] > 0.9


@pytest.mark.parametrize("margin", [None, 1.5])
def test_the_simulations_judge_as_the_package(
    rates: ModuleType, rng: np.random.Generator, margin: float | None
) -> None:
    """`compare` and `look`, experiment by experiment."""
    found = rates.differences(rng, 25, 13, (0.0, 1.0, 2.0))
    plan, rule = schedule(5, 13), Rule(margin=margin)
    whole, looks = rates.judged(found, margin), rates.judged(found, margin, plan)
    for place, experiment in enumerate(found):
        values = {str(name): dict(enumerate(row)) for name, row in enumerate(experiment)}
        values["base"] = dict.fromkeys(range(13), 0.0)
        at_once = compare(values, "base", rule)
        stopped = look(values, "base", rule, plan, range(13), len(plan.looks) - 1).comparisons
        for outcome, comparisons in ((whole, at_once), (looks, stopped)):
            words = {(True, False): ("better", "worse"), (False, True): ("equivalent",)}
            words |= {(False, False): ("none",), (True, True): ("better", "worse")}
            for column, one in enumerate(comparisons):
                flags = (
                    bool(outcome.differs[place, column]),
                    bool(outcome.equivalent[place, column]),
                )
                assert one.verdict.word in words[flags]
                assert one.verdict.negligible == (flags == (True, True))
                assert one.difference.n == outcome.pairs[place, column]
                assert one.difference.mean == pytest.approx(outcome.mean[place, column])
