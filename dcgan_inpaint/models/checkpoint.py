"""Loading and saving of trained models: safetensors files and the .ckpt files of Lightning.

A checkpoint is untrusted, so it is never a source of code.  Besides tensors it contains only plain
values, which are validated as settings of a model or as the description of a data source.  Declared
sizes are compared with the size of the file before memory is allocated.
"""

import json
import pickle
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from dcgan_inpaint.checksums import CHECKSUM, check_archive, checksum
from dcgan_inpaint.configs import LOCATION_KEYS, Natural, Text, make, settings
from dcgan_inpaint.data.sources import check_description
from dcgan_inpaint.files import atomic_write, find_checkpoint, open_safetensors
from dcgan_inpaint.models.base import LatentGAN, Model
from dcgan_inpaint.models.dcgan import DCGAN
from dcgan_inpaint.models.latent_encoder import LatentEncoder
from dcgan_inpaint.models.one_pass import OnePass

BUILT_IN: tuple[type[Model], ...] = (DCGAN, LatentEncoder, OnePass)
HEADER = "dcgan_inpaint"  # key of the header in the metadata of a safetensors file

# Names in files of earlier versions -> present names.
RENAMED_TENSORS = {"doubt": "error_calibration"}
OLD_DEFAULTS: dict[str, dict[str, Any]] = {  # of settings that a file may omit
    LatentEncoder.kind: {"df_dim": 64},
    "context encoder": {"network": "context_encoder"},
    "U-Net": {"network": "unet", "known": 1.0, "hole": 1.0},
}
OLD_KINDS = {"context encoder": OnePass.kind, "U-Net": OnePass.kind}
OLD_PARTS = {"generator": "network", "ema_generator": "ema_network"}  # of a context encoder


@settings
class Header:
    """The contents of a checkpoint besides its tensors, before validation by the model.

    settings: hyperparameters.  kind: Model.kind; the first versions knew only the DCGAN.  data:
    description of the training images.  iteration: iterations trained.  averaged: whether the file
    holds the averaged networks only, and nothing that only training needs.
    """

    settings: dict[str, Any]
    kind: str = DCGAN.kind
    data: dict[str, Any] | None = None
    iteration: Natural = 0
    averaged: bool = False


@torch.inference_mode(False)  # a search needs gradients, which tensors of that mode cannot have
def load_model(path: str | Path, *classes: type[Model], key: str = "ckpt") -> Model:
    """Load a trained model on the CPU.

    Args:
        path: File of either format, or the name of a shipped checkpoint.
        classes: Base classes, one of which the model must have; none accepts all models.
        key: The option that named the file, for error messages.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated, not a checkpoint of this project or of another kind of
            model, or its tensors do not match its settings or are not finite.
    """
    file = find_checkpoint(path, key)
    accepted = [model.kind for model in BUILT_IN if issubclass(model, classes or Model)]
    kinds = " or ".join(", ".join(accepted).rsplit(", ", 1))
    try:
        header, tensors = _read_file(file)
    except Exception as error:  # the file may contain anything, and its readers raise many types
        reason = _one_line(error) or type(error).__name__
        raise ValueError(
            f"{key}={path}: truncated, or not a checkpoint of a {kinds} ({reason})"
        ) from error
    model_class = Model.class_for_kind(header.kind)
    if model_class is None or not issubclass(model_class, classes or Model):
        kind = _one_line(header.kind)
        raise ValueError(f"{key}={path}: holds a {kind}. Use a checkpoint of a {kinds}")
    try:
        return _build_model(model_class, header, tensors)
    except ValueError as error:
        raise ValueError(f"{key}={path}: {_one_line(error)}") from error


def load_gan(path: str | Path, key: str = "ckpt") -> LatentGAN:
    """Load a GAN, or the GAN inside another model, as `load_teacher` loads the model."""
    gan = load_teacher(str(path), key).gan
    assert gan is not None  # `load_teacher` checked it
    return gan


