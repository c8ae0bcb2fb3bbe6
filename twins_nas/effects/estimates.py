"""Main effects from balanced pairs, with what their intervals hold; numpy and scipy alone.

Shape suffixes: K networks, J images, N backgrounds of the uniform sample, n pairs, p columns.

An effect is the mean over backgrounds of the difference in top-1, in points, between the network at
a choice and the same network at the reference. What is drawn are backgrounds, validation images
and supernets, crossed; the variance of the mean adds up their parts, each from the means over the
others (two-way clustering: A. C. Cameron, J. B. Gelbach, D. L. Miller, "Robust inference with
multiway clustering", J. Business & Economic Statistics 29 (2011) 238-249), with the degrees of
freedom of Satterthwaite (Biometrics Bulletin 2 (1946) 110-114).

The adjusted effect is what remains of it beside what as many MACs buy elsewhere in the space: the
difference less that of a curve of top-1 over log MACs at both networks. The curve is a natural
cubic spline through the uniform sample; an effect is linear in all scores, the curve's too, so each
background's and each image's influence on it is exact, and the curve's uncertainty is in the
interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

from twins_nas.stats import Interval, Vector
from twins_nas.verdicts import corrected

KNOTS = (0.05, 0.35, 0.65, 0.95)
"""Quantiles of log MACs where the curve's pieces meet."""

Indices = npt.NDArray[np.intp]
Hits = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Contrast:
    """Pairs of networks by their places among the K: a choice against the reference.

    `backgrounds` are the places of the pairs' backgrounds in the uniform sample, -1 for others.
    """

    dimension: str
    choice: str
    reference: str
    variant_n: Indices
    reference_n: Indices
    backgrounds_n: Indices


@dataclass(frozen=True)
class Figure:
    """A mean difference in points; `interval` and `p` are None where there is no spread.

    `p` is of the two-sided test against 0, not corrected; `corrected` over all of a report.
    `parts` are the standard errors by what is drawn: backgrounds, images, supernets (0 for one).
    """

    mean: float
    interval: Interval | None = None
    p: float | None = None
    corrected: float | None = None
    parts: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def shown(self) -> bool:
        """Whether it differs from 0 after the correction for all effects of the report."""
        return self.corrected is not None and self.corrected <= 0.05


@dataclass(frozen=True)
class Effect:
    """A choice against the reference: `macs` is the mean ratio of MACs (geometric), n the pairs."""

    dimension: str
    choice: str
    reference: str
    n: int
    macs: float
    raw: Figure
    adjusted: Figure


@dataclass(frozen=True)
class Rate:
    """What twice the MACs buy around the median of the uniform sample."""

    points: float
    interval: Interval
    n: int
    macs: float


@dataclass(frozen=True)
class Curve:
    """Top-1 over log MACs in one supernet: rows of the basis, and what makes coefficients."""

    knots: Vector
    basis_Np: Vector
    solve_pN: Vector
    beta_p: Vector
    residual_N: Vector

    @classmethod
    def fit(cls, log_macs_N: Vector, top1_N: Vector) -> Curve:
        """Least squares; fewer knots where networks are few or their MACs are the same."""
        knots = np.unique(np.quantile(log_macs_N, KNOTS))
        basis_Np = _basis(log_macs_N, knots)
        solve_pN = np.asarray(np.linalg.pinv(basis_Np), dtype=np.float64)
        beta_p = solve_pN @ top1_N
        rows, columns = basis_Np.shape
        residual_N = top1_N - basis_Np @ beta_p
        residual_N *= math.sqrt(rows / max(rows - columns, 1))
        return cls(knots, basis_Np, solve_pN, beta_p, residual_N)

    def steps(self, from_n: Vector, to_n: Vector) -> Vector:
        """The difference of the basis between two MACs, one row a pair."""
        return _basis(to_n, self.knots) - _basis(from_n, self.knots)


def effects(
    hits_RKJ: Sequence[Hits],
    macs_K: Vector,
    uniform_N: Indices,
    contrasts: Sequence[Contrast],
) -> list[Effect]:
    """The effect of each contrast, its p corrected over all of them, raw and adjusted.

    `hits_RKJ` holds, for each supernet, which images each network classifies rightly; supernets may
    have images of their own.
    """
    percent_RKJ = [100 * hits_KJ.astype(np.float32) for hits_KJ in hits_RKJ]
    log_macs_K = np.log(macs_K)
    curves = [
        Curve.fit(log_macs_K[uniform_N], one_KJ[uniform_N].mean(axis=1).astype(float))
        for one_KJ in percent_RKJ
    ]
    found = [
        _effect(percent_RKJ, log_macs_K, uniform_N, curves, contrast) for contrast in contrasts
    ]
    tests = [figure.p for one in found if one.n for figure in (one.raw, one.adjusted)]
    p_TK = np.array([[1.0 if p is None else p for p in tests]])
    together = iter(corrected(p_TK)[0] if tests else [])
    return [
        replace(
            one,
            raw=_with_p(one.raw, next(together)),
            adjusted=_with_p(one.adjusted, next(together)),
        )
        if one.n
        else one
        for one in found
    ]


def rate(hits_RKJ: Sequence[Hits], macs_K: Vector, uniform_N: Indices) -> Rate:
    """What twice the MACs buy around their median; the interval holds backgrounds and images."""
    log_macs_N = np.log(macs_K)[uniform_N]
    top1_N = np.mean([100 * one[uniform_N].mean(axis=1) for one in hits_RKJ], axis=0)
    curve = Curve.fit(log_macs_N, top1_N)
    middle, half = np.median(log_macs_N), math.log(2) / 2
    step_p = curve.steps(np.array([middle - half]), np.array([middle + half]))[0]
    weights_N = step_p @ curve.solve_pN
    images_RJ = [100 * weights_N @ one[uniform_N] for one in hits_RKJ]
    images = float(np.mean([one_J.var(ddof=1) / len(one_J) for one_J in images_RJ]))
    se = math.sqrt(float(np.sum((weights_N * curve.residual_N) ** 2)) + images)
    points = float(step_p @ curve.beta_p)
    half = float(stdtrit(max(len(top1_N) - len(step_p), 1), 0.975)) * se
    return Rate(points, Interval(points - half, points + half), len(top1_N), math.exp(middle))


