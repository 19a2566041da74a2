"""Putting the known pixels back: how G(z) and the picture become one completion."""

import torch
from torch import Tensor
from torch.nn import functional as F


def paste(fake: Tensor, images: Tensor, mask: Tensor) -> Tensor:
    """Known pixels of the picture, G(z) in the hole (Amos 2016).  Known pixels stay exact.

    fake, images (B, C, H, W) in [-1, 1]; mask (B, 1, H, W) of 0 and 1.
    """
    return fake.where(mask == 0, images)


def poisson(fake: Tensor, images: Tensor, mask: Tensor) -> Tensor:
    """Known pixels of the picture, the gradients of G(z) in the hole (Perez 2003; Yeh 2017).

    x = argmin sum (x_i - x_j - (fake_i - fake_j))² over the pairs of neighbours i, j that are not
    both known; x = images where known, to the bit.  Neighbours are up, down, left and right, as far
    as the picture goes (Perez 2003, eq. 7).  The hole is clamped to [-1, 1] afterwards.  A picture
    with no known pixel has nothing to match, and stays G(z).

    fake, images (B, C, H, W) in [-1, 1]; mask (B, 1, H, W) of 0 and 1.
    """
    # Apple GPUs have no float64
    device = torch.device("cpu") if fake.device.type == "mps" else fake.device
    difference, hole = (images - fake).to(device).double(), (mask == 0).to(device)
    correction = _harmonic(difference, hole).to(fake)
    return paste((fake + correction).clamp(-1, 1), images, mask)


def _harmonic(values: Tensor, hole: Tensor) -> Tensor:
    """Harmonic u (B, C, H, W) in the hole (B, 1, H, W), equal to `values` on the pixels around it.

    Every pixel of the hole is the mean of its neighbours.  Elsewhere u is 0: not needed.

    Solved directly, by elimination of one image row after another (block Thomas algorithm), so that
    no mask, however hard, needs a tolerance or more iterations.  Each distinct mask is factored
    once: O(H·W³) time and 8·H·W² bytes.  In float64: with few known pixels the system is nearly
    singular, and float64 is also safe from autocast and TF32.
    """
    masks, which = torch.unique(hole[:, 0], dim=0, return_inverse=True)  # (M, H, W), (B,)
    h = masks.to(values.dtype)
    # the equation of each pixel: diagonal·u - its neighbours in the hole = its known neighbours
    diagonal = torch.where(masks, _neighbours(torch.ones_like(h)), 1.0)  # (M, H, W)
    diagonal += h.amin((1, 2), keepdim=True)  # all hole: u = 0 instead of any constant
    left = h[:, :, 1:] * h[:, :, :-1]  # (M, H, W - 1): 1 if the left neighbour is a hole as well
    up = h * F.pad(h, (0, 0, 1, 0))[:, :-1]  # (M, H, W): the same for the neighbour above
    known = hole * _neighbours(values.masked_fill(hole, 0))  # (B, C, H, W)

    inverses, rows = [], []
    inverse, row = torch.diag_embed(h[:, 0]), known[:, :, 0].mT  # of no effect: up[:, 0] = 0
    for i, right_side in enumerate(known.permute(2, 0, 3, 1)):  # (B, W, C)
        coupling = up[:, i, :, None]  # (M, W, 1)
        row = right_side + coupling[which] * (inverse[which] @ row)  # (B, W, C)
        block = (-coupling * inverse).mul_(coupling.mT)  # (M, W, W)
        block.diagonal(0, 1, 2).add_(diagonal[:, i])
        block.diagonal(1, 1, 2).sub_(left[:, i])
        block.diagonal(-1, 1, 2).sub_(left[:, i])
        inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(block).L)
        inverses.append(inverse)
        rows.append(row)
    from_below = torch.zeros_like(row)
    for i in reversed(range(len(rows))):
        rows[i] = inverses[i][which] @ (rows[i] + from_below)
        from_below = up[which, i, :, None] * rows[i]
    return torch.stack(rows).permute(1, 3, 0, 2)


def _neighbours(x: Tensor) -> Tensor:
    """The sum of each pixel's neighbours inside the picture (..., H, W)."""
    x = F.pad(x, (1, 1, 1, 1))
    return x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]
