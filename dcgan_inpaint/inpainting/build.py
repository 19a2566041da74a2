"""The one place that turns a model and a configuration into what completes images."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig
from torch import Tensor

from dcgan_inpaint.blending import paste
from dcgan_inpaint.configs import make
from dcgan_inpaint.data.cache import Source
from dcgan_inpaint.inpainting.baselines import FillingModule
from dcgan_inpaint.inpainting.module import InpaintingModule
from dcgan_inpaint.inpainting.objective import Objective
from dcgan_inpaint.inpainting.search import SearchSettings
from dcgan_inpaint.inpainting.solvers import Adam
from dcgan_inpaint.masks.masks import center
from dcgan_inpaint.models.base import Model

Mask = Callable[[Tensor, int], Tensor]
SEARCH_KEYS = {"objective", "solver", "stages", *SearchSettings.__annotations__, "start", "ema"}
Completing = InpaintingModule | FillingModule


def build(cfg: DictConfig, model: Model, mask: Mask, source: Source | None = None) -> Completing:
    """What completes by `cfg` (conf/inpaint.yaml): a search, or the fill of cfg.method.

    `source` are the training images, for a fill that asks for them (`wants_source`).  What cfg
    leaves to the model (null) is resolved and written into it.  Raises ValueError when model, mask
    and method do not fit.
    """
    model.check_raw(cfg.get("ema", True))
    return _fill(cfg, model, mask, source) if "method" in cfg else _search(cfg, model, mask)


def wants_source(cfg: DictConfig) -> bool:
    """Whether what completes by `cfg` looks at the training images."""
    return "method" in cfg and "source" in _parameters(cfg.method)


def preview_of(model: Model, iterations: int) -> Completing:
    """What completes the center hole, by which models in training are compared.

    With a GAN it is a quick search; the others do without.
    """
    mask = partial(center, scale=0.25)
    fill, encoder = model.fill(), model.latent_encoder()
    if fill is not None:
        return FillingModule(fill, mask, paste, model.image_shape)
    assert model.gan is not None  # a model has the one or the other
    solver = Adam(0 if encoder else iterations, lr=0.1, schedule="cosine")
    return InpaintingModule(model.gan, mask, Objective(), solver, paste, encoder=encoder)


def _search(cfg: DictConfig, model: Model, mask: Mask) -> InpaintingModule:
    """The search for z; it starts from an encoder's z where there is one."""
    for group in ("objective", "solver", "stages"):
        if group not in cfg:
            raise ValueError(f"{group}: missing: the search needs one")
    if model.gan is None:
        raise ValueError(
            f"ckpt={cfg.ckpt} holds a {model.kind}, which has no z to search: use method=network"
        )
    measure = instantiate(cfg.measure)
    encoder = _encoder(cfg, model, measure.of_pixels)
    samples = encoder is not None and encoder.noise_dim > 0
    if cfg.candidates is None:
        cfg.candidates = 1 if encoder is None or samples else 2
    encoded = encoder is not None and (samples or cfg.candidates <= 2)  # all start from its z
    if cfg.solver.iterations is None:
        # from there a search for z meets the known pixels better and the hidden ones worse
        cfg.solver.iterations = 0 if encoded else 100
    if cfg.select is None:
        cfg.select = "best" if not encoded else "sample" if samples else "mean"
    return InpaintingModule(
        model.gan,
        mask,
        objective=instantiate(cfg.objective),
        solver=instantiate(cfg.solver),
        blend=instantiate(cfg.blend),
        measure=measure,
        ema=cfg.ema,
        encoder=encoder,
        stages=list(instantiate(cfg.stages).values()),
        settings=make(SearchSettings, {name: cfg[name] for name in SearchSettings.__annotations__}),
    )


def _encoder(cfg: DictConfig, model: Model, of_pixels: bool) -> Any:
    """The frozen encoder to start from, if cfg.start and the measurement let it.

    For one select a search from a random z is better than a draw, and for several too much alike
    (experiments/sampling.md).
    """
    encoder: Any = None if cfg.start == "random" else model.latent_encoder()
    if cfg.start == "encoder" and encoder is None:
        raise ValueError(
            f"start=encoder: ckpt={cfg.ckpt} holds none: python train.py model=latent_encoder "
            f"gan={cfg.ckpt} trains one"
        )
    if cfg.start is None and encoder is not None and encoder.noise_dim:
        encoder = encoder if (cfg.candidates or 1) > 1 else None
    return encoder if of_pixels or cfg.start == "encoder" else None


def _fill(cfg: DictConfig, model: Model, mask: Mask, source: Source | None) -> FillingModule:
    """The fill of cfg.method, given what it asks for: the `model`, the `source` of its data."""
    if not (measure := instantiate(cfg.measure)).of_pixels:
        what = type(measure).__name__.lower()
        raise ValueError(f"measure={what}: {cfg.method._target_} needs known pixels: another mask=")
    for name in SEARCH_KEYS & cfg.keys() - cfg.method.keys():  # added by +name=...
        raise ValueError(f"{name}={cfg[name]}: is for method=search")
    asked = _parameters(cfg.method)
    given = {"model": model, "source": source}
    fill = instantiate(cfg.method, **{name: given[name] for name in given if name in asked})
    return FillingModule(fill, mask, instantiate(cfg.blend), model.image_shape)


def _parameters(node: DictConfig) -> set[str]:
    return set(inspect.signature(get_object(node._target_)).parameters)
