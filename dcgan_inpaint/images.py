"""Conversions between tensors in [-1, 1], uint8 and PIL images; image grids and GIFs."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue, ITU-R BT.601


def to_float(images: np.ndarray) -> Tensor:
    """Convert uint8 (..., C, H, W) to float32 in [-1, 1]."""
    return torch.from_numpy(np.array(images)).float().div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Convert images (..., C, H, W) in [-1, 1] to uint8 on the CPU, clamped and rounded."""
    return ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()


def to_pil(image: Tensor) -> Image.Image:
    """Convert an image (C, H, W) in [-1, 1], C = 1 or 3, to a PIL image."""
    return to_pil_image(to_uint8(image))


def make_grid(images: Tensor, columns: int = 8) -> Image.Image:
    """Arrange images in rows on a white "RGB" sheet, with a border of 2 px.

    Args:
        images: (N, C, H, W), uint8, or floats in [-1, 1].
        columns: Images per row.
    """
    # not torchvision's make_grid, which leaves out the border of a single image
    levels = images if images.dtype == torch.uint8 else to_uint8(images)
    height, width = levels.shape[2] + 2, levels.shape[3] + 2  # of a cell with its border
    rows, columns = math.ceil(len(levels) / columns), min(len(levels), columns)
    sheet = Image.new("RGB", (columns * width + 2, rows * height + 2), "white")
    for i, image in enumerate(levels):
        sheet.paste(to_pil_image(image), (i % columns * width + 2, i // columns * height + 2))
    return sheet


def save_gif(frames: Sequence[Image.Image], file: Path | BinaryIO) -> None:
    """Save a looping GIF of 4 s that shows the last frame for 1.5 s longer."""
    durations = [round(4000 / len(frames))] * len(frames)  # ms
    durations[-1] += 1500
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