def _effect(
    percent_RKJ: Sequence[npt.NDArray[np.float32]],
    log_macs_K: Vector,
    uniform_N: Indices,
    curves: Sequence[Curve],
    contrast: Contrast,
) -> Effect:
    one_n, two_n = contrast.reference_n, contrast.variant_n
    n = len(one_n)
    names = (contrast.dimension, contrast.choice, contrast.reference, n)
    if n == 0:
        return Effect(*names, math.nan, Figure(math.nan), Figure(math.nan))
    parts: tuple[list[_Parts], list[_Parts]] = ([], [])
    for percent_KJ, curve in zip(percent_RKJ, curves, strict=True):
        difference_nJ = (percent_KJ[two_n] - percent_KJ[one_n]).astype(float)
        parts[0].append(_parts(difference_nJ, np.zeros(n), difference_nJ.mean(axis=0)))
        steps_np = curve.steps(log_macs_K[one_n], log_macs_K[two_n])
        weights_N = steps_np.mean(axis=0) @ curve.solve_pN
        images_J = difference_nJ.mean(axis=0) - weights_N @ percent_KJ[uniform_N]
        adjusted = _parts(difference_nJ, steps_np @ curve.beta_p, images_J)
        adjusted.elsewhere_N = -weights_N * curve.residual_N
        parts[1].append(adjusted)
    figures = [_figure(each, contrast.backgrounds_n) for each in parts]
    macs = math.exp(float(np.mean(log_macs_K[two_n] - log_macs_K[one_n])))
    return Effect(*names, macs, *figures)


@dataclass
class _Parts:
    """An effect in one supernet: its mean, its pairs less the mean, its images' variance."""

    mean: float
    pairs_n: Vector
    images: float
    both: float
    n_images: int
    elsewhere_N: Vector | None = None


def _parts(difference_nJ: Vector, bought_n: Vector, images_J: Vector) -> _Parts:
    n, count = difference_nJ.shape
    rows_n = difference_nJ.mean(axis=1) - bought_n
    mean = float(rows_n.mean())
    left_nJ = difference_nJ - difference_nJ.mean(axis=1, keepdims=True)
    left_nJ -= left_nJ.mean(axis=0)
    both = float(np.sum(left_nJ**2)) / (n * count) ** 2
    images = float(images_J.var(ddof=1)) / count if count > 1 else 0.0
    return _Parts(mean, rows_n - mean, images, both, count)


def _figure(parts_R: Sequence[_Parts], backgrounds_n: Indices) -> Figure:
    """Mean over supernets, with the variances of all that is drawn."""
    means_R = np.array([one.mean for one in parts_R])
    mean, n = float(means_R.mean()), len(parts_R[0].pairs_n)
    if n < 2:
        return Figure(mean)
    influence_n = np.mean([one.pairs_n for one in parts_R], axis=0) / math.sqrt(n * (n - 1))
    elsewhere = [one.elsewhere_N for one in parts_R if one.elsewhere_N is not None]
    backgrounds = float(np.sum(influence_n**2))
    if elsewhere:
        influence_N = np.mean(elsewhere, axis=0)
        inside = backgrounds_n >= 0
        shared = influence_N[backgrounds_n[inside]]
        backgrounds += float(np.sum(influence_N**2) + 2 * np.sum(shared * influence_n[inside]))
    images = float(np.mean([one.images for one in parts_R]))
    both = float(np.mean([one.both for one in parts_R]))
    runs = len(parts_R)
    if runs == 1:
        drawn = [(backgrounds, n - 1), (images, parts_R[0].n_images - 1)]
        total, supernets = max(backgrounds + images - both, backgrounds, images), 0.0
    else:
        supernets = max(float(means_R.var(ddof=1)), images) / runs
        drawn = [(backgrounds, n - 1), (supernets, runs - 1)]
        total = backgrounds + supernets
    roots = (math.sqrt(backgrounds), math.sqrt(images), math.sqrt(supernets))
    if total <= 0:
        return Figure(mean, parts=roots)
    freedom = sum(v for v, _ in drawn) ** 2 / sum(v * v / max(df, 1) for v, df in drawn)
    se = math.sqrt(total)
    half = float(stdtrit(freedom, 0.975)) * se
    p = float(2 * stdtr(freedom, -abs(mean) / se))
    return Figure(mean, Interval(mean - half, mean + half), p, parts=roots)


def _with_p(figure: Figure, p: float) -> Figure:
    return replace(figure, corrected=None if figure.p is None else float(p))


def _basis(x_n: Vector, knots: Vector) -> Vector:
    """Columns of a natural cubic spline: 1, x, and one for each inner knot; straight outside."""
    columns = [np.ones_like(x_n), x_n - knots[0]]
    if len(knots) > 2:
        last, wide = knots[-1], (knots[-1] - knots[0]) ** 2

        def bent(knot: float) -> Vector:
            cubes = np.maximum(x_n - knot, 0) ** 3 - np.maximum(x_n - last, 0) ** 3
            return np.asarray(cubes / (last - knot) / wide)

        columns += [bent(knot) - bent(knots[-2]) for knot in knots[:-2]]
    return np.stack(columns, axis=1)