def load_teacher(path: Text, key: Text = "gan") -> Model:
    """Load a model that has a GAN on the CPU, with the checks of `load_model`.

    Raises ValueError for a model without a GAN.
    """
    model = load_model(path, LatentGAN, LatentEncoder, OnePass, key=key)
    if model.gan is None:
        raise ValueError(f"{key}={path}: holds a {model.kind} without a GAN. Use that of a GAN")
    return model


def save_weights(model: Model, path: str | Path, averaged: bool = False) -> None:
    """Write a model as safetensors, atomically: tensors, and a `Header` as JSON in the metadata.

    Args:
        model: The model to write.
        path: The file; its directory is created.
        averaged: Write only what completion needs, for sharing: no raw networks, weights in half
            precision, and no paths of the training images.
    """
    iteration = max(model.iteration, model.trained_iterations)
    header = Header(dict(model.hparams), model.kind, model.data, iteration, averaged)
    tensors = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    if averaged:
        omitted = {*model.averages, *model.training_only}
        tensors = {  # biases and statistics are small, and some need the range of float32
            name: value.half() if value.ndim > 1 else value
            for name, value in tensors.items()
            if not _is_part(name, omitted)
        }
        tensors = {  # layers of a GAN that its network shares are stored once
            name: value
            for name, value in tensors.items()
            if (shared := _shared_tensor(model, name)) not in tensors
            or not torch.equal(value, tensors[str(shared)])
        }
        data = (model.data or {}).items()
        header = replace(header, data={k: v for k, v in data if k not in LOCATION_KEYS} or None)
    fields = asdict(header)
    fields[CHECKSUM] = checksum(tensors, {HEADER: json.dumps(fields)})
    with atomic_write(Path(path)) as file:
        file.write(save(tensors, {HEADER: json.dumps(fields)}))


