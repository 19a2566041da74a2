"""Poisson blending by a fixed number of steps, as a small graph that can be exported.

The equations and the method, conjugate gradients with one multigrid cycle as preconditioner, are
those of blending.py.  No step depends on the values, and convolutions with constant kernels keep
the number of operators small.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dcgan_inpaint.blending import paste

# Kernels that select a pixel, and its neighbors to the right, to the left, below and above.
NEIGHBORS = torch.eye(9)[[4, 5, 3, 7, 1]].view(5, 1, 3, 3)
# Equations (diagonal, right, down) of 2x2 blocks, halved since the spacing doubles (Braess 1995):
# the sum of the diagonals without the links inside the block, and the links between blocks.
COARSEN = torch.zeros(3, 3, 2, 2)
COARSEN[0, 0] = 0.5
COARSEN[0, 1, :, 0] = COARSEN[0, 2, 0, :] = -1
COARSEN[1, 1, :, 1] = COARSEN[2, 2, 1, :] = 0.5


class Grid(NamedTuple):
    """Coefficients of the equations of one level."""

    kernels: Tensor  # NEIGHBORS of each channel, (5·C, 1, 3, 3)
    stencil: Tensor  # (B, 1, 5, h, w), of a pixel and its neighbors as in NEIGHBORS
    damped: Tensor  # (B, 1, h, w), 0.8 / diagonal for damped Jacobi, 0 outside the hole
    hole: Tensor  # (B, 1, h, w), 1 in the hole


def poisson_graph(fake: Tensor, images: Tensor, mask: Tensor, iterations: int = 6) -> Tensor:
    """Approximate `blending.poisson` in the precision of the images.

    Args:
        fake: G(z) (B, C, S, S) in [-1, 1]; S is a power of two.
        images: (B, C, S, S) in [-1, 1].
        mask: (B, 1, S, S), 1 = known, 0 = hole.
        iterations: Steps of conjugate gradients.  Each reduces the error by a factor of about 5.
            After 6 it is below 7e-4 on CelebA (experiments/exported.md).
    """
    channels = images.shape[1]
    kernels = NEIGHBORS.to(images).repeat(channels, 1, 1, 1)  # (5·C, 1, 3, 3)
    cross = NEIGHBORS[1:].sum(0, keepdim=True).to(images)  # (1, 1, 3, 3)
    hole = (mask == 0).to(images)  # (B, 1, S, S)
    links = hole * F.conv2d(torch.ones_like(hole), cross, padding=1)  # neighbors in the image
    right, down = hole * F.pad(hole, (-1, 1)), hole * F.pad(hole, (0, 0, -1, 1))
    equations = torch.cat([links, right, down], 1)  # (B, 3, S, S)
    grids = [_make_grid(equations, kernels)]
    while equations.shape[-1] > 1:
        equations = F.conv2d(equations, COARSEN.to(images), stride=2)  # (B, 3, S/2, S/2), ...
        grids.append(_make_grid(equations, kernels))
    known = (1 - hole) * (images - fake)
    crosses = cross.repeat(channels, 1, 1, 1)
    residual = hole * F.conv2d(known, crosses, padding=1, groups=channels)  # (B, C, S, S)
    correction = _conjugate_gradients(grids, residual, iterations)
    return paste((fake + correction).clamp(-1, 1), images, mask)


def _make_grid(equations: Tensor, kernels: Tensor) -> Grid:
    """Return the grid of equations (B, 3, h, w): diagonals, links to the right and down."""
    diagonal, right, down = equations.split(1, 1)  # (B, 1, h, w) each
    left, up = F.pad(right, (1, -1)), F.pad(down, (0, 0, 1, -1))
    stencil = torch.cat([-diagonal, right, left, down, up], 1)[:, None]
    hole = (diagonal > 0).to(diagonal)
    return Grid(kernels, stencil, 0.8 * hole / (diagonal + (1 - hole)), hole)


def _apply(grid: Grid, u: Tensor) -> Tensor:
    """Return the sum of linked neighbors - diagonal · u, (B, C, h, w)."""
    channels = u.shape[1]
    pixels = F.conv2d(u, grid.kernels, padding=1, groups=channels)  # (B, 5·C, h, w)
    return (pixels.unflatten(1, (channels, 5)) * grid.stencil).sum(2)


def _multigrid_cycle(grids: Sequence[Grid], b: Tensor) -> Tensor:
    """Run one symmetric V-cycle from 0; return an approximate solution u (B, C, h, w)."""
    grid = grids[0]
    u = grid.damped * b
    if len(grids) == 1:
        return u / 0.8
    u = u + grid.damped * (b + _apply(grid, u))
    rest = 4 * F.avg_pool2d(b + _apply(grid, u), 2)  # (B, C, h/2, w/2)
    coarse = _multigrid_cycle(grids[1:], rest)
    u = u + grid.hole * F.interpolate(coarse, scale_factor=2.0, mode="nearest")
    for _ in range(2):
        u = u + grid.damped * (b + _apply(grid, u))
    return u


def _conjugate_gradients(grids: Sequence[Grid], residual: Tensor, iterations: int) -> Tensor:
    """Solve the equations of the first grid for the right-hand side (B, C, S, S)."""
    u, direction = torch.zeros_like(residual), torch.zeros_like(residual)
    previous = torch.ones_like(residual[..., :1, :1])  # (B, C, 1, 1)
    for _ in range(iterations):
        step = _multigrid_cycle(grids, residual)
        product = (residual * step).sum((2, 3), keepdim=True)  # (B, C, 1, 1)
        direction = step + product / previous * direction
        applied = _apply(grids[0], direction)
        energy = -(direction * applied).sum((2, 3), keepdim=True)  # not negative
        length = product / energy.clamp(min=1e-30)
        u = u + length * direction
        residual = residual + length * applied
        previous = product.clamp(min=1e-30)
    return u
