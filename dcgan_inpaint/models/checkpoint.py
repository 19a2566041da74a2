"""What is kept of a trained model, and its images: `weights.safetensors`, or Lightning's .ckpt.

A checkpoint may be anybody's, so it is never a source of code: what is not a tensor is a plain
value, held to the settings of a model or the description of a source, and nothing in it is called.
What it claims is compared with what the file holds before memory is spent on it.
"""

import json
import os
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from dcgan_inpaint.checksums import CHECKSUM, check_archive, checksum
from dcgan_inpaint.configs import LOCATION_KEYS, Natural, Text, make, settings
from dcgan_inpaint.data.cache import Source
from dcgan_inpaint.data.sources import check_description, from_description, missing_of
from dcgan_inpaint.models.base import LatentGAN, Model
from dcgan_inpaint.models.context_encoder import ContextEncoder
from dcgan_inpaint.models.dcgan import DCGAN
from dcgan_inpaint.models.latent_encoder import LatentEncoder
from dcgan_inpaint.models.unet import UNet

BUILT_IN: tuple[type[Model], ...] = (DCGAN, LatentEncoder, ContextEncoder, UNet)
SHIPPED = {path.stem: path for path in (Path(__file__).parents[1] / "checkpoints").glob("*.s*")}
HEADER = "dcgan_inpaint"  # its key in the metadata of a safetensors file


@settings
class Header:
    """What a checkpoint says besides its tensors, not yet held to the model's own settings."""

    settings: dict[str, Any]
    kind: str = DCGAN.kind  # before there were others, it was not said
    data: dict[str, Any] | None = None
    iteration: Natural = 0
    averaged: bool = False  # only the averages, and nothing that training alone needs


def load_model(path: str | Path, *classes: type[Model], key: str = "ckpt") -> Model:
    """A trained model below one of `classes`, or any, on the CPU, from a checkpoint of either form.

    `path` may be the name of one of SHIPPED.  `key` is the option that named it, for errors.
    Raises FileNotFoundError for a missing file, ValueError for one that is truncated, not ours, of
    another kind of model, or whose tensors are not those of its settings, finite and plain.
    """
    file = file_of(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"{key}={path}: no such file; train.py writes weights.safetensors, and there are "
            f"{', '.join(SHIPPED)}"
        )
    taken = [model.kind for model in BUILT_IN if issubclass(model, classes or Model)]
    wanted = " or ".join(", ".join(taken).rsplit(", ", 1))
    try:
        header, tensors = _read(file)
    except Exception as error:  # a file can hold anything, and its readers raise many kinds
        reason = _one_line(error) or type(error).__name__
        raise ValueError(
            f"{key}={path}: truncated, or not a {wanted} checkpoint of this project ({reason})"
        ) from error
    kind = Model.of_kind(header.kind)
    if kind is None or not issubclass(kind, classes or Model):
        held = _one_line(header.kind)
        raise ValueError(f"{key}={path} holds a {held}: use a checkpoint of a {wanted}")
    try:
        with torch.device("meta"):  # sizes are only claims so far
            planned = kind.rebuild(header.settings)
        wanted_tensors = planned.state_dict()
        if header.averaged:
            tensors = _raw_as_average(planned, tensors)
            spare = _below(planned.training_only)
            wanted_tensors = {n: t for n, t in wanted_tensors.items() if not spare.match(n)}
        _check_tensors(wanted_tensors, tensors)
        data = None if header.data is None else check_description(header.data)
    except ValueError as error:
        raise ValueError(f"{key}={path}: {_one_line(error)}") from error
    model = kind.rebuild(header.settings)
    model.load_state_dict(tensors, strict=not header.averaged)
    model.data, model.trained, model.averaged = data, header.iteration, header.averaged
    if model.gan is not None:
        model.gan.averaged = header.averaged
    return model


def file_of(path: str | Path) -> Path:
    """The file of a checkpoint that is named by its path, or by its name in SHIPPED."""
    return SHIPPED.get(str(path), Path(path))


def load_gan(path: str | Path, key: str = "ckpt") -> LatentGAN:
    """A trained GAN on the CPU: that of a checkpoint, or the one a latent encoder learned from.

    Raises as `load_model`.
    """
    gan = load_model(path, LatentGAN, LatentEncoder, key=key).gan
    assert gan is not None
    return gan


def load_teacher(path: Text) -> LatentGAN:
    """`load_gan` of the file that train.py's gan= names."""
    return load_gan(path, key="gan")


def source_of(model: Model, chosen: Source | None, ckpt: str) -> Source:
    """The source to go with a checkpoint: `chosen`, or the one that it was trained on.

    A folder that the checkpoint names, not the user, is printed before it is read.  Raises
    ValueError when there is no source, or it does not fit the model.
    """
    if chosen is None:
        if model.data is None:
            raise ValueError(f"ckpt={ckpt} does not say what it was trained on: give data=...")
        for place in LOCATION_KEYS:
            if place in model.data:
                print(f"images of {model.data[place]!r}, where ckpt={ckpt} was trained")
        if missing := missing_of(model.data):
            name = model.data["source"]
            raise ValueError(
                f"ckpt={ckpt} was trained on {name} images: give data={name} data.{missing}=..."
            )
        chosen = from_description(model.data)
    channels, size, _ = model.image_shape
    if (chosen.image_size, chosen.channels) != (size, channels):
        raise ValueError(
            f"ckpt={ckpt} makes images of {size} px and {channels} channels, data has "
            f"{chosen.image_size} and {chosen.channels}: use data.image_size={size} "
            f"data.channels={channels}"
        )
    return chosen


