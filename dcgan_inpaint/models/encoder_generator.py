"""Encoder and generator: a network from the known pixels and the mask to the image, in one pass.

The generator is that of a trained GAN, or a new one: then the network is a context encoder (Pathak
2016).  Skip connections add the maps of the encoder to those of the generator, as in a U-Net.
"""

from typing import Any

import torch
from torch import Tensor, nn

from dcgan_inpaint.models.networks import Encoder, Encoding, Generator

# Standard deviation of the noise on z; see experiments/one_pass.md.
SAMPLE_SPREAD = 0.6


class EncoderGenerator(nn.Module):
    """Encoder, generator and skip connections.

    known (B, channels, S, S) in [-1, 1], 0 in the hole, and mask (B, 1, S, S), 1 = known ->
    images (B, channels, S, S) in [-1, 1].

    Args:
        encoder: The encoder.
        generator: Generator from z or, without `prior`, from the code.
        prior: "uniform" or "normal" for the generator of a GAN.  The code is then mapped to its z
            and to an offset of its 4x4 map, which reaches images that no z generates.  The offset
            and the skip connections start at 0, so training starts with images of the GAN.
        skips: Whether each map of the encoder is added to the map of the generator of its size.

    Raises:
        ValueError: If the maps of encoder and generator have different sizes, with `skips`.

    Attributes:
        noise_dim: Size of the noise of a sample: that of z, or 0 without a `prior`.
    """

    first_without_noise = True  # the first of several samples is the completion in one pass

    def __init__(self, encoder: Encoder, generator: Generator, prior: str | None, skips: bool):
        super().__init__()
        self.encoder, self.decoder = encoder, generator
        self.prior, self.noise_dim = prior, 0
        if prior is not None:
            map_dim, self.noise_dim = generator.project.weight.shape
            self.head = nn.Linear(encoder.code.out_features, self.noise_dim)
            self.bound: nn.Module = nn.Tanh() if prior == "uniform" else nn.Identity()
            self.offset = nn.Linear(encoder.code.out_features, map_dim)
            nn.init.zeros_(self.offset.weight)
            nn.init.zeros_(self.offset.bias)
        if skips:
            convs: Any = encoder.convs
            widths = [conv.out_channels for conv in convs][::-1]  # at 4x4, 8x8, ...
            if len(widths) != generator.levels:
                raise ValueError(
                    f"model.skips=true: the {len(widths)} maps of the encoder have other sizes "
                    f"than those of the generator. Use model.layers={generator.levels}"
                )
            self.skips = nn.ModuleList(
                skip_convolution(*pair) for pair in zip(widths, generator.widths, strict=True)
            )
        self.to(memory_format=torch.channels_last)

    def encode(self, known: Tensor, mask: Tensor, noise: Tensor | None = None) -> Encoding:
        """Return what the generator computes the images from.

        Args:
            known: Masked images (B, C, S, S) in [-1, 1], 0 in the hole.
            mask: (B, 1, S, S), 1 = known.
            noise: (B·K, noise_dim) for K samples of each image, or None.  It is added to z, times
                SAMPLE_SPREAD.

        Returns:
            The encoding, of B rows or of B·K rows, the samples of an image in adjacent rows.
        """
        code, maps = self.encoder.with_maps(known, mask)  # (B, code_dim), (B, df, S/2, S/2), ...
        skips = None
        if hasattr(self, "skips"):
            skips = [skip(h) for skip, h in zip(self.skips, reversed(maps), strict=True)]
        if self.prior is None:
            return Encoding(code, None, skips)
        z, offset = self.bound(self.head(code)), self.offset(code)  # (B, z_dim), (B, 4·4·8·gf)
        if noise is not None:
            count = len(noise) // len(z)
            z = z.repeat_interleave(count, 0) + SAMPLE_SPREAD * noise  # (B·K, z_dim)
            z = z.clamp(-1, 1) if self.prior == "uniform" else z
            offset = offset.repeat_interleave(count, 0)
            skips = skips and [skip.repeat_interleave(count, 0) for skip in skips]
        return Encoding(z, offset, skips)

    def forward(self, known: Tensor, mask: Tensor) -> Tensor:
        z, offset, skips = self.encode(known, mask)
        return self.decoder(z, offset=offset, skips=skips)  # (B, C, S, S)

    def fold(self) -> None:
        """Scale what is added before the BatchNorms of the generator, which are folded next."""
        norms = self.decoder.norms
        if self.prior is not None:
            _scale_outputs(self.offset, _scale(norms[0]).repeat(16))  # 16 positions
        if hasattr(self, "skips"):
            for skip, norm in zip(self.skips, norms, strict=True):
                _scale_outputs(skip, _scale(norm))


def skip_convolution(inputs: int, outputs: int) -> nn.Conv2d:
    """Return a 1x1 convolution that starts at 0."""
    conv = nn.Conv2d(inputs, outputs, 1)
    nn.init.zeros_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


def _scale(norm: Any) -> Tensor:
    """Return the factor of each channel by which a BatchNorm in eval mode multiplies."""
    return norm.weight / (norm.running_var + norm.eps).sqrt()


@torch.no_grad()
def _scale_outputs(layer: Any, scale: Tensor) -> None:
    """Multiply the outputs of a linear layer or a convolution by a factor per channel, in place."""
    layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.ndim - 1)))
    layer.bias.mul_(scale)
