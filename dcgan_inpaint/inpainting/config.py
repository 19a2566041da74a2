"""Resolve the options of a completion whose values depend on the checkpoint.

Importing this module does not import torch.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate

from dcgan_inpaint.composition import choices_of, compose_config
from dcgan_inpaint.configs import Node, check_config
from dcgan_inpaint.errors import show
from dcgan_inpaint.schemas import InpaintConfig

if TYPE_CHECKING:
    from dcgan_inpaint.models.base import Model

SEARCH_OPTIONS = (  # read by method=search only; `ema` also by method=network
    *("objective", "solver", "stages"),
    *("ema", "candidates", "select", "start", "seed", "out_interval"),
)


@cache
def _defaults() -> InpaintConfig:
    """Return the options of conf/inpaint.yaml without overrides."""
    return check_config(compose_config("inpaint"), InpaintConfig)


def _network_node(config: InpaintConfig) -> Node:
    """Return the node of method=network with the options of a configuration."""
    return compose_config("inpaint", ["method=network", f"ema={config.ema}"]).method


def check_method(config: InpaintConfig, model: "Model") -> None:
    """Raise ValueError if the method does not fit the model or the other options."""
    if config.method == "search":
        model.check_ema(config.ema)
        for group in ("objective", "solver"):
            if getattr(config, group) is None:
                choices = ", ".join(choices_of(group))
                raise ValueError(
                    f"{group}=null: the search (method=search) requires one. Use one of {choices}"
                )
        if model.gan is None:
            raise ValueError(
                f"ckpt={config.ckpt}: holds a {model.kind}, which has no z to search. "
                "Use method=network"
            )
        return
    assert config.method is not None  # `resolve` chose one
    for name in SEARCH_OPTIONS:
        if name not in config.method:
            _check_default(config, name)
    model.check_ema(config.ema)


def _choose_method(config: InpaintConfig, model: "Model") -> InpaintConfig:
    """Choose the method of method=null.

    It is one-pass completion if the checkpoint holds a network for it, and the search otherwise.
    The one pass of a network with a z is a search of no iterations from its encoding.
    """
    if not (model.completes_in_one_pass and instantiate(config.measure).of_pixels):
        return replace(config, method="search")
    if model.gan is None:
        return replace(config, method=_network_node(config))
    for name in ("objective", "solver", "stages", "start"):
        _check_default(config, name)
    solver = {**(config.solver or {}), "iterations": 0}
    return replace(config, method="search", start="encoder", solver=solver, stages={})


def _check_default(config: InpaintConfig, name: str) -> None:
    """Raise ValueError if an option that applies to method=search only has an override."""
    if (value := getattr(config, name)) != getattr(_defaults(), name):
        option = name if isinstance(value, Mapping) else f"{name}={show(value)}"
        raise ValueError(f"{option}: applies to method=search only. Add it, or remove {name}")


def resolve(config: InpaintConfig, model: "Model") -> InpaintConfig:
    """Resolve the method, start, candidates, iterations and select, which depend on the checkpoint.

    For one completion a search from a random latent is better than one from a sample of an encoder,
    and several of those are too similar (experiments/sampling.md).  From the latent of an encoder
    a search for z fits the known pixels better and the hidden ones worse, so it is skipped
    (experiments/search.md).  Raises ValueError if the method does not fit the model.
    """
    if config.method is None:
        config = _choose_method(config, model)
    check_method(config, model)
    if config.method != "search":
        return config
    noise_dim, start = model.encoder_noise_dim, config.start
    if start == "encoder" and noise_dim is None:
        raise ValueError(
            f"start=encoder: ckpt={config.ckpt} holds no encoder. Train one: python train.py "
            f"model=latent_encoder gan={config.ckpt}"
        )
    if start is None:
        # A sample of a latent encoder is worse than a search from a random z.
        one_sample = noise_dim and (config.candidates or 1) == 1 and not model.completes_in_one_pass
        usable = noise_dim is not None and not one_sample
        start = "encoder" if usable and instantiate(config.measure).of_pixels else "random"
    samples = start == "encoder" and bool(noise_dim)
    candidates = config.candidates or (1 if start == "random" or samples else 2)
    # Whether all candidates start from the encoder. One without noise has two latents.
    encoded = start == "encoder" and (samples or candidates <= 2)
    solver = dict(config.solver or {})
    if solver.get("iterations") is None:
        solver["iterations"] = 0 if encoded else 100
    select: Any = "best" if not encoded else "sample" if samples else "mean"
    return replace(
        config,
        start=start,
        candidates=candidates,
        solver=solver,
        select=config.select or select,
    )
