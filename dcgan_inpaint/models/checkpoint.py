"""Loading what train.py made: a model from its checkpoint, and the data that go with it."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dcgan_inpaint.models.base import LatentGAN, Model
from dcgan_inpaint.models.latent_encoder import GANS, LatentEncoder


def load_model(path: str | Path, *classes: type[Model]) -> Any:
    """A trained model of one of `classes`, on the CPU, from its checkpoint and nothing else.

    Raises FileNotFoundError for a missing file, ValueError for one that is truncated, not ours, or
    of another kind of model.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"ckpt={path}: no such file; train.py writes <its run>/last.ckpt")
    kinds = {model.kind: model for model in classes}
    wanted = " or ".join(", ".join(kinds).rsplit(", ", 1))
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        kind = saved.get("kind", "DCGAN")  # before there were others, it was not said
        if kind in kinds:
            return kinds[kind].load_from_checkpoint(path, map_location="cpu", weights_only=True)
    except (
        RuntimeError,
        KeyError,
        TypeError,
        AttributeError,
        EOFError,
        pickle.UnpicklingError,
    ) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"ckpt={path}: truncated, or not a {wanted} checkpoint of this project ({reason[0]})"
        ) from error
    raise ValueError(f"ckpt={path} holds a {kind}: use a checkpoint of a {wanted}")


def load_gan(path: str | Path) -> LatentGAN:
    """A trained GAN on the CPU: that of a checkpoint, or the one a latent encoder learned from.

    Raises as `load_model`.
    """
    model = load_model(path, *GANS.values(), LatentEncoder)
    return model.gan if isinstance(model, LatentEncoder) else model


def data_of(model: Model, chosen: Mapping[str, Any] | None, ckpt: str) -> Mapping[str, Any]:
    """The data configuration to go with a checkpoint: `chosen`, or null: what it was trained on.

    Raises ValueError when there is none, when it is not ours or does not fit the model.
    """
    data = chosen or model.data
    if data is None:
        raise ValueError(f"ckpt={ckpt} does not say what it was trained on: give data=...")
    if not data["_target_"].startswith("dcgan_inpaint.data."):  # a checkpoint may be anybody's
        raise ValueError(f"ckpt={ckpt}: its data source {data['_target_']} is not ours")
    channels, size, _ = model.picture_shape
    if (data["image_size"], data["channels"]) != (size, channels):
        raise ValueError(
            f"ckpt={ckpt} makes pictures of {size} px and {channels} channels, data has "
            f"{data['image_size']} and {data['channels']}: use data.image_size={size} "
            f"data.channels={channels}"
        )
    return data
