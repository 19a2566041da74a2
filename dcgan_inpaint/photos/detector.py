"""Face detection with BlazeFace (Bazarevsky et al. 2019).

This is the short-range network of MediaPipe. Its weights and their
license are stored beside this file; experiments/blazeface.py converts and verifies them, and
experiments/detector.md measures the detector.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from dcgan_inpaint.images import to_float
from dcgan_inpaint.photos.crops import Crop, pixel_centers

# The architecture follows MediaPipe's face_detection_short_range.tflite.
BLAZEFACE_WEIGHTS = Path(__file__).with_name("blazeface.safetensors")  # half precision
INPUT_SIZE = 128  # px, the input of the network
WIDTHS = (24, 28, 32, 36, 42, 48, 56, 64, 72, 80, 88, 96, 96, 96, 96, 96)  # of the blocks
STRIDED_BLOCKS = (2, 5, 11)
FINE_BLOCKS = 11  # number of blocks before the finer of the two output maps
ANCHORS_PER_CELL = (2, 6)  # of the finer map, 16 x 16, and of the coarser map, 8 x 8
VALUES_PER_ANCHOR = 16  # x, y of the box center, width, height, and x, y of six points
OVERLAP = 0.3  # two boxes of a larger intersection over union show one face; MediaPipe's value

# The search was designed on CelebA's validation images (experiments/detector.md).
SEARCH_SIZE = 1024  # px, the longer side of the copy of the photo that is searched
SEARCH_DEPTHS = (1, 2, 4)  # longer side of the photo / side of the views
MIN_VIEW_SIDE = 64  # px in the searched copy: half of INPUT_SIZE, since enlarging adds no detail
ROTATIONS = (1, 1j, -1, -1j)  # enough, as the network detects faces rotated by up to 75 degrees
VIEWS_PER_BATCH = 32  # limits the memory
EYE_DISTANCE, EYE_HEIGHT = 0.13, 0.47  # where the refined view places the eyes
CANDIDATE_LOGIT, FACE_LOGIT = 0.0, 1.0  # thresholds before and after refinement
# Probability that a detection is a face: 1/2 at this logit after refinement, which lies between the
# false detections in turned portraits, at most 1.3, and their faces, 2.1 and more (detector.md).
CERTAIN_LOGIT, CERTAINTY_SLOPE = 1.6, 6.0
CLEAR = 0.9  # probability of a face for which smaller views of the photo need not be searched


class Face(NamedTuple):
    """A detected face.

    Points are complex numbers x + iy, with y pointing down.

    Args:
        left_eye: The eye at the left of the face when it is upright.
        right_eye: The eye at the right of the face when it is upright.
        center: The center of the bounding box.
        size: The side of the bounding box.
        score: The confidence of the detector, a logit.
    """

    left_eye: complex
    right_eye: complex
    center: complex
    size: float
    score: float

    @property
    def probability(self) -> float:
        """The probability that this is a face."""
        return 1 / (1 + math.exp(-CERTAINTY_SLOPE * (self.score - CERTAIN_LOGIT)))

    @property
    def prominence(self) -> float:
        """Size times the probability that this is a face.

        Clear detections are ordered by size, and doubtful ones come after faces of a similar size.
        """
        return self.size * self.probability

    def to_photo(self, crop: Crop) -> "Face":
        """Map a face from the unit square to the photo that the crop belongs to."""
        left, right, center = (crop.origin + crop.side * point for point in self[:3])
        return Face(left, right, center, abs(crop.side) * self.size, self.score)


class BlazeBlock(nn.Module):
    """Depthwise separable convolution with a residual connection.

    Shape: (B, C, H, W) -> (B, C', H / stride, W / stride).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, 3, stride, stride % 2, groups=in_channels
        )
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1)
        self.stride, self.added_channels = stride, out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        shortcut = F.pad(x, (0, 0, 0, 0, 0, self.added_channels))  # (B, C', H, W)
        if self.stride == 2:  # TensorFlow's "same" pads only at the right and bottom
            shortcut, x = F.max_pool2d(shortcut, 2), F.pad(x, (0, 1, 0, 1))
        return F.relu(shortcut + self.pointwise(self.depthwise(x)))