def save_weights(model: Model, path: str | Path, averaged: bool = False) -> None:
    """Write a model as safetensors: its tensors, and a `Header` as JSON in the metadata.

    `averaged` writes what completion needs, to ship: no raw networks and nothing of training, the
    weights in half precision, and no word of where the images lay.
    """
    header = Header(
        settings=dict(model.hparams),
        kind=model.kind,
        data=model.data,
        iteration=max(model.iteration, model.trained),
        averaged=averaged,
    )
    tensors = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    if averaged:
        dropped = _below([*model.averages, *model.training_only])
        kept = {name: value for name, value in tensors.items() if not dropped.match(name)}
        # biases and statistics are few, and some need the range
        tensors = {n: value.half() if value.ndim > 1 else value for n, value in kept.items()}
        data = {
            name: value for name, value in (model.data or {}).items() if name not in LOCATION_KEYS
        }
        header = replace(header, data=data or None)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    part = Path(path).with_suffix(".part")
    about = asdict(header)
    about[CHECKSUM] = checksum(tensors, {HEADER: json.dumps(about)})
    part.write_bytes(save(tensors, {HEADER: json.dumps(about)}))  # of two words the order varies
    os.replace(part, path)  # at once: a killed run leaves no half of a file under this name


def _read(path: Path) -> tuple[Header, dict[str, Tensor]]:
    """Header and tensors of a file of either form, told by its first bytes.

    The tensors are mapped, not read: the file may be smaller than they claim to be.
    """
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{":  # 8 bytes of length, then JSON
        with safe_open(path, "pt") as stored:
            about = json.loads((stored.metadata() or {}).get(HEADER, "{}"))
            tensors = {name: stored.get_tensor(name) for name in list(stored.keys())}
        said = about.pop(CHECKSUM, None)  # not by earlier versions
        if said is not None and said != checksum(tensors, {HEADER: json.dumps(about)}):
            raise ValueError("damaged: it has another checksum")
        return make(Header, about), tensors
    if not zipfile.is_zipfile(path):
        raise ValueError("neither safetensors nor what torch saves")
    check_archive(path)
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:  # its own text says how to run what is in there
        raise ValueError("more than tensors and plain values in it") from error
    about = {name: saved[name] for name in ("kind", "data", "iteration") if name in saved}
    header = make(Header, about | {"settings": saved.get("hyper_parameters")})
    return header, dict(saved["state_dict"])


def _below(names: Iterable[str]) -> re.Pattern[str]:
    """What the tensors of networks by these names are called."""
    return re.compile(rf"(?:{'|'.join(map(re.escape, names))})(?:\.|$)" if names else "(?!)")


def _raw_as_average(model: Model, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an averaged file, with those of the raw networks, which are the averages."""
    raw = {
        network + name.removeprefix(average): value
        for network, average in model.averages.items()
        for name, value in tensors.items()
        if name.startswith(f"{average}.")
    }
    return raw | dict(tensors)


def _one_line(what: object) -> str:
    """Text from a file, or about it, as a message can hold it."""
    return " ".join(str(what).split())[:200]


def _check_tensors(expected: Mapping[str, Tensor], tensors: Mapping[str, Any]) -> None:
    """Raise ValueError, which names the tensor, unless they are `expected` in name, shape and
    dtype, each stored whole, finite, and variances not negative."""
    for name in [*expected, *tensors]:
        if name not in tensors or name not in expected:
            what = "missing" if name in expected else "not of such a model"
            raise ValueError(f"tensor {name!r:.80}: {what}")
    for name, wanted in expected.items():
        found = tensors[name]
        plain = isinstance(found, Tensor) and found.layout == torch.strided
        if not plain or found.device.type != "cpu":
            raise ValueError(f"tensor {name}: not a plain tensor")
        halved = wanted.is_floating_point() and found.dtype in (torch.float16, torch.bfloat16)
        if found.shape != wanted.shape or not (found.dtype == wanted.dtype or halved):
            raise ValueError(
                f"tensor {name}: {found.dtype} of {tuple(found.shape)}, but the settings say "
                f"{wanted.dtype} of {tuple(wanted.shape)}"
            )
        # each number has a place of its own, in the order of the shape or with channels last
        if not (found.is_contiguous() or found.is_contiguous(memory_format=torch.channels_last)):
            raise ValueError(f"tensor {name}: strides {found.stride()} that no model has")
        if found.untyped_storage().nbytes() < found.numel() * found.itemsize:
            raise ValueError(f"tensor {name}: larger than what the file holds of it")
    for name, found in tensors.items():
        if not found.isfinite().all():
            raise ValueError(f"tensor {name}: not finite")
        if name.endswith("running_var") and (found < 0).any():
            raise ValueError(f"tensor {name}: a variance below 0")
