"""Generator and Discriminator of DCGAN (Radford 2016), and an Encoder (Pathak 2016).

The Encoder has the same layers as the Discriminator and takes known pixels and mask.

Geometry: TensorFlow's SAME padding of a stride-2 5x5 layer on an even input is 1 before and 2
after.  In torch that takes an explicit pad (or a crop, for a transposed layer), a copy of every
feature map.  On maps flipped in height and width the padding is 2 before and 1 after, which
torch's symmetric `padding=2` computes, because the stride never reaches the last padded row.  The
networks therefore work on flipped maps: kernels, the 4x4 head and all features are the original's,
flipped in H and W.  Only the image is flipped, where it leaves G and enters D, so that images
outside this module are upright.  tests/test_networks.py compares with explicit pads.

Flat feature maps are (H, W, C), TensorFlow's order and that of channels_last memory: these
reshapes copy nothing.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import fusion

Layers = Annotated[int, Field(ge=2, le=6)]  # stride-2 layers of a discriminator or an encoder


class Encoding(NamedTuple):
    """What an encoder passes to a generator, for B images or samples."""

    z: Tensor  # (B, z_dim)
    offset: Tensor | None = None  # (B, 4·4·8·gf), added to the 4x4 map of z
    skips: Sequence[Tensor] | None = None  # (B, 8·gf, 4, 4), (B, 4·gf, 8, 8), ..., see `lift`


def generator_widths(image_size: int, gf_dim: int, widths: str = "blog") -> list[int]:
    """Return the channels of G's hidden maps at 4x4, 8x8, ..., image_size/2.

    Args:
        image_size: Side of the images in px.
        gf_dim: Unit of the widths.
        widths: "blog" for 8, 4, 2, 1 times gf_dim at 64 px (bamos.github.io, 2016), "amos_head" for
            8, 8, 4, 2 (Amos's repository since commit 61c129b).

    Raises:
        ValueError: If a width is not an integer.
    """
    maps = range(image_size.bit_length() - 3)  # 4x4 ... image_size/2
    halvings = [max(0, i - (widths == "amos_head")) for i in maps]
    multiple = max(1, 2 ** halvings[-1] // 8)
    if gf_dim % multiple:
        raise ValueError(f"gf_dim={gf_dim}: expected a multiple of {multiple} at {image_size} px")
    return [8 * gf_dim >> h for h in halvings]


class Generator(nn.Module):
    """Generator: z (B, z_dim) -> images (B, channels, image_size, image_size) in [-1, 1].

    Raises ValueError for a gf_dim that does not fit (see `generator_widths`).
    """

    def __init__(
        self,
        image_size: int = 64,
        channels: int = 3,
        z_dim: int = 100,
        gf_dim: int = 64,
        widths: str = "blog",
    ):
        super().__init__()
        self.widths = generator_widths(image_size, gf_dim, widths)
        self.project = nn.Linear(z_dim, 4 * 4 * self.widths[0])
        self.deconvs = nn.ModuleList(
            nn.ConvTranspose2d(c_in, c_out, 5, stride=2, padding=2, output_padding=1)
            for c_in, c_out in zip(self.widths, [*self.widths[1:], channels], strict=True)
        )
        self.levels = len(self.deconvs)  # feature maps that a search can optimize
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in self.widths)  # eps 1e-5, decay 0.9
        for layer in [self.project, *self.deconvs]:
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.to(memory_format=torch.channels_last)

    @property
    def layers(self) -> nn.ModuleList:
        """Layers by level: `project`, and each transposed convolution after its BatchNorm."""
        pairs = zip(self.norms, self.deconvs, strict=True)
        return nn.ModuleList([self.project, *(nn.ModuleList(pair) for pair in pairs)])

    def set_decay(self, decay: float) -> None:
        """Set the decay of the moving statistics for each training pass."""
        for norm in self.norms:
            norm.momentum = 1 - decay  # type: ignore[assignment]

    def forward(
        self,
        x: Tensor,
        level: int = 0,
        offset: Tensor | None = None,
        skips: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Generate images (B, C, S, S) from z or from the feature map of a level (see `lift`)."""
        h = self.lift(x, level, 1 + self.levels, offset, skips)  # (B, S·S·C)
        size = 8 << self.levels - 1
        h = h.unflatten(1, (size, size, -1)).permute(0, 3, 1, 2)  # (B, C, S, S)
        return torch.tanh(h).flip(2, 3)  # upright image

    def lift(
        self,
        x: Tensor,
        level: int,
        to: int,
        offset: Tensor | None = None,
        skips: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Compute the feature map of level `to` from that of an earlier level.

        Args:
            x: Level 0 is z (B, z_dim).  Level 1 is the 4x4 map before its BatchNorm, level 2 the
                8x8 map, and so on, all flat: (B, H·W·channels).
            level: Level of x.
            to: Level of the result.
            offset: Added to the 4x4 map of z, (B, 4·4·channels).
            skips: Maps that are added to the levels 1, 2, ... before their BatchNorms, each
                (B, channels, H, W), flipped like all maps.
        """
        for layer in range(level, to):
            if layer == 0:
                x = self.project(x)  # (B, 4·4·8·gf)
                x = x if offset is None else x + offset
                continue
            width, side = self.widths[layer - 1], 4 << layer - 1
            h = x.view(-1, side, side, width).permute(0, 3, 1, 2)  # (B, 8·gf, 4, 4), ...
            h = h if skips is None else h + skips[layer - 1]
            h = self.deconvs[layer - 1](F.relu(self.norms[layer - 1](h)))  # (B, 4·gf, 8, 8), ...
            x = flatten_map(h)
        return x

    def fold(self) -> None:
        """Fold the BatchNorms into their neighbors, in place; see `freeze`."""
        head, *norms = list[Any](self.norms)
        # The 4x4 map is flat in `project`: 16 positions, channels fastest.
        stats = (head.running_mean, head.running_var, head.weight, head.bias)
        mean, var, weight, bias = (values.repeat(16) for values in stats)  # (4·4·8·gf,) each
        self.project.weight, self.project.bias = fusion.fuse_linear_bn_weights(
            self.project.weight, self.project.bias, mean, var, head.eps, weight, bias
        )
        self.deconvs = fold_norms(self.deconvs, [*norms, nn.Identity()])
        self.norms = nn.ModuleList(map(nn.Identity, self.norms))


class _Trunk(nn.Module):
    """Stride-2 convolutions of a discriminator or an encoder.

    Raises ValueError if image_size cannot be halved `layers` times.
    """

    def __init__(self, image_size: int, channels: int, df_dim: int, layers: int):
        super().__init__()
        if image_size % (1 << layers):
            raise ValueError(
                f"layers={layers}: {image_size} px cannot be halved {layers} times. Lower it"
            )
        widths = [df_dim * min(1 << i, 8) for i in range(layers)]
        self.convs = nn.ModuleList(
            nn.Conv2d(c_in, c_out, 5, stride=2, padding=2)
            for c_in, c_out in zip([channels, *widths], widths, strict=False)
        )
        self.norms = nn.ModuleList([nn.Identity(), *(nn.BatchNorm2d(c) for c in widths[1:])])
        self.features_dim = widths[-1] * (image_size >> layers) ** 2

    def initialize(self, linear: nn.Linear) -> None:
        """Initialize the weights of the trunk and of the linear layer on its features."""
        nn.init.normal_(linear.weight, std=0.02)
        for layer in [linear, *self.convs]:
            if isinstance(layer, nn.Conv2d):
                nn.init.trunc_normal_(layer.weight, std=0.02, a=-0.04, b=0.04)
            nn.init.zeros_(layer.bias)
        self.to(memory_format=torch.channels_last)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Return the map of each layer, flipped, for images (B, channels, S, S)."""
        h, maps = images.flip(2, 3), []  # flipped image
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h = F.leaky_relu(norm(conv(h)), 0.2)  # (B, df, S/2, S/2), ... (B, 8·df, S/16, S/16)
            maps.append(h)
        return maps

    def features(self, images: Tensor) -> Tensor:
        """Map images (B, channels, S, S) to features (B, (S/16)²·8·df), for 4 layers."""
        return flatten_map(self.maps(images)[-1])

    def fold(self) -> None:
        """Fold the BatchNorms into their neighbors, in place; see `freeze`."""
        self.convs = fold_norms(self.convs, self.norms)
        self.norms = nn.ModuleList(map(nn.Identity, self.norms))


class Discriminator(_Trunk):
    """Discriminator: images (B, channels, image_size, image_size) in [-1, 1] -> logits (B,).

    The original has four layers at every image_size.
    """

    def __init__(self, image_size: int = 64, channels: int = 3, df_dim: int = 64, layers: int = 4):
        super().__init__(image_size, channels, df_dim, layers)
        self.classify = nn.Linear(self.features_dim, 1)
        self.initialize(self.classify)

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.features(images)).squeeze(1)  # (B,)

    def with_maps(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the logits (B,) and the map of each layer."""
        maps = self.maps(images)
        return self.classify(flatten_map(maps[-1])).squeeze(1), maps


class Encoder(_Trunk):
    """Encoder: masked images (B, channels, S, S) and mask (B, 1, S, S) -> codes (B, code_dim).

    It has the discriminator's convolutions, with BatchNorm and LeakyReLU on the code as in Pathak's
    implementation.
    """

    def __init__(self, image_size: int, channels: int, code_dim: int, df_dim: int, layers: int = 4):
        super().__init__(image_size, channels + 1, df_dim, layers)
        self.code = nn.Linear(self.features_dim, code_dim)
        self.code_norm: Any = nn.BatchNorm1d(code_dim)
        self.initialize(self.code)

    def forward(self, known: Tensor, mask: Tensor) -> Tensor:
        return self.with_maps(known, mask)[0]  # (B, code_dim)

    def with_maps(self, known: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the codes (B, code_dim) and the map of each layer."""
        maps = self.maps(torch.cat([known, mask], 1))  # (B, df, S/2, S/2), ...
        code = self.code_norm(self.code(flatten_map(maps[-1])))
        return F.leaky_relu(code, 0.2), maps

    def fold(self) -> None:
        super().fold()
        self.code = fusion.fuse_linear_bn_eval(self.code, self.code_norm)
        self.code_norm = nn.Identity()


def flatten_map(h: Tensor) -> Tensor:
    """Flatten a map (B, C, H, W) in the order (H, W, C): (B, H·W·C)."""
    return h.permute(0, 2, 3, 1).flatten(1)


def freeze(network: nn.Module, fold: bool = True) -> Any:
    """Return a copy for completion: eval mode, no weight gradients, BatchNorm folded.

    In eval mode BatchNorm is a fixed scale and shift per channel.  Folding it into a neighboring
    layer keeps the function, up to rounding, and saves a pass over every feature map.  Modules
    that contain BatchNorms have a method `fold` for this.
    """
    frozen = copy.deepcopy(network).eval()
    for module in list[Any](frozen.modules()) if fold else ():
        if hasattr(module, "fold"):
            module.fold()
    return frozen.requires_grad_(False).to(memory_format=torch.channels_last)


def fold_norms(convs: Iterable[Any], norms: Iterable[Any]) -> nn.ModuleList:
    """Fold each BatchNorm into the convolution before it; return all convolutions."""
    return nn.ModuleList(
        fusion.fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d))
        if isinstance(norm, nn.BatchNorm2d)
        else conv
        for conv, norm in zip(convs, norms, strict=True)
    )
