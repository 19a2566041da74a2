"""Frozen stride-2 5x5 convolutions in forms that are faster, for completion on a CPU.

On blocks of 2x2 pixels (space to depth) such a convolution is one of 3x3 with stride 1, from 4·C
channels; transposed, it is one of 3x3 to 4·C channels.  Where the result has the few channels of an
image that alone is three times faster (`OnBlocks`): oneDNN is slow at a result so narrow.

For wide layers Winograd's minimal filtering (Lavin & Gray, CVPR 2016) computes 4x4 results of the
3x3 ones from 6x6 inputs with 36 products instead of 144, where the layer itself takes 100: 2.8
times fewer over the four parities, and 64 images at once turn them into 36 large matrix products.
Rounding errors are twice those of the direct sum.
"""

from functools import cached_property, lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# F(4, 3) evaluates polynomials at these points and at infinity.  The points decide the rounding
# errors: with 0, ±1, ±2 of the paper they are twice as large again
POINTS = (0.0, 0.7, -0.7, 1.5, -1.5)


def _powers(degree: int) -> Tensor:
    """(6, degree + 1): 1, x, x², ... at each point; at infinity the highest power is left."""
    powers = torch.zeros(6, degree + 1, dtype=torch.float64)
    powers[:5] = torch.tensor(POINTS, dtype=torch.float64)[:, None] ** torch.arange(degree + 1)
    powers[5, degree] = 1
    return powers


# 4 results of a sliding product of 3 weights with 6 inputs are OUT @ ((KERNEL @ g) * (IN @ d))
OUT, KERNEL, IN = _powers(3).T, _powers(2), torch.linalg.inv(_powers(5)).T
TO_RESULTS = torch.einsum("ia,jb->ijab", OUT, OUT).reshape(16, 36).float()