class BlazeFace(nn.Module):
    """Short-range BlazeFace: face logits and positions for 896 anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTHS[0], 5, 2)
        widths = (WIDTHS[0], *WIDTHS)
        strides = (2 if i in STRIDED_BLOCKS else 1 for i in range(len(WIDTHS)))
        self.blocks = nn.Sequential(*map(BlazeBlock, widths, WIDTHS, strides))
        heads = list(zip((WIDTHS[FINE_BLOCKS - 1], WIDTHS[-1]), ANCHORS_PER_CELL, strict=True))
        self.scores = nn.ModuleList(nn.Conv2d(width, count, 1) for width, count in heads)
        self.faces = nn.ModuleList(
            nn.Conv2d(width, count * VALUES_PER_ANCHOR, 1) for width, count in heads
        )
        self.register_buffer("anchors", _anchors(), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Detect faces in images (B, 3, 128, 128) in [-1, 1].

        Returns:
            Logits (B, 896), and points x, y (B, 896, 8, 2) as shares of the side: the box center,
            its width and height, the eye at the left, the eye at the right, the nose, the mouth,
            the ear at the left and the ear at the right of the image.
        """
        x = F.relu(self.stem(F.pad(images, (1, 2, 1, 2))))  # (B, 24, 64, 64)
        fine = self.blocks[:FINE_BLOCKS](x)  # (B, 88, 16, 16)
        maps = fine, self.blocks[FINE_BLOCKS:](fine)  # (B, 96, 8, 8)
        logits, values = (
            torch.cat([_flatten(head(x), size) for head, x in zip(heads, maps, strict=True)], 1)
            for heads, size in ((self.scores, 1), (self.faces, VALUES_PER_ANCHOR))
        )  # (B, 896, 1), (B, 896, 16)
        return logits[..., 0], values.unflatten(2, (-1, 2)) / INPUT_SIZE + self.anchors


def _flatten(x: Tensor, size: int) -> Tensor:
    """Flatten an output map: (B, K * size, H, W) -> (B, H * W * K, size)."""
    return x.permute(0, 2, 3, 1).reshape(len(x), -1, size)


