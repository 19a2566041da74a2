"""Metrics of two sets of images: Fréchet and kernel distance, precision and recall.

A set is a matrix with the pooled features of one image per row.  The papers use the features of
Inception or VGG16, so the values are not comparable with theirs.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from dcgan_inpaint.errors import format_count
from dcgan_inpaint.randomness import permutation

Interval = tuple[float, float, float]  # a value and the ends of its 95% interval, nan without one

SET_METRICS = ("fd_efflite0", "kid_efflite0", "precision_efflite0", "recall_efflite0")
NEIGHBORS = 3  # of Kynkäänniemi 2019
BLOCK = 1024  # rows at a time; their distances to 10,000 others take 40 MB
RESAMPLES = 50  # their standard deviation has a relative error of 1/sqrt(2 · 50) = 10%
RESAMPLE_ROWS = 1000  # of the smaller set in a resample; bounds the run time
FEWEST_ROWS = 16  # for an interval; a half has 8


def compare_sets(
    fake: Tensor, real: Tensor, paired: bool = False, seed: int = 0
) -> dict[str, Interval]:
    """Compare features fake (N, D) of generated or completed images with real (M, D).

    The intervals are value ± 1.96 standard deviations, which are estimated from random subsets
    without replacement (Politis & Romano 1994): half of both sets, or 1000 of the smaller set and
    the same share of the other one.  Subsets of a share s vary by sqrt((1 - s) / s) times the
    standard deviation of the complete sets.  Replacement would bias all metrics but the kernel
    distance: an image that is in a set twice is its own neighbor and reduces the covariance.  An
    interval is for the mean over sets of these sizes (tests/test_metrics_sets.py compares its width
    with the spread over other sets).

    Args:
        fake: Features of generated or completed images, (N, D).
        real: Features of real images, (M, D).
        paired: Row i of both sets belongs to the same image.  A completion and its original are
            more similar than independent images, so no metric compares row i with its partner,
            and subsets contain both.
        seed: Seed of the subsets.

    Returns:
        `SET_METRICS`.  Precision and recall are nan for `NEIGHBORS` + 1 rows or fewer.  The ends
        of an interval are nan for fewer than `FEWEST_ROWS` rows, and if all subsets have the same
        value, such as a recall of 0.

    Raises:
        ValueError: If a set has fewer than two rows.
    """
    values = _set_metrics(fake, real, paired)  # (4,)
    deviations = torch.full_like(values, math.nan)
    smaller = min(len(fake), len(real))
    if smaller >= FEWEST_ROWS:
        share = min(0.5, RESAMPLE_ROWS / smaller)
        resamples = [
            _set_metrics(fake[rows], real[others], paired)
            for rows, others in _subsets(len(fake), len(real), share, paired, seed)
        ]
        deviations = torch.stack(resamples).std(0) * math.sqrt(share / (1 - share))
        deviations[deviations == 0] = math.nan
    low, high = values - 1.96 * deviations, values + 1.96 * deviations
    low[2:], high[2:] = low[2:].clamp(min=0), high[2:].clamp(max=1)  # precision and recall
    rows = torch.stack([values, low, high], 1).tolist()
    return {name: (row[0], row[1], row[2]) for name, row in zip(SET_METRICS, rows, strict=True)}


def _subsets(
    count: int, others: int, share: float, paired: bool, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the rows of `RESAMPLES` random subsets of two sets."""
    for i in range(RESAMPLES):
        rows = permutation(f"subset {i}", seed, count)[: int(share * count)]
        yield (
            rows,
            rows if paired else permutation(f"other {i}", seed, others)[: int(share * others)],
        )


