"""Malicious and inconsistent checkpoints, for test_hostile_checkpoints.py and the campaign."""

import json
import os
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from dcgan_inpaint.models.base import Model
from dcgan_inpaint.models.dcgan import DCGAN
from dcgan_inpaint.models.latent_encoder import LatentEncoder
from dcgan_inpaint.models.one_pass import OnePass

FACES: dict[str, Any] = {"source": "faces", "image_size": 16, "train_size": 8}
OLD_FACES = {"_target_": "dcgan_inpaint.data.faces.Faces", "image_size": 16, "train_size": 8}
WEIGHT = "generator.project.weight"
VARIANCE = "discriminator.norms.1.running_var"


def make_dcgan(**settings: Any) -> DCGAN:
    """Return a small DCGAN with fixed initial weights."""
    torch.manual_seed(0)
    small: dict[str, Any] = {"image_size": 16, "z_dim": 3, "gf_dim": 2, "df_dim": 2}
    return DCGAN(**small | settings)


def make_models() -> list[Model]:
    """Return a DCGAN, a context encoder and a latent encoder."""
    context = OnePass(
        network="context_encoder", hole_l2=1.0, image_size=16, code_dim=4, gf_dim=2, df_dim=2
    )
    return [
        make_dcgan(),
        context,
        LatentEncoder(gan=make_dcgan(), image_size=16, code_dim=4, df_dim=2),
    ]


def lightning_checkpoint(model: Model, **header: Any) -> dict[str, Any]:
    """Return a checkpoint of Lightning without the states that only resuming reads."""
    checkpoint = {
        "pytorch-lightning_version": "2.6.6",
        "state_dict": dict(model.state_dict()),
        "hyper_parameters": dict(model.hparams),
        "kind": model.kind,
        "iteration": 5,
        "data": OLD_FACES,
    }
    return checkpoint | header


def write_checkpoint(
    path: Path,
    model: Model | None = None,
    data: Any = FACES,
    settings: Any = None,
    tensors: dict | None = None,
    **header: Any,
) -> Path:
    """Write a checkpoint whose contents are replaced by the arguments, and return its path.

    Args:
        path: a name that ends in .ckpt is saved by torch, any other as safetensors.
        model: a small DCGAN if None.
        data: description of the training data.
        settings: changes to the settings of the model; a list replaces them.
        tensors: changes to its tensors; None removes one.
        header: changes to the other entries.
    """
    model = model or make_dcgan()
    if not isinstance(settings, list):
        settings = dict(model.hparams) | (settings or {})
    state = dict(model.state_dict()) | (tensors or {})
    state = {name: value for name, value in state.items() if value is not None}
    header = {"kind": model.kind, "iteration": 5, "data": data} | header
    if path.suffix == ".ckpt":
        torch.save(header | {"state_dict": state, "hyper_parameters": settings}, path)
    else:
        metadata = {"dcgan_inpaint": json.dumps(header | {"settings": settings})}
        path.write_bytes(save({k: v.contiguous() for k, v in state.items()}, metadata))
    return path


def make_calls(marker: Path) -> dict[str, dict]:
    """Return Hydra configurations that would create the file `marker` if instantiated."""
    hub = marker.parent / "hub"
    hub.mkdir()
    (hub / "hubconf.py").write_text(f"def leave():\n    open({str(marker)!r}, 'w')\n")
    (marker.parent / "source").write_text("")
    return {
        "copyfile": {
            "_target_": "shutil.copyfile",
            "src": str(marker.parent / "source"),
            "dst": str(marker),
        },
        "touch": {"_target_": "pathlib.Path.touch", "_args_": [str(marker)]},
        "open": {"_target_": "builtins.open", "file": str(marker), "mode": "w"},
        "hub": {
            "_target_": "torch.hub.load",
            "repo_or_dir": str(hub),
            "model": "leave",
            "source": "local",
        },
        "savetxt": {"_target_": "numpy.savetxt", "fname": str(marker), "X": [1.0]},
    }


# Positions in the description of the data where such a configuration is inserted.
PLACES: dict[str, Callable[[dict], dict]] = {
    "itself": lambda call: call,
    "field": lambda call: OLD_FACES | {"seed": call},
    "list": lambda call: OLD_FACES | {"seed": [call]},
    "deeper": lambda call: OLD_FACES | {"seed": {"a": [{"b": call}]}},
    "root": lambda call: {"source": "folder", "root": call},
}


# Descriptions of the data -> part of the error message.
DATA: dict[str, tuple[Any, str]] = {
    "interpolation": (OLD_FACES | {"seed": "${oc.env:HOME}"}, "data.seed='${oc.env:HOME}': should"),
    "interpolated root": ({"source": "folder", "root": "${oc.env:HOME}"}, "data.root='${oc.env"),
    "download": ({"source": "celeba", "root": "celeba", "download": True}, "unknown option"),
    "root is a list": ({"source": "folder", "root": ["/", "/"]}, "data.root=['/', '/']: should be"),
    "root is null": ({"source": "folder", "root": None}, "data.root=None: should be"),
    "source is a list": ({"source": ["faces"]}, "choose one of celeba, faces, folder"),
    "no source": ({"image_size": 16}, "choose one of celeba, faces, folder"),
    "another class": ({"_target_": "dcgan_inpaint.data.batches.ImageDataset"}, "choose one of"),
    "positional": (OLD_FACES | {"_args_": [1]}, "data._args_: unknown option"),
    "two lines": (FACES | {"a\nb": 1}, "unknown option of data=faces"),
    "a list": ([FACES], "data=[{"),
}


