"""U-Net (Ronneberger 2015) from the known pixels and the mask to the image.

It is the strongest baseline without a prior: its skip connections carry the known pixels past the
bottleneck at every resolution.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dcgan_inpaint.models.networks import fold_norms


class ConvBlock(nn.Module):
    """Two 3x3 convolutions, each with BatchNorm and ReLU: (B, c_in, H, W) -> (B, c_out, H, W)."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        inputs = (c_in, c_out)
        self.convs = nn.ModuleList(nn.Conv2d(c, c_out, 3, padding=1, bias=False) for c in inputs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(c_out) for _ in inputs)

    def forward(self, h: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h = F.relu(norm(conv(h)))  # (B, c_out, H, W)
        return h

    def fold(self) -> None:
        """Fold the BatchNorms into the convolutions, in place; see `freeze`."""
        self.convs = fold_norms(self.convs, self.norms)
        self.norms = nn.ModuleList(map(nn.Identity, self.norms))


class UNetwork(nn.Module):
    """The network of a U-Net.

    known (B, channels, S, S) in [-1, 1], 0 in the hole, and mask (B, 1, S, S), 1 = known ->
    images (B, channels, S, S) in [-1, 1].  Max pooling halves the maps down to 4x4, and nearest
    neighbor interpolation doubles them again.  `gf_dim` is the width at S, which doubles whenever
    the resolution halves.
    """

    def __init__(self, image_size: int, channels: int, gf_dim: int):
        super().__init__()
        widths = [gf_dim << i for i in range(image_size.bit_length() - 2)]  # at S, S/2, ... 4
        self.down = nn.ModuleList(map(ConvBlock, [channels + 1, *widths], widths))
        self.up = nn.ModuleList(ConvBlock(c + 2 * c, c) for c in widths[-2::-1])
        self.last = nn.Conv2d(gf_dim, channels, 1)
        self.to(memory_format=torch.channels_last)

    def forward(self, known: Tensor, mask: Tensor) -> Tensor:
        h, skips = torch.cat([known, mask], 1), []  # (B, C + 1, S, S)
        for i, block in enumerate(self.down):
            h = block(F.max_pool2d(h, 2) if i else h)  # (B, gf, S, S), ... (B, S/4·gf, 4, 4)
            skips.append(h)
        skips.pop()
        for block in self.up:
            larger = F.interpolate(h, scale_factor=2.0, mode="nearest")
            h = block(torch.cat([larger, skips.pop()], 1))  # (B, S/8·gf, 8, 8), ... (B, gf, S, S)
        return torch.tanh(self.last(h))  # (B, C, S, S)
