"""The user's own mask: a picture that says by bright and dark what is known."""

import os
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from dcgan_inpaint.data.images import UnreadableImage, to_rgb_or_gray
from dcgan_inpaint.errors import Fraction, Text, checked

Polarity = Literal["white", "black"]  # which of them is known


class MaskPicture:
    """A mask function like those of masks.py, from a picture of any size and mode.

    Where its area means are above `threshold` it is white.  known="white": white is known, the rest
    is the hole; "black": the opposite.  A picture with transparency says it by alpha instead:
    opaque is white.  `name` is what errors call it.  Raises ValueError for one without pixels.
    """

    def __init__(self, picture: Image.Image, threshold: float, known: Polarity, name: str):
        self.name, self.threshold, self.known = name, threshold, known
        self.levels = _levels(ImageOps.exif_transpose(picture))  # "F", in [0, 255]

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


@checked
def mask_file(path: Text, threshold: Fraction, known: Polarity) -> MaskPicture:
    """The mask picture of a file.

    Raises FileNotFoundError, or ValueError for a file that is no picture.
    """
    name = f"mask.path={path}"
    if os.path.exists(path) and not os.path.isfile(path):  # opening a pipe would wait for ever
        raise ValueError(f"{name}: is no file")
    try:
        with Image.open(path) as picture:
            return MaskPicture(picture, threshold, known, name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name}: no such file") from error
    except Exception as error:  # PIL raises many kinds on broken files
        raise UnreadableImage(f"{name}: cannot be read as a picture ({error})") from error


def _levels(picture: Image.Image) -> Image.Image:
    if 0 in picture.size:
        raise ValueError("it has no pixels")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA").getchannel("A")
    return to_rgb_or_gray(picture, 1).convert("F")
