"""Which hole of a photo is completed by which of its faces."""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from dcgan_inpaint.photos.crops import Region


def connected(hole: np.ndarray) -> np.ndarray:
    """The number, from 0, of the connected hole that each pixel of a hole (H, W), bool, is in.

    Pixels are in the order of hole.nonzero(); neighbours are left, right, above and below.
    """
    runs = []  # the number of the run of hole pixels that each is in, along rows, along columns
    for lines in (hole, hole.T):
        begins = lines.copy()
        begins[:, 1:] &= ~lines[:, :-1]
        number = begins.cumsum().reshape(lines.shape)
        runs.append((number if lines is hole else number.T)[hole])
    label, before = runs[0], None
    while before is None or (label != before).any():
        before = label
        for run in runs[::-1]:  # the least along each run, until nothing changes
            least = np.full(run.max(initial=0) + 1, label.max(initial=0))
            np.minimum.at(least, run, label)
            label = least[run]
    return np.unique(label, return_inverse=True)[1]


def share_out(hole: Tensor, regions: Sequence[Region], name: str) -> np.ndarray:
    """Which of the regions completes each pixel of a hole (H, W), bool; -1 where it is none.

    A connected hole goes to the region that contains it, and of several to that whose middle it is
    nearest to, seen in the region.  Raises ValueError, which calls the mask `name`, for no hole, or
    one that no region contains.
    """
    owner = np.full(hole.shape, -1)
    if not hole.any():
        raise ValueError(f"{name} leaves no hole: see mask.threshold, or mask.known")
    label = connected(hole.numpy())
    pixels = np.bincount(label)
    far = []  # of each hole from the middle of each region, in parts of half its side
    for region in regions:
        unit = region.unit((0, 0, hole.shape[1], hole.shape[0]))[hole].numpy() * 2 - (1 + 1j)
        distance = np.maximum(abs(unit.real), abs(unit.imag))
        contained = np.bincount(label, distance < 1) == pixels
        far.append(np.where(contained, np.bincount(label, distance) / pixels, np.inf))
    if (lost := np.isinf(np.min(far, 0))).any():
        alone = np.zeros(hole.shape, bool)
        alone[hole.numpy()] = label == lost.argmax()
        x, y, right, bottom = Image.fromarray(alone).getbbox() or (0, 0, 0, 0)
        raise ValueError(
            f"the hole of {name} in [{x},{y},{right - x},{bottom - y}] is on none of the "
            f"{len(regions)} faces found: give crop=[x,y,w,h] around it"
        )
    owner[hole.numpy()] = np.argmin(far, 0)[label]
    return owner
