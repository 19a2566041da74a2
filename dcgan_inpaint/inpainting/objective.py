"""The completion objective, put together from the losses (losses.py)."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from torch import Tensor

from dcgan_inpaint.configs import Fraction, NonNegative, checked
from dcgan_inpaint.losses import context_loss, prior_loss, yeh_weights


def _odd(pixels: int) -> int:
    if pixels % 2 == 0:
        raise ValueError("should be an odd number of pixels")
    return pixels


class Objective:
    """context + lam·prior per image; presets conf/objective/amos.yaml and yeh.yaml.

    `weighting` "mask" weighs every known pixel 1 (Amos), "window" as `yeh_weights` (Yeh) with
    `window`, an odd number of pixels, and `floor`; `norm` is l1 (both papers) or l2.
    """

    @checked
    def __init__(
        self,
        lam: NonNegative = 0.1,
        weighting: Literal["mask", "window"] = "mask",
        window: Annotated[int, Field(ge=1, le=511), AfterValidator(_odd)] = 7,
        floor: Fraction = 0.0,
        norm: Literal["l1", "l2"] = "l1",
        saturating: bool = False,
    ):
        self.lam, self.weighting, self.window, self.floor = lam, weighting, window, floor
        self.norm, self.saturating = norm, saturating

    def weights(self, mask: Tensor) -> Tensor:
        """Weights (B, 1, H, W) of the context loss for a mask (B, 1, H, W)."""
        return mask if self.weighting == "mask" else yeh_weights(mask, self.window, self.floor)

    def context(self, fake: Tensor, images: Tensor, weights: Tensor) -> Tensor:
        """The context loss (B,) in the objective's norm."""
        return context_loss(fake, images, weights, self.norm)

    def prior(self, fake_logits: Tensor) -> Tensor:
        """The prior loss (B,) before lam, of logits (B,)."""
        return prior_loss(fake_logits, self.saturating)
