"""Harmonic functions on holes of any size: multigrid-preconditioned conjugate gradients.

Time and memory grow with the number of pixels, where the direct solve of blending.py, which is the
faster one for many small pictures, takes O(H·W³).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Level = tuple[Tensor, Tensor, Tensor]  # (H, W): diagonal, links to the right and down neighbour


def harmonic(values: Tensor, hole: Tensor, tolerance: float = 0.05) -> Tensor:
    """Harmonic u (C, H, W) in the hole (H, W), equal to `values` on the pixels around it.

    Every pixel of the hole is the mean of its neighbours, to about `tolerance`; elsewhere u is 0.
    With no known pixel u is 0 everywhere.

    Conjugate gradients, preconditioned by one multigrid cycle (Braess 1995).
    """
    h = hole.to(values.dtype)
    neighbours = F.conv2d(
        torch.stack([torch.ones_like(h), *values * (1 - h)])[:, None],
        h.new_tensor([[0, 1, 0], [1, 0, 1], [0, 1, 0]])[None, None],
        padding=1,
    )[:, 0]  # (1 + C, H, W): how many, and the sum of the known ones
    right = h * F.pad(h, (0, 1))[:, 1:]
    down = h * F.pad(h, (0, 0, 0, 1))[1:]
    levels: list[Level] = [(h * neighbours[0], right, down)]
    while levels[-1][0].numel() > 1:
        levels.append(_coarser(*levels[-1]))
    residual = h * neighbours[1:]  # (C, H, W)
    u = torch.zeros_like(residual)
    if not residual.any():
        return u
    direction, old = torch.zeros_like(u), torch.ones(len(u), 1, 1)
    for _ in range(500):
        step = _cycle(levels, residual)  # about the error of u: a residual alone can be tiny
        if step.abs().max() < tolerance:
            break
        product = (residual * step).sum((1, 2), keepdim=True)
        direction = step + product / old * direction
        applied = _laplacian(levels[0], direction)
        length = product / (direction * applied).sum((1, 2), keepdim=True).clamp(min=1e-30)
        u, residual = u + length * direction, residual - length * applied
        old = product.clamp(min=1e-30)
    return u


def _laplacian(level: Level, u: Tensor) -> Tensor:
    """diagonal·u - the linked neighbours, (C, H, W)."""
    diagonal, right, down = level
    out = diagonal * u
    out[:, :, 1:] -= (right * u)[:, :, :-1]
    out[:, :, :-1] -= right[:, :-1] * u[:, :, 1:]
    out[:, 1:] -= (down * u)[:, :-1]
    out[:, :-1] -= down[:-1] * u[:, 1:]
    return out


def _coarser(diagonal: Tensor, right: Tensor, down: Tensor) -> Level:
    """The equations of 2x2 blocks; halved, since blocks are twice as far apart (Braess 1995)."""
    height, width = diagonal.shape
    even = (0, width % 2, 0, height % 2)
    diagonal, right, down = (F.pad(x, even) for x in (diagonal, right, down))
    right, down = _pairs(right), _pairs(down.T).T  # (h, W), (H, w)
    blocks = _pairs(_pairs(diagonal).T).T  # (h, w)
    return blocks / 2 - right[:, ::2] - down[::2], right[:, 1::2] / 2, down[1::2] / 2


def _pairs(x: Tensor) -> Tensor:
    """Sums of rows 2i and 2i + 1: (..., H, W) -> (..., ceil(H / 2), W)."""
    x = F.pad(x, (0, 0, 0, x.shape[-2] % 2))
    return x[..., ::2, :] + x[..., 1::2, :]


def _cycle(levels: Sequence[Level], residual: Tensor) -> Tensor:
    """One symmetric V-cycle from 0: about the u with _laplacian(u) = residual, (C, H, W)."""
    diagonal = levels[0][0]
    inverse = torch.where(diagonal > 0, 1 / diagonal, 0)
    if len(levels) == 1:
        return inverse * residual

    def smoothed(u: Tensor) -> Tensor:  # damped Jacobi
        return u + 0.8 * inverse * (residual - _laplacian(levels[0], u))

    u = smoothed(0.8 * inverse * residual)
    rest = residual - _laplacian(levels[0], u)
    coarse = _cycle(levels[1:], _pairs(_pairs(rest).mT).mT)
    height, width = diagonal.shape
    u = u + coarse.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, :height, :width] * (
        diagonal > 0
    )
    return smoothed(smoothed(u))