# Arguments of write_checkpoint and a part of the error message.
HEADERS: dict[str, tuple[dict, str]] = {
    "instantiator": ({"settings": {"_instantiator": "shutil.rmtree"}}, "_instantiator=shutil."),
    "unknown name": ({"settings": {"hidden": 3}}, "hidden=3: unknown option"),
    "argument": ({"settings": {"mask": "x"}}, "mask=x: unknown option"),
    "nested": ({"settings": {"lr": {"_target_": "os.abort"}}}, "should be a valid number"),
    "huge": ({"settings": {"gf_dim": 10**9}}, "gf_dim=1000000000: should be less"),
    "larger than the file": ({"settings": {"gf_dim": 4096}}, "but the settings require"),
    "not finite": ({"settings": {"lr": float("nan")}}, "lr=nan: should be a finite number"),
    "text": ({"settings": {"z_dim": "3"}}, "z_dim=3: should be a valid integer"),
    "lines": ({"settings": {"widths": "a\nb\n" * 999}}, "widths=a b a b"),
    "a list": ({"settings": [1, 2]}, "settings=[1, 2]: should be a valid dictionary"),
    "unknown kind": (
        {"kind": "pirate\nship"},
        ": holds a pirate ship. Use a checkpoint of a DCGAN",
    ),
    "kind is a list": ({"kind": ["DCGAN"]}, "kind=['DCGAN']: should be a valid string"),
    "another kind": ({"kind": "context encoder"}, "z_dim=3: unknown option"),
    "iteration": ({"iteration": "many"}, "iteration=many: should be a valid integer"),
    "below zero": ({"iteration": -1}, "iteration=-1: should be greater"),
}


# Settings of a latent encoder and a part of the error message.
LATENT: dict[str, tuple[dict, str]] = {
    "other sizes": (
        {"gan_settings": dict(make_dcgan(gf_dim=4).hparams)},
        "tensor gan.generator.project",
    ),
    "huge": ({"gan_settings": {"image_size": 16, "gf_dim": 10**9}}, "gf_dim=1000000000: should"),
    "another size": ({"gan_settings": {"image_size": 32}}, "gan= generates other images"),
    "nested": ({"gan_settings": {"lr": [1]}}, "lr=[1]: should be"),
    "unknown name": ({"gan_settings": {"gan": 1}}, "gan=1: unknown option"),
    "a list": ({"gan_settings": ["DCGAN"]}, "expected the kind and the gan_settings"),
    "kind": ({"gan_kind": "residual GAN"}, "gan_kind=residual GAN: expected the kind"),
    "itself": ({"gan_kind": "latent encoder"}, "gan_kind=latent encoder"),
}


def tensor(name: str) -> Tensor:
    """Return a copy of a tensor of the small DCGAN."""
    return make_dcgan().state_dict()[name].clone()


def with_value(name: str, value: float) -> dict[str, Tensor]:
    """Return the tensor with one of its numbers replaced, by name."""
    changed = tensor(name)
    changed.view(-1)[1] = value
    return {name: changed}


