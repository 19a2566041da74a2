"""BlazeFace (Bazarevsky et al. 2019), the short-range network of MediaPipe: faces in 128 x 128 px.

Its weights lie beside this file, with their licence.  experiments/blazeface.py read them from
MediaPipe's file, which has the widths, and experiments/detector.md compares the two.
"""

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

WEIGHTS = Path(__file__).with_name("blazeface.safetensors")  # as MediaPipe's, in half precision
SIDE = 128  # px
WIDTHS = (24, 28, 32, 36, 42, 48, 56, 64, 72, 80, 88, 96, 96, 96, 96, 96)  # after each block
STRIDED = (2, 5, 11)  # the blocks that halve the maps, which the first layer has halved: to 8 px
FINE = 11  # blocks to the finer of the two maps that are asked for faces
PER_PLACE = (2, 6)  # faces at each place of the finer map, 16 x 16, and of the coarser, 8 x 8
VALUES = 16  # of a face: x, y of its box's middle, width, height, x, y of six points


class Block(nn.Module):
    """(B, C, H, W) -> (B, C', H/stride, W/stride): each channel filtered alone, mixed, added."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, stride % 2, groups=inputs)
        self.pointwise = nn.Conv2d(inputs, outputs, 1)
        self.stride, self.wider = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        short = F.pad(x, (0, 0, 0, 0, 0, self.wider))  # (B, C', H, W)
        if self.stride == 2:  # TensorFlow's "same": the odd row and column are the last
            short, x = F.max_pool2d(short, 2), F.pad(x, (0, 1, 0, 1))
        return F.relu(short + self.pointwise(self.depthwise(x)))


class BlazeFace(nn.Module):
    """(B, 3, 128, 128) in [-1, 1] to what it sees at 896 places.

    Gives logits (B, 896) of being a face, and values (B, 896, 8, 2) in parts of the side: x, y of
    the box's middle, its width and height, then x, y of the eye on the left, the eye on the right,
    the nose, the mouth, the ear on the left and that on the right, as the image shows them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTHS[0], 5, 2)
        inputs = (WIDTHS[0], *WIDTHS)
        self.blocks = nn.ModuleList(
            Block(inside, outside, 2 if i in STRIDED else 1)
            for i, (inside, outside) in enumerate(zip(inputs, WIDTHS, strict=False))
        )
        ends = list(zip((WIDTHS[FINE - 1], WIDTHS[-1]), PER_PLACE, strict=True))
        self.scores = nn.ModuleList(nn.Conv2d(width, count, 1) for width, count in ends)
        self.faces = nn.ModuleList(nn.Conv2d(width, count * VALUES, 1) for width, count in ends)
        self.register_buffer("middles", _middles(), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.stem(F.pad(images, (1, 2, 1, 2))))  # (B, 24, 64, 64)
        for block in self.blocks[:FINE]:
            x = block(x)
        maps = [x]  # (B, 88, 16, 16)
        for block in self.blocks[FINE:]:
            x = block(x)
        maps.append(x)  # (B, 96, 8, 8)
        logits = [_listed(end(x), 1) for end, x in zip(self.scores, maps, strict=True)]
        values = [_listed(end(x), VALUES) for end, x in zip(self.faces, maps, strict=True)]
        seen = torch.cat(values, 1).unflatten(2, (-1, 2)) / SIDE  # (B, 896, 8, 2)
        return torch.cat(logits, 1)[..., 0], seen + self.middles


def _listed(x: Tensor, values: int) -> Tensor:
    """(B, K·values, H, W) -> (B, H·W·K, values)."""
    return x.permute(0, 2, 3, 1).reshape(len(x), -1, values)


def _middles() -> Tensor:
    """(896, 8, 2) what a value is seen from: x, y of the place, row by row, the finer map first.

    Width and height are seen from nothing.
    """
    middles = []
    for side, count in zip((16, 8), PER_PLACE, strict=True):
        at = (torch.arange(side) + 0.5) / side
        y, x = torch.meshgrid(at, at, indexing="ij")
        middles.append(torch.stack([x, y], 2).reshape(-1, 2).repeat_interleave(count, 0))
    seen_from = torch.cat(middles)[:, None].repeat(1, VALUES // 2, 1)
    seen_from[:, 1] = 0
    return seen_from


@cache
def load_blazeface() -> BlazeFace:
    """The network with its weights, to be looked with only."""
    network = BlazeFace()
    network.load_state_dict({name: w.float() for name, w in load_file(WEIGHTS).items()})
    return network.eval().requires_grad_(False)
