"""Putting the known pixels back: how G(z) and the image become one completion.

One solver for 64 small images and for one large photo.  Its time and memory grow with the number
of pixels, and no mask, however hard, needs many more steps.
"""

from collections.abc import Sequence
from types import EllipsisType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


def paste(fake: Tensor, images: Tensor, mask: Tensor) -> Tensor:
    """Known pixels of the image, G(z) in the hole (Amos 2016).  Known pixels stay exact.

    fake, images (B, C, H, W) in [-1, 1]; mask (B, 1, H, W) of 0 and 1.
    """
    return fake.where(mask == 0, images)


def poisson(fake: Tensor, images: Tensor, mask: Tensor) -> Tensor:
    """Known pixels of the image, the gradients of G(z) in the hole (Perez 2003; Yeh 2017).

    x = argmin sum (x_i - x_j - (fake_i - fake_j))² over the pairs of neighbours i, j that are not
    both known; x = images where known, to the bit.  Neighbours are up, down, left and right, as far
    as the image goes (Perez 2003, eq. 7).  The hole is clamped to [-1, 1] afterwards.  An image
    with no known pixel has nothing to match, and stays G(z).

    fake, images (B, C, H, W) in [-1, 1]; mask (B, 1, H, W) of 0 and 1.
    """
    # Apple GPUs have no float64
    device = torch.device("cpu") if fake.device.type == "mps" else fake.device
    difference, hole = (images - fake).to(device).double(), (mask == 0).to(device)
    correction = harmonic(difference, hole, tolerance=1e-10).to(fake)  # float32 has 6e-8
    return paste((fake + correction).clamp(-1, 1), images, mask)


class Level(NamedTuple):
    """The equations diagonal·u - the linked neighbours of u = b, each (B, 1, h, w)."""

    diagonal: Tensor  # 0 where nothing is solved for
    right: Tensor  # link to the right neighbour
    down: Tensor
    damped: Tensor  # 0.8 / diagonal, for damped Jacobi


def harmonic(values: Tensor, hole: Tensor, tolerance: float) -> Tensor:
    """Harmonic u (B, C, H, W) in the hole (B, 1, H, W), equal to `values` on the pixels around it.

    Every pixel of the hole is the mean of its neighbours, to about `tolerance`; elsewhere u is 0.
    With no known pixel u is 0 everywhere.

    Conjugate gradients, preconditioned by one multigrid cycle (Braess 1995), in the precision of
    `values`.  Each image stops by itself and then stays as it is, whatever the others need.
    """
    u = torch.zeros_like(values)
    if not hole.any():
        return u
    h = hole.to(values.dtype)
    box = _box(hole)  # of all holes: elsewhere nothing is solved for
    diagonal, right, down = (h * x for x in (_neighbours(torch.ones_like(h)), _right(h), _below(h)))
    known = h * _neighbours(values.masked_fill(hole, 0))  # (B, C, H, W)
    u[box] = _solve(_level(diagonal[box], right[box], down[box]), known[box], tolerance)
    return u


def _box(hole: Tensor) -> tuple[slice | EllipsisType, ...]:
    """The rows and columns that hold all of hole (B, 1, H, W)."""
    found = (hole.any(0).any(axis).nonzero()[:, 1] for axis in (2, 1))  # rows, columns
    return ..., *(slice(int(x.min()), int(x.max()) + 1) for x in found)


