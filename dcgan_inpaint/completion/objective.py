"""The completion objective, put together from the losses (losses.py)."""

from torch import Tensor

from dcgan_inpaint.losses import context_loss, prior_loss, yeh_weights


class Objective:
    """context + lam·prior per image; presets conf/objective/amos.yaml and yeh.yaml.

    `weighting` "mask" weighs every known pixel 1 (Amos), "window" as `yeh_weights` (Yeh) with
    `window` and `floor`; `norm` is l1 (both papers) or l2.  Raises ValueError for lam < 0, an even
    window, a floor not in [0, 1], or an unknown weighting or norm.
    """

    def __init__(
        self,
        lam: float = 0.1,
        weighting: str = "mask",
        window: int = 7,
        floor: float = 0.0,
        norm: str = "l1",
        saturating: bool = False,
    ):
        if lam < 0:
            raise ValueError(f"objective.lam={lam}: use 0 (context only) or more")
        if weighting not in ("mask", "window"):
            raise ValueError(f"objective.weighting={weighting!r}: choose mask or window")
        if window < 1 or window % 2 == 0:
            raise ValueError(f"objective.window={window}: use an odd number of pixels")
        if not 0 <= floor <= 1:
            raise ValueError(f"objective.floor={floor}: use a weight from 0 to 1")
        if norm not in ("l1", "l2"):
            raise ValueError(f"objective.norm={norm!r}: choose l1 or l2")
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