@lru_cache
def _to_points(side: int) -> Tensor:
    """(6·T, side): IN, for each of T = side / 4 overlapping tiles of 6, with zeros outside."""
    tiles = torch.zeros(6, side // 4, side + 2, dtype=torch.float64)
    for t in range(side // 4):
        tiles[:, t, 4 * t : 4 * t + 6] = IN
    return tiles[:, :, 1:-1].reshape(-1, side).float()


def _taps(transposed: bool) -> Tensor:
    """(2, 3, 5): of 5 taps along an axis, which are the 3 at the even and odd pixels of blocks."""
    taps = torch.zeros(2, 3, 5, dtype=torch.float64)
    if transposed:
        taps[0, [0, 1, 2], [4, 2, 0]] = 1
        taps[1, [1, 2], [3, 1]] = 1
    else:
        taps[0, [0, 1, 2], [0, 2, 4]] = 1
        taps[1, [0, 1], [1, 3]] = 1
    return taps


def _to_blocks(h: Tensor) -> Tensor:
    """(B, 2·s, 2·s, C) -> (B, s, s, 4·C)."""
    b, s = len(h), h.shape[1] // 2
    return h.reshape(b, s, 2, s, 2, -1).transpose(2, 3).reshape(b, s, s, -1)


class OnBlocks(nn.Module):
    """A frozen layer of networks.py from or to images, `direct`, as a 3x3 one on their blocks.

    On a CPU; elsewhere it is `direct`.
    """

    def __init__(self, direct: nn.Conv2d | nn.ConvTranspose2d):
        super().__init__()
        self.direct = direct
        self.transposed = isinstance(direct, nn.ConvTranspose2d)

    @cached_property
    def kernels(self) -> Tensor:
        """(4·C', C, 3, 3) of a transposed layer, (C', 4·C, 3, 3) else."""
        with torch.inference_mode(False), torch.no_grad():
            taps, weight = _taps(self.transposed), self.direct.weight.detach().double()
            equation = "rgy,shx,ioyx->rsoigh" if self.transposed else "rgy,shx,oiyx->orsigh"
            kernels = torch.einsum(equation, taps, taps, weight)
            kernels = kernels.flatten(0, 2) if self.transposed else kernels.flatten(1, 3)
            return kernels.float().contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """What `direct` gives, (B, C', 2·H, 2·W) or (B, C', H/2, W/2)."""
        if x.device.type != "cpu":
            return self.direct(x)
        bias = self.direct.bias
        if not self.transposed:
            blocks = _to_blocks(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # (B, 4·C, H/2, W/2)
            return F.conv2d(blocks, self.kernels, bias, padding=1)
        y = F.conv2d(x, self.kernels, bias.repeat(4), padding=1)  # type: ignore[union-attr]
        b, s = len(y), y.shape[-1]
        y = y.permute(0, 2, 3, 1).reshape(b, s, s, 2, 2, -1).transpose(2, 3)  # (B, s, 2, s, 2, C')
        return y.reshape(b, 2 * s, 2 * s, -1).permute(0, 3, 1, 2)


class Winograd(nn.Module):
    """A frozen layer of networks.py, `direct`, by minimal filtering where that is faster.

    That is for at least 16 images at once, on a CPU, in float32 (in bf16 the errors would be too
    large), and for maps with many more channels than pixels along a side: transforms cost by the
    pixel, products by the channel.  Elsewhere it is `direct`.
    """

    def __init__(self, direct: nn.Conv2d | nn.ConvTranspose2d):
        super().__init__()
        self.direct = direct
        self.transposed = isinstance(direct, nn.ConvTranspose2d)

    def pays(self, x: Tensor) -> bool:
        """Is it faster for these maps (B, C, H, W)?"""
        wide = self.direct.in_channels if self.transposed else self.direct.out_channels
        side = x.shape[-1] if self.transposed else x.shape[-1] // 2
        plain = x.dtype == torch.float32 and not torch.is_autocast_enabled(x.device.type)
        fits = side % 4 == 0 and wide >= 16 * side
        return x.device.type == "cpu" and plain and len(x) >= 16 and fits

    @cached_property
    def kernels(self) -> Tensor:
        """(36, C or 4·C, 4·C or C): the 3x3 kernels at the points."""
        with torch.inference_mode(False), torch.no_grad():
            at_points = torch.einsum("ng,rgy->nry", KERNEL, _taps(self.transposed))
            # weight is (C_in, C_out, 5, 5) of a transposed layer, (C_out, C_in, 5, 5) else
            equation = "nry,msx,ioyx->nmirso" if self.transposed else "nry,msx,oiyx->nmrsio"
            weight = self.direct.weight.detach().double()
            kernels = torch.einsum(equation, at_points, at_points, weight)
            rows = 2 + (1 if self.transposed else 3)  # of the dimensions after the points, C or 4·C
            return kernels.flatten(rows).flatten(2, rows - 1).flatten(0, 1).float()

    def forward(self, x: Tensor) -> Tensor:
        """What `direct` gives, (B, C', 2·H, 2·W) or (B, C', H/2, W/2)."""
        if not self.pays(x):
            return self.direct(x)
        h, b = x.permute(0, 2, 3, 1), len(x)  # (B, H, W, C)
        s = h.shape[1] if self.transposed else h.shape[1] // 2
        t = s // 4  # tiles along a side
        if not self.transposed:
            h = _to_blocks(h)  # (B, s, s, 4·C)
        v = _to_points(s) @ h.reshape(b, s, -1)  # (B, 6·t, s·C)
        v = _to_points(s) @ v.view(b * 6 * t, s, -1)  # (B·6·t, 6·t, C)
        v = v.view(b, 6, t, 6, t, -1).permute(1, 3, 0, 2, 4, 5)  # (6, 6, B, t, t, C)
        products = torch.bmm(v.reshape(36, b * t * t, -1), self.kernels)  # (36, B·t·t, C')
        y = (TO_RESULTS @ products.view(36, -1)).view(4, 4, b, t, t, -1)  # (4, 4, B, t, t, C')
        if self.transposed:
            y = y.view(4, 4, b, t, t, 2, 2, -1).permute(2, 3, 0, 5, 4, 1, 6, 7)
            y = y.reshape(b, 2 * s, 2 * s, -1)
        else:
            y = y.permute(2, 3, 0, 4, 1, 5).reshape(b, s, s, -1)
        y = y.contiguous() + self.direct.bias  # type: ignore[operator]
        return y.permute(0, 3, 1, 2)
