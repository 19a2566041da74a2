"""Augmentation of training images: random flips, and changes of light and pose.

The changes imitate how a user's photo differs from a training image: another light, and a face
that is shifted, rotated or scaled a little.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from dcgan_inpaint.randomness import uniform

# Largest changes to either side, trained with and evaluated in experiments/sampling.md.
MAX_ANGLE = math.radians(10)
MAX_SHIFT = 0.08  # of the side of the image, in each direction
MAX_SCALE = 0.1  # relative
MAX_LIGHT = 0.25  # of brightness, in units of [-1, 1], and of contrast, relative


def random_flip(images: Tensor, index: Tensor, seed: int, epoch: int) -> Tensor:
    """Mirror each image left to right with probability 1/2.

    Args:
        images: (B, C, S, S).
        index: (B,) int64; (seed, epoch, index[b]) determine whether image b is mirrored.

    Returns:
        (B, C, S, S).
    """
    mirrored = uniform(f"flip {epoch}", seed, index, 1) < 0.5  # (B, 1)
    return torch.where(mirrored[:, :, None, None], images.flip(3), images)


@torch.no_grad()
def augment(images: Tensor, index: Tensor, seed: int, share: float) -> Tensor:
    """Change the light and the pose of a share of the images; borders are filled by reflection.

    Args:
        images: (B, C, S, S) in [-1, 1].
        index: (B,) int64; (seed, index[b]) determine whether and how image b changes.
        share: Probability of a change, in [0, 1].

    Returns:
        (B, C, S, S) in [-1, 1].
    """
    # In bf16, positions would be wrong by 0.2 px.
    with torch.autocast(images.device.type, enabled=False):
        images = images.float()
        u = 2 * uniform("changes", seed, index, 7) - 1  # (B, 7) in [-1, 1)
        angle, scale = MAX_ANGLE * u[:, 1], 1 + MAX_SCALE * u[:, 2]
        light, contrast = (MAX_LIGHT * u[:, 3:5]).T[:, :, None, None, None]  # (B, 1, 1, 1) each
        cos, sin = scale * angle.cos(), scale * angle.sin()
        x, y = (2 * MAX_SHIFT * u[:, 5:]).unbind(1)  # grid_sample counts a side as 2
        matrix = torch.stack([cos, -sin, x, sin, cos, y], 1).view(-1, 2, 3)
        positions = F.affine_grid(matrix, list(images.shape), align_corners=False)  # (B, S, S, 2)
        moved = F.grid_sample(images, positions, "bicubic", "reflection", align_corners=False)
        lit = (moved * (1 + contrast) + light).clamp(-1, 1)
        selected = u[:, 0] < 2 * share - 1  # (B,)
        return torch.where(selected[:, None, None, None], lit, images)  # (B, C, S, S)
