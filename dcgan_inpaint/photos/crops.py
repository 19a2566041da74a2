"""Square crops of photos: cropping, and pasting completions back."""

import cmath
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from dcgan_inpaint.blending import harmonic
from dcgan_inpaint.configs import CropBox, EyePositions
from dcgan_inpaint.data.decoding import central_square
from dcgan_inpaint.images import LUMA

# Mean positions of the detected eyes in the papers' crop of 200 aligned validation images of
# CelebA (experiments/detector.md): u of the left eye, u of the right eye, v of both.
EYES: EyePositions = (0.321, 0.679, 0.534)
PAPERS_SHARE = 108 / 178  # side of that crop, as a share of the shorter side of the image


@dataclass(frozen=True)
class Crop:
    """A square in a photo, possibly rotated.

    Points are complex numbers x + iy in pixels, with y pointing down. The point (u, v) of the unit
    square lies at ``origin + side * (u + iv)`` in the photo.

    Args:
        origin: The top left corner of the crop.
        side: The vector along the upper edge. Its length is the side of the crop in pixels, and its
            argument is the rotation.
        without_face: Whether it is the center of a photo in which no face was found.
    """

    origin: complex
    side: complex
    without_face: bool = False

    @classmethod
    def from_box(cls, box: CropBox, photo: Image.Image) -> "Crop":
        """Return the crop of the option ``crop=[x, y, width, height]``.

        Raises:
            ValueError: If the box is not square, to 1 px, or reaches outside the photo.
        """
        x, y, width, height = box
        option = f"crop=[{x},{y},{width},{height}]"
        side = min(width, height)
        if side < 1 or abs(width - height) > 1:
            fixed = f"crop=[{x},{y},{max(1, side)},{max(1, side)}]"
            raise ValueError(f"{option}: the crop is not square. Use for example {fixed}")
        if x < 0 or y < 0 or x + side > photo.width or y + side > photo.height:
            raise ValueError(
                f"{option}: the crop reaches outside the upright photo, which has "
                f"{photo.width} x {photo.height} px. Choose a square inside it"
            )
        return cls(complex(x, y), complex(side))

    @classmethod
    def central(cls, photo: Image.Image, share: float) -> "Crop":
        """Return the central square whose side is `share` times the shorter side of the photo.

        Training images are cropped in the same way.
        """
        left, top, right, _ = central_square(photo, share)
        return cls(complex(left, top), complex(right - left))

    @classmethod
    def from_eyes(cls, left: complex, right: complex, eyes: EyePositions) -> "Crop":
        """Return the crop that places the eyes of a face at given positions.

        Args:
            left: The eye at the left of the upright face, a point of the photo.
            right: The eye at the right of the upright face.
            eyes: The positions of the eyes in the unit square (u left, u right, v).

        Raises:
            ValueError: If the eyes, or their positions in the crop, are too close to each other.
        """
        u_left, u_right, v = eyes
        if abs(u_right - u_left) < 0.05 or left == right:  # the crop would be far too large
            raise ValueError(
                f"eyes={list(eyes)}: the eyes are too close. "
                "Use [u left, u right, v] with u at least 0.05 apart"
            )
        side = (right - left) / (u_right - u_left)
        return cls(left - side * complex(u_left, v), side)

    def __str__(self) -> str:
        x, y, length = self.origin.real, self.origin.imag, abs(self.side)
        angle = math.degrees(cmath.phase(self.side))
        box = f"[{x:.0f},{y:.0f},{length:.0f},{length:.0f}]"
        return box if angle == 0 else f"{box} rotated by {angle:.0f} degrees"

    def unit_points(self, box: Sequence[int]) -> Tensor:
        """Return the points u + iv (h, w) of the pixel centers in a box of the photo.

        Args:
            box: (left, top, right, bottom) in pixels.
        """
        return (pixel_centers(box) - self.origin) / self.side


def pixel_centers(box: Sequence[int]) -> Tensor:
    """Return the points x + iy (h, w) of the pixel centers in a box (left, top, right, bottom)."""
    left, top, right, bottom = box
    y, x = torch.meshgrid(
        torch.arange(top, bottom) + 0.5, torch.arange(left, right) + 0.5, indexing="ij"
    )
    return torch.complex(x, y)


