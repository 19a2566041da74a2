"""Validation of configurations and settings by types and annotations.

`checked` validates the arguments of a function, `settings` the fields of a dataclass and
`check_config` a composed configuration.  All are strict: they reject numbers in strings, fractions
for integers, and infinite values.  This module does not import torch, so that a wrong option
is reported at once.
"""

import difflib
import functools
import inspect
import pkgutil
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

import pydantic
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
)
from typing_extensions import TypedDict  # pydantic rejects typing.TypedDict before Python 3.12

from dcgan_inpaint.annotations import read_annotations
from dcgan_inpaint.errors import show


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return {"mask.scale": 1} for {"mask": {"scale": 1}}."""
    if not isinstance(tree, Mapping):
        return {prefix[:-1]: tree}
    return {k: v for key, part in tree.items() for k, v in flatten(part, f"{prefix}{key}.").items()}


def unknown_option(override: str, options: Iterable[str]) -> str:
    """Return the error line for an option that does not exist, with those that it may mean.

    Args:
        override: key=value, or the key alone.
        options: Full keys of the options that exist.
    """
    key, equals, value = override.partition("=")
    similar = [f"{option}{equals}{value}" for option in _similar_options(key, list(options))]
    question = f"Did you mean {' or '.join(similar)}?"
    advice = question if similar else "conf/README.md has all options"
    return f"{override}: unknown option. {advice}"


def _similar_options(key: str, options: Sequence[str]) -> list[str]:
    """Return up to three options whose last part is that of `key`, or else the most similar one."""
    last_parts = [option.rpartition(".")[2] for option in options]
    last = key.rpartition(".")[2]
    if same := [option for option, part in zip(options, last_parts, strict=True) if part == last]:
        return same[:3]
    # "maks" and "mask" have a similarity of 0.75
    close = difflib.get_close_matches(key, [*options, *last_parts], n=1, cutoff=0.7)
    return [option for name in close for option in options if option.endswith(name)][:1]


STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)

# Shared ranges.  The upper limits keep float32 finite and a mistyped number from blocking a run.
Count = Annotated[int, Field(ge=1, le=10**7)]
Natural = Annotated[int, Field(ge=0, le=10**7)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
NonNegative = Annotated[float, Field(ge=0, le=1e6)]
Share = Annotated[float, Field(gt=0, lt=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def _text(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("should be a valid string")
    if not value:
        raise ValueError("string should have at least 1 character")
    return value


# pydantic's own string does not hold paths that are not UTF-8
Text = Annotated[str, PlainValidator(_text)]


def _odd(pixels: int) -> int:
    if pixels % 2 == 0:
        raise ValueError("should be an odd number of pixels")
    return pixels


WindowSide = Annotated[int, Field(ge=1, le=511), AfterValidator(_odd)]  # px, of Yeh's weights
CandidateCount = Annotated[int, Field(ge=1, le=1024)]  # samples per image in one search
Split = Literal["train", "val", "test"]
RunName = Annotated[str, Field(pattern=r"^[\w .+=-]+$", max_length=100)]  # part of a directory name


def _to_list(value: Any) -> Any:
    """Convert an OmegaConf list to a list: pydantic cannot construct the former."""
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


# options of full-size photos, used by the command line and by photos/crops.py
AS_LIST = BeforeValidator(_to_list)
CropBox = Annotated[Sequence[int], Field(min_length=4, max_length=4), AS_LIST]  # x, y, w, h in px
EyePositions = Annotated[  # u of the left eye, u of the right eye, v of both, in the unit square
    Sequence[Fraction], Field(min_length=3, max_length=3), AS_LIST
]
FaceChoice = Literal["all"] | Count  # 1 is the largest of the detected faces


def _integer(value: Any) -> Any:
    if type(value) is not int:
        raise ValueError("should be a valid integer")
    return value


def _true(value: Any) -> Any:
    if value is not True:
        raise ValueError("should be true")
    return value


INTEGER = BeforeValidator(_integer)  # for a Literal of integers, which would accept true and 1.0


def _is_node(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" in value


def _node(value: Any) -> Any:
    if not _is_node(value):
        raise ValueError("use one of the choices of this group")
    return value


Node = Annotated[Any, AfterValidator(_node)]  # {"_target_": path, argument: value, ...}
NODE_KEYS = {  # keys of a node besides the arguments of its target
    "_target_": Any,
    "_partial_": Annotated[Any, BeforeValidator(_true)],  # required by the choices that have it
    "_recursive_": bool,
    "_convert_": Literal["none", "partial", "object", "all"],
}


def _devices(value: Any) -> Any:
    numbers = value if isinstance(value, list) else [value]
    valid = all(type(number) is int and 0 <= number < 1024 for number in numbers)
    if value != "auto" and (value in (0, []) or not valid):
        raise ValueError("should be 1 or more, a list of device numbers or auto")
    return value


class TrainerOptions(TypedDict, total=False):
    """Options of conf/trainer, and arguments of Lightning's Trainer added by +trainer.<name>=.

    Only arguments that suit every model and command are accepted.
    """

    __pydantic_config__ = STRICT | {"extra": "forbid"}  # type: ignore[misc]

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"]
    devices: Annotated[Any, AfterValidator(_devices)]
    num_nodes: Count
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    max_epochs: Count
    log_every_n_steps: Count
    accumulate_grad_batches: Count
    gradient_clip_val: Positive | None
    enable_progress_bar: bool
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true"]
    max_steps: Count  # optimizer steps; a batch may take several
    max_time: Annotated[str, Field(pattern=r"^\d\d:\d\d:\d\d:\d\d$")]  # days:hours:minutes:seconds
    limit_train_batches: Count
    deterministic: bool
    benchmark: bool
    detect_anomaly: bool
    enable_model_summary: bool
    profiler: Literal["simple", "advanced"]


# options of a data source that locate its files, which differ between machines
LOCATION_KEYS = ("root", "path", "urls", "val_urls", "test_urls")

Function = TypeVar("Function", bound=Callable)
Settings = TypeVar("Settings")


def checked(function: Function) -> Function:
    """Validate the arguments of a function; raise ValueError for the first invalid one."""
    validated = pydantic.validate_call(config=STRICT)(function)
    names = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return validated(*args, **kwargs)
        except ValidationError as error:
            arguments = dict(zip(names, args, strict=False)) | kwargs
            raise ValueError(_message(error, arguments, names=names)) from error

    return typing.cast(Function, call)


@dataclass_transform(frozen_default=True)
def settings(cls: type) -> Any:
    """Turn a class into a frozen dataclass whose fields are validated by their annotations."""
    return pydantic.dataclasses.dataclass(cls, frozen=True, config=STRICT | {"extra": "forbid"})


def make(cls: Callable[..., Settings], values: Mapping[str, Any]) -> Settings:
    """Return `cls(**values)` of a class of `settings`; raise ValueError for an invalid value."""
    try:
        return cls(**values)
    except ValidationError as error:
        raise ValueError(_message(error, values)) from error


def check_config(cfg: DictConfig, schema: type[Settings]) -> Settings:
    """Check a composed configuration and return it as a frozen object; nothing is built.

    `schema`, a class of `settings`, has a field for each key.  A node with a `_target_` stays a
    dict; its arguments are validated by the annotations of the target, and by the fields of its
    `Settings` where it takes them by name.  Raises ValueError, one line with key and value.
    """
    config = check_config_source(cfg, schema)
    _check_all_nodes(vars(config), _target_types)
    return config


def check_config_source(cfg: DictConfig, schema: type[Settings]) -> Settings:
    """Check a configuration as `check_config`, as far as no target has to be imported for it."""
    try:
        values: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ValueError(f"{error.full_key}: missing. Give {error.full_key}=") from error
    except OmegaConfBaseException as error:
        what = str(error).splitlines()[0]
        raise ValueError(f"{error.full_key}: {what[0].lower()}{what[1:]}") from error
    for key, value in values.items():
        if key not in schema.__annotations__:
            options = flatten({name: other for name, other in values.items() if name != key})
            raise ValueError(unknown_option(f"{key}={show(value)}", options))
    config = make(schema, values)  # before the nodes, whose targets import torch
    _check_all_nodes(values, _source_types)
    return config


def _check_all_nodes(
    values: Mapping[str, Any], types_of: Callable[[Any, str], dict[str, Any]]
) -> None:
    for key, value in values.items():
        if _contains_node(value):
            _check_nodes(value, key, types_of)


def _check_nodes(value: Any, key: str, types_of: Callable[[Any, str], dict[str, Any]]) -> None:
    """Validate the arguments of a node, of the nodes in it, and of a dict of nodes."""
    types = types_of(value["_target_"], f"{key}._target_") if _is_node(value) else None
    for name, argument in value.items():
        inner = f"{key}.{name}"
        if types is not None and name not in types and "**" not in types:
            options = [f"{key}.{known}" for known in types]
            raise ValueError(unknown_option(f"{inner}={show(argument)}", options))
        if _contains_node(argument):
            _check_nodes(argument, inner, types_of)
        elif types is None:
            raise ValueError(f"{inner}={show(argument)}: expected a node with a _target_")
        else:
            try:
                _adapter(types.get(name, Any)).validate_python(argument)
            except ValidationError as error:
                raise ValueError(_message(error, argument, inner)) from error


def _contains_node(value: Any) -> bool:
    return _is_node(value) or (
        isinstance(value, Mapping) and any(map(_contains_node, value.values()))
    )


@functools.cache
def _adapter(annotation: Any) -> pydantic.TypeAdapter:
    has_config = hasattr(annotation, "__pydantic_config__")  # a dataclass or TypedDict
    return pydantic.TypeAdapter(annotation, config=None if has_config else STRICT)


def _source_types(target: Any, key: str) -> dict[str, Any]:
    """Return as `_target_types`, but what the source alone tells: a type may be Any."""
    return read_annotations(str(target)) | NODE_KEYS


def _target_types(target: Any, key: str) -> dict[str, Any]:
    """Return the annotations of a target's arguments by name; "**" if it takes any name."""
    try:
        resolved = pkgutil.resolve_name(target)  # as Hydra does, but without a log line
        parameters = inspect.signature(resolved).parameters.values()
    except Exception as error:
        raise ValueError(f"{key}={show(target)}: no such class or function ({error})") from error
    hints = _type_hints(resolved.__init__ if inspect.isclass(resolved) else resolved)
    types = {p.name: hints.get(p.name, Any) for p in parameters if p.kind is not p.VAR_KEYWORD}
    if hasattr(resolved, "Settings"):  # the values that its **settings may hold
        types |= typing.get_type_hints(resolved.Settings, include_extras=True)
    elif len(types) < len(parameters):
        types["**"] = Any
    return types | NODE_KEYS


