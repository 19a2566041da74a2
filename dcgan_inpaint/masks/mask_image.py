"""The user's own masks: images that say by bright and dark what is known."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from dcgan_inpaint.configs import Fraction, Text, checked
from dcgan_inpaint.data.decoding import UnreadableImage, to_rgb_or_gray
from dcgan_inpaint.data.folder import find_images

Polarity = Literal["white", "black"]  # which of them is known


class MaskImage:
    """A mask function like those of masks.py, from an image of any size and mode.

    Where its area means are above `threshold` it is white.  known="white": white is known, the rest
    is the hole; "black": the opposite.  An image with transparency says it by alpha instead:
    opaque is white.  `name` is what errors call it.  Raises ValueError for one without pixels.
    """

    def __init__(self, image: Image.Image, threshold: float, known: Polarity, name: str):
        self.name, self.threshold, self.known = name, threshold, known
        self.levels = _levels(ImageOps.exif_transpose(image))  # "F", in [0, 255]

    def __call__(self, index: Tensor, size: int) -> Tensor:
        """(B, 1, S, S), 1 = known: the same for all of `index` (B,).

        Raises ValueError for a mask without a hole or without a known pixel.
        """
        levels = torch.from_numpy(np.array(self.levels))[None, None] / 255  # (1, 1, H, W)
        mask = self.known_at(F.interpolate(levels, (size, size), mode="area"), white=1.0)
        if mask.min() == mask.max():
            what = "no hole" if mask.min() == 1 else "no known pixel"
            other = "black" if self.known == "white" else "white"
            raise ValueError(
                f"{self.name} leaves {what} at {size} px: see mask.threshold={self.threshold}, or "
                f"mask.known={other} for the opposite polarity"
            )
        return mask.to(index.device).expand(len(index), 1, size, size)

    def known_at(self, levels: Tensor, white: float = 255.0) -> Tensor:
        """1 = known, for levels in [0, white] of any shape."""
        return ((levels > white * self.threshold) == (self.known == "white")).float()

    def over(self, width: int, height: int) -> Image.Image | None:
        """Its levels, "F" in [0, 255], for a whole photo of the same aspect ratio, to 1 px."""
        w, h = self.levels.size
        if abs(w * height - h * width) >= max(width, height):
            return None
        return self.levels.resize((width, height), Image.Resampling.BOX)


class MaskImages(Sequence[MaskImage]):
    """A mask image for each of several photos, read from its file whenever it is needed."""

    def __init__(self, paths: Sequence[Path], threshold: float, known: Polarity):
        self.paths, self.threshold, self.known = paths, threshold, known

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> MaskImage:  # type: ignore[override]
        """Raises UnreadableImage, a ValueError that names the file."""
        name = f"mask.path={self.paths[i]}"
        try:
            with Image.open(self.paths[i]) as image:
                return MaskImage(image, self.threshold, self.known, name)
        except Exception as error:  # PIL raises many kinds on broken files
            raise UnreadableImage(f"{name}: cannot be read as an image ({error})") from error

    def __call__(self, index: Tensor, size: int) -> Tensor:
        """What a mask function is asked.  Raises ValueError: whose mask is which is not known."""
        raise ValueError("mask.path: several masks are for photos of their names: give images=")

    def beside(self, photos: Sequence[Path]) -> "MaskImages":
        """The mask of each photo: the file of the same stem.

        Raises ValueError, naming the photo, where there is none.
        """
        by_stem: dict[str, Path] = {}
        for path in self.paths:
            if (other := by_stem.setdefault(path.stem, path)) != path:
                raise ValueError(f"mask.path: {other} and {path} are for the same photo")
        for photo in photos:
            if photo.stem not in by_stem:
                raise ValueError(f"{photo}: mask.path has no mask of the name {photo.stem}")
        return MaskImages([by_stem[photo.stem] for photo in photos], self.threshold, self.known)


@checked
def mask_file(
    path: Text | Annotated[list[Text], Field(min_length=1)], threshold: Fraction, known: Polarity
) -> MaskImage | MaskImages:
    """The mask image of a file; of a folder, a glob or a list, one for each photo.

    Raises ValueError where there is none, or what is no image.
    """
    masks = MaskImages(find_images(path, "mask.path"), threshold, known)
    one = isinstance(path, str) and masks.paths == [Path(path).expanduser()]
    return masks[0] if one else masks


def _levels(image: Image.Image) -> Image.Image:
    if 0 in image.size:
        raise ValueError("it has no pixels")
    if image.has_transparency_data:
        image = image.convert("RGBA").getchannel("A")
    return to_rgb_or_gray(image, 1).convert("F")
