"""Encoder and generator: a network from the known pixels and the mask to the image, in one pass.

The generator is that of a trained GAN, or a new one: then the network is a context encoder (Pathak
2016).  Skip connections add the maps of the encoder to those of the generator, as in a U-Net.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from dcgan_inpaint.errors import format_count
from dcgan_inpaint.models.networks import Encoder, Encoding, Generator

MAX_NOISE_DIM = 64  # codes vary in few directions


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
        noise_dim: Size of the noise of a sample, or 0 without a `prior`.
        directions: (noise_dim, code_dim), what each value of the noise adds to a code; 0 before
            `measure_directions`.
    """

    first_without_noise = True  # the first of several samples is the completion in one pass
    directions: Tensor

    def __init__(self, encoder: Encoder, generator: Generator, prior: str | None, skips: bool):
        super().__init__()
        self.encoder, self.decoder = encoder, generator
        self.prior, self.noise_dim = prior, 0
        if prior is not None:
            code_dim = encoder.code.out_features
            map_dim, z_dim = generator.project.weight.shape
            self.head = nn.Linear(code_dim, z_dim)
            self.bound: nn.Module = nn.Tanh() if prior == "uniform" else nn.Identity()
            self.offset = nn.Linear(code_dim, map_dim)
            nn.init.zeros_(self.offset.weight)
            nn.init.zeros_(self.offset.bias)
            self.noise_dim = min(MAX_NOISE_DIM, code_dim)
            self.register_buffer("directions", torch.zeros(self.noise_dim, code_dim))
        if skips:
            convs: Any = encoder.convs
            widths = [conv.out_channels for conv in convs][::-1]  # at 4x4, 8x8, ...
            if len(widths) != generator.levels:
                raise ValueError(
                    f"model.skips=true: the encoder has {format_count(len(widths), 'map')} and the "
                    f"generator {generator.levels}. Use model.layers={generator.levels}"
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
            noise: (B·K, noise_dim) for K samples of each image, or None.  It changes the code.

        Returns:
            The encoding, of B rows or of B·K rows, the samples of an image in adjacent rows.
        """
        code, maps = self.encoder.with_maps(known, mask)  # (B, code_dim), (B, df, S/2, S/2), ...
        count = 1 if noise is None else len(noise) // len(code)
        if noise is not None:
            code = code.repeat_interleave(count, 0) + noise @ self.directions  # (B·K, code_dim)
        skips = None
        if hasattr(self, "skips"):
            pairs = zip(self.skips, reversed(maps), strict=True)
            skips = [skip(h) for skip, h in pairs]
            if count > 1:
                skips = [skip.repeat_interleave(count, 0) for skip in skips]
        if self.prior is None:
            return Encoding(code, None, skips)
        return Encoding(self.bound(self.head(code)), self.offset(code), skips)

    @torch.no_grad()
    def measure_directions(self, images: Tensor, mask: Tensor) -> None:
        """Set the directions of the noise to those in which the codes of images differ.

        The difference of two codes has the noise's distribution times sqrt(2).  Both are computed
        with the same mask, because codes of different masks differ also for the same image.

        Args:
            images: (B, C, S, S) in [-1, 1].
            mask: (B, 1, S, S), 1 = known.
        """
        codes, others = (
            self.encoder(each * mask, mask).float() for each in (images, images.roll(1, 0))
        )  # (B, code_dim) each
        _, scales, vectors = torch.linalg.svd(codes - others, full_matrices=False)
        directions = scales[:, None] * vectors / math.sqrt(2 * len(codes))  # (min(B, code_dim), ..)
        self.directions.zero_()
        self.directions[: len(directions)] = directions[: self.noise_dim]

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


class MirrorAverage(nn.Module):
    """Mean of a network's images for the masked images and for their mirror images, mirrored back.

    It completes better than one of the two (experiments/one_pass.md).

    Args:
        network: Network (masked images (B, C, S, S), mask (B, 1, S, S)) -> images (B, C, S, S).
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, known: Tensor, mask: Tensor) -> Tensor:
        pairs = (torch.stack([x, x.flip(3)], 1).flatten(0, 1) for x in (known, mask))
        images = self.network(*pairs).unflatten(0, (-1, 2))  # (B, 2, C, S, S)
        return (images[:, 0] + images[:, 1].flip(3)) / 2  # (B, C, S, S)


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
