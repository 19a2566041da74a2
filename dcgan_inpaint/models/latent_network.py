"""The network of a latent encoder: from the known pixels to z, and on to G's feature maps."""

from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import fusion

from dcgan_inpaint.errors import Fraction, NonNegative, Positive, Seed, settings
from dcgan_inpaint.models.base import ModelSettings, Width
from dcgan_inpaint.models.networks import Encoder


@settings
class LatentEncoderSettings(ModelSettings):
    code_dim: Width = 512
    noise_dim: Annotated[int, Field(ge=0, le=4096)] = 0  # of w; 0: one answer for each picture
    decoder_dim: Annotated[int, Field(ge=0, le=4096)] = 0  # channels at S/2; 0: no decoder
    df_dim: Width = 64
    whole: NonNegative = 1.0
    context: NonNegative = 1.0
    lam: NonNegative = 0.001
    r1: NonNegative = 1.0
    changed: Fraction = 0.0  # share of training pictures, see data/changes.py
    lr: Positive = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    seed: Seed = 0


class Rise(nn.Module):
    """One size up: h (B·K, above, H, W) and a map of the encoder (B, skip, 2H, 2W) -> (B·K, width,
    2H, 2W).  What all K draws of a picture share is computed once."""

    def __init__(self, above: int, skip: int, width: int):
        super().__init__()
        self.above = nn.Conv2d(above, width, 1, bias=False)
        self.skip = nn.Conv2d(skip, width, 3, padding=1, bias=False)
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))

    def forward(self, h: Tensor, skip: Tensor) -> Tensor:
        risen = F.interpolate(self.above(h), scale_factor=2.0, mode="nearest")
        shared = self.skip(skip).repeat_interleave(len(h) // len(skip), 0)
        h = F.relu(self.norms[0](risen + shared))  # (B·K, width, 2H, 2W)
        return F.relu(self.norms[1](self.conv(h)))

    def fold(self) -> None:
        """Fold the BatchNorms into the convolutions, for good and in place; see `frozen`."""
        first, second = list[Any](self.norms)
        scale = first.weight / torch.sqrt(first.running_var + first.eps)  # (width,)
        self.above.weight = nn.Parameter(self.above.weight * scale[:, None, None, None])
        self.skip = fusion.fuse_conv_bn_eval(self.skip, first)
        self.conv = fusion.fuse_conv_bn_eval(self.conv, second)
        self.norms = nn.ModuleList(nn.Identity() for _ in self.norms)


class Decoder(nn.Module):
    """From codes and the maps of their Encoder to offsets of G's maps at 8x8, ... S/2: what the
    known pixels say that passes no code (a U-Net's decoder, whose picture is G's).

    `dim` channels at S/2, twice as many at each half.  The offsets begin as zeros.
    """

    def __init__(self, image_size: int, code_dim: int, df_dim: int, dim: int, g_widths: list[int]):
        """Raises ValueError for pictures of more than 128 px."""
        super().__init__()
        if image_size > 128:
            raise ValueError(f"decoder_dim={dim}: at {image_size} px the encoder has no 8x8 map")
        self.levels = len(g_widths) - 1  # 8x8, ... S/2
        widths = [dim << i for i in reversed(range(self.levels))]
        skips = [df_dim << i for i in reversed(range(self.levels))]
        self.start = nn.Linear(code_dim, 4 * 4 * widths[0])
        self.rises = nn.ModuleList(map(Rise, [widths[0], *widths], skips, widths))
        self.outputs = nn.ModuleList(map(partial(nn.Conv2d, kernel_size=1), widths, g_widths[1:]))
        for output in self.outputs:
            nn.init.zeros_(output.weight)
            nn.init.zeros_(output.bias)
        self.to(memory_format=torch.channels_last)

    def forward(self, code: Tensor, maps: list[Tensor]) -> list[Tensor]:
        """code (B·K, code_dim), the encoder's maps of B pictures -> (B·K, 8·8·4·gf), ..."""
        h = F.relu(self.start(code)).unflatten(1, (4, 4, -1)).permute(0, 3, 1, 2)  # (B·K, ., 4, 4)
        skips, offsets = reversed(maps[: self.levels]), []
        for rise, output, skip in zip(self.rises, self.outputs, skips, strict=True):
            h = rise(h, skip)  # (B·K, ., 8, 8), ...
            offsets.append(output(h).permute(0, 2, 3, 1).flatten(1))  # (B·K, 8·8·4·gf), ...
        return offsets

    def fold(self) -> None:
        for rise in list[Any](self.rises):
            rise.fold()


class LatentNetwork(nn.Module):
    """An Encoder and linear layers: known pixels and mask, as ContextGenerator's, -> z (B, z_dim)
    of a GAN, and offsets of its G's maps (see Generator.lift): what no z can say.  The first is
    that of the 4x4 map; a Decoder gives the others, with a decoder_dim.

    z is in [-1, 1] for the uniform prior, and free for the normal one.  With a noise_dim, noise w
    makes many codes of one: c + leaky(W (c (1 + a(w)) + b(w))).
    """

    def __init__(self, s: LatentEncoderSettings, z_dim: int, g_widths: list[int], prior: str):
        """Raises ValueError for a decoder of pictures of more than 128 px."""
        super().__init__()
        self.noise_dim = s.noise_dim
        self.encoder = Encoder(s.image_size, s.channels, s.code_dim, s.df_dim)
        self.head = nn.Linear(s.code_dim, z_dim)
        self.bound: nn.Module = nn.Tanh() if prior == "uniform" else nn.Identity()
        self.offset = nn.Linear(s.code_dim, 4 * 4 * g_widths[0])
        nn.init.zeros_(self.offset.weight)  # it begins with pictures that G makes of z
        nn.init.zeros_(self.offset.bias)
        if s.noise_dim:
            self.scale = nn.Linear(s.noise_dim, s.code_dim)
            self.shift = nn.Linear(s.noise_dim, s.code_dim)
            self.mix = nn.Linear(s.code_dim, s.code_dim)
        self.decoder = (
            Decoder(s.image_size, s.code_dim, s.df_dim, s.decoder_dim, g_widths)
            if s.decoder_dim
            else None
        )

    def forward(
        self, known: Tensor, mask: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Of B pictures, or of K draws of each, one after the other, for noise (B·K, noise_dim)."""
        code, maps = self.encoder.code_and_maps(known, mask)  # (B, code_dim)
        if noise is not None:
            code = code.repeat_interleave(len(noise) // len(code), 0)  # (B·K, code_dim)
            moved = code * (1 + self.scale(noise)) + self.shift(noise)
            code = code + F.leaky_relu(self.mix(moved), 0.2)
        offsets = [self.offset(code)]  # (B·K, 4·4·8·gf)
        if self.decoder is not None:
            offsets += self.decoder(code, maps)  # (B·K, 8·8·4·gf), ...
        return self.bound(self.head(code)), offsets  # (B·K, z_dim)

    def fold(self) -> None:
        self.encoder.fold()
        if self.decoder is not None:
            self.decoder.fold()
