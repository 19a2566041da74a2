"""Completion from Python: like inpaint.py images=, also for images in memory."""

import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from hydra.utils import instantiate
from lightning_fabric import Fabric
from omegaconf import DictConfig, OmegaConf

from dcgan_inpaint.composition import choices_of, compose_config, normalize_overrides
from dcgan_inpaint.configs import check_config
from dcgan_inpaint.data.batches import ImageDataset, make_dataloader
from dcgan_inpaint.data.sources import resolve_source
from dcgan_inpaint.errors import explain_devices, format_count, unwrapped
from dcgan_inpaint.inpainting.build import Completing, build, uses_source
from dcgan_inpaint.inpainting.config import resolve
from dcgan_inpaint.inpainting.module import Completion, InpaintingModule, Progress
from dcgan_inpaint.masks.mask_image import MaskImage
from dcgan_inpaint.masks.masks import MaskFunction
from dcgan_inpaint.models.base import Model
from dcgan_inpaint.models.checkpoint import load_model
from dcgan_inpaint.photos.crops import Crop
from dcgan_inpaint.photos.far_images import FAR_IMAGE, find_far_images
from dcgan_inpaint.photos.photos import CropFinder, Photos, crop_finder
from dcgan_inpaint.photos.reading import ImageLike, to_mask, to_photo
from dcgan_inpaint.photos.result import Result
from dcgan_inpaint.schemas import InpaintConfig

# Options of conf/inpaint.yaml that concern files. They do not apply to images in memory.
FILE_OPTIONS = {"ckpt", "images", "split", "limit", "lpips", "features", "logger", "output", "pick"}
MASK_IMAGE = ("mask=file", "mask.path=mask")  # for a mask in memory: its path is a placeholder
MaskLike = str | ImageLike | Sequence[ImageLike] | None
Watch = Callable[[Progress], None]


