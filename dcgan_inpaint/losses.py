"""Loss functions that training and search share.

GAN losses (Goodfellow 2014; Radford 2016) are cross-entropies of logits, averaged over the batch.
Completion losses (Amos 2016; Yeh 2017, eq. 2 to 4) are one number per image, so that the images of
a batch never influence each other.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

R1_INTERVAL = 8  # iterations between gradient penalties; StyleGAN2 uses 16 (Karras 2020)


def discriminator_losses(real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the batch means of CE(D(x), 1) and CE(D(G(z)), 0) for logits (B,)."""
    return F.softplus(-real_logits).mean(), F.softplus(fake_logits).mean()


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Return the batch mean of CE(D(G(z)), 1), the non-saturating loss, for logits (B,)."""
    return F.softplus(-fake_logits).mean()


def context_loss(fake: Tensor, images: Tensor, weights: Tensor, norm: str = "l1") -> Tensor:
    """Return the weighted distance of each generated image to its image (Yeh 2017, eq. 4).

    Args:
        fake: Generated images G(z), (B, C, H, W).
        images: The images y, (B, C, H, W).
        weights: (B, 1, H, W), zero in the hole.
        norm: "l1" for weights·|G(z) - y|, "l2" for weights·(G(z) - y)².

    Returns:
        Sums over pixels and channels, (B,).
    """
    difference = fake - images
    distance = difference.abs() if norm == "l1" else difference.square()
    return (weights * distance).sum((1, 2, 3))


def gradient_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """Return the R1 penalty at real images (B, C, H, W) (Mescheder 2018, eq. 9).

    It is half the batch mean of the squared gradient of the logit.
    """
    real = real.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(real).sum(), real, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean() / 2


def lazy_penalty(
    discriminator: Callable[[Tensor], Tensor], real: Tensor, weight: float, iteration: int
) -> Tensor | None:
    """Return the R1 penalty to add to D's loss at this iteration, or None.

    The penalty is computed at every R1_INTERVAL-th iteration only, with R1_INTERVAL times the
    weight ("lazy regularization", Karras 2020).

    Args:
        discriminator: Maps images to logits (B,).
        real: Real images (B, C, H, W).
        weight: Weight of `gradient_penalty`; 0 turns it off.
        iteration: The iteration, from 0.
    """
    if not weight or iteration % R1_INTERVAL:
        return None
    with torch.autocast(real.device.type, enabled=False):  # second derivatives in float32
        return R1_INTERVAL * weight * gradient_penalty(discriminator, real)


def feature_matching(maps: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Return the mean absolute difference of feature maps, averaged over layers, a scalar.

    It compares what a discriminator computes from fake and from real images (Salimans 2016), layer
    by layer (Wang 2018, eq. 4).

    Args:
        maps: Maps of the layers, each (B, C, H, W) with its own C, H and W.
        targets: Maps of the same shapes.
    """
    distances = [(a.float() - b.float()).abs().mean() for a, b in zip(maps, targets, strict=True)]
    return torch.stack(distances).mean()


def hole_loss(fake: Tensor, images: Tensor, mask: Tensor) -> Tensor:
    """Return the mean squared error over each hole, (B,), 0 without a hole (Pathak 2016, eq. 1).

    Args:
        fake: Completions (B, C, H, W).
        images: The true images (B, C, H, W).
        mask: (B, 1, H, W), 1 = known.
    """
    hole = 1 - mask
    count = hole.sum((1, 2, 3)) * images.shape[1]  # (B,)
    return context_loss(fake, images, hole, "l2") / count.clamp(min=1)


def prior_loss(fake_logits: Tensor, saturating: bool = False) -> Tensor:
    """Return the prior loss of each generated image for logits (B,): (B,).

    It is CE(D(G(z)), 1) (Amos 2016) or, saturating, log(1 - D(G(z))) (Yeh 2017, eq. 3).
    """
    return -F.softplus(fake_logits) if saturating else F.softplus(-fake_logits)


def yeh_weights(mask: Tensor, window: int = 7, floor: float = 0.0) -> Tensor:
    """Return the weights of the context loss (Yeh 2017, eq. 2).

    The weight of a known pixel is the share of missing pixels in the window around it.  At the
    border only the part of the window inside the image counts.

    Args:
        mask: (B, 1, H, W), 1 = known.
        window: Side of the window in px, odd.
        floor: Smallest weight of a known pixel; 0 in the paper.

    Returns:
        (B, 1, H, W) in [0, 1], 0 in the hole.
    """
    missing = F.avg_pool2d(1 - mask, window, stride=1, padding=window // 2, count_include_pad=False)
    return mask * missing.clamp(min=floor)
