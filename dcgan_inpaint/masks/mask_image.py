"""Masks from image files: brightness or transparency marks the known pixels."""

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import pil_to_tensor

from dcgan_inpaint.configs import Fraction, Text, checked
from dcgan_inpaint.data.decoding import UnreadableImage, apply_orientation, to_rgb_or_gray
from dcgan_inpaint.data.directories import find_images
from dcgan_inpaint.errors import show

Polarity = Literal["white", "black"]  # color of the known pixels


class MaskImage:
    """Mask function (see masks.py) for a single mask image.

    If the alpha channel of the image varies, the mask is read from it, and opaque is white.
    Otherwise it is read from the brightness.

    Args:
        image: An image of any size and mode.
        threshold: Brightness from 0 to 1. Pixels are white where the mean over their area is above.
            None: 0.5 for the pixels of the image; at a lower resolution, a pixel is a hole if any
            pixel of the image in its area is.
        known: The color of known pixels. The rest is the hole.
        name: The name of the mask in error messages.

    Raises:
        ValueError: If the image has no pixels.
    """

    def __init__(self, image: Image.Image, threshold: float | None, known: Polarity, name: str):
        self.name, self.threshold, self.known = name, threshold, known
        self.levels = _mask_levels(apply_orientation(image))  # mode "F", in [0, 255]

    def __call__(self, index: Tensor, size: int) -> Tensor:
        """Return the mask (B, 1, S, S), 1 = known, which is the same for all of `index` (B,).

        Raises:
            ValueError: If the mask has no hole or no known pixel.
        """
        if self.threshold is None:
            mask = 1 - F.adaptive_max_pool2d(self._hole().float(), (size, size))  # (1, 1, S, S)
        else:
            levels = torch.from_numpy(np.array(self.levels))[None, None] / 255  # (1, 1, H, W)
            levels = F.interpolate(levels, (size, size), mode="area")
            mask = self.threshold_levels(levels, white=1.0)
        self.check(mask, f"at {size} px")
        return mask.to(index.device).expand(len(index), 1, size, size)

    @property
    def unknown(self) -> Polarity:
        """Color of the hole."""
        return "black" if self.known == "white" else "white"

    def threshold_levels(self, levels: Tensor, white: float = 255.0) -> Tensor:
        """Return a mask, 1 = known, from brightness levels in [0, white] of any shape."""
        threshold = 0.5 if self.threshold is None else self.threshold
        return ((levels > white * threshold) == (self.known == "white")).float()

    def check(self, mask: Tensor, where: str) -> None:
        """Raise ValueError if a mask, 1 = known, has no hole or no known pixel."""
        if mask.min() == mask.max():
            raise ValueError(
                f"{self.name}: the mask has no {'hole' if mask.min() == 1 else 'known pixel'} "
                f"{where}. Change mask.threshold={show(self.threshold)}, or set "
                f"mask.known={self.unknown} for the opposite polarity"
            )

    def covers(self, width: int, height: int) -> bool:
        """Return whether the aspect ratio is that of a photo, to 1 px."""
        w, h = self.levels.size
        return abs(w * height - h * width) < max(width, height)

    def resized(self, width: int, height: int) -> Image.Image:
        """Return the levels, mode "F" in [0, 255], at the size of a photo."""
        return self.levels.resize((width, height), Image.Resampling.BOX)

    def hole(self, width: int, height: int) -> Tensor:
        """Return the hole (H, W), bool, at the size of a photo."""
        if self.threshold is not None or self.levels.size == (width, height):
            return self.threshold_levels(pil_to_tensor(self.resized(width, height)))[0] == 0
        return F.adaptive_max_pool2d(self._hole().float(), (height, width))[0, 0] > 0

    def _hole(self) -> Tensor:
        """Return the hole (1, 1, H, W), bool, at the size of the image."""
        return self.threshold_levels(torch.from_numpy(np.array(self.levels))[None, None]) == 0


