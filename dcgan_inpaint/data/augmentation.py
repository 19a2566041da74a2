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
# Red and blue of a white in sunlight of 5000 K, seen by a camera that is set to daylight of 6500 K,
# are 1.09 and 0.87 of its green after gamma.
MAX_TEMPERATURE = 0.1  # of red, and in the opposite direction of blue; relative
# A moved pixel is known if at most this weight of its interpolation falls on unknown pixels.
MAX_UNKNOWN = 1e-3


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
def augment(
    images: Tensor, index: Tensor, seed: int, share: float, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Change the light and the pose of a share of the images; borders are filled by reflection.

    The light changes in brightness, in contrast and, for color images, in color temperature.

    Args:
        images: (B, C, S, S) in [-1, 1].
        index: (B,) int64; (seed, index[b]) determine whether and how image b changes.
        share: Probability of a change, in [0, 1].
        valid: Known pixels (B, 1, S, S), 1 = known, which move with the images; None if all are
            known.

    Returns:
        Images (B, C, S, S) in [-1, 1], which are 0 where they are unknown, and their known pixels
        (B, 1, S, S).
    """
    # In bf16, positions would be wrong by 0.2 px.
    with torch.autocast(images.device.type, enabled=False):
        images = images.float()
        u = 2 * uniform("changes", seed, index, 8) - 1  # (B, 8) in [-1, 1)
        angle, scale = MAX_ANGLE * u[:, 1], 1 + MAX_SCALE * u[:, 2]
        light, contrast = (MAX_LIGHT * u[:, 3:5]).T[:, :, None, None, None]  # (B, 1, 1, 1) each
        cos, sin = scale * angle.cos(), scale * angle.sin()
        x, y = (2 * MAX_SHIFT * u[:, 5:7]).unbind(1)  # grid_sample counts a side as 2
        matrix = torch.stack([cos, -sin, x, sin, cos, y], 1).view(-1, 2, 3)
        selected = (u[:, 0] < 2 * share - 1)[:, None, None, None]  # (B, 1, 1, 1)
        positions = F.affine_grid(matrix, list(images.shape), align_corners=False)  # (B, S, S, 2)

        def move(maps: Tensor) -> Tensor:
            return F.grid_sample(maps, positions, "bicubic", "reflection", align_corners=False)

        changed = move(images)  # (B, C, S, S)
        if images.shape[1] == 3:
            # A gain of the light is a gain of the gamma-encoded value too, which is a power of it.
            red = 1 + MAX_TEMPERATURE * u[:, 7]  # (B,)
            gains = torch.stack([red, torch.ones_like(red), 2 - red], 1)[:, :, None, None]
            changed = (changed + 1) * gains - 1
        changed = (changed * (1 + contrast) + light).clamp(-1, 1)
        images = torch.where(selected, changed, images)
        if valid is None:
            return images, torch.ones_like(images[:, :1])
        moved = (move(valid.float()) - 1).abs() <= MAX_UNKNOWN  # (B, 1, S, S)
        valid = torch.where(selected, moved.float(), valid.float())
        return images * valid, valid
