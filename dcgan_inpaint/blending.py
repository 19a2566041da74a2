"""Blending: combine G(z) and the known pixels of an image into one completion.

The same solver serves small images in batches and large photos. Its run time and memory are linear
in the number of pixels, and the number of steps hardly depends on the mask.
"""

from collections.abc import Sequence
from types import EllipsisType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


def paste(fake: Tensor, images: Tensor, mask: Tensor) -> Tensor:
    """Return the images with their holes filled by G(z) (Amos 2016).

    Known pixels stay bitwise equal.

    Args:
        fake: G(z) (B, C, H, W) in [-1, 1].
        images: (B, C, H, W) in [-1, 1].
        mask: (B, 1, H, W), 1 = known, 0 = hole.
    """
    return fake.where(mask == 0, images)


def poisson(fake: Tensor, images: Tensor, mask: Tensor) -> Tensor:
    """Return the images with their holes filled by the gradients of G(z) (Perez 2003; Yeh 2017).

    The result x minimizes the sum of (x_i - x_j - (fake_i - fake_j))² over all pairs of neighbors
    i, j that are not both known. Neighbors are above, below, left and right, inside the image
    (Perez 2003, eq. 7). Known pixels stay bitwise equal, and the hole is clamped to [-1, 1]
    afterwards. The result for an image without a known pixel is G(z).

    Args:
        fake: G(z) (B, C, H, W) in [-1, 1].
        images: (B, C, H, W) in [-1, 1].
        mask: (B, 1, H, W), 1 = known, 0 = hole.
    """
    # Apple GPUs do not support float64
    device = torch.device("cpu") if fake.device.type == "mps" else fake.device
    difference, hole = (images - fake).to(device).double(), (mask == 0).to(device)
    correction = harmonic(difference, hole, tolerance=1e-10).to(fake)  # float32 resolves 6e-8
    return paste((fake + correction).clamp(-1, 1), images, mask)


class Level(NamedTuple):
    """Coefficients (B, 1, h, w) of the equations diagonal * u - (sum of linked neighbors) = b."""

    diagonal: Tensor  # 0 outside the hole
    right: Tensor  # weight of the link to the right neighbor
    down: Tensor  # weight of the link to the neighbor below
    damped: Tensor  # 0.8 / diagonal, for damped Jacobi


def harmonic(values: Tensor, hole: Tensor, tolerance: float) -> Tensor:
    """Interpolate values into a hole by a harmonic function.

    In the hole each pixel of the result is the mean of its neighbors, with `values` at the known
    ones. The solver is conjugate gradients, preconditioned by one multigrid cycle (Braess 1995), in
    the precision of `values`. Each image converges on its own, independently of the batch.

    Args:
        values: (B, C, H, W).
        hole: (B, 1, H, W), bool.
        tolerance: The approximate absolute error of the result.

    Returns:
        (B, C, H, W), 0 outside the hole; 0 everywhere for an image without a known pixel.
    """
    u = torch.zeros_like(values)
    if not hole.any():
        return u
    h = hole.to(values.dtype)
    box = _bounding_box(hole)
    count = _neighbor_sum(torch.ones_like(h))  # of the neighbors inside the image
    right, down = F.pad(h, (0, 1))[..., 1:], F.pad(h, (0, 0, 0, 1))[..., 1:, :]  # neighbors
    level = _make_level(*((h * x)[box] for x in (count, right, down)))
    known = h * _neighbor_sum(values.masked_fill(hole, 0))  # (B, C, H, W)
    u[box] = _solve(level, known[box], tolerance)
    return u


def _bounding_box(hole: Tensor) -> tuple[slice | EllipsisType, ...]:
    """Return the rows and columns that contain all holes (B, 1, H, W), as an index."""
    lines = (hole.any(0).any(axis).nonzero()[:, 1] for axis in (2, 1))  # rows, columns
    return ..., *(slice(int(x.min()), int(x.max()) + 1) for x in lines)


