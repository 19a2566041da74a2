"""The sources of images by name, and how a checkpoint says which one it was trained on.

A checkpoint may be anybody's.  So what it says is a name of this table and plain values of that
constructor, which holds them to its annotations; nothing in it is looked up, resolved or called.
A class of one's own is run where its user names it, and a checkpoint only says that there was one.
"""

import hashlib
import inspect
import json
from collections.abc import Mapping
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from dcgan_inpaint.data.cache import Source
from dcgan_inpaint.data.cars import Cars
from dcgan_inpaint.data.celeba import CelebA
from dcgan_inpaint.data.faces.source import Faces
from dcgan_inpaint.data.folder import Folder
from dcgan_inpaint.data.hub import HuggingFace
from dcgan_inpaint.data.tars import Tars
from dcgan_inpaint.data.torchvision_sets import TorchvisionSet

SOURCES: dict[str, type] = {
    "celeba": CelebA,
    "faces": Faces,
    "folder": Folder,
    "torchvision": TorchvisionSet,
    "cars": Cars,
    "huggingface": HuggingFace,
    "webdataset": Tars,
}
HOW = ("download", "cache_limit")  # what says how images come, and not which
OWN = "own"  # of classes that are not among them
OWN_FIELDS = ["target", "image_size", "channels", "crop", "settings"]


def open_source(cfg: DictConfig | None) -> Any:
    """The source that a configuration describes, which is the user's; None of None.

    Raises what its class does, and ValueError for a class that is no `Source`.
    """
    source = instantiate(cfg)
    if cfg is not None and not isinstance(source, Source):
        wanted = ", ".join(sorted({*Source.__annotations__, "settings", "items", "decode"}))
        raise ValueError(
            f"data._target_={cfg._target_}: should have {wanted} (CONTRIBUTING.md has an example)"
        )
    return source


def describe(source: Source) -> dict[str, Any]:
    """{"source": its name} and the values it was made of: plain ones, but not how they come.

    Of a class of one's own it is its name, its sizes and a word for what its settings are.
    """
    name = {cls: name for name, cls in SOURCES.items()}.get(type(source))
    if name is None:
        settings = json.dumps(source.settings(), sort_keys=True, default=str)
        return {
            "source": OWN,
            "target": f"{type(source).__module__}.{type(source).__qualname__}",
            "image_size": source.image_size,
            "channels": source.channels,
            "crop": source.crop,
            "settings": hashlib.sha256(settings.encode()).hexdigest()[:16],
        }
    values = {field: getattr(source, field) for field in _fields(name)}
    plain = {k: str(v) if k == "root" else v for k, v in values.items() if v is not None}
    return {"source": name} | plain


def node_of(source: Source) -> dict[str, Any]:
    """Return the config node that makes the source again."""
    values = {k: v for k, v in describe(source).items() if k != "source"}
    return {"_target_": f"{type(source).__module__}.{type(source).__qualname__}", **values}


def check_description(stored: Any) -> dict[str, Any]:
    """What `describe` gave, from a file; nothing is built or opened.

    Checkpoints from before there were descriptions hold a configuration, whose `_target_` stands
    for the name.  Raises ValueError for an unknown name or field, and a value that is not plain.
    """
    if not isinstance(stored, Mapping):
        raise ValueError(f"data={stored!r:.80}: not a description of images")
    values = dict(stored)
    classes = {f"{cls.__module__}.{cls.__qualname__}": name for name, cls in SOURCES.items()}
    target = values.pop("_target_", None)
    name = classes.get(target) if isinstance(target, str) else values.pop("source", None)
    if not isinstance(name, str) or name not in (*SOURCES, OWN):
        raise ValueError(f"data={target or name!r:.80}: choose one of {', '.join(SOURCES)}")
    if values.get("download") is False:  # in configurations
        del values["download"]
    for field, value in values.items():
        if field not in _fields(name):
            raise ValueError(f"data: {name} images have no {field!r:.40}")
        if not isinstance(value, (str, int, float)) or "${" in str(value):
            raise ValueError(f"data.{field}={value!r:.80}: should be a plain value")
    return {"source": name} | values


def from_description(stored: Any) -> Source:
    """The source that a checkpoint describes.

    Raises ValueError when the description is not plain or out of range, FileNotFoundError when the
    images are not here.
    """
    values = check_description(stored)
    if values["source"] == OWN:
        raise ValueError(
            "data: the checkpoint was trained with a class of its owner's, "
            f"{values.get('target')!r:.80}, and nothing that a checkpoint names is run: give "
            "data=own data._target_=... or another data="
        )
    return SOURCES[values.pop("source")](**values)


def missing_of(description: Mapping[str, Any]) -> str | None:
    """What the source of a description needs that it does not say, if anything: a root that was
    somebody's own."""
    source = SOURCES.get(description["source"])
    parameters = inspect.signature(source).parameters.values() if source else ()
    needed = (each.name for each in parameters if each.default is each.empty)
    return next((name for name in needed if name not in description), None)


def _fields(name: str) -> list[str]:
    """The names of a constructor's arguments that a checkpoint may say: not how images come."""
    if name == OWN:
        return OWN_FIELDS
    return [field for field in inspect.signature(SOURCES[name]).parameters if field not in HOW]