class MaskImages(Sequence[MaskImage]):
    """Mask images of several photos, read from their files when they are needed."""

    def __init__(self, paths: Sequence[Path], threshold: float | None, known: Polarity):
        self.paths, self.threshold, self.known = paths, threshold, known

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> MaskImage:  # type: ignore[override]
        """Read mask i.

        Raises:
            UnreadableImage: If its file is not a readable image; a ValueError that names the file.
        """
        name = f"mask.path={self.paths[i]}"
        try:
            with Image.open(self.paths[i]) as image:
                return MaskImage(image, self.threshold, self.known, name)
        except Exception as error:  # PIL raises many types of errors for damaged files
            raise UnreadableImage(f"{name}: cannot be read as an image ({error})") from error

    def __call__(self, index: Tensor, size: int) -> Tensor:
        """Raise ValueError: only photos have names to select their masks by."""
        raise ValueError("mask.path: several masks require photos with the same names. Set images=")

    def for_photos(self, photos: Sequence[Path]) -> "MaskImages":
        """Return the mask of each photo: the file with the same stem.

        Of several, it is the one whose folders, from the last to the first, have most names in
        common with those of the photo.  So masks may lie in folders of the same structure.

        Raises:
            ValueError: If a photo has no mask, or if several masks match it equally well.
        """
        by_stem: dict[str, list[Path]] = {}
        for path in self.paths:
            by_stem.setdefault(path.stem, []).append(path)
        chosen: list[tuple[Path, int]] = []  # mask of each photo, and folders in common
        for photo in photos:
            common = {mask: _common_folders(mask, photo) for mask in by_stem.get(photo.stem, [])}
            if not common:
                raise ValueError(
                    f"{photo}: no mask has this name. Add a mask named {photo.stem} to mask.path"
                )
            most = max(common.values())
            first, *others = [mask for mask, count in common.items() if count == most]
            if others:
                raise ValueError(
                    f"mask.path: {first} and {others[0]} belong to the same photo, {photo}. Remove "
                    "one of them, or arrange the masks in folders as the photos are"
                )
            chosen.append((first, most))
        most_common: dict[Path, int] = {}  # folders in common of each mask and its closest photo
        for mask, count in chosen:
            most_common[mask] = max(count, most_common.get(mask, 0))
        for photo, (mask, count) in zip(photos, chosen, strict=True):
            if count < most_common[mask]:
                raise ValueError(
                    f"{photo}: the mask of this name, {mask}, lies in the folder of another photo. "
                    f"Add a mask named {photo.stem} to mask.path, in a folder {photo.parent.name}"
                )
        return MaskImages([mask for mask, _ in chosen], self.threshold, self.known)


def _common_folders(mask: Path, photo: Path) -> int:
    """Return how many folders above two files have equal names, from the last to the first."""
    pairs = zip(reversed(mask.parent.parts), reversed(photo.parent.parts), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


@checked
def mask_file(
    path: Text | Annotated[list[Text], Field(min_length=1)],
    threshold: Fraction | None,
    known: Polarity,
) -> MaskImage | MaskImages:
    """Return the mask of an image file, or one mask per photo from several files.

    Args:
        path: An image file; or a directory, a glob pattern or a list.
        threshold: See MaskImage.
        known: See MaskImage.

    Raises:
        ValueError: If there is no image or it cannot be read.
    """
    masks = MaskImages(find_images(path, "mask.path"), threshold, known)
    one = isinstance(path, str) and masks.paths == [Path(path).expanduser()]
    return masks[0] if one else masks


def _mask_levels(image: Image.Image) -> Image.Image:
    """Return a mask as mode "F" in [0, 255]: its alpha channel if that varies, else brightness."""
    if 0 in image.size:
        raise ValueError("the image has no pixels")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        varies = np.ptp(np.asarray(alpha)) > 0
        image = alpha if varies else image.convert("RGB")
    return to_rgb_or_gray(image, 1).convert("F")
