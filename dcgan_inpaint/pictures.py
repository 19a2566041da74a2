"""Pictures as tensors in [-1, 1], as uint8 and as PIL images; grids and GIFs to look at."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def to_float(pictures: np.ndarray) -> Tensor:
    """uint8 (..., C, S, S) -> float32 in [-1, 1]."""
    return torch.from_numpy(np.array(pictures)).float().div_(127.5).sub_(1)


def to_uint8(pictures: Tensor) -> Tensor:
    """(..., C, H, W) in [-1, 1] -> uint8, rounded."""
    return ((pictures.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()


def to_pil(picture: Tensor) -> Image.Image:
    """One picture (C, H, W) in [-1, 1], C 1 or 3, as a PIL image."""
    return to_pil_image(to_uint8(picture))


def grid(pictures: Tensor, columns: int = 8) -> Image.Image:
    """(N, C, H, W) in [-1, 1] -> one picture, `columns` a row, on white."""
    return to_pil(make_grid(pictures.cpu(), columns, padding=2, pad_value=1.0))


def place(path: Path, pictures: Tensor, cells: Sequence[tuple[int, int]]) -> None:
    """Put pictures (B, C, S, S) in [-1, 1] at their (row, column) cells of the grid picture `path`.

    The file is made, or made larger, as needed; what stands in other cells stays.
    """
    if not cells:
        return
    pitch = pictures.shape[-1] + 2  # a cell and its border, as in `grid`
    rows, columns = (1 + max(position) for position in zip(*cells, strict=True))
    width, height = columns * pitch + 2, rows * pitch + 2
    old = Image.open(path) if path.exists() else Image.new("RGB", (0, 0))
    sheet = Image.new("RGB", (max(width, old.width), max(height, old.height)), "white")
    sheet.paste(old, (0, 0))
    for picture, (row, column) in zip(pictures, cells, strict=True):
        sheet.paste(to_pil(picture), (column * pitch + 2, row * pitch + 2))
    sheet.save(path)


def masked(images: Tensor, mask: Tensor) -> Tensor:
    """Pictures (B, C, H, W) with the hole in grey; mask (B, 1, H, W), 1 = known."""
    return images * mask


def save_gif(frames: Sequence[Image.Image], path: Path) -> None:
    """An endless GIF of 4 s that rests on its last frame."""
    durations = [round(4000 / len(frames))] * len(frames)
    durations[-1] += 1500
    rest = list(frames[1:])
    frames[0].save(path, save_all=True, append_images=rest, duration=durations, loop=0)