class Completer:
    """Completes images of any size with one model, with the options of conf/inpaint.yaml.

    With a GAN, completion is a search for z (Amos 2016; Yeh 2017).  `overrides` are those of
    inpaint.py, such as "method=tv" or "trainer.accelerator=cpu".  `name` is the name of the model
    in error messages.  Raises ValueError with a one-line message for an invalid override.

    It works in any thread, under torch.inference_mode() and in a program that uses Hydra.
    """

    def __init__(self, model: Model, name: str, overrides: Sequence[str] = ()):
        for override in overrides:
            key = override.lstrip("+~").partition("=")[0].split(".")[0]
            if key in FILE_OPTIONS:
                raise ValueError(f"{override}: {key} applies to inpaint.py only. Remove it")
        self.model, self.name = model, name
        self.overrides = tuple(overrides)
        self._composed: dict[tuple[str, ...], DictConfig] = {}  # by the overrides of the mask
        self._config()

    @classmethod
    def load(cls, model: str | Path | Model = "celeba128", *overrides: str) -> "Completer":
        """Load a checkpoint from a path or a shipped name, or wrap a loaded model.

        Raises FileNotFoundError, or ValueError for a file that is not a checkpoint of this project.
        """
        if isinstance(model, Model):
            return cls(model, model.kind, overrides)
        return cls(load_model(model), str(model), overrides)

    @overload
    def __call__(
        self, image: ImageLike, mask: MaskLike = None, *args: Any, **options: Any
    ) -> Result: ...

    @overload
    def __call__(
        self, image: Sequence[ImageLike], mask: MaskLike = None, *args: Any, **options: Any
    ) -> list[Result]: ...

    @torch.inference_mode(False)  # a search needs gradients, of tensors made outside of it
    def __call__(
        self,
        image: Any = None,
        mask: Any = None,
        crop: Sequence[int] | None = None,
        candidates: int | None = None,
        select: str | None = None,
        face: int | Literal["all"] | None = None,
        watch: Watch | None = None,
        **renamed: Any,
    ) -> Result | list[Result]:
        """Complete an image, or each image of a list.

        Args:
            image: The path of a photo; a PIL image; an array (H, W) or (H, W, 1, 3 or 4), or a
                tensor (H, W) or (1, 3 or 4, H, W), of uint8 or of floats in [0, 1]; or a list of
                these.
            mask: The name of a choice of conf/mask ("center"), or an image or the path of one, of
                one channel where white, 1 or True is known, or a list of one for each image.  An
                image with the shape of `image` covers all of it, another one covers the crop.
            crop: The square [x, y, w, h] to complete, in px.  None: around the detected face, or
                the center of an image without one, with a warning.
            candidates: Number of samples to search for.
            select: How the completion is chosen: "best", "mean" or "sample" (see SearchSettings).
            face: Number of the detected face, 1 for the largest that is detected clearly; "all"
                completes each hole with the face that it lies on.  None: "all" for a mask image
                with the shape of `image`, 1 otherwise.
            watch: Called with a Progress after each evaluation of a search; other methods do not
                call it.  An exception ends the search and is raised by this call.

        Arguments that are None are as in conf/inpaint.yaml.  The start and a drawn mask of image i
        of a list (of crop i, for several faces) follow from the index i.

        Returns:
            A Result, or a list of them for a list of images.

        Warns:
            UserWarning: If no face is found, or an image looks unlike the faces of the training.

        Raises:
            ValueError: If an argument is invalid; raised before the search, with one line.
        """
        for old in renamed:
            new = {"picture": "image", "answer": "select"}.get(old)
            hint = f". It was renamed: use {new}=" if new else ""
            raise TypeError(f"unknown argument {old}={hint}")
        many = isinstance(image, (list, tuple))
        images = list(image) if many else [image]
        is_file = isinstance(mask, str) and mask not in choices_of("mask")
        if is_file and not os.path.exists(mask):
            names = ", ".join(choices_of("mask"))
            raise ValueError(
                f"mask={mask}: no such file or mask. Give an image, its path, or one of {names}"
            )
        by_name = mask is None or isinstance(mask, str) and not is_file
        overrides = () if mask is None else (f"mask={mask}",) if by_name else MASK_IMAGE
        options = {"crop": crop, "face": face, "candidates": candidates, "select": select}
        config = self._config(overrides, options)
        if not images:
            return []
        with unwrapped():
            config = resolve(config, self.model)
            count = len(images)
            masks = [instantiate(config.mask)] * count if by_name else _masks(mask, count, config)
            photos = self._photos(config, images, masks)
            completing = self._completing(config, photos.mask, watch)
        for line in photos.missing_faces.values():
            warnings.warn(
                f"{line}. Give crop=[x, y, w, h] to change it; result.crop_preview shows it",
                stacklevel=3,
            )
        results: dict[int, Result] = {}  # by image; of several faces the last
        for done, seconds in _complete(
            config.trainer, completing, photos.images, config.batch_size
        ):
            far = find_far_images(self.model, completing, done)
            for name in dict.fromkeys(photos.images.names[i] for i in far):  # of several faces one
                warnings.warn(f"{name}: {FAR_IMAGE}", stacklevel=3)
            for row, i in enumerate(done.index.tolist()):
                previous = results.get(photos.photo_index[i])
                total = seconds + (previous.seconds if previous else 0)
                is_far = i in far or bool(previous and previous.is_far)
                results[photos.photo_index[i]] = Result(photos, done, row, total, previous, is_far)
        return list(results.values()) if many else results[0]

    def crop_of(self, image: ImageLike) -> Crop:
        """Return the square of an image that is completed when no crop is given.

        Its `without_face` is True if it is the center because no face was found.

        Raises ValueError for something that is not an image, or for one without such a square.
        """
        (name,) = _names("image", [image])
        return self._finder(self._config())(to_photo(image), name)[0]

    def crops_of(self, image: ImageLike) -> list[Crop]:
        """Return the squares of an image in which the holes of a mask image are completed.

        There is one for each detected face, the most prominent first.  Given overrides for crop,
        detector or face, it is that of `crop_of`.  Raises ValueError as `crop_of` does.
        """
        config = self._config()
        if config.detector is not None and config.crop is config.face is None:
            config = self._config(options={"face": "all"})
        (name,) = _names("image", [image])
        return self._finder(config)(to_photo(image), name)

    def _config(
        self, overrides: tuple[str, ...] = (), options: Mapping[str, Any] | None = None
    ) -> InpaintConfig:
        """Return the checked configuration, with overrides for the mask and arguments of a call."""
        if overrides not in self._composed:
            all_overrides = normalize_overrides([*self.overrides, *overrides])
            self._composed[overrides] = compose_config("inpaint", all_overrides)
        composed = self._composed[overrides]
        changes: dict[str, Any] = {"ckpt": self.name}
        for key, value in (options or {}).items():
            if value is not None and key not in composed:
                raise ValueError(f"{key}={value}: applies to method=search only. Remove it")
            if value is not None:
                changes[key] = _plain(value)
        merged: Any = OmegaConf.merge(composed, changes)
        return check_config(merged, InpaintConfig)

    def _finder(self, config: InpaintConfig) -> CropFinder:
        share, data = self.model.settings.crop, self.model.data
        return crop_finder(share, config.crop, config.detector, config.eyes, config.face, data)

    def _photos(
        self, config: InpaintConfig, images: list[ImageLike], masks: list[MaskFunction]
    ) -> Photos:
        names = _names("image", images)
        photos = [to_photo(*pair) for pair in zip(images, names, strict=True)]
        finder = self._finder(config)
        return Photos(names, photos.__getitem__, masks, finder, self.model.image_shape)

    def _completing(
        self, config: InpaintConfig, mask: MaskFunction, watch: Watch | None
    ) -> Completing:
        data = instantiate(config.data)
        source: Any = None
        if uses_source(config):
            model = self.model
            source = resolve_source(data, model.data, model.image_shape, self.name)
        completing = build(config, self.model, mask, source)
        completing.check()
        if isinstance(completing, InpaintingModule):
            completing.on_progress = watch
        return completing


