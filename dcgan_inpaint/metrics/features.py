"""Features of a network trained on ImageNet, and distances between two images in them.

The network is EfficientNet-Lite0 (models/efficientnet.py).  feature_distance is specific to this
project: it has the form of LPIPS without its learned weights.  sets.py compares sets of images.
"""

import numpy as np
import torch
from torch import Tensor

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
def pooled_features(images: Tensor | np.ndarray, network: EfficientNetLite) -> Tensor:
    """Return the pooled features (N, FEATURE_DIM) of uint8 images (N, C, H, W) in CPU memory."""
    device = network.fc.weight.device
    chunks = [images[i : i + FEATURE_BATCH] for i in range(0, len(images), FEATURE_BATCH)]
    return torch.cat(
        [network(to_float(np.asarray(chunk)).to(device)).pooled.cpu() for chunk in chunks]
    )
