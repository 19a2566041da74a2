"""Photos and masks as they are given: files, PIL images, NumPy arrays, tensors."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from dcgan_inpaint.data.decoding import UnreadableImage, to_rgb_or_gray
from dcgan_inpaint.masks.mask_image import MaskImages
from dcgan_inpaint.photos.crops import RegionFinder
from dcgan_inpaint.photos.photos import Photos

Given = Image.Image | np.ndarray | Tensor


def open_photo(path: Path) -> Image.Image:
    """The upright photo of a file, 8 bit, "L" or "RGB".

    Raises UnreadableImage, a ValueError that names the file.
    """
    try:
        with Image.open(path) as image:
            return upright(image)
    except Exception as error:  # PIL raises many kinds on broken files
        raise UnreadableImage(f"{path}: cannot be read as an image ({error})") from error


def photos_of_files(
    paths: Sequence[Path],
    mask: Callable[[Tensor, int], Tensor] | MaskImages,
    find_regions: RegionFinder,
    image_shape: tuple[int, int, int],
) -> Photos:
    """The photos of files, all under one mask or each under the one of its name.

    Raises what Photos and MaskImages.beside do.
    """
    draws = mask.beside(paths) if isinstance(mask, MaskImages) else [mask] * len(paths)
    names = [*map(str, paths)]
    return Photos(names, lambda i: open_photo(paths[i]), draws, find_regions, image_shape)


def upright(image: Image.Image) -> Image.Image:
    """Upright (EXIF), 8 bit, transparency on white; grey stays "L", all else is "RGB"."""
    return to_rgb_or_gray(image, 1 if Image.getmodebase(image.mode) == "L" else 3)


def photo_of(given: Given, name: str = "image") -> Image.Image:
    """The upright photo, 8 bit, "L" or "RGB", of an image of any size; errors call it `name`.

    A PIL image of any mode; an array (H, W) or (H, W, 1, 3 or 4); a tensor (H, W) or (1, 3 or 4, H,
    W).  Numbers are uint8, or floats in [0, 1], which are rounded.  Raises ValueError for others.
    """
    if isinstance(given, Image.Image):
        return upright(given)
    return upright(_image(_levels(_array(given, name, (1, 3, 4)), name)))


def mask_of(given: Given, name: str = "mask") -> Image.Image:
    """A mask of any size as the image that MaskImage takes, bright where something is known.

    A PIL image; an array (H, W) or (H, W, 1), or a tensor (H, W) or (1, H, W), where True, 1 of
    integers, 1 of floats in [0, 1], or 255 of uint8 is known.  Raises ValueError for others.
    """
    if isinstance(given, Image.Image):
        return given
    array = _array(given, name, (1,))
    if array.dtype.kind in "bui" and array.min() >= 0 and array.max() <= 1:
        return _image(array.astype(np.uint8) * np.uint8(255))
    return _image(_levels(array, name))


def _array(given: np.ndarray | Tensor, name: str, channels: tuple[int, ...]) -> np.ndarray:
    """(H, W, C), C one of `channels`; of a tensor, whose channels come first, as well."""
    if isinstance(given, Tensor):
        given = given.detach().cpu()
        array = (given.float() if given.is_floating_point() else given).numpy()
        array = np.moveaxis(array, 0, -1) if array.ndim == 3 else array
    elif isinstance(given, np.ndarray):
        array = given
    else:
        kind = type(given).__name__
        raise ValueError(f"{name} is a {kind}: give a PIL image, a NumPy array or a tensor")
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[-1] not in channels or array.size == 0:
        which = " or ".join(map(str, channels))
        raise ValueError(
            f"{name} has shape {tuple(given.shape)}: use (H, W), an array (H, W, C) or a tensor "
            f"(C, H, W) with C {which}"
        )
    return array


def _levels(array: np.ndarray, name: str) -> np.ndarray:
    """uint8, of uint8 or of floats in [0, 1]."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        raise ValueError(f"{name} is of {array.dtype}: use uint8, or floats in [0, 1]")
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 1):  # nan is neither
        raise ValueError(f"{name} is from {low:.3g} to {high:.3g}: floats should be in [0, 1]")
    return (array * 255).round().astype(np.uint8)


def _image(levels: np.ndarray) -> Image.Image:
    """uint8 (H, W, 1, 3 or 4) -> "L", "RGB" or "RGBA"."""
    return Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)
