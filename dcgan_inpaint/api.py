"""Completion from Python: what inpaint.py does with images=, for images that are in memory."""

import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from hydra.utils import instantiate
from lightning_fabric import Fabric
from omegaconf import DictConfig

from dcgan_inpaint.configs import check_config, choices_of, compose_config
from dcgan_inpaint.data.loader import Images, batches
from dcgan_inpaint.errors import unwrapped
from dcgan_inpaint.inpainting.build import Completing, Mask, build, wants_source
from dcgan_inpaint.inpainting.module import InpaintingModule
from dcgan_inpaint.inpainting.result import Completion, Progress
from dcgan_inpaint.masks.mask_image import MaskImage
from dcgan_inpaint.models.base import Model
from dcgan_inpaint.models.checkpoint import load_model, source_of
from dcgan_inpaint.photos.crops import Region, RegionFinder, region_finder
from dcgan_inpaint.photos.photos import Photos
from dcgan_inpaint.photos.reading import Given, mask_of, photo_of
from dcgan_inpaint.photos.result import Result
from dcgan_inpaint.runs.options import CompleteOptions, mend_words

# the keys of conf/inpaint.yaml that say which files inpaint.py reads and writes
OF_THE_DOOR = {"ckpt", "images", "split", "limit", "lpips", "features", "logger", "output"}
GIVEN = ("mask=file", "mask.path=mask")  # a mask that is an image: its path is but a name
Watch = Callable[[Progress], None]


class Completer:
    """Completes images of any size with one model, by conf/inpaint.yaml.

    With a GAN that is the search for z (Amos 2016; Yeh 2017) as experiments/search.md has it.
    `overrides` change it, as words that one would type behind inpaint.py: "method=tv",
    "trainer.accelerator=cpu"; `name` is what errors call the model.  Raises ValueError, one line,
    for a word that does not fit.
    """

    def __init__(self, model: Model, name: str, overrides: Sequence[str] = ()):
        for word in overrides:
            if (key := word.lstrip("+~").partition("=")[0].split(".")[0]) in OF_THE_DOOR:
                raise ValueError(f"{word}: {key} is for inpaint.py")
        self.model, self.name = model, name
        self.overrides = tuple(overrides)
        self.composed: dict[tuple[str, ...], DictConfig] = {}  # by the words about the mask
        self._configured(())

    @classmethod
    def load(cls, model: str | Path | Model, *overrides: str) -> "Completer":
        """Of a shipped checkpoint by name ("faces64"), of the path of one, or of a model.

        Raises FileNotFoundError, or ValueError for a file that is no checkpoint of this project.
        """
        if isinstance(model, Model):
            return cls(model, model.kind, overrides)
        return cls(load_model(model), str(model), overrides)

    @overload
    def __call__(
        self,
        image: Given,
        mask: str | Given | None = None,
        crop: Sequence[int] | None = None,
        candidates: int | None = None,
        select: str | None = None,
        face: int | Literal["all"] | None = None,
        watch: Watch | None = None,
    ) -> Result: ...

    @overload
    def __call__(
        self,
        image: Sequence[Given],
        mask: str | Given | Sequence[Given] | None = None,
        crop: Sequence[int] | None = None,
        candidates: int | None = None,
        select: str | None = None,
        face: int | Literal["all"] | None = None,
        watch: Watch | None = None,
    ) -> list[Result]: ...

    def __call__(
        self,
        image: Any,
        mask: Any = None,
        crop: Sequence[int] | None = None,
        candidates: int | None = None,
        select: str | None = None,
        face: int | Literal["all"] | None = None,
        watch: Watch | None = None,
    ) -> Result | list[Result]:
        """Complete an image, or each of a list; what is None is as in conf/inpaint.yaml.

        `image`: a PIL image; an array (H, W) or (H, W, 1, 3 or 4) or a tensor (H, W) or (1, 3 or
        4, H, W) of uint8 or of floats in [0, 1].  `mask`: the name of one of conf/mask ("center");
        or an image like these of one channel, where white, 1 or True is known, that lies on the
        whole image if it has its shape, and on the square if not; or a list of such.  `crop`: the
        square [x, y, w, h] to complete, in px; None: around the face that is found, the largest or,
        by `face`, the 2nd, ..., and the center of an image without one; face="all": each hole by
        the face that it is on.  `candidates`, `select` ("best", "mean", "sample"): see
        SearchSettings.  `watch` is called with a Progress after each evaluation; what it raises
        ends the search and comes out of here.  Gives a Result, or a list of them.  Image i of a
        list (crop i, of several faces) has the start and the mask of index i.

        Raises ValueError, one line, before the search, for what does not fit.
        """
        many = isinstance(image, (list, tuple))
        images = list(image) if many else [image]
        named = mask is None or isinstance(mask, str)
        words = () if mask is None else (f"mask={mask}",) if named else GIVEN
        if isinstance(mask, str) and mask not in (choices := choices_of("mask")):
            raise ValueError(f"mask={mask}: give an image, or one of {', '.join(choices)}")
        cfg = self._configured(words, crop=crop, face=face, candidates=candidates, select=select)
        if not images:
            return []
        with unwrapped():
            count = len(images)
            draws = [instantiate(cfg.mask)] * count if named else _drawn(mask, count, cfg.mask)
            photos = self._photos(cfg, images, draws)
            completing = self._completing(cfg, photos.mask, watch)
        results: dict[int, Result] = {}  # by image; of several faces the last
        for done in _complete(cfg.trainer, completing, photos.images, cfg.batch_size):
            for row, i in enumerate(done.index.tolist()):
                before = results.get(photos.of[i])
                results[photos.of[i]] = Result(photos, done, row, before)
        return list(results.values()) if many else results[0]

    def _configured(self, words: tuple[str, ...], **given: Any) -> DictConfig:
        """conf/inpaint.yaml by the overrides, `words` about the mask and what is given, checked."""
        if words not in self.composed:
            typed = mend_words([*self.overrides, *words], "inpaint")
            self.composed[words] = compose_config("inpaint", typed)
        cfg = copy.deepcopy(self.composed[words])
        cfg.ckpt = self.name
        for key, value in given.items():
            if value is not None and key not in cfg:
                raise ValueError(f"{key}={value}: is for method=search")
            if value is not None:
                cfg[key] = _plain(value)
        check_config(cfg, CompleteOptions)
        return cfg

    def region(self, image: Given) -> Region:
        """The square of an image that is completed when no crop is given.

        Raises ValueError for what is no image, or for one without a square.
        """
        cfg = self._configured(())
        return self._finder(cfg)(photo_of(image, "image"), "image")[0]

    def _finder(self, cfg: DictConfig) -> RegionFinder:
        share, data = self.model.settings.crop, self.model.data
        return region_finder(share, cfg.crop, cfg.detector, cfg.eyes, cfg.face, data)

    def _photos(self, cfg: DictConfig, images: list[Given], draws: list[Mask]) -> Photos:
        names = _names("image", len(images))
        photos = [photo_of(*each) for each in zip(images, names, strict=True)]
        find = self._finder(cfg)
        return Photos(names, photos.__getitem__, draws, find, self.model.image_shape)

    def _completing(self, cfg: DictConfig, mask: Mask, watch: Watch | None) -> Completing:
        data = instantiate(cfg.data)
        source = source_of(self.model, data, self.name) if wants_source(cfg) else None
        completing = build(cfg, self.model, mask, source)
        completing.check()
        if isinstance(completing, InpaintingModule):
            completing.watch = watch
        elif watch is not None:
            raise ValueError("watch: is for method=search")
        return completing