def draw_crops(photo: Image.Image, crops: Sequence[Crop]) -> Image.Image:
    """Return a photo, "RGB", with the outlines of crops: white on black, visible on any photo."""
    drawn = photo.convert("RGB")
    draw = ImageDraw.Draw(drawn)
    width = max(1, max(photo.size) // 300)
    for crop in crops:
        corners = [crop.origin + crop.side * corner for corner in (0, 1, 1 + 1j, 1j, 0, 1)]
        points = [(corner.real, corner.imag) for corner in corners]
        draw.line(points, "black", 3 * width, joint="curve")
        draw.line(points, "white", width, joint="curve")
    return drawn


def eye_positions(data: Mapping[str, Any] | None, share: float) -> EyePositions:
    """Return the positions of the eyes in the images that a model was trained on.

    Args:
        data: The description of the training images, from the checkpoint.
        share: Side of their central crop, as a share of the shorter side.

    Returns:
        For CelebA, EYES scaled to the crop of the model. For other data the positions are unknown,
        and the result is EYES.
    """
    if not data or data.get("source") != "celeba":
        return EYES
    return [0.5 + (position - 0.5) * PAPERS_SHARE / share for position in EYES]


def sample_image(image: Tensor, points: Tensor, mode: str, padding: str) -> Tensor:
    """Sample an image (C, H, W) at points u + iv (h, w) of its unit square.

    Args:
        mode: The interpolation of :func:`torch.nn.functional.grid_sample`.
        padding: Its padding mode.

    Returns:
        Values (C, h, w).
    """
    grid = torch.view_as_real(points) * 2 - 1  # (h, w, 2)
    return F.grid_sample(image[None], grid[None], mode, padding, align_corners=False)[0]


def crop_image(image: Image.Image, crop: Crop, size: int, is_mask: bool = False) -> Image.Image:
    """Cut a crop out of an image and resize it to size x size px, antialiased.

    Outside an image its border is repeated. Outside a mask (255 = white) the result is black, and
    each pixel is the mean of the pixels that it covers.
    """
    x, y, side = crop.origin.real, crop.origin.imag, crop.side.real
    inside = min(x, y) >= 0 and x + side <= image.width and y + side <= image.height
    resample = Image.Resampling.BOX if is_mask else Image.Resampling.BICUBIC
    if crop.side.imag == 0 and side > 0 and inside:
        # bitwise equal to the decoding of training images (data/decoding.py)
        return image.resize((size, size), resample, box=(x, y, x + side, y + side))
    length = max(1, round(abs(crop.side)))
    at = crop.origin + crop.side / length * pixel_centers((0, 0, length, length))  # (L, L)
    points = torch.complex(at.real / image.width, at.imag / image.height)
    padding = "zeros" if is_mask else "border"
    upright = _to_image(sample_image(pil_to_tensor(image).float(), points, "bicubic", padding))
    return upright.resize((size, size), resample)


def crop_hole(hole: Tensor, crop: Crop, size: int) -> Tensor:
    """Return the hole (S, S), bool, of a crop, which contains every pixel of the hole of the photo.

    Args:
        hole: (H, W), bool.
        crop: The crop.
        size: S in px. A pixel of the result is a hole if the center of any hole pixel lies in it,
            or, in an enlarged crop, if its own center lies in a hole pixel.
    """
    y, x = hole.nonzero().unbind(1)
    points = (torch.complex(x + 0.5, y + 0.5) - crop.origin) / crop.side * size  # (N,)
    column, row = points.real.floor().long(), points.imag.floor().long()
    inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    result = torch.zeros(size, size, dtype=torch.bool)
    result[row[inside], column[inside]] = True
    at = crop.origin + crop.side / size * pixel_centers((0, 0, size, size))  # (S, S)
    points = torch.complex(at.real / hole.shape[1], at.imag / hole.shape[0])
    return result | (sample_image(hole[None].float(), points, "nearest", "zeros")[0] > 0.5)


def _to_image(levels: Tensor) -> Image.Image:
    """Convert float levels (1 or 3, H, W) in [0, 255] to an "L" or "RGB" image."""
    return to_pil_image(levels.clamp(0, 255).round().to(torch.uint8))


def paste_back(photo: Image.Image, crop: Crop, fake: Tensor, hole: np.ndarray) -> Image.Image:
    """Fill the hole of a photo with the gradients of G(z), at full size (Perez 2003).

    The hole blends into the pixels around it without a seam. All other pixels stay bitwise equal.

    Args:
        photo: The photo of size (W, H), "L" or "RGB".
        crop: The square of the photo that `fake` covers.
        fake: G(z) (C, S, S) in [-1, 1]; it is enlarged to the size of the crop.
        hole: The pixels to fill (H, W), bool.
    """
    if (box := Image.fromarray(hole).getbbox()) is None:
        return photo
    # the bounding box of the hole and one pixel around it, clipped to the photo
    left, top = max(box[0] - 1, 0), max(box[1] - 1, 0)
    right, bottom = min(box[2] + 1, photo.width), min(box[3] + 1, photo.height)
    hole = np.ascontiguousarray(hole[top:bottom, left:right])
    known = pil_to_tensor(photo.crop((left, top, right, bottom))).float()  # (C', h, w)
    fake = (fake.detach().float().cpu() + 1) * 127.5
    if len(fake) > len(known):
        fake = (fake * torch.tensor(LUMA).view(3, 1, 1)).sum(0, keepdim=True)
    points = crop.unit_points((left, top, right, bottom))
    fake = sample_image(fake, points, "bicubic", "border").expand_as(known)
    values, tolerance = (known - fake)[None], 0.05  # both in levels of 0 to 255
    correction = harmonic(values, torch.from_numpy(hole)[None, None], tolerance)[0]
    result = photo.copy()
    result.paste(_to_image(fake + correction), (left, top), Image.fromarray(hole))
    return result
