"""Which faces are in a photo, and where their eyes are.

Points are x + iy, in pixels of the photo, y down.  A square in it is (origin, side): its point
(u, v) of the unit square is origin + side·(u + iv), so that |side| is the length and arg the roll.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dcgan_inpaint.errors import import_extra
from dcgan_inpaint.images import to_float
from dcgan_inpaint.photos.blazeface import SIDE, load_blazeface

SEARCHED = 1024  # px of the long side of the copy that is searched
DEPTHS = (1, 2, 4)  # the long side / the side of the squares that are looked at
SMALLEST = 64  # px of a square that is worth looking at
TURNS = (1, 1j, -1, -1j)  # the network sees faces that are rolled by up to 60 degrees
CHUNK = 32  # squares at a time
OVERLAP = 0.3  # intersection over union of two boxes on one face, as MediaPipe has it
# once found, a face is looked at again so that its eyes are this far apart, in parts of the side,
# level and at this height; experiments/detector.md has how sure the network is then
APART, HEIGHT = 0.13, 0.47
LIKELY, SURE = 0.0, 1.0  # logits: of what is looked at again, and of a face, after that
YUNET_SIDE = 640  # px of the long side; YuNet is made for faces of 10 to 300 px

Square = tuple[complex, complex]


class Face(NamedTuple):
    """`left` and `right` are the eyes as they are when the face is upright, `middle` and `size`
    the middle and the side of the box around it, and `sure` is how sure the detector is."""

    left: complex
    right: complex
    middle: complex
    size: float
    sure: float

    def moved(self, origin: complex, side: complex) -> "Face":
        """Where a face of the unit square is when that is the square (origin, side)."""
        points = [origin + side * point for point in (self.left, self.right, self.middle)]
        return Face(points[0], points[1], points[2], abs(side) * self.size, self.sure)

    def averaged(self, other: "Face") -> "Face":
        """The mean of two sights of it."""
        points = [(a + b) / 2 for a, b in zip(self[:3], other[:3], strict=True)]
        size, sure = (self.size + other.size) / 2, (self.sure + other.sure) / 2
        return Face(points[0], points[1], points[2], size, sure)


FaceFinder = Callable[[Image.Image, int | None], list[Face]]


def find_faces(photo: Image.Image, wanted: int | None = None) -> list[Face]:
    """The faces of an upright photo, the largest first, by BlazeFace (photos/blazeface.py).

    The whole photo is looked at, and then smaller and smaller squares of it, until `wanted` faces
    are found; None: all of them.  A face may be rolled by any angle.
    """
    photo = photo.convert("RGB")
    small = photo.copy()
    small.thumbnail((SEARCHED, SEARCHED))
    found: list[Face] = []
    for squares in _squares(*small.size):
        seen = [face for faces in _look(small, squares) for face in faces]
        likely = [face.moved(0, photo.width / small.width) for face in _distinct(seen)]
        sure = [again for face in likely if (again := _look_again(photo, face))]
        found = _distinct([*found, *sure])
        if wanted is not None and len(found) >= wanted:
            break
    return sorted(found, key=lambda face: -face.size)


def view(photo: Image.Image, square: Square) -> Image.Image:
    """A square of an "RGB" photo at 128 x 128 px, antialiased; black outside the photo."""
    origin, side = square
    corners = [origin + side * corner for corner in (0, 1, 1j, 1 + 1j)]
    margin = abs(side) / SIDE * 2  # px that the pixels at the edge see
    left = max(0.0, min(p.real for p in corners) - margin)
    top = max(0.0, min(p.imag for p in corners) - margin)
    right = min(float(photo.width), max(p.real for p in corners) + margin)
    bottom = min(float(photo.height), max(p.imag for p in corners) + margin)
    if right <= left or bottom <= top:
        return Image.new("RGB", (SIDE, SIDE))
    # what lies around it to its scale, then turned
    w, h = (max(1, round(long * SIDE / abs(side))) for long in (right - left, bottom - top))
    smooth = Image.Resampling.BILINEAR
    scaled = photo.resize((w, h), smooth, (left, top, right, bottom), reducing_gap=2)
    step, start = side / SIDE, origin - complex(left, top)
    x, y = w / (right - left), h / (bottom - top)
    across = x * step.real, -x * step.imag, x * start.real
    down = y * step.imag, y * step.real, y * start.imag
    return scaled.transform((SIDE, SIDE), Image.Transform.AFFINE, across + down, smooth)


def _squares(width: int, height: int) -> Iterator[list[Square]]:
    """At each depth, the squares that cover a photo, turned four ways.

    Neighbours share a third, so that a face that is small in them is whole in one.
    """
    for depth in DEPTHS:
        side = max(width, height) / depth
        if depth > 1 and side < SMALLEST:
            return
        starts = []
        for rest in (width - side, height - side):
            steps = math.ceil(rest / side * 1.5)
            starts.append(np.linspace(0, rest, steps + 1) if rest > 0 else np.array([rest / 2]))
        yield [
            (complex(x, y) + (1 - turn) * side * (0.5 + 0.5j), turn * side)
            for turn in TURNS
            for x in starts[0]
            for y in starts[1]
        ]


@torch.no_grad()
def _look(photo: Image.Image, squares: list[Square], mirrored: bool = False) -> list[list[Face]]:
    """The faces seen in each of the squares, or in their mirror images, the surest first."""
    network = load_blazeface()
    found: list[list[Face]] = []
    for i in range(0, len(squares), CHUNK):
        chunk = squares[i : i + CHUNK]
        views = np.stack([np.asarray(view(photo, square)) for square in chunk])  # (B, S, S, 3)
        views = views[:, :, ::-1] if mirrored else views
        seen = network(to_float(np.ascontiguousarray(views.transpose(0, 3, 1, 2))))
        for square, logits, values in zip(chunk, *seen, strict=True):
            found.append([face.moved(*square) for face in _faces(logits, values, mirrored)])
    return found


def _faces(logits: Tensor, values: Tensor, mirrored: bool) -> Iterator[Face]:
    """The faces in what BlazeFace sees at its places, (A,) and (A, 8, 2), in the unit square.

    Where several places see one face it is their mean, by how sure they are, as MediaPipe has it.
    """
    likely = logits > LIKELY
    logits, values = logits[likely], values[likely].double()
    while len(logits):
        low, high = values[:, 0] - values[:, 1] / 2, values[:, 0] + values[:, 1] / 2  # (A, 2)
        best = logits.argmax()
        both = (torch.minimum(high, high[best]) - torch.maximum(low, low[best])).clamp(min=0)
        shared, area = both.prod(1), (high - low).prod(1)
        same = shared > OVERLAP * (area + area[best] - shared)
        same[best] = True
        weight = logits[same].sigmoid().double()
        mean = (values[same] * weight[:, None, None]).sum(0) / weight.sum()  # (8, 2)
        middle, left, right = (complex(*mean[i].tolist()) for i in (0, 2, 3))
        if mirrored:
            middle, right, left = (1 - point.conjugate() for point in (middle, left, right))
        yield Face(left, right, middle, float(mean[1].mean()), float(logits[best]))
        logits, values = logits[~same], values[~same]


def _look_again(photo: Image.Image, face: Face) -> Face | None:
    """The face as it is seen when it is large, at the turn that makes it surest.  None: it is none.

    A face that is small, or not upright, is often seen upside down as well.
    """
    for turns in (TURNS, (1,)):
        side = (face.right - face.left) / APART
        center = (face.left + face.right) / 2 + side * 1j * (0.5 - HEIGHT)
        seen = [again for turn in turns if (again := _at(photo, center, turn * side))]
        if not seen:
            return None
        face = max(seen, key=lambda again: again.sure)
    return face if face.sure > SURE else None


def _at(photo: Image.Image, center: complex, side: complex) -> Face | None:
    """The face at the center of a square: the mean of how it is seen there and in the mirror."""
    sights = []
    for mirrored in (False, True):
        (faces,) = _look(photo, [(center - side * (0.5 + 0.5j), side)], mirrored)
        if not faces:
            return None
        sights.append(min(faces, key=lambda face: abs(face.middle - center)))
    return sights[0].averaged(sights[1])


def _distinct(faces: Iterable[Face]) -> list[Face]:
    """Without those that are on a face that is surer."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.sure):
        if all(abs(face.middle - other.middle) > max(face.size, other.size) / 2 for other in kept):
            kept.append(face)
    return kept


