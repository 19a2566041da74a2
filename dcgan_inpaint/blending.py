"""Putting the known pixels back: how G(z) and the picture become one completion."""

from torch import Tensor


def paste(fake: Tensor, images: Tensor, mask: Tensor) -> Tensor:
    """Known pixels of the picture, G(z) in the hole (Amos 2016).  Known pixels stay exact.

    fake, images (B, C, H, W) in [-1, 1]; mask (B, 1, H, W) of 0 and 1.
    """
    return fake.where(mask == 0, images)