class OversizedTensor:
    """Pickled as a tensor of `size` and `stride` whose storage has only 4 bytes."""

    def __init__(self, size: tuple[int, ...], stride: tuple[int, ...]):
        self.size, self.stride = size, stride

    def __reduce__(self) -> tuple:
        storage = torch.zeros(1)._typed_storage()
        arguments: tuple = (storage, 0, self.size, self.stride, False, OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


# Tensors and a part of the error message.
TENSORS: dict[str, tuple[dict, str]] = {
    "shape": ({WEIGHT: tensor(WEIGHT).T}, "float32 of (3, 256), but the settings require"),
    "flat": ({WEIGHT: tensor(WEIGHT).flatten()}, "of (768,), but the settings require"),
    "integers": (
        {WEIGHT: tensor(WEIGHT).int()},
        "torch.int32 of (256, 3), but the settings require",
    ),
    "missing": ({WEIGHT: None}, f"tensor '{WEIGHT}': missing"),
    "extra": ({"evil": torch.zeros(1)}, "tensor 'evil': unknown to this model"),
    "nan": (
        with_value(WEIGHT, float("nan")),
        f"tensor {WEIGHT}: contains values that are not finite",
    ),
    "inf": (
        with_value("ema_" + WEIGHT, float("inf")),
        f"tensor ema_{WEIGHT}: contains values that are not finite",
    ),
    "variance": (with_value(VARIANCE, -0.5), f"tensor {VARIANCE}: contains a negative variance"),
}


# The same, of tensors that safetensors cannot store.
PICKLED: dict[str, tuple[dict, str]] = {
    "stride 0": ({WEIGHT: torch.zeros(1).expand(256, 3)}, "strides (0, 0)"),
    "overlap": ({WEIGHT: torch.zeros(400).as_strided((256, 3), (1, 1))}, "strides (1, 1)"),
    "no tensor": ({WEIGHT: [0.0] * 768}, "expected a dense CPU tensor"),
    "sparse": ({WEIGHT: torch.zeros(256, 3).to_sparse()}, "expected a dense CPU tensor"),
    "meta": ({WEIGHT: torch.zeros(256, 3, device="meta")}, "expected a dense CPU tensor"),
    "name": ({5: torch.zeros(1)}, "tensor 5: unknown to this model"),
    "truncated storage": ({WEIGHT: OversizedTensor((256, 3), (3, 1))}, "truncated, or not a"),
    "huge tensor": ({WEIGHT: OversizedTensor((10**7, 10**7), (10**7, 1))}, "truncated, or not a"),
}


class PickledCommand:
    """Creates the file `marker` when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch '{self.marker}'",)


TEXTS = [  # replacement of the header, and a part of the error message
    ("{", "truncated, or not a"),
    ("", "truncated, or not a"),
    ("[1]", "truncated, or not a"),
    ("null", "truncated, or not a"),
    ('{"settings": ' + "[" * 100_000 + "]" * 100_000 + "}", "recursion"),
    ('{"settings": {}, "code": "x"}', "code=x: unknown option"),
    ("{}", "settings: missing"),
]
BAD_LAYOUTS: list[dict] = [  # descriptions of the tensors in a safetensors file
    {"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}},
    {"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 8]}},
    {"w": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}},
    {"w": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}},
    {"w": {"dtype": "F32", "shape": [2, -1], "data_offsets": [0, 8]}},
    {"w": {"dtype": "CODE", "shape": [2], "data_offsets": [0, 8]}},
    {"w": [1]},
    {"__metadata__": {"dcgan_inpaint": {"settings": {}}}},
]
LENGTHS = [0, 1, 2**31, 2**63, 2**64 - 1]  # of the header, in the first 8 bytes of the file


def all_checkpoints() -> Iterator[tuple[str, Callable[[Path], Path]]]:
    """Yield the name of each and a function that writes it to a directory and returns its path."""
    for form in ("weights.ckpt", "weights.safetensors"):
        for name, (data, _) in DATA.items():
            yield f"{form}, data: {name}", partial(_write, form, {"data": data})
        for name, (header, _) in HEADERS.items():
            yield f"{form}, header: {name}", partial(_write, form, header)
        for name, (settings, _) in LATENT.items():
            yield f"{form}, latent encoder: {name}", partial(_write_latent, form, settings)
        for name, (tensors, _) in TENSORS.items():
            yield f"{form}, tensors: {name}", partial(_write, form, {"tensors": tensors})
        for call in ("copyfile", "touch", "open", "hub", "savetxt"):
            for place in PLACES:
                yield f"{form}, {call} in {place}", partial(_write_call, form, call, place)
    for name, (tensors, _) in PICKLED.items():
        yield f"pickled: {name}", partial(_write, "weights.ckpt", {"tensors": tensors})
    for place in ("state_dict", "hyper_parameters", "callbacks", "data"):
        yield f"pickled command in {place}", partial(_write_pickle, place)
    for i, (text, _) in enumerate(TEXTS):
        yield f"safetensors with header {i}", partial(_write_header, text)
    for i, layout in enumerate(BAD_LAYOUTS):
        yield (
            f"safetensors with layout {i}",
            partial(_write_layout, json.dumps(layout).encode(), None),
        )
    for length in LENGTHS:
        yield (
            f"safetensors with header length {length}",
            partial(_write_layout, b'{"w": 1}', length),
        )


def _write(form: str, arguments: dict, folder: Path) -> Path:
    return write_checkpoint(folder / form, **arguments)


def _write_latent(form: str, settings: dict, folder: Path) -> Path:
    return write_checkpoint(folder / form, make_models()[2], settings=settings)


def _write_call(form: str, call: str, place: str, folder: Path) -> Path:
    config = make_calls(folder / "marker")[call]
    return write_checkpoint(folder / form, data=PLACES[place](config))


def _write_pickle(place: str, folder: Path) -> Path:
    path = folder / "weights.ckpt"
    torch.save(
        lightning_checkpoint(make_dcgan()) | {place: {"x": PickledCommand(folder / "marker")}}, path
    )
    return path


def _write_header(header: str, folder: Path) -> Path:
    path = folder / "weights.safetensors"
    path.write_bytes(save({"w": torch.zeros(2)}, {"dcgan_inpaint": header}))
    return path


def _write_layout(layout: bytes, length: int | None, folder: Path) -> Path:
    path = folder / "weights.safetensors"
    size = struct.pack("<Q", len(layout) if length is None else length)
    path.write_bytes(size + layout + bytes(8))
    return path
