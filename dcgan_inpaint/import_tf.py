"""Weights of the TensorFlow original (Amos 2016) in our networks' layout.

TensorFlow keeps convolutions as (kh, kw, in, out), transposed ones as (kh, kw, out, in), linear
matrices as (in, out), and maps as (H, W, C).  Ours are torch's layouts on mirrored maps
(networks.py), so kernels, the head and the logit's map are flipped in H and W.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

NORM_FIELDS = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def state_from_tensorflow(variables: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """TensorFlow variables by name ("generator/g_h1/w", ...) -> a state dict for `DCGAN`.

    Holds generator.* and discriminator.* entries (raw weights; the original kept no average).
    Raises KeyError for a variable the original would have.
    """

    def get(name: str) -> Tensor:
        return torch.from_numpy(np.array(variables[name], dtype=np.float32))

    def kernel(name: str) -> Tensor:
        return get(name).permute(3, 2, 0, 1).flip(2, 3)

    def norm(target: str, source: str) -> dict[str, Tensor]:
        return {f"{target}.{ours}": get(f"{source}/{tf}") for ours, tf in NORM_FIELDS.items()}

    head = get("generator/g_h0_lin/Matrix")  # (z_dim, 4·4·C)
    z_dim, units = head.shape
    state = {
        "generator.project.weight": head.T.reshape(4, 4, -1, z_dim)
        .flip(0, 1)
        .reshape(units, z_dim),
        "generator.project.bias": get("generator/g_h0_lin/bias")
        .reshape(4, 4, -1)
        .flip(0, 1)
        .flatten(),
        **norm("generator.norms.0", "generator/g_bn0"),
    }
    i = 1
    while f"generator/g_h{i}/w" in variables:
        state[f"generator.deconvs.{i - 1}.weight"] = kernel(f"generator/g_h{i}/w")
        state[f"generator.deconvs.{i - 1}.bias"] = get(f"generator/g_h{i}/biases")
        if f"generator/g_bn{i}/gamma" in variables:  # every layer but the last
            state |= norm(f"generator.norms.{i}", f"generator/g_bn{i}")
        i += 1
    for i in range(4):
        state[f"discriminator.convs.{i}.weight"] = kernel(f"discriminator/d_h{i}_conv/w")
        state[f"discriminator.convs.{i}.bias"] = get(f"discriminator/d_h{i}_conv/biases")
        if i > 0:  # no BatchNorm on the first
            state |= norm(f"discriminator.norms.{i}", f"discriminator/d_bn{i - 1}")
    logit = get("discriminator/d_h4_lin/Matrix")  # (H·W·C, 1)
    channels = state["discriminator.convs.3.bias"].numel()
    side = round((logit.numel() / channels) ** 0.5)
    logit = logit.reshape(side, side, channels).flip(0, 1)
    state["discriminator.classify.weight"] = logit.reshape(1, -1)
    state["discriminator.classify.bias"] = get("discriminator/d_h4_lin/bias")
    return state
