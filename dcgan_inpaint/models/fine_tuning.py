"""Fine-tuning: a training that starts from the weights of a checkpoint (init=).

The checkpoint also decides the architecture.  Data, optimizer and schedule are those of the new
training.
"""

from collections.abc import Collection, Mapping
from typing import Any

from hydra.utils import get_object
from pytorch_lightning.utilities import rank_zero_info

from dcgan_inpaint.errors import show
from dcgan_inpaint.models.base import LatentGAN, Model
from dcgan_inpaint.models.checkpoint import load_gan, load_model, load_teacher


def leave_open(node: Mapping[str, Any], overridden: Collection[str]) -> dict[str, Any]:
    """Return the node of a model with None for what the checkpoint decides.

    Args:
        node: `_target_` and settings of the model.
        overridden: Full keys of the options that the user set, which stay as they are.
    """
    left = [name for name in _model_class(node).architecture if name in node]
    # The network is always a choice of the user, by model= or model/network=.
    opened = {name for name in left if name != "network" and f"model.{name}" not in overridden}
    if "gan" in node and not {"gan", "model.gan.path"} & set(overridden):
        opened.add("gan")
    return dict(node) | dict.fromkeys(opened)


def _model_class(node: Mapping[str, Any]) -> type[Model]:
    """Return the class that a node builds.  Raises ValueError if it is no subclass of Model."""
    target = node["_target_"]
    model_class = get_object(target)
    if not isinstance(model_class, type) or not issubclass(model_class, Model):
        raise ValueError(f"model._target_={target}: init= needs a subclass of Model. Remove init")
    return model_class


def load_start(path: str, node: Mapping[str, Any]) -> Model:
    """Load the model that a training of the model of `node` starts from.

    For a GAN this may be the GAN inside another model.

    Raises:
        FileNotFoundError, ValueError: As `load_model`, or for another kind of model.
    """
    model_class = _model_class(node)
    is_gan = issubclass(model_class, LatentGAN)
    start = load_gan(path, "init") if is_gan else load_model(path, key="init")
    if start.kind != model_class.kind:
        advice = ". Use gan=" if isinstance(start, LatentGAN) else ""
        raise ValueError(
            f"init={path}: holds a {start.kind}, but model= trains a {model_class.kind}{advice}"
        )
    return start


def fill_settings(
    node: Mapping[str, Any], start: Model, path: str, image_shape: tuple[int, int, int]
) -> dict[str, Any]:
    """Return the node of a model with the architecture of the checkpoint.

    Args:
        node: `_target_` and settings of the model; None is left to the checkpoint.
        start: The model in the checkpoint.
        path: The checkpoint.
        image_shape: Shape (C, S, S) of the training images.

    Raises:
        ValueError: If a setting or the images do not fit the checkpoint.
    """
    channels, size, _ = start.image_shape
    if image_shape != start.image_shape:
        raise ValueError(
            f"data.image_size={image_shape[1]} data.channels={image_shape[0]}: init={path} is for "
            f"other images. Use data.image_size={size} data.channels={channels}"
        )
    filled = dict(node)
    for name in start.architecture:
        ours, theirs = node.get(name), getattr(start.settings, name)
        if ours is not None and ours != theirs:
            advice = f"Use model/network={theirs}" if name == "network" else "Remove it"
            raise ValueError(
                f"model.{name}={show(ours)}: init={path} has model.{name}={show(theirs)}. {advice}"
            )
        filled[name] = theirs
    if node.get("gan") is not None:
        gan = node["gan"].get("path")
        raise ValueError(f"gan={show(gan)}: init={path} includes its own GAN. Remove gan")
    if "gan" in node:
        target = f"{load_teacher.__module__}.{load_teacher.__qualname__}"
        filled["gan"] = {"_target_": target, "path": path}
    return filled


def start_from(model: Model, start: Model, path: str) -> None:
    """Copy the weights of `start` to a model; print one line with what is initialized otherwise.

    Networks that only training uses, such as the discriminator of a OnePass, stay as initialized if
    the checkpoint lacks them or has them in another size.

    Raises:
        ValueError: If any other tensor is missing or has another shape.
    """
    ours, theirs = model.state_dict(), start.state_dict()
    new = []
    for part in model.training_only:
        names = {name for name in {*ours, *theirs} if f"{name}.".startswith(f"{part}.")}
        shapes = ({n: state[n].shape for n in names & state.keys()} for state in (ours, theirs))
        own, stored = shapes
        if start.ema_only or own != stored:  # a file of averages lacks these parts
            new += [part] if own else []
            for state in (ours, theirs):
                for name in names & state.keys():
                    del state[name]
    for name in [*ours, *theirs]:
        if name not in ours or name not in theirs or ours[name].shape != theirs[name].shape:
            raise ValueError(
                f"init={path}: tensor {name} does not fit the model. "
                "Use the model settings of the checkpoint"
            )
    model.load_state_dict(theirs, strict=False)
    notes = ["the raw weights start from the averages"] if start.ema_only else []
    notes += [f"the {part} starts as in a new training" for part in new]
    rank_zero_info("; ".join([f"init={path}: training starts from its weights", *notes]))