def _plain(value: Any) -> Any:
    """NumPy's numbers, also in a list of them, as Python's."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(each) for each in value]
    return value.item() if isinstance(value, np.generic) else value


def _names(what: str, count: int) -> list[str]:
    return [what] if count == 1 else [f"{what} {i}" for i in range(count)]


def _drawn(mask: Any, count: int, settings: DictConfig) -> list[Mask]:
    """The mask of each of `count` images, from one that is given for all, or a list of them."""
    if not isinstance(mask, (list, tuple)):
        given = mask_of(mask)
        return [MaskImage(given, settings.threshold, settings.known, "mask")] * count
    if len(mask) != count:
        raise ValueError(f"mask is a list of {len(mask)}, and there are {count} images")
    return [
        MaskImage(mask_of(each, name), settings.threshold, settings.known, name)
        for each, name in zip(mask, _names("mask", count), strict=True)
    ]


def _complete(
    options: DictConfig, completing: Completing, images: Images, batch_size: int
) -> Iterator[Completion]:
    """Each batch, on the device and in the precision of `options` (conf/trainer)."""
    used = {name: options[name] for name in ("accelerator", "devices", "precision")}
    try:
        fabric = Fabric(**used)
    except (RuntimeError, ModuleNotFoundError) as error:
        raise ValueError(f"trainer.accelerator={options.accelerator}: {error}") from error
    if fabric.world_size > 1:
        raise ValueError(f"trainer.devices={options.devices}: completion runs on one")
    completing.to(fabric.device)
    for batch in batches(images, batch_size):
        with fabric.autocast():
            done = completing.predict_step(fabric.to_device(batch))
        yield done
