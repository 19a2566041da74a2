"""Distances between images in the features of a network trained on ImageNet.

The network is EfficientNet-Lite0 (models/efficientnet.py).  Both metrics are specific to this
project: fd_efflite0 is the Fréchet distance of Heusel 2017 with other features than FID, and
feature_distance has the form of LPIPS without its learned weights.
"""

import numpy as np
import torch
from torch import Tensor

from dcgan_inpaint.errors import format_count
from dcgan_inpaint.images import to_float
from dcgan_inpaint.models.efficientnet import (
    EfficientNetLite,
    feature_distance,
    load_efficientnet,
)

FEATURE_BATCH = 32  # images at a time; the widest layer has 5 MB of activations per image


def load_efflite0(image_size: int) -> EfficientNetLite:
    """Load the network of the metrics for images of `image_size` px, see `load_efficientnet`."""
    return load_efficientnet("lite0", image_size, "features=true")


@torch.no_grad()
def compare(images: Tensor, truth: Tensor, network: EfficientNetLite) -> tuple[Tensor, Tensor]:
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
def diversity(samples: Tensor, network: EfficientNetLite) -> Tensor:
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
def fd_efflite0(
    fake: Tensor | np.ndarray, real: Tensor | np.ndarray, network: EfficientNetLite
) -> float:
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
            f"sets of {format_count(len(a), 'image')} and {format_count(len(b), 'image')} are too "
            "small. Use 2 or more images in each"
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
