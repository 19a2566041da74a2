"""Masks: which pixels are known.

A mask is (B, 1, S, S) float with 1 = known pixel and 0 = hole (Amos 2016, Yeh 2017).  LaMa, latent
diffusion and IOPaint use the opposite.  Definitions: README, "Masks".

Each function gives one mask per entry of `index` (B,).  What is drawn for image i follows from
(seed, i) alone, never from the batch around it.  Parameters out of range raise ValueError.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from dcgan_inpaint.randomness import normal, uniform


def random(index: Tensor, size: int, seed: int, missing: float) -> Tensor:
    """Each pixel is a hole with probability `missing` (Amos 0.2; Yeh 0.8)."""
    _between("missing", missing, 0, 1)
    u = uniform("mask", seed, index, size * size)
    return (u >= missing).float().view(-1, 1, size, size)


def center(index: Tensor, size: int, scale: float) -> Tensor:
    """The hole is the square [scale·S, (1 - scale)·S)², a quarter of the picture at 0.25."""
    _between("scale", scale, 0, 0.5)
    low, high = int(size * scale), int(size * (1 - scale))
    mask = torch.ones(len(index), 1, size, size, device=index.device)
    mask[:, :, low:high, low:high] = 0
    return mask


def left(index: Tensor, size: int) -> Tensor:
    """The left half is the hole."""
    mask = torch.ones(len(index), 1, size, size, device=index.device)
    mask[:, :, :, : size // 2] = 0
    return mask


def half(index: Tensor, size: int, seed: int) -> Tensor:
    """The left, right, top or bottom half is the hole, drawn per image."""
    side = (uniform("mask", seed, index, 1) * 4).long().view(-1, 1, 1, 1)  # (B, 1, 1, 1)
    hole = left(index, size) == 0  # (B, 1, S, S)
    sides = torch.stack([hole, hole.flip(3), hole.transpose(2, 3), hole.transpose(2, 3).flip(2)])
    chosen = torch.gather(sides, 0, side.expand_as(hole)[None])[0]  # (B, 1, S, S)
    return 1 - chosen.float()


def pattern(index: Tensor, size: int, seed: int, missing: float) -> Tensor:
    """Blobs: smoothed noise below its own `missing` quantile (about 25% missing, as Yeh's)."""
    _between("missing", missing, 0, 1)
    noise = normal("mask", seed, index, 12 * 12).view(-1, 1, 12, 12)
    # 8 cells across the picture, and 2 beside it on each side, where interpolation is flat
    noise = F.interpolate(noise, size=(size * 12 // 8,) * 2, mode="bicubic", align_corners=False)
    noise = noise[:, :, size // 4 : size // 4 + size, size // 4 : size // 4 + size]
    cut = torch.quantile(noise.flatten(1), missing, dim=1).view(-1, 1, 1, 1)
    return (noise > cut).float()


def grid(index: Tensor, size: int, step: int) -> Tensor:
    """Only every `step`-th pixel in both directions is known."""
    if step < 1:
        raise ValueError(f"mask.step={step}: use 1 or more")
    mask = torch.zeros(len(index), 1, size, size, device=index.device)
    mask[:, :, ::step, ::step] = 1
    return mask


def full(index: Tensor, size: int) -> Tensor:
    """Nothing is missing: how well does G represent the picture."""
    return torch.ones(len(index), 1, size, size, device=index.device)


def nothing(index: Tensor, size: int) -> Tensor:
    """No pixel is known as such: for `lowres`, where the context is the pooled picture."""
    return torch.zeros(len(index), 1, size, size, device=index.device)


def freeform(index: Tensor, size: int, seed: int, strokes: int, width: float) -> Tensor:
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
    axis = (torch.arange(size, device=index.device) + 0.5) / size
    pixels = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)  # (S, S, 2)
    hole = torch.zeros(len(index), size, size, dtype=torch.bool, device=index.device)
    for a, d in zip(begins.flatten(1, 2).unbind(1), step.flatten(1, 2).unbind(1), strict=True):
        to_pixel = pixels - a[:, None, None]  # (B, S, S, 2): distance to one segment per image
        along = (to_pixel * d[:, None, None]).sum(-1) / d.square().sum(-1)[:, None, None]
        nearest = along.clamp(0, 1)[..., None] * d[:, None, None]
        hole |= (to_pixel - nearest).norm(dim=-1) < width / 2
    return 1 - hole.float()[:, None]


def mixture(
    index: Tensor, size: int, seed: int, masks: Mapping[str, Callable[[Tensor, int], Tensor]]
) -> Tensor:
    """Each image draws one of `masks`, functions of (index, size) by name, all equally likely."""
    which = (uniform("mixture", seed, index, 1)[:, 0] * len(masks)).long()  # (B,)
    kinds = torch.stack([draw(index, size) for draw in masks.values()])  # (M, B, 1, S, S)
    return kinds[which, torch.arange(len(index), device=index.device)]


def from_file(index: Tensor, size: int, path: str, threshold: float, known: str) -> Tensor:
    """The user's mask picture, any size and mode, resized and thresholded.

    `known="white"`: pixels brighter than `threshold` (0..1) are known; "black": the darker ones.
    A picture with transparency says it by alpha instead: opaque counts as white.
    Raises FileNotFoundError, or ValueError for an unreadable file and for a mask without a hole or
    without a known pixel.
    """
    if known not in ("white", "black"):
        raise ValueError(f"mask.known={known!r}: choose white or black")
    if not Path(path).is_file():
        raise FileNotFoundError(f"mask.path={path}: no such file")
    try:
        with Image.open(path) as picture:
            values = picture.convert("RGBA") if picture.has_transparency_data else picture
            gray = np.asarray(values.getchannel("A") if values.mode == "RGBA" else values)
            if gray.ndim == 3 or values.mode == "P":
                gray = np.asarray(values.convert("L"))
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"mask.path={path}: cannot be read as a picture ({error})") from error
    levels = torch.from_numpy(gray.astype(np.float32))[None, None]  # (1, 1, H, W)
    full_scale = 1.0 if gray.dtype == bool else 255.0 if levels.max() <= 255 else 65535.0
    levels = F.interpolate(levels / full_scale, (size, size), mode="area")
    mask = (levels > threshold).float()
    mask = 1 - mask if known == "black" else mask
    if mask.min() == mask.max():
        what = "no hole" if mask.min() == 1 else "no known pixel"
        other = "black" if known == "white" else "white"
        raise ValueError(
            f"mask.path={path} leaves {what} at {size} px: see mask.threshold={threshold}, or "
            f"mask.known={other} for the opposite polarity"
        )
    return mask.to(index.device).expand(len(index), 1, size, size)


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low < value < high:
        raise ValueError(f"mask.{name}={value}: use a number between {low} and {high}")