def _set_metrics(fake: Tensor, real: Tensor, paired: bool) -> Tensor:
    """Return `SET_METRICS` of two sets, (4,) float64."""
    distances = frechet_distance(fake, real), kernel_distance(fake, real, paired)
    return torch.tensor([*distances, *precision_recall(fake, real, paired)], dtype=torch.float64)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Return the Fréchet distance of Gaussians fitted to the rows of a (N, D) and b (M, D).

    It is |mean a - mean b|^2 + tr(A + B - 2 (A B)^1/2) with the covariances A and B (Heusel 2017).
    With A = P'P and B = Q'Q, the trace of the root is the sum of the singular values of P Q'.  So
    no matrix root is needed, and the result is exact for fewer rows than columns.

    Raises:
        ValueError: If a set has fewer than two rows.
    """
    _check_rows(a, b)
    a, b = a.double(), b.double()
    p, q = _covariance_factor(a), _covariance_factor(b)
    root_trace = torch.linalg.svdvals(p @ q.T).sum()
    means = (a.mean(0) - b.mean(0)).square().sum()
    return float(means + p.square().sum() + q.square().sum() - 2 * root_trace)


def _covariance_factor(rows: Tensor) -> Tensor:
    """Return P, with at most D rows, such that P'P is the covariance of rows (N, D)."""
    centered = (rows - rows.mean(0)) / (len(rows) - 1) ** 0.5
    tall = len(centered) > centered.shape[1]
    return torch.linalg.qr(centered, mode="r").R if tall else centered


def _check_rows(a: Tensor, b: Tensor) -> None:
    if min(len(a), len(b)) < 2:
        raise ValueError(
            f"sets of {format_count(len(a), 'image')} and {format_count(len(b), 'image')} are too "
            "small. Use 2 or more images in each"
        )


def kernel_distance(a: Tensor, b: Tensor, paired: bool = False) -> float:
    """Return the squared maximum mean discrepancy of the rows of a (N, D) and b (M, D).

    With the kernel (x·y / D + 1)^3 and the features of Inception it is the KID (Binkowski 2018).
    This is the unbiased estimate of all rows: its mean over sets does not depend on their size, and
    it can be negative.  Papers average it over subsets, which has the same mean.

    Args:
        a: Features of one set.
        b: Features of the other set.
        paired: Leave out the kernels of row i of both sets, which biased the estimate.

    Raises:
        ValueError: If a set has fewer than two rows.
    """
    _check_rows(a, b)
    within = _mean_kernel(a, a, without_diagonal=True) + _mean_kernel(b, b, without_diagonal=True)
    return within - 2 * _mean_kernel(a, b, without_diagonal=paired)


def _mean_kernel(a: Tensor, b: Tensor, without_diagonal: bool) -> float:
    """Return the mean kernel of the rows of a (N, D) and b (M, D)."""
    total = 0.0
    for start in range(0, len(a), BLOCK):
        kernels = (a[start : start + BLOCK] @ b.T / a.shape[1] + 1) ** 3  # (BLOCK, M)
        if without_diagonal:
            kernels.diagonal(start).zero_()
        total += float(kernels.sum(dtype=torch.float64))
    return total / (len(a) * (len(b) - without_diagonal))


def precision_recall(fake: Tensor, real: Tensor, paired: bool = False) -> tuple[float, float]:
    """Return the improved precision and recall of fake (N, D), in [0, 1] (Kynkäänniemi 2019).

    Precision is the share of rows of `fake` that are not farther from some row of `real` than the
    third nearest neighbor of that row in `real`: low if images look wrong.  Recall exchanges the
    sets: it is low if kinds of real images are missing.

    Args:
        fake: Features of generated or completed images.
        real: Features of real images.
        paired: Do not compare row i with its partner.  Otherwise completions would nearly always
            be near a real image.

    Returns:
        Both are nan if a set has `NEIGHBORS` + 1 rows or fewer.
    """
    if min(len(fake), len(real)) <= NEIGHBORS + 1:
        return math.nan, math.nan
    return _share_near(fake, real, paired), _share_near(real, fake, paired)


def _share_near(points: Tensor, rows: Tensor, without_diagonal: bool) -> float:
    """Return the share of points (N, D) within the radius of a row of rows (M, D)."""
    radii = torch.cat(
        [
            distances.topk(NEIGHBORS, largest=False).values[:, -1]
            for distances in _distances(rows, rows, without_diagonal=True)
        ]
    )  # (M,)
    near = [(d <= radii).any(1) for d in _distances(points, rows, without_diagonal)]
    return float(torch.cat(near).double().mean())


def _distances(a: Tensor, b: Tensor, without_diagonal: bool) -> Iterator[Tensor]:
    """Yield the distances of the rows of a (N, D) to those of b (M, D), BLOCK rows at a time."""
    for start in range(0, len(a), BLOCK):
        distances = torch.cdist(a[start : start + BLOCK], b)
        if without_diagonal:
            distances.diagonal(start).fill_(math.inf)
        yield distances
