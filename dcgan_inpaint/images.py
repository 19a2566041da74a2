"""Images as tensors in [-1, 1], as uint8 and as PIL images; grids and GIFs to look at."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def to_float(images: np.ndarray) -> Tensor:
    """uint8 (..., C, S, S) -> float32 in [-1, 1]."""
    return torch.from_numpy(np.array(images)).float().div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """(..., C, H, W) in [-1, 1] -> uint8, rounded."""
    return ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()


def to_pil(image: Tensor) -> Image.Image:
    """One image (C, H, W) in [-1, 1], C 1 or 3, as a PIL image."""
    return to_pil_image(to_uint8(image))


def grid(images: Tensor, columns: int = 8) -> Image.Image:
    """(N, C, H, W), uint8 or floats in [-1, 1] -> one "RGB" image, `columns` a row, on white."""
    levels = images if images.dtype == torch.uint8 else to_uint8(images)
    down, across = levels.shape[2] + 2, levels.shape[3] + 2  # a cell and its border
    rows, columns = math.ceil(len(levels) / columns), min(len(levels), columns)
    sheet = Image.new("RGB", (columns * across + 2, rows * down + 2), "white")
    for i, image in enumerate(levels):
        cell = (i % columns * across + 2, i // columns * down + 2)
        sheet.paste(to_pil_image(image), cell)
    return sheet


def masked(images: Tensor, mask: Tensor) -> Tensor:
    """Images (B, C, H, W) with the hole in grey; mask (B, 1, H, W), 1 = known."""
    return images * mask


def save_gif(frames: Sequence[Image.Image], file: Path | BinaryIO) -> None:
    """An endless GIF of 4 s that rests on its last frame."""
    durations = [round(4000 / len(frames))] * len(frames)
    durations[-1] += 1500
    settings = {"save_all": True, "append_images": frames[1:], "duration": durations, "loop": 0}
    frames[0].save(file, "GIF", **settings)
