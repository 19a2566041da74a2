"""Registry of data sources, and their descriptions in checkpoints.

A checkpoint is untrusted.  Its description holds a name of `SOURCES` and plain values for that
constructor, which validates them.  Nothing in it is imported, resolved or called, and a
custom class is used only if the user's configuration names it.
"""

import hashlib
import inspect
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from dcgan_inpaint.configs import LOCATION_KEYS
from dcgan_inpaint.data.cache import Source
from dcgan_inpaint.data.faces.source import Faces
from dcgan_inpaint.data.image_files import Cars, CelebA, Folder, TarShards
from dcgan_inpaint.data.library_sets import HuggingFace, TorchvisionSet
from dcgan_inpaint.data.mixture import Mixture
from dcgan_inpaint.data.utkface import UTKFace

SOURCES: dict[str, type] = {
    "celeba": CelebA,
    "faces": Faces,
    "folder": Folder,
    "torchvision": TorchvisionSet,
    "cars": Cars,
    "huggingface": HuggingFace,
    "webdataset": TarShards,
    "utkface": UTKFace,
}
# `_target_` of each source in checkpoints and configurations of earlier versions
OLD_SOURCE_TARGETS = {
    "dcgan_inpaint.data.celeba.CelebA": "celeba",
    "dcgan_inpaint.data.faces.Faces": "faces",
    "dcgan_inpaint.data.folder.Folder": "folder",
    "dcgan_inpaint.data.torchvision_sets.TorchvisionSet": "torchvision",
    "dcgan_inpaint.data.cars.Cars": "cars",
    "dcgan_inpaint.data.hub.HuggingFace": "huggingface",
    "dcgan_inpaint.data.tars.Tars": "webdataset",
}
UNDESCRIBED_OPTIONS = ("download", "cache_limit")  # they do not change the images
CUSTOM = "own"  # name in the description of a class that is not in SOURCES
CUSTOM_FIELDS = ["target", "image_size", "channels", "crop", "settings"]


def build_source(config: Mapping[str, Any] | None) -> Any:
    """Return the source that the user's configuration describes, or None for None.

    Raises the errors of its class, and ValueError if the class is not a `Source`, or if its images
    are known in part only.
    """
    try:
        source = instantiate(config)
    except InstantiationException as error:
        # A source reports data.<option>, also as a part of a mixture, data.sources.<name>.
        if part := re.search(r"full_key: (sources\.\w+)$", str(error)):
            message = re.sub(r"\bdata\.", f"data.{part[1]}.", str(error.__cause__))
            raise ValueError(message) from error
        raise
    if config is not None and not isinstance(source, Source):
        required = ", ".join(sorted({*Source.__annotations__, "settings", "items", "decode"}))
        raise ValueError(
            f"data._target_={config['_target_']}: should have {required}. See CONTRIBUTING.md"
        )
    if config is not None:
        check_complete(source)
    return source


def check_complete(source: Source) -> None:
    """Raise ValueError if the images of a source are known in part only.

    They can train a model, as a part of a mixture, but not evaluate one.
    """
    if box := getattr(source, "valid_box", None):
        raise ValueError(
            f"data: the images are known in the box {box} only, and cannot evaluate a model. Use "
            "them in data=balanced, or use complete images (data.frame=none)"
        )


def describe(source: Source) -> dict[str, Any]:
    """Return {"source": name} and the plain values that the source was constructed with.

    For a custom class, these are its name, the shape of its images and a hash of its settings.
    For a mixture, the first source is described.
    """
    if isinstance(source, Mixture):
        return describe(source.first)
    name = {cls: name for name, cls in SOURCES.items()}.get(type(source))
    if name is None:
        settings = json.dumps(source.settings(), sort_keys=True, default=str)
        return {
            "source": CUSTOM,
            "target": f"{type(source).__module__}.{type(source).__qualname__}",
            "image_size": source.image_size,
            "channels": source.channels,
            "crop": source.crop,
            "settings": hashlib.sha256(settings.encode()).hexdigest()[:16],
        }
    values = {field: getattr(source, field) for field in _described_options(name)}
    if "root" in values:
        values["root"] = os.path.expanduser(values["root"])
    return {"source": name} | {k: v for k, v in values.items() if v is not None}