def yunet(detector: str) -> FaceFinder:
    """Finds the faces of a photo, the largest first, with OpenCV's YuNet of the file `detector`.

    Raises FileNotFoundError, ModuleNotFoundError, or ValueError for another kind of file.
    """
    if not Path(detector).is_file():
        raise FileNotFoundError(f"detector={detector}: no such file (auto, or OpenCV's YuNet)")
    cv2 = import_extra("cv2", f"detector={detector}", "OpenCV", "detect")
    try:
        network = cv2.FaceDetectorYN.create(str(detector), "", (YUNET_SIDE, YUNET_SIDE))
    except cv2.error as error:
        raise ValueError(f"detector={detector}: not a YuNet model") from error

    def find(photo: Image.Image, wanted: int | None = None) -> list[Face]:
        small = photo.convert("RGB")
        small.thumbnail((YUNET_SIDE, YUNET_SIDE))
        network.setInputSize(small.size)
        _, faces = network.detect(np.ascontiguousarray(np.asarray(small)[:, :, ::-1]))  # BGR
        wide, high = photo.width / small.width, photo.height / small.height
        found = []
        # x, y, w, h, then x, y of the person's right eye, which is on the left, and of the left
        for x, y, w, h, *points, sure in [] if faces is None else faces.tolist():
            left, right = (complex(points[i] * wide, points[i + 1] * high) for i in (0, 2))
            middle = complex((x + w / 2) * wide, (y + h / 2) * high)
            found.append(Face(left, right, middle, math.sqrt(w * wide * h * high), sure))
        return sorted(found, key=lambda face: -face.size)

    return find
