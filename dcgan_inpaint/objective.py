"""Losses, as pure functions of tensors, and the completion objective put together from them.

GAN losses (Goodfellow 2014, Radford 2016) are cross-entropies on logits and batch means.
Completion losses (Amos 2016; Yeh 2017, eq. 2 to 4) are one number per image, so that the images of
a batch never influence each other.
"""

from torch import Tensor
from torch.nn import functional as F


def discriminator_losses(real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor]:
    """CE(D(x), 1) and CE(D(G(z)), 0), batch means; d_loss is their sum.  Logits (B,)."""
    return F.softplus(-real_logits).mean(), F.softplus(fake_logits).mean()


def generator_loss(fake_logits: Tensor) -> Tensor:
    """CE(D(G(z)), 1), non-saturating, batch mean.  Logits (B,)."""
    return F.softplus(-fake_logits).mean()


def context_loss(fake: Tensor, images: Tensor, weights: Tensor) -> Tensor:
    """Sum over pixels and channels of weights·|G(z) - y|: (B,).

    fake, images (B, C, H, W); weights (B, 1, H, W), zero in the hole.
    """
    return (weights * (fake - images).abs()).sum((1, 2, 3))


def prior_loss(fake_logits: Tensor, saturating: bool = False) -> Tensor:
    """How unreal D finds G(z), (B,): CE(D, 1) (Amos), or saturating log(1 - D) (Yeh, eq. 3)."""
    return -F.softplus(fake_logits) if saturating else F.softplus(-fake_logits)


def yeh_weights(mask: Tensor, window: int = 7) -> Tensor:
    """W of Yeh 2017, eq. 2: a known pixel weighs as much as its neighbourhood is missing.

    W_i = mean over the window around i of (1 - M), on known pixels; 0 in the hole.  At the border
    the mean is over the part of the window inside the picture.  mask, W (B, 1, H, W).
    """
    missing = F.avg_pool2d(1 - mask, window, stride=1, padding=window // 2, count_include_pad=False)
    return mask * missing


def lowres(images: Tensor, factor: int = 8) -> Tensor:
    """The picture averaged over factor x factor blocks: what mask=lowres knows (Amos 2016)."""
    if images.shape[-1] % factor:
        raise ValueError(f"measure.factor={factor} does not divide image_size={images.shape[-1]}")
    return F.avg_pool2d(images, factor)


class Objective:
    """context + lam·prior per image; presets conf/objective/amos.yaml and yeh.yaml.

    `weighting` "mask" weighs every known pixel 1 (Amos), "window" as `yeh_weights` (Yeh).
    Raises ValueError for lam < 0, an even window or an unknown weighting.
    """

    def __init__(
        self,
        lam: float = 0.1,
        weighting: str = "mask",
        window: int = 7,
        saturating: bool = False,
    ):
        if lam < 0:
            raise ValueError(f"objective.lam={lam}: use 0 (context only) or more")
        if weighting not in ("mask", "window"):
            raise ValueError(f"objective.weighting={weighting!r}: choose mask or window")
        if window < 1 or window % 2 == 0:
            raise ValueError(f"objective.window={window}: use an odd number of pixels")
        self.lam, self.weighting, self.window, self.saturating = lam, weighting, window, saturating

    def weights(self, mask: Tensor) -> Tensor:
        """Weights (B, 1, H, W) of the context loss for a mask (B, 1, H, W)."""
        return mask if self.weighting == "mask" else yeh_weights(mask, self.window)

    def prior(self, fake_logits: Tensor) -> Tensor:
        """The prior loss (B,) before lam, of logits (B,)."""
        return prior_loss(fake_logits, self.saturating)
