"""Checkpoints that lie: what tests/test_checkpoint.py and faults.py load."""

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
from dcgan_inpaint.models.context_encoder import ContextEncoder
from dcgan_inpaint.models.dcgan import DCGAN
from dcgan_inpaint.models.latent_encoder import LatentEncoder

FACES: dict[str, Any] = {"source": "faces", "image_size": 16, "train_size": 8}
OLD_FACES = {"_target_": "dcgan_inpaint.data.faces.source.Faces", "image_size": 16, "train_size": 8}
WEIGHT = "generator.project.weight"
VARIANCE = "discriminator.norms.1.running_var"


def dcgan(**settings: Any) -> DCGAN:
    torch.manual_seed(0)
    small: dict[str, Any] = {"image_size": 16, "z_dim": 3, "gf_dim": 2, "df_dim": 2}
    return DCGAN(**small | settings)


def models() -> list[Model]:
    """One of each kind."""
    context = ContextEncoder(image_size=16, code_dim=4, gf_dim=2, df_dim=2)
    return [dcgan(), context, LatentEncoder(gan=dcgan(), image_size=16, code_dim=4, df_dim=2)]


def lightning(model: Model, **header: Any) -> dict[str, Any]:
    """What Lightning saves of a model, without what only resuming needs."""
    saved = {
        "pytorch-lightning_version": "2.6.6",
        "state_dict": dict(model.state_dict()),
        "hyper_parameters": dict(model.hparams),
        "kind": model.kind,
        "iteration": 5,
        "data": OLD_FACES,
    }
    return saved | header


def write(
    path: Path,
    model: Model | None = None,
    data: Any = FACES,
    settings: Any = None,
    tensors: dict | None = None,
    **header: Any,
) -> Path:
    """A checkpoint with these lies in it: safetensors or, by its name, as torch saves."""
    model = model or dcgan()
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


def calls(marker: Path) -> dict[str, dict]:
    """Calls that leave a file, as a configuration would write them."""
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


PLACES: dict[str, Callable[[dict], dict]] = {
    "itself": lambda call: call,
    "field": lambda call: OLD_FACES | {"seed": call},
    "list": lambda call: OLD_FACES | {"seed": [call]},
    "deeper": lambda call: OLD_FACES | {"seed": {"a": [{"b": call}]}},
    "root": lambda call: {"source": "folder", "root": call},
}


DATA: dict[str, tuple[Any, str]] = {
    "interpolation": (OLD_FACES | {"seed": "${oc.env:HOME}"}, "data.seed='${oc.env:HOME}': should"),
    "interpolated root": ({"source": "folder", "root": "${oc.env:HOME}"}, "data.root='${oc.env"),
    "download": ({"source": "celeba", "root": "celeba", "download": True}, "have no 'download'"),
    "root is a list": ({"source": "folder", "root": ["/", "/"]}, "data.root=['/', '/']: should be"),
    "root is null": ({"source": "folder", "root": None}, "data.root=None: should be"),
    "source is a list": ({"source": ["faces"]}, "choose one of celeba, faces, folder"),
    "no source": ({"image_size": 16}, "choose one of celeba, faces, folder"),
    "another class": ({"_target_": "dcgan_inpaint.data.loader.ImageData"}, "choose one of"),
    "positional": (OLD_FACES | {"_args_": [1]}, "faces images have no '_args_'"),
    "two lines": (FACES | {"a\nb": 1}, "faces images have no 'a"),
    "a list": ([FACES], "data=[{"),
}


