"""Conversion of the weights of the TensorFlow original (Amos 2016) to this project's layout.

TensorFlow stores convolutions as (kh, kw, in, out), transposed ones as (kh, kw, out, in), linear
matrices as (in, out) and feature maps as (H, W, C).  This project uses torch's layouts on flipped
maps (networks.py), so kernels, the head and the logit's map are flipped in H and W.

Two versions of the original are supported, which differ in G's widths and in D's names.  Before
commit 61c129b (the version of the checkpoint in its repository) D's BatchNorms are d_bn1 to d_bn3
and its logit is d_h3_lin; since then they are d_bn0 to d_bn2 and d_h4_lin
(bamos/dcgan-completion.tensorflow, pull request 49).  The first version had no scopes "generator/"
and "discriminator/".
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dcgan_inpaint.configs import make
from dcgan_inpaint.errors import format_count
from dcgan_inpaint.models.dcgan import DCGAN, DCGANSettings
from dcgan_inpaint.models.networks import generator_widths
from dcgan_inpaint.tf_import.bundle import find_bundle, read_bundle

NORM_FIELDS = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def import_dcgan(path: str | Path, crop: float = 1.0) -> DCGAN:
    """Load a DCGAN from a TensorFlow checkpoint, given by its prefix, .index file or directory.

    The original did not average weights, so the averaged weights of G are its raw weights.

    Args:
        path: The checkpoint.
        crop: Crop of the training images, side of the central square / short side.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged or holds another network.
    """
    prefix = find_bundle(path)
    variables = read_bundle(prefix)
    try:
        model = DCGAN(**infer_sizes(variables), crop=crop)
        state = state_from_tensorflow(variables)
        average = {f"ema_{k}": v for k, v in state.items() if k.startswith("generator.")}
        model.load_state_dict(state | average)
    except ValueError as error:
        raise ValueError(f"{prefix}: {error}") from error
    except RuntimeError as error:  # mismatched shapes, one per line after the headline
        raise ValueError(f"{prefix}: {str(error).splitlines()[1].strip()}") from error
    return model


def infer_sizes(variables: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Infer image_size, channels, z_dim, gf_dim, df_dim and widths from the variables' shapes.

    Raises ValueError for a missing variable, or shapes that are not those of the original.
    """
    layers = _by_layer(variables)
    z_dim, units = layers["g_h0_lin/Matrix"].shape
    maps = [units // 16]  # channels at 4x4, 8x8, ..., image_size
    while f"g_h{len(maps)}/w" in layers:
        maps.append(layers[f"g_h{len(maps)}/w"].shape[2])
    *_, in_channels, df_dim = layers["d_h0_conv/w"].shape
    image_size, channels, gf_dim = 4 * 2 ** (len(maps) - 1), maps[-1], maps[0] // 8
    # The 8x8 map of the newer version has as many channels as the 4x4 map, else half as many.
    widths = "amos_head" if maps[1:2] == maps[:1] else "blog"
    sizes = {"image_size": image_size, "channels": channels, "z_dim": z_dim}
    sizes |= {"gf_dim": gf_dim, "df_dim": df_dim, "widths": widths}
    make(DCGANSettings, sizes)
    if maps[:-1] != generator_widths(image_size, gf_dim, widths):
        raise ValueError(f"the generator's maps have {maps} channels. Expected those of a DCGAN")
    logit = layers[f"{_logit_layer(layers)}/Matrix"].shape
    if in_channels != channels or logit != (8 * df_dim * (image_size // 16) ** 2, 1):
        raise ValueError(
            f"the discriminator is not for the generator's {image_size} px and "
            f"{format_count(channels, 'channel')}"
        )
    return sizes


def state_from_tensorflow(variables: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Convert TensorFlow variables by name ("generator/g_h1/w", ...) to a state dict of a DCGAN.

    The result has entries for generator and discriminator, and none for the averaged generator.
    Raises ValueError for a missing variable.
    """
    layers = _by_layer(variables)

    def get(name: str) -> Tensor:
        return torch.from_numpy(np.array(layers[name], dtype=np.float32))

    def kernel(name: str) -> Tensor:
        return get(name).permute(3, 2, 0, 1).flip(2, 3)

    def norm(target: str, source: str) -> dict[str, Tensor]:
        return {f"{target}.{ours}": get(f"{source}/{tf}") for ours, tf in NORM_FIELDS.items()}

    head = get("g_h0_lin/Matrix")  # (z_dim, 4·4·C)
    head = head.T.reshape(4, 4, -1, len(head)).flip(0, 1).flatten(0, 2)  # (4·4·C, z_dim)
    bias = get("g_h0_lin/bias").reshape(4, 4, -1).flip(0, 1).flatten()
    state = {"generator.project.weight": head, "generator.project.bias": bias}
    state |= norm("generator.norms.0", "g_bn0")
    i = 1
    while f"g_h{i}/w" in layers:
        state[f"generator.deconvs.{i - 1}.weight"] = kernel(f"g_h{i}/w")
        state[f"generator.deconvs.{i - 1}.bias"] = get(f"g_h{i}/biases")
        if f"g_h{i + 1}/w" in layers:  # the last layer has no BatchNorm
            state |= norm(f"generator.norms.{i}", f"g_bn{i}")
        i += 1
    first = 0 if "d_bn0/gamma" in layers else 1
    for i in range(4):
        state[f"discriminator.convs.{i}.weight"] = kernel(f"d_h{i}_conv/w")
        state[f"discriminator.convs.{i}.bias"] = get(f"d_h{i}_conv/biases")
        if i > 0:  # the first layer has no BatchNorm
            state |= norm(f"discriminator.norms.{i}", f"d_bn{i - 1 + first}")
    layer = _logit_layer(layers)
    logit = get(f"{layer}/Matrix")  # (H·W·C, 1)
    channels = state["discriminator.convs.3.bias"].numel()
    side = round((logit.numel() / channels) ** 0.5)
    logit = logit.reshape(side, side, channels).flip(0, 1).reshape(1, -1)
    state["discriminator.classify.weight"] = logit
    state["discriminator.classify.bias"] = get(f"{layer}/bias")
    return state


class _Layers(dict[str, Any]):
    """Variables by layer and field ("g_h1/w"); a missing variable raises ValueError."""

    def __missing__(self, name: str) -> Any:
        if "/moving_" in name:  # stored by an ExponentialMovingAverage under another name
            raise ValueError(f"variable {name} is missing: this older BatchNorm is not supported")
        raise ValueError(f"variable {name} is missing. Use a checkpoint of the original DCGAN")


def _by_layer(variables: Mapping[str, Any]) -> _Layers:
    """Return the variables without their scope, which the layer names imply."""
    return _Layers({re.sub("^(generator|discriminator)/", "", k): v for k, v in variables.items()})


def _logit_layer(layers: Mapping[str, Any]) -> str:
    """Return the name of D's linear layer.  Raises ValueError unless there is exactly one."""
    names = [name for name in layers if re.fullmatch(r"d_h\d_lin/Matrix", name)]
    if len(names) != 1:
        raise ValueError(f"the discriminator has {len(names)} linear layers. Expected 1")
    return names[0].removesuffix("/Matrix")
