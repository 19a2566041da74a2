"""Build a completion module from a model and a resolved configuration."""

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from hydra.utils import get_object, instantiate

from dcgan_inpaint.blending import paste
from dcgan_inpaint.composition import compose_config, normalize_overrides
from dcgan_inpaint.configs import Node, check_config
from dcgan_inpaint.data.cache import Source
from dcgan_inpaint.inpainting.baselines import BaselineModule
from dcgan_inpaint.inpainting.config import resolve
from dcgan_inpaint.inpainting.module import InpaintingModule, Objective
from dcgan_inpaint.inpainting.search import SearchSettings
from dcgan_inpaint.inpainting.solvers import Adam
from dcgan_inpaint.masks.masks import MaskFunction, center
from dcgan_inpaint.models.base import Model
from dcgan_inpaint.models.checkpoint import load_model
from dcgan_inpaint.schemas import InpaintConfig

Completing = InpaintingModule | BaselineModule


def load_configured(overrides: Sequence[str]) -> tuple[InpaintConfig, Model]:
    """Return the resolved configuration of inpaint.py with overrides, and the model of its ckpt=.

    Raises ValueError, one line, for an override that does not fit.
    """
    composed = compose_config("inpaint", normalize_overrides(overrides))
    config = check_config(composed, InpaintConfig)
    model = load_model(str(config.ckpt))
    return resolve(config, model), model


def build(
    config: InpaintConfig, model: Model, mask: MaskFunction, source: Source | None = None
) -> Completing:
    """Build the search, or the baseline of config.method, from a resolved configuration.

    `source` is the training data, for a method that uses it (see `uses_source`).  Raises ValueError
    if model, mask and method do not fit.
    """
    blend, measure = instantiate(config.blend), instantiate(config.measure)
    if config.method == "search":
        assert model.gan is not None  # `resolve` checked it
        names = SearchSettings.__annotations__
        return InpaintingModule(
            model.gan,
            mask,
            objective=instantiate(config.objective),
            solver=instantiate(config.solver),
            blend=blend,
            measure=measure,
            ema=config.ema,
            encoder=model.latent_encoder(config.ema) if config.start == "encoder" else None,
            stages=list(instantiate(config.stages).values()),
            settings=SearchSettings(**{name: getattr(config, name) for name in names}),
        )
    assert config.method is not None  # `resolve` chose one
    target = config.method["_target_"]
    if not measure.of_pixels:
        name = type(measure).__name__.lower()
        raise ValueError(f"measure={name}: {target} needs known pixels. Use another mask=")
    available = {"model": model, "source": source}
    arguments = {name: available[name] for name in available.keys() & _parameters(config.method)}
    if arguments:  # passed after Hydra, which would convert a source, a dataclass, to a config
        baseline = instantiate({**config.method, "_partial_": True})(**arguments)
    else:
        baseline = instantiate(config.method)
    return BaselineModule(baseline, mask, blend, model.image_shape)


def uses_source(config: InpaintConfig) -> bool:
    """Return whether the method needs the training images."""
    return isinstance(config.method, Mapping) and "source" in _parameters(config.method)


def build_preview(model: Model, iterations: int, mask: MaskFunction | None = None) -> Completing:
    """Build the module that completes the center hole, or `mask`, during training.

    With a GAN this is a search of `iterations`; with an encoder, its latent without a search.
    Other models complete in one pass.
    """
    mask = mask or partial(center, scale=0.25)
    network, encoder = model.fill(), model.latent_encoder()
    if network is not None:
        return BaselineModule(network, mask, paste, model.image_shape)
    assert model.gan is not None  # a model has a GAN or a network for one-pass completion
    bound: Any = "none" if model.gan.settings.prior == "normal" else "clip"
    solver = Adam(0 if encoder else iterations, lr=0.1, schedule="cosine", bound=bound)
    return InpaintingModule(model.gan, mask, Objective(), solver, paste, encoder=encoder)


def _parameters(node: Node) -> set[str]:
    return set(inspect.signature(get_object(node["_target_"])).parameters)
