"""Where the face is in a photo: a square region, given, found from two eyes, or the center."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dcgan_inpaint.configs import CropBox, EyePositions, FaceChoice, Text, checked
from dcgan_inpaint.data.decoding import Crop, square
from dcgan_inpaint.photos.detector import find_faces, yunet

# (u left, u right, v) of the eyes that are found in the papers' crop of CelebA's aligned images,
# 108 px at (35, 55): the mean over 200 validation images (experiments/detector.md)
EYES: EyePositions = (0.321, 0.679, 0.534)
PAPERS = 108 / 178  # that crop, of the short side
AUTO = "auto"  # of detector=: the one that needs no file


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


RegionFinder = Callable[[Image.Image, str], list[Region]]  # of an upright photo, and its name


def box(crop: CropBox, photo: Image.Image) -> Region:
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
    """The training images' crop: the central square of `share` times the short side."""
    left, top, right, _ = square(photo, share)
    return Region(complex(left, top), complex(right - left))


def eyes_of(data: Mapping[str, Any] | None, share: float) -> EyePositions:
    """Where the eyes are in the images that a model was trained on, by its `data` and the `share`
    it was cropped to: CelebA's, around the same center.  Of others it is not known: EYES.
    """
    if not data or data.get("source") != "celeba":
        return EYES
    return [0.5 + (place - 0.5) * PAPERS / share for place in EYES]


def region_from_eyes(left: complex, right: complex, eyes: EyePositions) -> Region:
    """The region that has the photo's points `left` and `right` at its eyes (u left, u right, v).

    `left` is the eye on the left of the upright face.  Raises ValueError for eyes that are one, or
    so near each other in the region that it would be far larger than the photo.
    """
    u_left, u_right, v = eyes
    if abs(u_right - u_left) < 0.05 or left == right:
        raise ValueError(f"eyes={list(eyes)}: the eyes, x, x, y, must lie apart by 0.05 or more")
    side = (right - left) / (u_right - u_left)
    return Region(left - side * complex(u_left, v), side)


@checked
def region_finder(
    share: Crop,
    crop: CropBox | None = None,
    detector: Text | None = None,
    eyes: EyePositions | None = None,
    face: FaceChoice = 1,
    data: Mapping[str, Any] | None = None,
) -> RegionFinder:
    """Gives the regions of a photo: the box `crop`, else faces of the detector, else the center.

    `detector`: "auto" is ours, which leaves a photo without a face to the center and says so; a
    file is YuNet's; None is the center.  face=1 is the largest of those found, 2 the next; "all"
    are several regions.  Their eyes go to `eyes`, or where they are in the model's `data`, cropped
    to `share`.  Errors and that line call the photo by the name that is given with it.
    Raises ValueError for a `face` where none is looked for, and what `yunet` raises; the finder
    ValueError for a photo without a region.
    """
    if face != 1 and (crop is not None or detector is None):
        other = "crop=" if crop is not None else "detector=null"
        raise ValueError(f"face={face}: is for faces that are found: not with {other}")
    if crop is not None:
        return lambda photo, name: [box(crop, photo)]
    if detector is None:
        return lambda photo, name: [central(photo, share)]
    find = find_faces if detector == AUTO else yunet(detector)

    def found(photo: Image.Image, name: str) -> list[Region]:
        faces = find(photo, None if face == "all" else face)
        if not faces and detector == AUTO and face in (1, "all"):
            print(f"{name}: no face found: its center is completed, or what crop=[x,y,w,h] says")
            return [central(photo, share)]
        chosen = faces if face == "all" else faces[face - 1 : face]
        if not chosen:
            what = f"face={face}: only {len(faces)}" if faces else "no face"
            raise ValueError(f"{what} found: give its square by crop=[x,y,w,h]")
        places = eyes or eyes_of(data, share)
        return [region_from_eyes(each.left, each.right, places) for each in chosen]

    return found
