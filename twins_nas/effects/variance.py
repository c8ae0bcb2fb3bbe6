"""Where the variance of a space's scores comes from: dimensions, and pairs of them.

Functional analysis of variance by least squares on independent uniform draws, in which dimensions
are independent of each other: all main effects at once, then each pair's interaction by itself
beside them. Numpy and scipy alone.

Images are drawn as well as networks. The covariance of an interaction over images is known exactly,
as it is linear in the scores, and is added to that over networks before anything is called shown.

Shape suffixes: N networks, J images, k choices of a dimension, p columns, q columns of a pair,
R supernets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from scipy.optimize import brentq
from scipy.special import fdtrc, ncfdtr, stdtrit

from twins_nas.stats import Interval, Vector
from twins_nas.verdicts import corrected

DRAWS = 400
LEAST_FREE = 10
"""Fewer degrees of freedom of the residuals leave nothing to judge pairs by."""


@dataclass(frozen=True)
class Share:
    """A dimension's part of the variance, in percent."""

    dimension: int
    percent: float
    interval: Interval


@dataclass(frozen=True)
class Cell:
    """The choices (one of each dimension) that depart most from the sum of their main effects."""

    choices: tuple[int, int]
    points: float
    interval: Interval


@dataclass(frozen=True)
class Pair:
    """The interaction of two dimensions: its part of the variance, in percent.

    `interval` holds for all pairs at once (Bonferroni), and `p` is corrected for all of them
    (Holm); the cell's interval holds for all cells of all pairs.
    """

    dimensions: tuple[int, int]
    percent: float
    interval: Interval
    p: float
    cell: Cell


@dataclass(frozen=True)
class Variance:
    """All parts: `main` is that of all main effects together, `sd` that of the scores in points."""

    shares: tuple[Share, ...]
    pairs: tuple[Pair, ...]
    main: float
    main_interval: Interval
    sd: float
    n: int


def variance(
    features: Sequence[Vector],
    top1_N: Vector,
    rng: np.random.Generator,
    draws: int = DRAWS,
    images_RNJ: Sequence[Vector] = (),
) -> Variance:
    """The parts of dimensions and pairs; `features` hold a row of shares of choices a network.

    Intervals of the dimensions are bootstraps over the networks, moved by their bias; those of
    pairs invert the F test. `images_RNJ`, the scores by image in percent, widen those of pairs.

    Raises:
        ValueError: too few networks for the main effects.
    """
    codes = [shares_Nk @ contrasts(shares_Nk.shape[1]) for shares_Nk in features]
    x_Np = np.concatenate([np.ones((len(top1_N), 1)), *codes], axis=1)
    ends = np.cumsum([1, *(code.shape[1] for code in codes)])
    parts = [slice(start, end) for start, end in pairwise(ends)]
    free = len(top1_N) - np.linalg.matrix_rank(x_Np)
    if free < LEAST_FREE:
        raise ValueError(
            f"{len(top1_N)} backgrounds are too few for {x_Np.shape[1] - 1} main effects"
        )
    if np.ptp(top1_N) == 0:
        raise ValueError("all networks score the same")
    whole = _shares(x_Np, top1_N, np.ones(len(top1_N)), parts)
    drawn = []
    for _ in range(draws):
        counts_N = rng.multinomial(len(top1_N), np.full(len(top1_N), 1 / len(top1_N)))
        drawn.append(_shares(x_Np, top1_N, counts_N.astype(float), parts))
    moved = np.array(drawn) - np.mean(drawn, axis=0) + whole
    low, high = np.clip(np.quantile(moved, [0.025, 0.975], axis=0), 0, 100)
    intervals = [Interval(float(a), float(b)) for a, b in zip(low, high, strict=True)]
    shares = tuple(Share(at, max(float(whole[at]), 0.0), intervals[at]) for at in range(len(parts)))
    pairs = _pairs(features, codes, x_Np, top1_N, images_RNJ)
    sd = float(top1_N.std(ddof=1))
    return Variance(shares, pairs, float(whole[-1]), intervals[-1], sd, len(top1_N))


def contrasts(k: int) -> Vector:
    """Effect coding (k, k - 1): effects of the choices sum to 0."""
    return np.concatenate([np.eye(k - 1), -np.ones((1, k - 1))])


def _shares(x_Np: Vector, y_N: Vector, w_N: Vector, parts: Sequence[slice]) -> Vector:
    """Each part's share of the weighted variance in percent without its noise; last, of all."""
    total = w_N.sum()
    gram_pp = x_Np.T @ (w_N[:, None] * x_Np)
    inverse_pp = np.linalg.pinv(gram_pp, hermitian=True)
    beta_p = inverse_pp @ (x_Np.T @ (w_N * y_N))
    residual_N = y_N - x_Np @ beta_p
    used = float(np.trace(inverse_pp @ gram_pp))
    noise = float(w_N @ residual_N**2) / max(total - used, 1)
    mean = float(w_N @ y_N / total)
    spread = float(w_N @ (y_N - mean) ** 2) / (total - 1)
    middle_p = gram_pp[0] / total
    centred_pp = gram_pp / total - np.outer(middle_p, middle_p)
    found = []
    for part in [*parts, slice(1, x_Np.shape[1])]:
        own, beta = centred_pp[part, part], beta_p[part]
        bias = noise * float(np.trace(own @ inverse_pp[part, part]))
        found.append(100 * (float(beta @ own @ beta) - bias) / spread)
    return np.array(found)