def _plain(value: Any) -> Any:
    """Convert NumPy numbers, alone or in a list, to Python numbers."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(each) for each in value]
    return value.item() if isinstance(value, np.generic) else value


def _names(what: str, images: Sequence[ImageLike]) -> list[str]:
    """Return the path of each image that is a file, and for example "image 3" of the others."""
    return [
        os.fspath(image)
        if isinstance(image, (str, os.PathLike))
        else (what if len(images) == 1 else f"{what} {i}")
        for i, image in enumerate(images)
    ]


def _masks(mask: Any, count: int, config: InpaintConfig) -> list[MaskFunction]:
    """Return a mask for each of `count` images, from one for all or from a list."""
    threshold, known = config.mask["threshold"], config.mask["known"]
    if not isinstance(mask, (list, tuple)):
        return [MaskImage(to_mask(mask), threshold, known, *_names("mask", [mask]))] * count
    if len(mask) != count:
        raise ValueError(
            f"mask: a list of {format_count(len(mask), 'mask')} for "
            f"{format_count(count, 'image')}. Give one mask per image"
        )
    return [
        MaskImage(to_mask(each, name), threshold, known, name)
        for each, name in zip(mask, _names("mask", mask), strict=True)
    ]


def _complete(
    options: Mapping[str, Any], completing: Completing, images: ImageDataset, batch_size: int
) -> Iterator[tuple[Completion, float]]:
    """Complete batch by batch, with the device and precision of `options` (conf/trainer).

    Yields each batch and the run time per image in seconds.
    """
    try:
        fabric = Fabric(**{name: options[name] for name in ("accelerator", "devices", "precision")})
    except (RuntimeError, ModuleNotFoundError) as error:
        raise ValueError(f"trainer.accelerator={options['accelerator']}: {error}") from error
    except TypeError as error:
        raise ValueError(explain_devices(options, error)) from error
    if fabric.world_size > 1:
        raise ValueError(f"trainer.devices={options['devices']}: completion uses one device. Use 1")
    completing.to(fabric.device)
    for batch in make_dataloader(images, batch_size):
        start = time.perf_counter()
        with fabric.autocast():
            done = completing.predict_step(fabric.to_device(batch))
        yield done, (time.perf_counter() - start) / len(done.index)