def _anchors() -> Tensor:
    """Return the offset (896, 8, 2) of the outputs of each anchor.

    Points are relative to the center of the anchor's cell, row by row, the finer map first. Widths
    and heights have no offset.
    """
    centers = []
    for side, count in zip((16, 8), ANCHORS_PER_CELL, strict=True):
        cells = torch.view_as_real(pixel_centers((0, 0, side, side)) / side)  # (H, W, 2)
        centers.append(cells.flatten(0, 1).repeat_interleave(count, 0))
    anchors = torch.cat(centers)[:, None].repeat(1, VALUES_PER_ANCHOR // 2, 1)  # (896, 8, 2)
    anchors[:, 1] = 0
    return anchors


@cache
def load_blazeface() -> BlazeFace:
    """Load the network with its weights, for inference."""
    network = BlazeFace()
    weights = load_file(BLAZEFACE_WEIGHTS)
    network.load_state_dict({name: weight.float() for name, weight in weights.items()})
    network.to(memory_format=torch.channels_last)  # 1.4 times faster on CPUs
    return network.eval().requires_grad_(False)


def find_faces(photo: Image.Image, count: int | None = None) -> list[Face]:
    """Detect faces in an upright photo with BlazeFace, at any rotation.

    The search starts with the complete photo and continues with smaller and smaller views of it.

    Args:
        photo: An image of any size.
        count: Stop once this number of faces is detected clearly. None: search for all faces.

    Returns:
        The faces, in the order of their prominence.
    """
    photo = photo.convert("RGB")
    small = photo.copy()
    small.thumbnail((SEARCH_SIZE, SEARCH_SIZE))
    scale = Crop(0, photo.width / small.width)
    faces: list[Face] = []
    for views in _search_views(*small.size):
        candidates = [face for group in _detect(small, views) for face in group]
        candidates = [face.to_photo(scale) for face in _drop_duplicates(candidates)]
        refined = [better for face in candidates if (better := _refine(photo, face))]
        faces = _drop_duplicates([*faces, *refined])
        if count is not None and sum(face.probability > CLEAR for face in faces) >= count:
            break
    return sorted(faces, key=lambda face: -face.prominence)


@torch.no_grad()
def face_scores(images: Tensor) -> Tensor:
    """Return the confidence of the detector that there is a face in each image, a logit: (B,).

    Unlike `find_faces` it uses a single view, in which the image has half the side of the view and
    gray around it.  The eyes of a face that fills the image are then apart by about EYE_DISTANCE.

    Args:
        images: (B, 1 or 3, S, S) in [-1, 1], in which a face would be upright and large.
    """
    color = images.detach().float().cpu().expand(-1, 3, -1, -1)
    size, border = (INPUT_SIZE // 2, INPUT_SIZE // 2), [INPUT_SIZE // 4] * 4
    small = F.interpolate(color, size, mode="bilinear", align_corners=False, antialias=True)
    logits, _ = load_blazeface()(F.pad(small, border))  # (B, 896)
    return logits.amax(1)


def view_of(photo: Image.Image, crop: Crop) -> Image.Image:
    """Return a crop of an "RGB" photo at 128 x 128 px, antialiased; black outside the photo."""
    corners = [crop.origin + crop.side * corner for corner in (0, 1, 1j, 1 + 1j)]
    margin = abs(crop.side) / INPUT_SIZE * 2  # px that antialiasing reads beyond the edge
    left = max(0.0, min(p.real for p in corners) - margin)
    top = max(0.0, min(p.imag for p in corners) - margin)
    right = min(float(photo.width), max(p.real for p in corners) + margin)
    bottom = min(float(photo.height), max(p.imag for p in corners) + margin)
    if right <= left or bottom <= top:
        return Image.new("RGB", (INPUT_SIZE, INPUT_SIZE))
    # first scale the bounding box of the crop, then rotate
    w, h = (max(1, round(px * INPUT_SIZE / abs(crop.side))) for px in (right - left, bottom - top))
    bilinear = Image.Resampling.BILINEAR
    scaled = photo.resize((w, h), bilinear, (left, top, right, bottom), reducing_gap=2)
    step, start = crop.side / INPUT_SIZE, crop.origin - complex(left, top)
    x, y = w / (right - left), h / (bottom - top)
    x_row = x * step.real, -x * step.imag, x * start.real
    y_row = y * step.imag, y * step.real, y * start.imag
    affine = Image.Transform.AFFINE
    return scaled.transform((INPUT_SIZE, INPUT_SIZE), affine, x_row + y_row, bilinear)


def _search_views(width: int, height: int) -> Iterator[list[Crop]]:
    """Yield, for each depth, the views that cover a photo, each in four rotations.

    Neighboring views overlap by a third, so a small face lies completely inside one of them.
    """
    for depth in SEARCH_DEPTHS:
        side = max(width, height) / depth
        if depth > 1 and side < MIN_VIEW_SIDE:
            return
        starts = []  # of the views, along x and along y
        for rest in (width - side, height - side):
            steps = math.ceil(rest / side * 1.5)
            starts.append(np.linspace(0, rest, steps + 1) if rest > 0 else np.array([rest / 2]))
        yield [
            Crop(complex(x, y) + (1 - rotation) * side * (0.5 + 0.5j), rotation * side)
            for rotation in ROTATIONS
            for x in starts[0]
            for y in starts[1]
        ]


@torch.no_grad()
def _detect(photo: Image.Image, crops: Sequence[Crop], mirror: bool = False) -> list[list[Face]]:
    """Return the faces in each crop, the most confident first.

    Args:
        mirror: Show the mirror image of each crop to the network.
    """
    network = load_blazeface()
    faces: list[list[Face]] = []
    for i in range(0, len(crops), VIEWS_PER_BATCH):
        batch = crops[i : i + VIEWS_PER_BATCH]
        views = np.stack([np.asarray(view_of(photo, crop)) for crop in batch])  # (B, S, S, 3)
        views = views[:, :, ::-1] if mirror else views
        outputs = network(to_float(np.ascontiguousarray(views.transpose(0, 3, 1, 2))))
        for crop, logits, points in zip(batch, *outputs, strict=True):
            faces.append([face.to_photo(crop) for face in _decode_faces(logits, points, mirror)])
    return faces


def _decode_faces(logits: Tensor, points: Tensor, mirrored: bool) -> Iterator[Face]:
    """Yield the faces in outputs of BlazeFace, (A,) and (A, 8, 2), in the unit square.

    Overlapping detections are averaged, weighted by their confidence, as in MediaPipe.
    """
    likely = logits > CANDIDATE_LOGIT
    logits, points = logits[likely], points[likely].double()
    while len(logits):
        low, high = points[:, 0] - points[:, 1] / 2, points[:, 0] + points[:, 1] / 2  # (A, 2)
        best = logits.argmax()
        both = (torch.minimum(high, high[best]) - torch.maximum(low, low[best])).clamp(min=0)
        shared, area = both.prod(1), (high - low).prod(1)  # (A,)
        same = shared > OVERLAP * (area + area[best] - shared)
        same[best] = True
        weight = logits[same].sigmoid().double()
        mean = (points[same] * weight[:, None, None]).sum(0) / weight.sum()  # (8, 2)
        center, left, right = (complex(*mean[i].tolist()) for i in (0, 2, 3))
        if mirrored:
            center, right, left = (1 - point.conjugate() for point in (center, left, right))
        yield Face(left, right, center, float(mean[1].mean()), float(logits[best]))
        logits, points = logits[~same], points[~same]


def _refine(photo: Image.Image, face: Face) -> Face | None:
    """Detect a face again in a large, upright view; None if it is not a face.

    The first pass tries four rotations, because a small or rotated face is often detected upside
    down. The second pass uses the best of them.
    """
    for rotations in (ROTATIONS, (1,)):
        side = (face.right_eye - face.left_eye) / EYE_DISTANCE
        center = (face.left_eye + face.right_eye) / 2 + side * 1j * (0.5 - EYE_HEIGHT)
        faces = _detect_at(photo, center, [rotation * side for rotation in rotations])
        if not faces:
            return None
        face = max(faces, key=lambda face: face.score)
    return face if face.score > FACE_LOGIT else None


def _detect_at(photo: Image.Image, center: complex, sides: Sequence[complex]) -> list[Face]:
    """Return the face at the center of each crop, averaged with its detection in the mirror image.

    Crops in which either is missing have no face.
    """
    crops = [Crop(center - side * (0.5 + 0.5j), side) for side in sides]
    detections = zip(*(_detect(photo, crops, mirror) for mirror in (False, True)), strict=True)
    averages = []
    for groups in detections:
        if all(groups):
            pair = [min(group, key=lambda face: abs(face.center - center)) for group in groups]
            left, right, middle, size, score = ((a + b) / 2 for a, b in zip(*pair, strict=True))
            averages.append(Face(left, right, middle, size.real, score.real))
    return averages


def _drop_duplicates(faces: Sequence[Face]) -> list[Face]:
    """Keep the most confident of the detections that lie on the same face."""
    distinct: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.score):
        if all(
            abs(face.center - other.center) > max(face.size, other.size) / 2 for other in distinct
        ):
            distinct.append(face)
    return distinct
