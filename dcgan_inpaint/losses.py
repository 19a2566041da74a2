"""Losses: pure functions of tensors that training and search share.

GAN losses (Goodfellow 2014, Radford 2016) are cross-entropies on logits and batch means.
Completion losses (Amos 2016; Yeh 2017, eq. 2 to 4) are one number per image, so that the images of
a batch never influence each other.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

R1_EVERY = 8  # iterations from one gradient penalty to the next


def discriminator_losses(real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor]:
    """CE(D(x), 1) and CE(D(G(z)), 0), batch means; d_loss is their sum.  Logits (B,)."""
    return F.softplus(-real_logits).mean(), F.softplus(fake_logits).mean()


def generator_loss(fake_logits: Tensor) -> Tensor:
    """CE(D(G(z)), 1), non-saturating, batch mean.  Logits (B,)."""
    return F.softplus(-fake_logits).mean()


def context_loss(fake: Tensor, images: Tensor, weights: Tensor, norm: str = "l1") -> Tensor:
    """Sum over pixels and channels of weights·|G(z) - y|, or of the square for "l2": (B,).

    fake, images (B, C, H, W); weights (B, 1, H, W), zero in the hole.
    """
    difference = fake - images
    distance = difference.abs() if norm == "l1" else difference.square()
    return (weights * distance).sum((1, 2, 3))


def spread_l1(fakes: Tensor) -> Tensor:
    """How far P draws of each image (B, P, C, H, W) lie apart, (B,): the standard deviation that
    mean absolute differences to their mean estimate (Bendel 2023), averaged over pixels."""
    draws = fakes.shape[1]
    distance = (fakes - fakes.mean(1, keepdim=True)).abs().sum(1)  # (B, C, H, W)
    return math.sqrt(math.pi / (2 * draws * (draws - 1))) * distance.mean((1, 2, 3))


def gradient_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """R1: the squared gradient of the logit at real images (B, C, H, W), half its batch mean
    (Mescheder 2018, eq. 9)."""
    real = real.detach().requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(real).sum(), real, create_graph=True)
    return slope.square().sum((1, 2, 3)).mean() / 2


def lazy_penalty(
    discriminator: Callable[[Tensor], Tensor], real: Tensor, weight: float, iteration: int
) -> Tensor | None:
    """`weight` times `gradient_penalty` as it is added to D's loss: 8 times as strong at every 8th
    iteration, and None at the others (Karras 2020, "lazy regularization").

    `discriminator` gives logits (B,) of true images `real` (B, C, H, W).
    """
    if not weight or iteration % R1_EVERY:
        return None
    with torch.autocast(real.device.type, enabled=False):  # second derivatives in float32
        return R1_EVERY * weight * gradient_penalty(discriminator, real)


def hole_loss(fake: Tensor, images: Tensor, mask: Tensor) -> Tensor:
    """Mean square of fake - images over the hole, (B,); 0 without one (Pathak 2016, eq. 1).

    fake, images (B, C, H, W); mask (B, 1, H, W), 1 = known.
    """
    hole = 1 - mask
    count = hole.sum((1, 2, 3)) * images.shape[1]  # (B,)
    return context_loss(fake, images, hole, "l2") / count.clamp(min=1)


def prior_loss(fake_logits: Tensor, saturating: bool = False) -> Tensor:
    """How unreal D finds G(z), (B,): CE(D, 1) (Amos), or saturating log(1 - D) (Yeh, eq. 3)."""
    return -F.softplus(fake_logits) if saturating else F.softplus(-fake_logits)


def yeh_weights(mask: Tensor, window: int = 7, floor: float = 0.0) -> Tensor:
    """W of Yeh 2017, eq. 2: a known pixel weighs as much as its neighbourhood is missing.

    W_i = mean over the window around i of (1 - M), on known pixels; 0 in the hole.  At the border
    the mean is over the part of the window inside the image.  With a `floor` (0 in the paper)
    known pixels far from the hole still weigh that much.  mask, W (B, 1, H, W).
    """
    missing = F.avg_pool2d(1 - mask, window, stride=1, padding=window // 2, count_include_pad=False)
    return mask * missing.clamp(min=floor)