def _pairs(
    features: Sequence[Vector],
    codes: Sequence[Vector],
    x_Np: Vector,
    y_N: Vector,
    images_RNJ: Sequence[Vector],
) -> tuple[Pair, ...]:
    """The interaction of each two dimensions that can be told from main effects."""
    basis_Np, singular, _ = np.linalg.svd(x_Np, full_matrices=False)
    basis_Np = basis_Np[:, singular > 1e-9 * singular[0]]
    rank = basis_Np.shape[1]
    left_N = y_N - basis_Np @ (basis_Np.T @ y_N)
    error, n = float(left_N @ left_N), len(y_N)
    spread = float(y_N.var(ddof=1))
    found = []
    for one, two in combinations(range(len(codes)), 2):
        z_Nq = np.einsum("na,nb->nab", codes[one], codes[two]).reshape(n, -1)
        z_Nq = z_Nq - basis_Np @ (basis_Np.T @ z_Nq)
        gram_qq = z_Nq.T @ z_Nq
        q = int(np.linalg.matrix_rank(gram_qq, hermitian=True, tol=1e-6 * n))
        free = n - rank - q
        if q < z_Nq.shape[1] or free < LEAST_FREE:
            continue
        inverse_qq = np.linalg.inv(gram_qq)
        gamma_q = inverse_qq @ (z_Nq.T @ left_N)
        explained = float(gamma_q @ gram_qq @ gamma_q)
        noise = (error - explained) / free
        if noise <= 0:
            continue
        cov_qq = noise * inverse_qq
        for images_NJ in images_RNJ:
            gamma_qJ = inverse_qq @ (z_Nq.T @ images_NJ)
            cov_qq += np.cov(gamma_qJ).reshape(q, q) / images_NJ.shape[1] / len(images_RNJ) ** 2
        f = float(gamma_q @ np.linalg.solve(cov_qq, gamma_q)) / q
        found.append(((one, two), q, free, explained, f, gamma_q, cov_qq))
    if not found:
        return ()
    p_TK = np.array([[float(fdtrc(q, free, f)) for _, q, free, _, f, *_ in found]])
    level = 1 - 0.05 / len(found)
    cells = sum(features[one].shape[1] * features[two].shape[1] for (one, two), *_ in found)
    made = []
    for p, (names, q, free, explained, f, gamma_q, cov_qq) in zip(
        corrected(p_TK)[0], found, strict=True
    ):
        scale = 100 * explained / (q * f) / (n - 1) / spread
        low, high = (scale * x for x in noncentral(f, q, free, level))
        percent = max(scale * q * (f - 1), 0.0)
        sizes = (features[names[0]].shape[1], features[names[1]].shape[1])
        wide = float(stdtrit(free, 1 - 0.025 / cells))
        cell = _cell(sizes, gamma_q, cov_qq, wide)
        made.append(Pair(names, percent, Interval(low, high, level), float(p), cell))
    return tuple(sorted(made, key=lambda pair: -pair.percent))


def _cell(sizes: tuple[int, int], gamma_q: Vector, cov_qq: Vector, wide: float) -> Cell:
    """The cell that is farthest from 0 in standard errors."""
    rows = np.kron(contrasts(sizes[0]), contrasts(sizes[1]))
    points = rows @ gamma_q
    errors = np.sqrt(np.einsum("cq,qr,cr->c", rows, cov_qq, rows))
    at = int(np.argmax(np.abs(points) / errors))
    centre, half = float(points[at]), wide * float(errors[at])
    return Cell((at // sizes[1], at % sizes[1]), centre, Interval(centre - half, centre + half))


def noncentral(f: float, q: int, free: int, level: float) -> tuple[float, float]:
    """The interval of an F test's noncentrality: those under which this F is no surprise."""

    def solved(share: float) -> float:
        if ncfdtr(q, free, 0.0, f) <= share:
            return 0.0
        high = 10.0 + 4 * q * f
        while ncfdtr(q, free, high, f) > share:
            high *= 2
        return float(brentq(lambda x: ncfdtr(q, free, x, f) - share, 0.0, high, xtol=1e-6))

    return solved((1 + level) / 2), solved((1 - level) / 2)


def reliability(first_N: Vector, second_N: Vector) -> float:
    """How far two scores on other images would agree, of those on two halves (Spearman-Brown)."""
    if np.ptp(first_N) == 0 or np.ptp(second_N) == 0:
        return math.nan
    r = float(np.corrcoef(first_N, second_N)[0, 1])
    return max(2 * r / (1 + r), 0.0) if r > -1 else 0.0