HEADERS: dict[str, tuple[dict, str]] = {
    "instantiator": ({"settings": {"_instantiator": "shutil.rmtree"}}, "_instantiator=shutil."),
    "unknown name": ({"settings": {"hidden": 3}}, "hidden=3: unexpected"),
    "argument": ({"settings": {"mask": "x"}}, "mask=x: unexpected"),
    "nested": ({"settings": {"lr": {"_target_": "os.abort"}}}, "should be a valid number"),
    "huge": ({"settings": {"gf_dim": 10**9}}, "gf_dim=1000000000: should be less"),
    "larger than the file": ({"settings": {"gf_dim": 4096}}, "but the settings say"),
    "not finite": ({"settings": {"lr": float("nan")}}, "lr=nan: should be a finite number"),
    "text": ({"settings": {"z_dim": "3"}}, "z_dim=3: should be a valid integer"),
    "lines": ({"settings": {"widths": "a\nb\n" * 999}}, "widths=a b a b"),
    "a list": ({"settings": [1, 2]}, "settings=[1, 2]: should be a valid dictionary"),
    "unknown kind": ({"kind": "pirate\nship"}, " holds a pirate ship: use a checkpoint of a DCGAN"),
    "kind is a list": ({"kind": ["DCGAN"]}, "kind=['DCGAN']: should be a valid string"),
    "kind lies": ({"kind": "context encoder"}, "z_dim=3: unexpected"),
    "iteration": ({"iteration": "many"}, "iteration=many: should be a valid integer"),
    "below zero": ({"iteration": -1}, "iteration=-1: should be greater"),
}


LATENT: dict[str, tuple[dict, str]] = {
    "sizes lie": ({"gan_settings": dict(dcgan(gf_dim=4).hparams)}, "tensor gan.generator.project"),
    "huge": ({"gan_settings": {"image_size": 16, "gf_dim": 10**9}}, "gf_dim=1000000000: should"),
    "another size": ({"gan_settings": {"image_size": 32}}, "GAN makes images (3, 32, 32)"),
    "nested": ({"gan_settings": {"lr": [1]}}, "lr=[1]: should be"),
    "unknown name": ({"gan_settings": {"gan": 1}}, "gan=1: unexpected"),
    "a list": ({"gan_settings": ["DCGAN"]}, "gan_settings: no settings of a GAN"),
    "kind": ({"gan_kind": "residual GAN"}, "gan_kind=residual GAN: choose one of DCGAN"),
    "itself": ({"gan_kind": "latent encoder"}, "gan_kind=latent encoder"),
}


def tensor(name: str) -> Tensor:
    return dcgan().state_dict()[name].clone()


def with_value(name: str, value: float) -> dict[str, Tensor]:
    changed = tensor(name)
    changed.view(-1)[1] = value
    return {name: changed}


