"""How images are changed while they are trained on: mirrored, and by what sets a photo of one's
own apart, its light, and a face that lies a little aside, turned, nearer or farther."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from dcgan_inpaint.randomness import uniform

TURN = math.radians(10)  # to either side
SHIFT = 0.08  # of the image's side, each way
SCALE = 0.1  # of 1, either way
LIGHT = 0.25  # brightness, of the range [-1, 1]; contrast, of 1; either way


def mirrored(images: Tensor, index: Tensor, seed: int, epoch: int) -> Tensor:
    """Images (B, C, S, S), each mirrored left to right in half of the epochs, as (seed, epoch,
    index[b]) says."""
    heads = uniform(f"flip {epoch}", seed, index, 1) < 0.5  # (B, 1)
    return torch.where(heads[:, :, None, None], images.flip(3), images)


@torch.no_grad()
def changed(images: Tensor, index: Tensor, seed: int, share: float) -> Tensor:
    """Images (B, C, S, S) in [-1, 1], a `share` of them changed; which and how follows from
    (seed, index[b]).  What comes in at the border is the image's own mirror image."""
    with torch.autocast(images.device.type, enabled=False):  # in bf16 places are 0.2 px off
        return _changed(images.float(), index, seed, share)


def _changed(images: Tensor, index: Tensor, seed: int, share: float) -> Tensor:
    u = 2 * uniform("changes", seed, index, 7) - 1  # (B, 7) in [-1, 1)
    angle, scale = TURN * u[:, 1], 1 + SCALE * u[:, 2]
    light, contrast = (LIGHT * u[:, 3:5]).T[:, :, None, None, None]  # (B, 1, 1, 1) each
    cos, sin = scale * angle.cos(), scale * angle.sin()
    x, y = (2 * SHIFT * u[:, 5:]).unbind(1)  # grid_sample counts a side as 2
    move = torch.stack([cos, -sin, x, sin, cos, y], 1).view(-1, 2, 3)
    where = F.affine_grid(move, list(images.shape), align_corners=False)  # (B, S, S, 2)
    moved = F.grid_sample(images, where, "bicubic", "reflection", align_corners=False)
    lit = (moved * (1 + contrast) + light).clamp(-1, 1)
    chosen = u[:, 0] < 2 * share - 1  # (B,)
    return torch.where(chosen[:, None, None, None], lit, images)  # (B, C, S, S)
