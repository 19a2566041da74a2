"""Where the face is in a photo: a square region, given, found from two eyes, or the center."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image
from pydantic import BeforeValidator, Field
from torch import Tensor

from dcgan_inpaint.data.images import Crop, square
from dcgan_inpaint.errors import Fraction, Text, checked, import_extra


def _plain(value: Any) -> Any:
    """OmegaConf's lists as lists: pydantic cannot make the former."""
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


PLAIN = BeforeValidator(_plain)
Box = Annotated[Sequence[int], Field(min_length=4, max_length=4), PLAIN]  # x, y, w, h in px
Eyes = Annotated[Sequence[Fraction], Field(min_length=3, max_length=3), PLAIN]  # as EYES
EyeFinder = Callable[[Image.Image], tuple[complex, complex]]
# (u left, u right, v) of CelebA's aligned eyes in the papers' crop, 108 px at (35, 55)
EYES = (34.5 / 108, 73.5 / 108, 56 / 108)
DETECTOR_SIDE = 640  # px of the long side; YuNet is made for faces of 10 to 300 px


@dataclass(frozen=True)
class Region:
    """A square in a photo, perhaps rolled; points are x + iy, in pixels, y down.

    (u, v) of the unit square lies at origin + side·(u + iv): |side| is the length, arg the roll.
    """

    origin: complex
    side: complex

    def __str__(self) -> str:
        x, y, length = self.origin.real, self.origin.imag, abs(self.side)
        roll = np.degrees(np.angle(self.side))
        box = f"[{x:.0f},{y:.0f},{length:.0f},{length:.0f}]"
        return box if roll == 0 else f"{box} rolled by {roll:.0f} degrees"

    def unit(self, box: Sequence[int]) -> Tensor:
        """u + iv (h, w) of the pixels in box (left, top, right, bottom) of the photo."""
        return (pixel_centers(box) - self.origin) / self.side


def pixel_centers(box: Sequence[int]) -> Tensor:
    """x + iy (h, w) of the pixel centers in box (left, top, right, bottom)."""
    left, top, right, bottom = box
    y, x = torch.meshgrid(
        torch.arange(top, bottom) + 0.5, torch.arange(left, right) + 0.5, indexing="ij"
    )
    return torch.complex(x, y)


def box(crop: Box, photo: Image.Image) -> Region:
    """The region crop = [x, y, w, h] of a photo.

    Raises ValueError unless it is square, to 1 px, and inside the photo.
    """
    x, y, w, h = crop
    side = min(w, h)
    if side < 1 or abs(w - h) > 1:
        mend = max(1, side)
        raise ValueError(
            f"crop=[{x},{y},{w},{h}] is not square, as the model is: "
            f"use for example crop=[{x},{y},{mend},{mend}]"
        )
    if x < 0 or y < 0 or x + side > photo.width or y + side > photo.height:
        raise ValueError(
            f"crop=[{x},{y},{w},{h}] reaches outside the photo, "
            f"which is {photo.width} x {photo.height} px when upright"
        )
    return Region(complex(x, y), complex(side))


def central(photo: Image.Image, share: float) -> Region:
    """The training pictures' crop: the central square of `share` times the short side."""
    left, top, right, _ = square(photo, share)
    return Region(complex(left, top), complex(right - left))


def region_from_eyes(left: complex, right: complex, eyes: Eyes) -> Region:
    """The region that has the photo's points `left` and `right` at its eyes (u left, u right, v).

    `left` is the eye on the left of the upright face.  Raises ValueError for eyes that are one, or
    so near each other in the region that it would be far larger than the photo.
    """
    u_left, u_right, v = eyes
    if abs(u_right - u_left) < 0.05 or left == right:
        raise ValueError(f"eyes={list(eyes)}: the eyes, x, x, y, must lie apart by 0.05 or more")
    side = (right - left) / (u_right - u_left)
    return Region(left - side * complex(u_left, v), side)


def eye_finder(detector: str) -> EyeFinder:
    """Finds the eyes of the largest face with OpenCV's YuNet, whose model file is `detector`.

    Raises FileNotFoundError, ModuleNotFoundError, or ValueError for another kind of file; the
    finder raises ValueError for a photo without a face.
    """
    if not Path(detector).is_file():
        raise FileNotFoundError(f"detector={detector}: no such file (OpenCV's YuNet, .onnx)")
    cv2 = import_extra("cv2", "detector=", "OpenCV", "detect")
    try:
        yunet = cv2.FaceDetectorYN.create(str(detector), "", (DETECTOR_SIDE, DETECTOR_SIDE))
    except cv2.error as error:
        raise ValueError(f"detector={detector}: not a YuNet model") from error

    def find(photo: Image.Image) -> tuple[complex, complex]:
        small = photo.convert("RGB")
        small.thumbnail((DETECTOR_SIDE, DETECTOR_SIDE))
        yunet.setInputSize(small.size)
        _, faces = yunet.detect(np.ascontiguousarray(np.asarray(small)[:, :, ::-1]))  # BGR
        if faces is None or not len(faces):
            raise ValueError("no face found: give its square by crop=[x,y,w,h]")
        # x, y, w, h, then x, y of the person's right eye, which is on the left, and of the left
        face = max(faces, key=lambda face: face[2] * face[3])
        wide, high = photo.width / small.width, photo.height / small.height
        left, right = (complex(face[i] * wide, face[i + 1] * high) for i in (4, 6))
        return left, right

    return find


@checked
def region_finder(
    share: Crop,
    crop: Box | None = None,
    detector: Text | None = None,
    eyes: Eyes = EYES,
) -> Callable[[Image.Image], Region]:
    """Gives a photo's region: the box `crop`, else the detector's face, else the center."""
    if crop is not None:
        return partial(box, crop)
    if detector is not None:
        find = eye_finder(detector)
        return lambda photo: region_from_eyes(*find(photo), eyes)
    return lambda photo: central(photo, share)
