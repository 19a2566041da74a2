"""How wrong the mean of several draws is, by how far they lie apart.

Draws of a sampler have in common what none of them shows: texture that G does not draw, and how
known pixels bind them by blending and search.  So their mean is further from the truth than their
spread says, by a part that does not grow with it.  Both are measured, for each depth of hole, on
images that were not trained on.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

DEPTHS = 4  # of holes
GROUPS = 20  # of pixels, by spread


def depths(mask: Tensor) -> Tensor:
    """How deep the hole of each mask (B, 1, S, S), 1 = known, is: (B,) from 0 to DEPTHS - 1, by the
    share of it that lies farther than S/32 px from any known pixel.  0 are scattered pixels, 3 a
    half of the image."""
    away = mask.shape[-1] // 32 or 1
    far = 1 - F.max_pool2d(mask, 2 * away + 1, 1, away)  # (B, 1, S, S)
    share = far.sum((1, 2, 3)) / (1 - mask).sum((1, 2, 3)).clamp(min=1)  # (B,)
    return ((DEPTHS - 1) * share).round().long()


def own_doubt(draws: Tensor) -> Tensor:
    """The error of the mean of K >= 2 draws (B, K, C, S, S) that their standard deviation predicts,
    if the truth were one more draw: (B, 1, S, S), the mean of channels."""
    return draws.std(1).mean(1, keepdim=True) * (1 + 1 / draws.shape[1]) ** 0.5


def predicted_error(draws: Tensor, mask: Tensor, doubt: Tensor) -> Tensor:
    """The error of their mean, by `doubt` (DEPTHS, 2), the scale and the floor of each depth: (B,
    1, S, S), 0 where mask (B, 1, S, S) is 1."""
    scale, floor = doubt[depths(mask)].T[..., None, None, None]  # (B, 1, 1, 1) each
    return (scale * own_doubt(draws) + floor) * (1 - mask)


def measured(draws: Tensor, images: Tensor, mask: Tensor, doubt: Tensor) -> Tensor:
    """`doubt` (DEPTHS, 2) with the line of each depth that holes of these completed images have.

    Scale and floor are not negative, and scale · own_doubt + floor is nearest to the true error, a
    root mean square, relative to it, over GROUPS of as many pixels each.
    """
    error = (draws.mean(1) - images).square().mean(1, keepdim=True)  # (B, 1, S, S), squared
    own, depth, found = own_doubt(draws), depths(mask), doubt.clone()
    for d in range(DEPTHS):
        hole = (mask == 0) & (depth == d)[:, None, None, None]
        order = own[hole].argsort()
        groups = order[: len(order) // GROUPS * GROUPS].view(GROUPS, -1)
        if groups.numel():
            said, true = (x[hole][groups].mean(1).sqrt() for x in (own.square(), error))
            found[d] = _line(said / true.clamp(min=1e-6), 1 / true.clamp(min=1e-6))
    return found


def _line(a: Tensor, b: Tensor) -> Tensor:
    """(x, y) >= 0 with the least sum of (a x + b y - 1)²: inside, or on one of two edges."""
    both = torch.stack([a, b], 1)  # (GROUPS, 2)
    inside = torch.linalg.lstsq(both, torch.ones_like(a)[:, None]).solution[:, 0]
    if bool((inside >= 0).all() & inside.isfinite().all()):
        return inside
    edges = both.sum(0) / both.square().sum(0).clamp(min=1e-12)
    ends = torch.diag(edges)  # (2, 2): (x, 0) and (0, y)
    return ends[(both @ ends.T - 1).square().sum(0).argmin()]