def node_of(source: Source) -> dict[str, Any]:
    """Return the configuration node that builds the source."""
    values = {k: v for k, v in describe(source).items() if k != "source"}
    return {"_target_": f"{type(source).__module__}.{type(source).__qualname__}", **values}


def check_description(stored: Any) -> dict[str, Any]:
    """Validate a description from a checkpoint and return it; nothing is built or opened.

    Old checkpoints hold a configuration instead, whose `_target_` is looked up in
    `OLD_SOURCE_TARGETS`.  Raises ValueError for an unknown name or option, and for a value that
    is not plain.
    """
    if not isinstance(stored, Mapping):
        raise ValueError(f"data={stored!r:.80}: not a description of a source")
    values = dict(stored)
    target = values.pop("_target_", None)
    name = values.pop("source", None) if target is None else OLD_SOURCE_TARGETS.get(str(target))
    if not isinstance(name, str) or name not in (*SOURCES, CUSTOM):
        raise ValueError(f"data={target or name!r:.80}: choose one of {', '.join(SOURCES)}")
    if values.get("download") is False:  # part of old configurations
        del values["download"]
    for option, value in values.items():
        if option not in _described_options(name):
            raise ValueError(f"data.{option!s:.40}: unknown option of data={name}")
        if not isinstance(value, (str, int, float)) or "${" in str(value):
            raise ValueError(f"data.{option}={value!r:.80}: should be a plain value")
    return {"source": name} | values


def source_from_description(stored: Any) -> Source:
    """Return the source that a checkpoint describes.

    Raises ValueError if the description is invalid or names a custom class, and
    FileNotFoundError if the images are not on this machine.
    """
    values = check_description(stored)
    if values["source"] == CUSTOM:
        raise ValueError(
            f"data: the checkpoint was trained with the custom class {values.get('target')!r:.80}, "
            "and classes that a checkpoint names are not imported. Set data=own "
            "data._target_=... or another data="
        )
    source = SOURCES[values.pop("source")](**values)
    check_complete(source)
    return source


def missing_argument(description: Mapping[str, Any]) -> str | None:
    """Return the first required argument that a description lacks, such as a removed root."""
    source = SOURCES.get(description["source"])
    parameters = inspect.signature(source).parameters.values() if source else ()
    required = (each.name for each in parameters if each.default is each.empty)
    return next((name for name in required if name not in description), None)


def _described_options(name: str) -> list[str]:
    """Return the constructor arguments of a source that a checkpoint may hold."""
    if name == CUSTOM:
        return CUSTOM_FIELDS
    parameters = inspect.signature(SOURCES[name]).parameters
    return [option for option in parameters if option not in UNDESCRIBED_OPTIONS]


def resolve_source(
    chosen: Source | None,
    description: Mapping[str, Any] | None,
    image_shape: tuple[int, int, int],
    ckpt: str,
) -> Source:
    """Return the chosen data source, or the one that a model was trained on.

    Prints the directory of the images if the checkpoint, not the user, names it.

    Args:
        chosen: The data source that the user configured, or None.
        description: The description of the training images in the checkpoint, or None.
        image_shape: (C, S, S) of the model.
        ckpt: Name of the checkpoint in messages.

    Raises:
        ValueError: There is no source, or its images do not fit the model.
    """
    if chosen is None:
        if description is None:
            raise ValueError(f"ckpt={ckpt}: does not name its training images. Set data=...")
        for key in LOCATION_KEYS:
            if key in description:
                print(f"using the training images of ckpt={ckpt} in {description[key]!r}")
        if missing := missing_argument(description):
            name = description["source"]
            raise ValueError(
                f"ckpt={ckpt}: was trained on {name} images. Set data={name} data.{missing}=..."
            )
        chosen = source_from_description(description)
    channels, size, _ = image_shape
    if (chosen.image_size, chosen.channels) != (size, channels):
        raise ValueError(
            f"data.image_size={chosen.image_size} data.channels={chosen.channels}: ckpt={ckpt} is "
            f"for other images. Use data.image_size={size} data.channels={channels}"
        )
    return chosen
