"""Reading photos and masks from files, PIL images, NumPy arrays and tensors."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from dcgan_inpaint.data.decoding import UnreadableImage, to_rgb_or_gray

ImageLike = str | os.PathLike | Image.Image | np.ndarray | Tensor


def open_photo(path: Path) -> Image.Image:
    """Open an image file as an upright 8-bit photo, "L" or "RGB".

    Raises:
        UnreadableImage: If the file is not a readable image; a ValueError that names the file.
    """
    return _open_image(path, to_upright)


def _open_image(path: Path, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    try:
        with Image.open(path) as image:
            return convert(image)
    except Exception as error:  # PIL raises many types of errors for damaged files
        raise UnreadableImage(f"{path}: cannot be read as an image ({error})") from error


def to_upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation, composite transparency on white and convert to 8-bit sRGB.

    Gray images become "L", all others "RGB".
    """
    return to_rgb_or_gray(image, 1 if Image.getmodebase(image.mode) == "L" else 3)


def to_photo(image: ImageLike, name: str = "image") -> Image.Image:
    """Convert an image to an upright 8-bit photo, "L" or "RGB".

    Args:
        image: The path of an image file; a PIL image of any mode; an array (H, W) or (H, W, C); or
            a tensor (H, W) or (C, H, W). C is 1, 3 or 4. Values are uint8, or floats in [0, 1].
        name: The name of an image in memory in error messages.

    Raises:
        ValueError: If a file cannot be read, or the type, shape or range is different.
    """
    if isinstance(image, (str, os.PathLike)):
        return open_photo(Path(image))
    if isinstance(image, Image.Image):
        return to_upright(image)
    return to_upright(_to_pil(_to_levels(_to_array(image, name, (1, 3, 4)), name)))


def to_mask(mask: ImageLike, name: str = "mask") -> Image.Image:
    """Convert a mask to a PIL image that is white where pixels are known.

    Args:
        mask: The path of an image file; a PIL image; an array (H, W) or (H, W, 1); or a tensor
            (H, W) or (1, H, W). Known pixels are True, 1, or 255 in uint8.
        name: The name of a mask in memory in error messages.

    Raises:
        ValueError: If a file cannot be read, or the type, shape or range is different.
    """
    if isinstance(mask, (str, os.PathLike)):
        return _open_image(Path(mask), _load)
    if isinstance(mask, Image.Image):
        return mask
    array = _to_array(mask, name, (1,))
    if array.dtype.kind in "bui" and array.min() >= 0 and array.max() <= 1:
        return _to_pil(array.astype(np.uint8) * np.uint8(255))
    return _to_pil(_to_levels(array, name))


def _load(image: Image.Image) -> Image.Image:
    """Read the pixels of an opened image, so that its file can be closed."""
    image.load()
    return image


def _to_array(image: ImageLike, name: str, channels: tuple[int, ...]) -> np.ndarray:
    """Return an array or tensor as (H, W, C), with C one of `channels`."""
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        array = (image.float() if image.is_floating_point() else image).numpy()
        array = np.moveaxis(array, 0, -1) if array.ndim == 3 else array
    elif isinstance(image, np.ndarray):
        array = image
    else:
        kind = type(image).__name__
        raise ValueError(f"{name}: unsupported type {kind}. Use a path, PIL image, array or tensor")
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[-1] not in channels or array.size == 0:
        raise ValueError(
            f"{name}: unsupported shape {tuple(image.shape)}. Use (H, W), an array (H, W, C) or a "
            f"tensor (C, H, W) with C = {' or '.join(map(str, channels))}"
        )
    return array


def _to_levels(array: np.ndarray, name: str) -> np.ndarray:
    """Return uint8 or floats in [0, 1] as uint8, rounded."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        raise ValueError(f"{name}: unsupported dtype {array.dtype}. Use uint8, or floats in [0, 1]")
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 1):  # also for nan
        raise ValueError(
            f"{name}: values range from {low:.3g} to {high:.3g}. Use floats in [0, 1], or uint8"
        )
    return (array * 255).round().astype(np.uint8)


def _to_pil(levels: np.ndarray) -> Image.Image:
    """Convert uint8 (H, W, C) to "L", "RGB" or "RGBA"."""
    return Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)
