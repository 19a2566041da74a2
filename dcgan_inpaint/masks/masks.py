"""Masks: which pixels are known.

A mask is (B, 1, S, S) float with 1 = known pixel and 0 = hole (Amos 2016, Yeh 2017).  LaMa, latent
diffusion and IOPaint use the opposite.  Definitions: conf/README.md.

Each function gives one mask per entry of `index` (B,).  What is drawn for image i follows from
(seed, i) alone, never from the batch around it.  Parameters out of range raise ValueError.  The
user's own mask is in mask_image.py.
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

Masks = Mapping[str, Callable[[Tensor, int], Tensor]]


@checked
def random(index: Tensor, size: int, seed: Seed, missing: Share) -> Tensor:
    """Each pixel is a hole with probability `missing` (Amos 0.2; Yeh 0.8)."""
    u = uniform("mask", seed, index, size * size)
    return (u >= missing).float().view(-1, 1, size, size)


@checked
def scattered(index: Tensor, size: int, seed: Seed, low: Share, high: Share) -> Tensor:
    """Each pixel is a hole with a probability of its image, from `low` to `high`."""
    missing = low + (high - low) * uniform("share", seed, index, 1)  # (B, 1)
    u = uniform("mask", seed, index, size * size)
    return (u >= missing).float().view(-1, 1, size, size)


@checked
def rectangle(index: Tensor, size: int, seed: Seed, low: Share, high: Share) -> Tensor:
    """The hole is a rectangle anywhere, of sides from `low` to `high` of the image's."""
    u = uniform("mask", seed, index, 4)  # (B, 4): width, height, and where it begins
    sides = low + (high - low) * u[:, :2]
    begin = ((1 - sides) * u[:, 2:])[:, :, None]  # (B, 2, 1)
    place = (torch.arange(size, device=index.device) + 0.5) / size  # (S,)
    across, down = ((place >= begin) & (place < begin + sides[:, :, None])).unbind(1)  # (B, S)
    return 1 - (down[:, None, :, None] & across[:, None, None, :]).float()


@checked
def center(index: Tensor, size: int, scale: Annotated[float, Field(gt=0, lt=0.5)]) -> Tensor:
    """The hole is the square [scale·S, (1 - scale)·S)², a quarter of the image at 0.25."""
    low, high = int(size * scale), int(size * (1 - scale))
    mask = torch.ones(len(index), 1, size, size, device=index.device)
    mask[:, :, low:high, low:high] = 0
    return mask


@checked
def left(index: Tensor, size: int) -> Tensor:
    """The left half is the hole."""
    mask = torch.ones(len(index), 1, size, size, device=index.device)
    mask[:, :, :, : size // 2] = 0
    return mask


@checked
def half(index: Tensor, size: int, seed: Seed) -> Tensor:
    """The left, right, top or bottom half is the hole, drawn per image."""
    side = (uniform("mask", seed, index, 1) * 4).long().view(-1, 1, 1, 1)  # (B, 1, 1, 1)
    hole = left(index, size) == 0  # (B, 1, S, S)
    sides = torch.stack([hole, hole.flip(3), hole.transpose(2, 3), hole.transpose(2, 3).flip(2)])
    chosen = torch.gather(sides, 0, side.expand_as(hole)[None])[0]  # (B, 1, S, S)
    return 1 - chosen.float()


@checked
def pattern(index: Tensor, size: int, seed: Seed, missing: Share) -> Tensor:
    """Blobs: smoothed noise below its own `missing` quantile (about 25% missing, as Yeh's)."""
    noise = normal("mask", seed, index, 12 * 12).view(-1, 1, 12, 12)
    # 8 cells across the image, and 2 beside it on each side, where interpolation is flat
    noise = F.interpolate(noise, size=(size * 12 // 8,) * 2, mode="bicubic", align_corners=False)
    noise = noise[:, :, size // 4 : size // 4 + size, size // 4 : size // 4 + size]
    cut = torch.quantile(noise.flatten(1), missing, dim=1).view(-1, 1, 1, 1)
    return (noise > cut).float()


@checked
def grid(index: Tensor, size: int, step: Annotated[int, Field(ge=1, le=4096)]) -> Tensor:
    """Only every `step`-th pixel in both directions is known."""
    mask = torch.zeros(len(index), 1, size, size, device=index.device)
    mask[:, :, ::step, ::step] = 1
    return mask


@checked
def full(index: Tensor, size: int) -> Tensor:
    """Nothing is missing: how well does G represent the image."""
    return torch.ones(len(index), 1, size, size, device=index.device)


@checked
def nothing(index: Tensor, size: int) -> Tensor:
    """No pixel is known as such: for `lowres`, where the context is the pooled image."""
    return torch.zeros(len(index), 1, size, size, device=index.device)


@checked
def freeform(
    index: Tensor,
    size: int,
    seed: Seed,
    strokes: Annotated[int, Field(ge=1, le=1000)],
    width: Annotated[float, Field(gt=0, le=1)],
) -> Tensor:
    """Brush strokes: `strokes` wandering polylines of `width`·S px (after DeepFill, LaMa)."""
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
    for a, d in zip(begins.flatten(1, 2).unbind(1), step.flatten(1, 2).unbind(1), strict=True):
        x, y = (axis - a[:, :, None]).unbind(1)  # (B, S): from the begin of a segment per image
        dx, dy = d[:, :, None].unbind(1)  # (B, 1)
        x_part, y_part = (v * s / (dx.square() + dy.square()) for v, s in ((x, dx), (y, dy)))
        along = (x_part[:, None] + y_part[:, :, None]).clamp(0, 1)  # (B, S, S): to the nearest
        across = torch.addcmul(x[:, None], along, dx[..., None], value=-1).square_()
        across += torch.addcmul(y[:, :, None], along, dy[..., None], value=-1).square_()
        hole |= across < (width / 2) ** 2
    return 1 - hole.float()[:, None]


@checked
def mixture(
    index: Tensor, size: int, seed: Seed, masks: Annotated[Masks, Field(min_length=1)]
) -> Tensor:
    """Each image draws one of `masks`, functions of (index, size) by name, all equally likely."""
    which = (uniform("mixture", seed, index, 1)[:, 0] * len(masks)).long()  # (B,)
    kinds = torch.stack([draw(index, size) for draw in masks.values()])  # (M, B, 1, S, S)
    return kinds[which, torch.arange(len(index), device=index.device)]