def _read_file(path: Path) -> tuple[Header, dict[str, Tensor]]:
    """Read header and tensors of a file; its first bytes determine the format.

    The tensors are memory-mapped, because a file may claim more than it holds.
    """
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{":  # safetensors: 8 bytes of length, then JSON
        with open_safetensors(path) as stored:
            fields = json.loads((stored.metadata() or {}).get(HEADER, "{}"))
            tensors = {name: stored.get_tensor(name) for name in list(stored.keys())}
        expected = fields.pop(CHECKSUM, None)  # the first versions stored none
        if expected not in (None, checksum(tensors, {HEADER: json.dumps(fields)})):
            raise ValueError("damaged file: wrong checksum")
    elif zipfile.is_zipfile(path):
        check_archive(path)
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except pickle.UnpicklingError as error:  # its message explains how to run the code inside
            raise ValueError("contains more than tensors and plain values") from error
        fields = {name: saved[name] for name in ("kind", "data", "iteration") if name in saved}
        fields["settings"] = saved.get("hyper_parameters")
        tensors = dict(saved["state_dict"])
    else:
        raise ValueError("neither a safetensors file nor a file of torch.save")
    header = make(Header, fields)
    tensors = {RENAMED_TENSORS.get(name, name): value for name, value in tensors.items()}
    header = replace(header, settings=OLD_DEFAULTS.get(header.kind, {}) | header.settings)
    return _convert_old_kind(header, tensors)


def _convert_old_kind(
    header: Header, tensors: dict[str, Tensor]
) -> tuple[Header, dict[str, Tensor]]:
    """Convert the file of a context encoder or a U-Net, which had classes of their own."""
    if header.kind == "context encoder":
        own = dict(header.settings)
        l2 = own.pop("l2_weight", 0.999)
        own |= {"hole_l2": l2, "adversarial": 1 - l2, "schedule": "constant"}
        header = replace(header, settings=own)
        parts = {name: name.partition(".")[::2] for name in tensors}
        tensors = {
            f"{OLD_PARTS.get(part, part)}.{rest}": tensors[name]
            for name, (part, rest) in parts.items()
        }
    return replace(header, kind=OLD_KINDS.get(header.kind, header.kind)), tensors


def _build_model(model_class: type[Model], header: Header, tensors: dict[str, Tensor]) -> Model:
    """Build the model of a file.  Raises ValueError if its parts are invalid or do not match."""
    with torch.device("meta"):  # the sizes are not verified yet
        planned = model_class.from_hyperparameters(header.settings)
    expected = planned.state_dict()
    if header.averaged:
        for name in expected.keys() - tensors.keys():
            if (shared := _shared_tensor(planned, name)) in tensors:
                tensors[name] = tensors[str(shared)]
        for network, average in planned.averages.items():  # the averages serve as raw networks
            for name in [name for name in tensors if name.startswith(f"{average}.")]:
                tensors.setdefault(network + name.removeprefix(average), tensors[name])
        expected = {k: v for k, v in expected.items() if not _is_part(k, planned.training_only)}
    added = planned.initial_buffers().keys() - tensors.keys()
    _check_tensors({k: v for k, v in expected.items() if k not in added}, tensors)
    data = None if header.data is None else check_description(header.data)
    model = model_class.from_hyperparameters(header.settings)
    model.load_state_dict(model.initial_buffers() | tensors, strict=not header.averaged)
    model.data, model.trained_iterations = data, header.iteration
    for part in filter(None, (model, model.gan)):
        part.ema_only = header.averaged
    return model


def _shared_tensor(model: Model, name: str) -> str | None:
    """Return the tensor of the GAN that a tensor of the network started from, or None."""
    for start, source in model.starts.items():
        if name.startswith(f"{start}."):
            return source + name.removeprefix(start)
    return None


def _is_part(name: str, parts: Collection[str]) -> bool:
    """Return whether a tensor belongs to one of the given networks and buffers."""
    return f"{name}.".startswith(tuple(f"{part}." for part in parts))


def _one_line(text: object) -> str:
    """Shorten text about a file to one line of at most 200 characters for a message."""
    return " ".join(str(text).split())[:200]


def _check_tensors(expected: Mapping[str, Tensor], tensors: Mapping[str, Any]) -> None:
    """Check that the tensors of a file match those of its model.

    Raises ValueError, naming the tensor, unless names, shapes and dtypes match, each tensor is
    stored completely, all values are finite and all variances non-negative.
    """
    for name in [*expected, *tensors]:
        if name not in tensors or name not in expected:
            problem = "missing" if name in expected else "unknown to this model"
            raise ValueError(f"tensor {name!r:.80}: {problem}")
    for name, planned in expected.items():
        stored = tensors[name]
        plain = isinstance(stored, Tensor) and stored.layout == torch.strided
        if not plain or stored.device.type != "cpu":
            raise ValueError(f"tensor {name}: expected a dense CPU tensor")
        half = planned.is_floating_point() and stored.dtype in (torch.float16, torch.bfloat16)
        if stored.shape != planned.shape or not (stored.dtype == planned.dtype or half):
            raise ValueError(
                f"tensor {name}: {stored.dtype} of {tuple(stored.shape)}, but the settings require "
                f"{planned.dtype} of {tuple(planned.shape)}"
            )
        # Overlapping elements would let a small file claim a large tensor.
        if not (stored.is_contiguous() or stored.is_contiguous(memory_format=torch.channels_last)):
            raise ValueError(f"tensor {name}: unsupported strides {stored.stride()}")
        if stored.untyped_storage().nbytes() < stored.numel() * stored.itemsize:
            raise ValueError(f"tensor {name}: is larger than its data in the file")
    for name, stored in tensors.items():
        if not stored.isfinite().all():
            raise ValueError(f"tensor {name}: contains values that are not finite")
        if name.endswith("running_var") and (stored < 0).any():
            raise ValueError(f"tensor {name}: contains a negative variance")
