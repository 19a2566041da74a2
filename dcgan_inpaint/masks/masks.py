"""Masks: which pixels of an image are known.

A mask function maps (index, size) to masks (B, 1, S, S), float, where 1 is a known pixel and 0 the
hole (Amos 2016; Yeh 2017). LaMa, latent diffusion and IOPaint use the opposite polarity.

`index` (B,) holds the numbers of the images. Random masks depend on (seed, index) only, not on the
rest of the batch. Masks from image files are in mask_image.py.
"""

import math
from collections.abc import Callable, Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from dcgan_inpaint.configs import Seed, Share, checked
from dcgan_inpaint.randomness import normal, uniform

MaskFunction = Callable[[Tensor, int], Tensor]  # (index (B,), size) -> masks (B, 1, S, S)


@checked
def random(index: Tensor, size: int, seed: Seed, missing: Share) -> Tensor:
    """Remove each pixel with probability `missing` (Amos 2016: 0.2; Yeh 2017: 0.8)."""
    u = uniform("mask", seed, index, size * size)  # (B, S * S)
    return (u >= missing).float().view(-1, 1, size, size)


@checked
def scattered(index: Tensor, size: int, seed: Seed, low: Share, high: Share) -> Tensor:
    """Remove each pixel with a probability that is drawn per image from [low, high]."""
    missing = low + (high - low) * uniform("share", seed, index, 1)  # (B, 1)
    u = uniform("mask", seed, index, size * size)  # (B, S * S)
    return (u >= missing).float().view(-1, 1, size, size)


@checked
def rectangle(index: Tensor, size: int, seed: Seed, low: Share, high: Share) -> Tensor:
    """Remove a random rectangle whose sides are in [low, high] times the side of the image."""
    u = uniform("mask", seed, index, 4)  # (B, 4): width, height, x, y
    sides = low + (high - low) * u[:, :2]
    start = ((1 - sides) * u[:, 2:])[:, :, None]  # (B, 2, 1)
    position = (torch.arange(size, device=index.device) + 0.5) / size  # (S,)
    inside = (position >= start) & (position < start + sides[:, :, None])  # (B, 2, S)
    columns, rows = inside.unbind(1)
    return 1 - (rows[:, None, :, None] & columns[:, None, None, :]).float()


@checked
def center(index: Tensor, size: int, scale: Annotated[float, Field(gt=0, lt=0.5)]) -> Tensor:
    """Remove the square [scale * S, (1 - scale) * S)², a quarter of the image at 0.25."""
    low, high = int(size * scale), int(size * (1 - scale))
    mask = torch.ones(len(index), 1, size, size, device=index.device)
    mask[:, :, low:high, low:high] = 0
    return mask