def _solve(top: Level, residual: Tensor, tolerance: float) -> Tensor:
    """The u (B, C, H, W) with _rest(top, u, residual) = 0, to about `tolerance`."""
    # a cycle only guesses the error: float32 will do
    levels = [Level(*(x.float() for x in top))]
    while levels[-1].diagonal.shape[-2:].numel() > 1:
        levels.append(_coarser(levels[-1]))
    u, direction = torch.zeros_like(residual), torch.zeros_like(residual)
    zero, old = residual.new_zeros(1), residual.new_ones(1)
    for _ in range(500):
        step = _cycle(levels, residual.float()).to(residual)  # a residual alone can be tiny
        active = step.abs().amax((1, 2, 3), keepdim=True) >= tolerance  # (B, 1, 1, 1)
        if not active.any():
            break
        product = (residual * step).sum((2, 3), keepdim=True)  # (B, C, 1, 1)
        direction = step.addcmul_(product / old, direction)
        applied = _rest(top, direction, zero)
        energy = (direction * applied).sum((2, 3), keepdim=True)  # below 0
        length = active * product / energy.clamp(max=-1e-30)
        u.addcmul_(length, direction, value=-1)
        residual.addcmul_(length, applied, value=-1)
        old = product.clamp(min=1e-30)
    return u


def _neighbours(x: Tensor) -> Tensor:
    """The sum of each pixel's neighbours inside the image (..., H, W)."""
    x = F.pad(x, (1, 1, 1, 1))
    return x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]


def _right(x: Tensor) -> Tensor:
    """Each pixel's right neighbour (..., H, W), 0 beside the image."""
    return F.pad(x, (0, 1))[..., 1:]


def _below(x: Tensor) -> Tensor:
    """Each pixel's neighbour below (..., H, W), 0 under the image."""
    return F.pad(x, (0, 0, 0, 1))[..., 1:, :]


def _pairs(x: Tensor) -> Tensor:
    """Sums of rows 2i and 2i + 1: (..., H, W) -> (..., ceil(H / 2), W)."""
    x = F.pad(x, (0, 0, 0, x.shape[-2] % 2))
    return x[..., ::2, :] + x[..., 1::2, :]


def _level(diagonal: Tensor, right: Tensor, down: Tensor) -> Level:
    return Level(diagonal, right, down, torch.where(diagonal > 0, 0.8 / diagonal, 0))


def _coarser(level: Level) -> Level:
    """The equations of 2x2 blocks; halved, since blocks are twice as far apart (Braess 1995)."""
    height, width = level.diagonal.shape[-2:]
    even = (0, width % 2, 0, height % 2)
    diagonal, right, down = (F.pad(x, even) for x in level[:3])
    right, down = _pairs(right), _pairs(down.mT).mT  # (B, 1, h, W), (B, 1, H, w)
    blocks = _pairs(_pairs(diagonal).mT).mT  # (B, 1, h, w)
    inner = right[..., ::2] + down[..., ::2, :]
    return _level(blocks / 2 - inner, right[..., 1::2] / 2, down[..., 1::2, :] / 2)


def _rest(level: Level, u: Tensor, b: Tensor) -> Tensor:
    """b - diagonal·u + the linked neighbours, (B, C, H, W)."""
    right, down = level.right[..., :-1], level.down[..., :-1, :]
    out = torch.addcmul(b, level.diagonal, u, value=-1)
    out[..., 1:].addcmul_(right, u[..., :-1])
    out[..., :-1].addcmul_(right, u[..., 1:])
    out[..., 1:, :].addcmul_(down, u[..., :-1, :])
    out[..., :-1, :].addcmul_(down, u[..., 1:, :])
    return out


def _cycle(levels: Sequence[Level], b: Tensor) -> Tensor:
    """One symmetric V-cycle from 0: about the u (B, C, H, W) whose _rest is 0."""
    level = levels[0]
    u = level.damped * b
    if len(levels) == 1:
        return u / 0.8
    u.addcmul_(level.damped, _rest(level, u, b))
    rest = _rest(level, u, b)
    coarse = _cycle(levels[1:], _pairs(_pairs(rest).mT).mT)
    height, width = b.shape[-2:]
    coarse = coarse.repeat_interleave(2, -1).repeat_interleave(2, -2)[..., :height, :width]
    u.addcmul_(coarse, (level.diagonal > 0).to(u))
    for _ in range(2):
        u.addcmul_(level.damped, _rest(level, u, b))
    return u