def _type_hints(function: Callable, **unknown: Any) -> dict[str, Any]:
    """Return annotations by name; names imported only for type checking become Any."""
    try:
        return typing.get_type_hints(function, localns=unknown, include_extras=True)
    except NameError as error:
        return _type_hints(function, **unknown, **{str(error.name): Any})


def _message(
    error: ValidationError, values: Any, prefix: str = "", names: Sequence[str] = ()
) -> str:
    """Return the message "key=value: problem"; `names` are those of positional arguments."""
    problems = error.errors(include_url=False)
    places = [_key_path(problem["loc"], values, names) for problem in problems]
    place = max(places, key=len)  # a list where a string is allowed too: the error is in an item
    here = [problem for problem, at in zip(problems, places, strict=True) if at == place]
    kind = here[0]["type"]
    missing = here[0]["loc"][-1:] if kind.startswith("missing") else ()
    key = ".".join(str(step) for step in (prefix, *place, *missing) if step != "")
    if missing:
        return f"{key}: missing. Give {key}="
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{key}={show(here[0]['input'])}: unknown option"
    allowed = (p["msg"].removeprefix("Input ").removeprefix("Value error, ") for p in here)
    what = " or ".join(dict.fromkeys(f"{each[0].lower()}{each[1:]}" for each in allowed))
    return f"{key}={show(here[0]['input'])}: {what}"


def _key_path(loc: Sequence[int | str], values: Any, names: Sequence[str]) -> list[int | str]:
    """Return the keys and indices in pydantic's `loc`, which also names the union member tried."""
    path: list[int | str] = []
    for step in loc:
        if names and not path and isinstance(step, int):
            step = names[step]
        is_key = isinstance(values, Mapping) and step in values
        is_index = isinstance(values, Sequence) and isinstance(step, int)
        if is_key or is_index:
            values = values[step]
            path.append(step)
    return path
