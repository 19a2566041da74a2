"""Assignment of the holes in a photo to faces, and checks that crops contain them."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dcgan_inpaint.masks.mask_image import MaskImage
from dcgan_inpaint.photos.crops import Crop

MIDDLE = 0.5  # share of the side of a crop in whose middle the face is; others may be beside it


def is_in_middle(hole: Tensor, crop: Crop) -> bool:
    """Return whether a hole (H, W), bool, is in the middle of a crop, so on its face."""
    points = crop.unit_points((0, 0, hole.shape[1], hole.shape[0]))[hole] * 2 - (1 + 1j)  # (N,)
    return bool((torch.maximum(points.real.abs(), points.imag.abs()) < MIDDLE).all())


# SciPy and OpenCV have this function too, but as new core dependencies they would cost more than
# its 15 lines.
def label_components(hole: np.ndarray) -> np.ndarray:
    """Number the connected components of a hole.

    Args:
        hole: (H, W), bool. Neighbors are left, right, above and below.

    Returns:
        The component (N,) of each pixel of the hole, from 0, in the order of ``hole.nonzero()``.
    """
    runs = []  # for rows and for columns: the number of the run that each pixel belongs to
    for lines in (hole, hole.T):
        starts = lines.copy()
        starts[:, 1:] &= ~lines[:, :-1]
        number = starts.cumsum().reshape(lines.shape)
        runs.append((number if lines is hole else number.T)[hole])
    label, before = runs[0], None
    while before is None or (label != before).any():
        before = label
        for run in runs[::-1]:  # spread the lowest label along each run until nothing changes
            lowest = np.full(run.max(initial=0) + 1, label.max(initial=0))
            np.minimum.at(lowest, run, label)
            label = lowest[run]
    return np.unique(label, return_inverse=True)[1]


def assign_holes(hole: Tensor, crops: Sequence[Crop], name: str) -> list[Tensor]:
    """Assign each connected hole of a photo to one of its crops.

    A hole is assigned to the crop that contains it. Of several, it is the crop whose center is
    nearest, relative to the size of the crop.

    Args:
        hole: (H, W), bool.
        crops: The crops of the photo.
        name: The name of the mask in error messages.

    Returns:
        The hole (H, W), bool, of each crop.

    Raises:
        ValueError: If there is no hole, or no crop contains one of the holes.
    """
    if not hole.any():
        raise ValueError(f"{name}: the mask has no hole. Check mask.threshold and mask.known")
    label = label_components(hole.numpy())
    pixels = np.bincount(label)
    distances = []  # of each hole from the center of each crop; the edge of a crop is at 1
    for crop in crops:
        points = crop.unit_points((0, 0, hole.shape[1], hole.shape[0]))[hole] * 2 - (1 + 1j)
        distance = torch.maximum(points.real.abs(), points.imag.abs()).numpy()
        contained = np.bincount(label, distance < 1) == pixels
        distances.append(np.where(contained, np.bincount(label, distance) / pixels, np.inf))
    if (outside := np.isinf(np.min(distances, 0))).any():
        first = np.zeros(hole.shape, bool)
        first[hole.numpy()] = label == outside.argmax()
        raise ValueError(
            f"{name}: none of the {len(crops)} detected faces contains the hole {_bounds(first)}. "
            "Set crop=[x,y,w,h] to a square around it"
        )
    owner = torch.full(hole.shape, -1)
    owner[hole] = torch.from_numpy(np.argmin(distances, 0)[label])
    return [owner == i for i in range(len(crops))]


def _bounds(hole: np.ndarray) -> str:
    """Return the bounding box of a hole (H, W) as "[x,y,width,height]"."""
    x, y, right, bottom = Image.fromarray(hole).getbbox() or (0, 0, 0, 0)
    return f"[{x},{y},{right - x},{bottom - y}]"


def check_hole_inside(mask: MaskImage, hole: Tensor, crop: Crop) -> None:
    """Raise ValueError if a hole (H, W), bool, of a photo reaches outside the crop."""
    points = crop.unit_points((0, 0, hole.shape[1], hole.shape[0]))
    inside = (points.real > 0) & (points.real < 1) & (points.imag > 0) & (points.imag < 1)
    if not (hole & ~inside).any():
        return
    if hole.float().mean() > 0.5:  # probably a mask of the opposite polarity, as in LaMa, IOPaint
        color, other = mask.known, mask.unknown
        raise ValueError(
            f"{mask.name}: most of the photo is a hole. "
            f"If {color} marks the hole, set mask.known={other}"
        )
    raise ValueError(
        f"{mask.name}: the hole reaches outside the crop {crop}. "
        f"Set crop=[x,y,w,h] to a square around {_bounds(hole.numpy())}"
    )
