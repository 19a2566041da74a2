"""Resolve the options of a completion whose values depend on the checkpoint.

Importing this module does not import torch.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate

from dcgan_inpaint.configs import choices_of
from dcgan_inpaint.errors import show
from dcgan_inpaint.schemas import InpaintConfig

if TYPE_CHECKING:
    from dcgan_inpaint.models.base import Model

SEARCH_OPTIONS = (  # read by method=search only; `ema` also by method=network
    *("objective", "solver", "stages"),
    *("ema", "candidates", "select", "start", "seed", "out_interval"),
)


def check_method(config: InpaintConfig, model: "Model") -> None:
    """Raise ValueError if the method does not fit the model or the other options."""
    model.check_ema(config.ema)
    if config.method is None:
        for group in ("objective", "solver"):
            if getattr(config, group) is None:
                choices = ", ".join(choices_of(group))
                raise ValueError(
                    f"{group}=null: the search (method=null) requires one. Use one of {choices}"
                )
        if model.gan is None:
            raise ValueError(
                f"ckpt={config.ckpt}: holds a {model.kind}, which has no z to search. "
                "Use method=network"
            )
        return
    for name in SEARCH_OPTIONS:  # users can add them with a plus (+candidates=2)
        if name not in config.method and (value := getattr(config, name)) != _DEFAULTS[name]:
            raise ValueError(f"{name}={show(value)}: applies to method=search only. Remove it")


_DEFAULTS: dict[str, Any] = {
    name: {} if name == "stages" else getattr(InpaintConfig, name) for name in SEARCH_OPTIONS
}


def resolve(config: InpaintConfig, model: "Model") -> InpaintConfig:
    """Resolve start, candidates, iterations and select, whose defaults depend on the checkpoint.

    For one completion a search from a random latent is better than one from a sample of an encoder,
    and several of those are too similar (experiments/sampling.md).  From the latent of an encoder
    a search for z fits the known pixels better and the hidden ones worse, so it is skipped
    (experiments/search.md).  Raises ValueError if the method does not fit the model.
    """
    check_method(config, model)
    if config.method is not None:
        return config
    noise_dim, start = model.encoder_noise_dim, config.start
    if start == "encoder" and noise_dim is None:
        raise ValueError(
            f"start=encoder: ckpt={config.ckpt} holds no encoder. Train one: python train.py "
            f"model=latent_encoder gan={config.ckpt}"
        )
    if start is None:
        one_sample = noise_dim and (config.candidates or 1) == 1
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