def _solve(top: Level, residual: Tensor, tolerance: float) -> Tensor:
    """Solve the equations of `top` by preconditioned conjugate gradients.

    Args:
        residual: The right-hand side (B, C, H, W); overwritten.

    Returns:
        u (B, C, H, W).
    """
    # the preconditioner only estimates the error, so float32 is sufficient
    levels = [Level(*(x.float() for x in top))]
    while levels[-1].diagonal.shape[-2:].numel() > 1:
        levels.append(_coarsen(levels[-1]))
    u, direction = torch.zeros_like(residual), torch.zeros_like(residual)
    zero, previous = residual.new_zeros(1), residual.new_ones(1)
    for _ in range(500):
        # the estimated error decides, because a small residual can hide a large error
        step = _multigrid_cycle(levels, residual.float()).to(residual)
        active = step.abs().amax((1, 2, 3), keepdim=True) >= tolerance  # (B, 1, 1, 1)
        if not active.any():
            break
        product = (residual * step).sum((2, 3), keepdim=True)  # (B, C, 1, 1)
        direction = step.addcmul_(product / previous, direction)
        applied = _residual(top, direction, zero)
        energy = (direction * applied).sum((2, 3), keepdim=True)  # negative
        length = active * product / energy.clamp(max=-1e-30)
        u.addcmul_(length, direction, value=-1)
        residual.addcmul_(length, applied, value=-1)
        previous = product.clamp(min=1e-30)
    return u


def _neighbor_sum(x: Tensor) -> Tensor:
    """Return the sum of the neighbors of each pixel inside the image (..., H, W)."""
    x = F.pad(x, (1, 1, 1, 1))
    return x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]


def _add_row_pairs(x: Tensor) -> Tensor:
    """Add rows 2i and 2i + 1: (..., H, W) -> (..., ceil(H / 2), W)."""
    x = F.pad(x, (0, 0, 0, x.shape[-2] % 2))
    return x[..., ::2, :] + x[..., 1::2, :]


def _make_level(diagonal: Tensor, right: Tensor, down: Tensor) -> Level:
    return Level(diagonal, right, down, torch.where(diagonal > 0, 0.8 / diagonal, 0))


def _coarsen(level: Level) -> Level:
    """Return the equations of 2x2 blocks, halved since the spacing doubles (Braess 1995)."""
    height, width = level.diagonal.shape[-2:]
    even = (0, width % 2, 0, height % 2)
    diagonal, right, down = (F.pad(x, even) for x in level[:3])
    right, down = _add_row_pairs(right), _add_row_pairs(down.mT).mT  # (B, 1, h, W), (B, 1, H, w)
    blocks = _add_row_pairs(_add_row_pairs(diagonal).mT).mT  # (B, 1, h, w)
    inner = right[..., ::2] + down[..., ::2, :]
    return _make_level(blocks / 2 - inner, right[..., 1::2] / 2, down[..., 1::2, :] / 2)


def _residual(level: Level, u: Tensor, b: Tensor) -> Tensor:
    """Return b - diagonal * u + (sum of linked neighbors of u), (B, C, H, W)."""
    right, down = level.right[..., :-1], level.down[..., :-1, :]
    out = torch.addcmul(b, level.diagonal, u, value=-1)
    out[..., 1:].addcmul_(right, u[..., :-1])
    out[..., :-1].addcmul_(right, u[..., 1:])
    out[..., 1:, :].addcmul_(down, u[..., :-1, :])
    out[..., :-1, :].addcmul_(down, u[..., 1:, :])
    return out


def _multigrid_cycle(levels: Sequence[Level], b: Tensor) -> Tensor:
    """Run one symmetric V-cycle from 0; return an approximate solution u (B, C, H, W)."""
    level = levels[0]
    u = level.damped * b
    if len(levels) == 1:
        return u / 0.8
    u.addcmul_(level.damped, _residual(level, u, b))
    rest = _residual(level, u, b)
    coarse = _multigrid_cycle(levels[1:], _add_row_pairs(_add_row_pairs(rest).mT).mT)
    height, width = b.shape[-2:]
    coarse = coarse.repeat_interleave(2, -1).repeat_interleave(2, -2)[..., :height, :width]
    u.addcmul_(coarse, (level.diagonal > 0).to(u))
    for _ in range(2):
        u.addcmul_(level.damped, _residual(level, u, b))
    return u
