"""Prediction of the error of the mean of several samples from their spread.

The samples of one image share errors that their spread cannot show: texture that G does not
generate, and the known pixels that blending imposes on all of them.  The mean is therefore further
from the truth than the spread predicts.  The prediction is linear in the spread, with a scale and
an offset for each depth of hole.  Both are fitted on images that the encoder is not trained on
(experiments/sampling.md).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

HOLE_DEPTHS = 4  # classes of holes; few enough that 128 validation images fit a line for each
PIXEL_GROUPS = 20  # groups of equal size, by spread, that a line is fitted to


def hole_depths(mask: Tensor) -> Tensor:
    """Return the depth class of each hole, from 0 to HOLE_DEPTHS - 1.

    The class is the share of the hole that is more than S/32 px away from any known pixel, in
    steps of a third.  Scattered pixels have depth 0, a missing half of the image has depth 3.

    Args:
        mask: (B, 1, S, S), 1 = known.

    Returns:
        (B,) int64; 0 for a mask without a hole.
    """
    radius = mask.shape[-1] // 32 or 1
    far = 1 - F.max_pool2d(mask, 2 * radius + 1, 1, radius)  # (B, 1, S, S)
    share = far.sum((1, 2, 3)) / (1 - mask).sum((1, 2, 3)).clamp(min=1)  # (B,)
    return ((HOLE_DEPTHS - 1) * share).round().long()


def spread_error(samples: Tensor) -> Tensor:
    """Return the error of the mean if the truth were one more sample: (B, 1, S, S).

    It is the standard deviation of K >= 2 samples (B, K, C, S, S), averaged over channels, times
    sqrt(1 + 1/K).
    """
    return samples.std(1).mean(1, keepdim=True) * (1 + 1 / samples.shape[1]) ** 0.5


def predict_error(samples: Tensor, mask: Tensor, calibration: Tensor) -> Tensor:
    """Return the predicted error of the mean of samples: scale · spread_error + offset.

    Args:
        samples: (B, K, C, S, S) in [-1, 1], K >= 2.
        mask: (B, 1, S, S), 1 = known.
        calibration: (HOLE_DEPTHS, 2), scale and offset for each depth of hole.

    Returns:
        (B, 1, S, S), 0 for known pixels.
    """
    scale, offset = calibration[hole_depths(mask)].T[..., None, None, None]  # (B, 1, 1, 1) each
    return (scale * spread_error(samples) + offset) * (1 - mask)


def calibrate_error(samples: Tensor, images: Tensor, mask: Tensor, calibration: Tensor) -> Tensor:
    """Fit scale and offset of the predicted error for each depth of hole that occurs in `mask`.

    The pixels of a depth are sorted by spread into PIXEL_GROUPS groups.  Scale and offset are not
    negative and minimize the squared relative difference to the root mean square error of each
    group.

    Args:
        samples: Completions (B, K, C, S, S) in [-1, 1], K >= 2.
        images: The true images (B, C, S, S).
        mask: (B, 1, S, S), 1 = known.
        calibration: (HOLE_DEPTHS, 2), which stays the same for depths that do not occur.

    Returns:
        The new calibration, (HOLE_DEPTHS, 2).
    """
    squared_error = (samples.mean(1) - images).square().mean(1, keepdim=True)  # (B, 1, S, S)
    spread, depths, fitted = spread_error(samples), hole_depths(mask), calibration.clone()
    for depth in range(HOLE_DEPTHS):
        hole = (mask == 0) & (depths == depth)[:, None, None, None]
        order = spread[hole].argsort()
        groups = order[: len(order) // PIXEL_GROUPS * PIXEL_GROUPS].view(PIXEL_GROUPS, -1)
        if groups.numel():
            predicted, true = (
                squares[hole][groups].mean(1).sqrt() for squares in (spread.square(), squared_error)
            )  # (PIXEL_GROUPS,) each
            fitted[depth] = _fit_line(predicted / true.clamp(min=1e-6), 1 / true.clamp(min=1e-6))
    return fitted


def _fit_line(a: Tensor, b: Tensor) -> Tensor:
    """Return (x, y) >= 0 that minimize the sum of (a·x + b·y - 1)², for a and b (N,)."""
    both = torch.stack([a, b], 1)  # (N, 2)
    # Without spread a is 0; lstsq then returns anything (up to torch 2.11, and on a GPU).
    solution = torch.linalg.pinv(both).sum(1)  # (2,)
    if bool((solution >= 0).all() & solution.isfinite().all()):
        return solution
    # The constrained minimum lies on an edge: (x, 0) or (0, y).
    edges = torch.diag(both.sum(0) / both.square().sum(0).clamp(min=1e-12))  # (2, 2)
    return edges[(both @ edges.T - 1).square().sum(0).argmin()]