class Claim:
    """Pickled as a tensor of `size` and `stride`, in a storage of 4 bytes."""

    def __init__(self, size: tuple[int, ...], stride: tuple[int, ...]):
        self.size, self.stride = size, stride

    def __reduce__(self) -> tuple:
        storage = torch.zeros(1)._typed_storage()
        arguments: tuple = (storage, 0, self.size, self.stride, False, OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


TENSORS: dict[str, tuple[dict, str]] = {
    "shape": ({WEIGHT: tensor(WEIGHT).T}, "float32 of (3, 256), but the settings say"),
    "flat": ({WEIGHT: tensor(WEIGHT).flatten()}, "of (768,), but the settings say"),
    "integers": ({WEIGHT: tensor(WEIGHT).int()}, "torch.int32 of (256, 3), but the settings say"),
    "missing": ({WEIGHT: None}, f"tensor '{WEIGHT}': missing"),
    "extra": ({"evil": torch.zeros(1)}, "tensor 'evil': not of such a model"),
    "nan": (with_value(WEIGHT, float("nan")), f"tensor {WEIGHT}: not finite"),
    "inf": (with_value("ema_" + WEIGHT, float("inf")), f"tensor ema_{WEIGHT}: not finite"),
    "variance": (with_value(VARIANCE, -0.5), f"tensor {VARIANCE}: a variance below 0"),
}


PICKLED: dict[str, tuple[dict, str]] = {  # what safetensors cannot say
    "stride 0": ({WEIGHT: torch.zeros(1).expand(256, 3)}, "strides (0, 0)"),
    "overlap": ({WEIGHT: torch.zeros(400).as_strided((256, 3), (1, 1))}, "strides (1, 1)"),
    "no tensor": ({WEIGHT: [0.0] * 768}, "not a plain tensor"),
    "sparse": ({WEIGHT: torch.zeros(256, 3).to_sparse()}, "not a plain tensor"),
    "meta": ({WEIGHT: torch.zeros(256, 3, device="meta")}, "not a plain tensor"),
    "name": ({5: torch.zeros(1)}, "tensor 5: not of such a model"),
    "claim": ({WEIGHT: Claim((256, 3), (3, 1))}, "truncated, or not a"),
    "huge claim": ({WEIGHT: Claim((10**7, 10**7), (10**7, 1))}, "truncated, or not a"),
}


class Runs:
    """Leaves a file when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch '{self.marker}'",)


TEXTS = [  # in the place of the header
    ("{", "truncated, or not a"),
    ("", "truncated, or not a"),
    ("[1]", "truncated, or not a"),
    ("null", "truncated, or not a"),
    ('{"settings": ' + "[" * 100_000 + "]" * 100_000 + "}", "recursion"),
    ('{"settings": {}, "code": "x"}', "code=x: unexpected"),
    ("{}", "settings: missing"),
]
LYING: list[dict] = [  # of what a safetensors file holds
    {"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}},
    {"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 8]}},
    {"w": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}},
    {"w": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}},
    {"w": {"dtype": "F32", "shape": [2, -1], "data_offsets": [0, 8]}},
    {"w": {"dtype": "CODE", "shape": [2], "data_offsets": [0, 8]}},
    {"w": [1]},
    {"__metadata__": {"dcgan_inpaint": {"settings": {}}}},
]
LENGTHS = [0, 1, 2**31, 2**63, 2**64 - 1]  # that its first 8 bytes claim of the header


def every() -> Iterator[tuple[str, Callable[[Path], Path]]]:
    """(name, what writes it into a folder and gives its path) of each."""
    for form in ("weights.ckpt", "weights.safetensors"):
        for name, (data, _) in DATA.items():
            yield f"{form}, data: {name}", partial(_written, form, {"data": data})
        for name, (header, _) in HEADERS.items():
            yield f"{form}, header: {name}", partial(_written, form, header)
        for name, (said, _) in LATENT.items():
            yield f"{form}, latent encoder: {name}", partial(_latent, form, said)
        for name, (held, _) in TENSORS.items():
            yield f"{form}, tensors: {name}", partial(_written, form, {"tensors": held})
        for call in ("copyfile", "touch", "open", "hub", "savetxt"):
            for place in PLACES:
                yield f"{form}, {call} in {place}", partial(_calling, form, call, place)
    for name, (held, _) in PICKLED.items():
        yield f"pickled: {name}", partial(_written, "weights.ckpt", {"tensors": held})
    for place in ("state_dict", "hyper_parameters", "callbacks", "data"):
        yield f"a pickle that runs in {place}", partial(_running, place)
    for i, (text, _) in enumerate(TEXTS):
        yield f"safetensors with header {i}", partial(_saying, text)
    for i, lie in enumerate(LYING):
        yield f"safetensors that lie {i}", partial(_lying, json.dumps(lie).encode(), None)
    for length in LENGTHS:
        yield f"safetensors of length {length}", partial(_lying, b'{"w": 1}', length)


def _written(form: str, lies: dict, folder: Path) -> Path:
    return write(folder / form, **lies)


def _latent(form: str, said: dict, folder: Path) -> Path:
    return write(folder / form, models()[2], settings=said)


def _calling(form: str, call: str, place: str, folder: Path) -> Path:
    return write(folder / form, data=PLACES[place](calls(folder / "marker")[call]))


def _running(place: str, folder: Path) -> Path:
    path = folder / "weights.ckpt"
    torch.save(lightning(dcgan()) | {place: {"x": Runs(folder / "marker")}}, path)
    return path


def _saying(header: str, folder: Path) -> Path:
    path = folder / "weights.safetensors"
    path.write_bytes(save({"w": torch.zeros(2)}, {"dcgan_inpaint": header}))
    return path


def _lying(header: bytes, length: int | None, folder: Path) -> Path:
    path = folder / "weights.safetensors"
    claimed = struct.pack("<Q", len(header) if length is None else length)
    path.write_bytes(claimed + header + bytes(8))
    return path