@checked
def left(index: Tensor, size: int) -> Tensor:
    """Remove the left half."""
    mask = torch.ones(len(index), 1, size, size, device=index.device)
    mask[:, :, :, : size // 2] = 0
    return mask


@checked
def half(index: Tensor, size: int, seed: Seed) -> Tensor:
    """Remove the left, right, top or bottom half, drawn per image."""
    side = (uniform("mask", seed, index, 1) * 4).long().view(-1, 1, 1, 1)  # (B, 1, 1, 1)
    mask = left(index, size)  # (B, 1, S, S)
    sides = torch.stack([mask, mask.flip(3), mask.transpose(2, 3), mask.transpose(2, 3).flip(2)])
    return torch.gather(sides, 0, side.expand_as(mask)[None])[0]  # (B, 1, S, S)


@checked
def pattern(index: Tensor, size: int, seed: Seed, missing: Share) -> Tensor:
    """Remove blobs: smooth noise below its own `missing` quantile (Yeh 2017: about 0.25)."""
    noise = normal("mask", seed, index, 12 * 12).view(-1, 1, 12, 12)
    # 8 cells cover the image; 2 more at each side avoid the flat border of the interpolation
    noise = F.interpolate(noise, size=(size * 12 // 8,) * 2, mode="bicubic", align_corners=False)
    noise = noise[:, :, size // 4 : size // 4 + size, size // 4 : size // 4 + size]
    cut = torch.quantile(noise.flatten(1), missing, dim=1).view(-1, 1, 1, 1)
    return (noise > cut).float()


@checked
def grid(index: Tensor, size: int, step: Annotated[int, Field(ge=1, le=4096)]) -> Tensor:
    """Keep only every `step`-th pixel in both directions."""
    mask = torch.zeros(len(index), 1, size, size, device=index.device)
    mask[:, :, ::step, ::step] = 1
    return mask


@checked
def full(index: Tensor, size: int) -> Tensor:
    """Keep all pixels, to measure how well G represents an image."""
    return torch.ones(len(index), 1, size, size, device=index.device)


@checked
def nothing(index: Tensor, size: int) -> Tensor:
    """Keep no pixel, for measurements other than known pixels (measurements.py)."""
    return torch.zeros(len(index), 1, size, size, device=index.device)


@checked
def freeform(
    index: Tensor,
    size: int,
    seed: Seed,
    strokes: Annotated[int, Field(ge=1, le=1000)],
    width: Annotated[float, Field(gt=0, le=1)],
) -> Tensor:
    """Remove random brush strokes (after DeepFill and LaMa).

    Args:
        strokes: The number of polylines.
        width: Width of the strokes, as a share of the side of the image.
    """
    corners = 6
    u = uniform("mask", seed, index, strokes * (2 + 3 * corners)).view(-1, strokes, 2 + 3 * corners)
    start = u[:, :, None, :2]  # (B, strokes, 1, 2), in units of S
    turn = (u[:, :, 2 : 2 + corners] - 0.5) * 2.4  # each segment turns by up to 1.2 rad
    angle = u[:, :, 2 + corners : 3 + corners] * 2 * math.pi + turn.cumsum(2)
    length = 0.05 + 0.2 * u[:, :, 2 + 2 * corners :]
    step = torch.stack([angle.cos(), angle.sin()], -1) * length[..., None]
    ends = start + step.cumsum(2)  # (B, strokes, corners, 2)
    begins = torch.cat([start, ends[:, :, :-1]], 2)
    axis = (torch.arange(size, device=index.device) + 0.5) / size  # (S,)
    hole = torch.zeros(len(index), size, size, dtype=torch.bool, device=index.device)
    # squared distance of each pixel to a segment, one segment of all images at a time
    for a, d in zip(begins.flatten(1, 2).unbind(1), step.flatten(1, 2).unbind(1), strict=True):
        x, y = (axis - a[:, :, None]).unbind(1)  # (B, S): from the start of the segment
        dx, dy = d[:, :, None].unbind(1)  # (B, 1)
        x_part, y_part = (v * s / (dx.square() + dy.square()) for v, s in ((x, dx), (y, dy)))
        along = (x_part[:, None] + y_part[:, :, None]).clamp(0, 1)  # (B, S, S): nearest point
        across = torch.addcmul(x[:, None], along, dx[..., None], value=-1).square_()
        across += torch.addcmul(y[:, :, None], along, dy[..., None], value=-1).square_()
        hole |= across < (width / 2) ** 2
    return 1 - hole.float()[:, None]


@checked
def mixture(
    index: Tensor,
    size: int,
    seed: Seed,
    masks: Annotated[Mapping[str, MaskFunction], Field(min_length=1)],
) -> Tensor:
    """Apply one of several mask functions to each image, chosen with equal probability.

    Args:
        masks: Mask functions by name.
    """
    choice = (uniform("mixture", seed, index, 1)[:, 0] * len(masks)).long().cpu()  # (B,)
    mixed = torch.empty(len(index), 1, size, size, device=index.device)
    for number, draw in enumerate(masks.values()):
        rows = (choice == number).nonzero()[:, 0].to(index.device)
        if len(rows):
            mixed[rows] = draw(index[rows], size)
    return mixed
