"""UTKFace (Zhang, Song, Qi, CVPR 2017): aligned faces of all ages and skin tones."""

from typing import Literal

import numpy as np
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from dcgan_inpaint.configs import Text
from dcgan_inpaint.data.decoding import (
    Channels,
    CropShare,
    ImageSize,
    central_square,
    source_class,
    to_rgb_or_gray,
)
from dcgan_inpaint.data.image_files import Folder

CELEBA_SIZE = (178, 218)  # width and height of an aligned CelebA image, in px
# Square that a UTKFace image covers in such an image, where the mean faces of both data sets
# correlate most (0.92): left, top and side, in px.
FACE_SQUARE = (39, 82, 102)
UNKNOWN = 128  # gray level of the unknown pixels in the memory map; batches have 0 there


@source_class
class UTKFace(Folder):
    """Aligned and cropped faces of UTKFace below `root`, split 90/5/5 by content.

    The public release names its files age_gender_race_datetime.jpg.chip.jpg.  Any other names are
    accepted, because the labels are not used.

    UTKFace is aligned by the eyes like CelebA, but it is cropped tighter.  With frame="celeba" each
    face is placed where CelebA would show it, and the rest of the image is unknown (`valid_box`).

    Args:
        root: Directory of the images.
        image_size: Side of the square images in px.
        channels: 3 for color, 1 for gray.
        crop: Side of the central square divided by the short side: 178 px in CelebA's frame.
        frame: "celeba" places the faces in CelebA's frame; "none" leaves them as they are.

    Raises:
        FileNotFoundError: If `root` does not exist.
    """

    kind = "utkface"

    root: Text
    image_size: ImageSize = 64
    channels: Channels = 3
    crop: CropShare = 108 / 178
    frame: Literal["celeba", "none"] = "celeba"

    @property
    def valid_box(self) -> tuple[int, int, int, int] | None:
        """Box (left, top, right, bottom) of the known pixels, in px; None if all are known."""
        if self.frame == "none":
            return None
        left, top, side = self._face_square
        edges = (left, top, left + side, top + side)
        left, top, right, bottom = (min(max(edge, 0), self.image_size) for edge in edges)
        return left, top, right, bottom

    @property
    def _face_square(self) -> tuple[int, int, int]:
        """Left, top and side of the face in the image, in px; it may exceed the image."""
        left, top, right, _ = central_square(Image.new("L", CELEBA_SIZE), self.crop)
        scale = self.image_size / (right - left)
        x, y, side = FACE_SQUARE
        return round((x - left) * scale), round((y - top) * scale), round(side * scale)

    def convert(self, image: Image.Image) -> np.ndarray:
        if self.valid_box is None:
            return super().convert(image)
        if image.width != image.height:
            raise ValueError("not square. Use the aligned and cropped faces of UTKFace")
        face = to_rgb_or_gray(image, self.channels)
        (left, top, right, bottom), (x, y, side) = self.valid_box, self._face_square
        w = face.width  # the visible part, in px of the file
        box = (
            w * (left - x) / side,
            w * (top - y) / side,
            w * (right - x) / side,
            w * (bottom - y) / side,
        )
        size = (right - left, bottom - top)
        resized = face.resize(size, Image.Resampling.BICUBIC, box=box)  # antialiased
        array = np.full((self.channels, self.image_size, self.image_size), UNKNOWN, np.uint8)
        array[:, top:bottom, left:right] = pil_to_tensor(resized).numpy()
        return array

    def settings(self) -> dict:
        return super().settings() | {"frame": self.frame}
