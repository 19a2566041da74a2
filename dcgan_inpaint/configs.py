"""Configurations: composing them, and checking them against types and annotations.

`checked` validates the arguments of a function, `settings` the fields of a dataclass and
`check_config` a composed configuration.  All are strict: no number from a string, no 1.5 where an
integer is required, nothing infinite.
"""

import dataclasses
import functools
import inspect
import pkgutil
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

import pydantic
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from dcgan_inpaint.errors import show

_ONE_AT_A_TIME = Lock()  # Hydra keeps what it composes from in one place for all threads


def conf_folder() -> Path:
    """conf/ of the repository; in an installed package its copy beside this file."""
    here = Path(__file__).resolve().parent
    return here / "conf" if (here / "conf").is_dir() else here.parent / "conf"


def choices_of(group: str) -> list[str]:
    """The choices of a group by name; none if there is no such group."""
    return sorted(path.stem for path in (conf_folder() / group).glob("*.yaml")) if group else []


def compose_config(name: str, overrides: Iterable[str] = ()) -> DictConfig:
    """conf/<name>.yaml with `overrides`, as they are typed behind <name>.py.

    Raises ValueError, one line, for what Hydra cannot compose.
    """
    with _ONE_AT_A_TIME, initialize_config_dir(str(conf_folder()), version_base="1.3"):
        try:
            return compose(name, list(overrides))
        except HydraException as error:
            raise ValueError(" ".join(str(error).split())) from error


STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)

# ranges that many share; the upper ends keep float32 finite and a mistyped number from hanging
Count = Annotated[int, Field(ge=1, le=10**7)]
Natural = Annotated[int, Field(ge=0, le=10**7)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
NonNegative = Annotated[float, Field(ge=0, le=1e6)]
Share = Annotated[float, Field(gt=0, lt=1)]  # strictly between nothing and all
Fraction = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, Field(min_length=1)]
CandidateCount = Annotated[int, Field(ge=1, le=1024)]  # samples per image in one search


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


def _whole(value: Any) -> Any:
    if type(value) is not int:
        raise ValueError("should be a valid integer")
    return value


def _true(value: Any) -> Any:
    if value is not True:
        raise ValueError("should be true")
    return value


WHOLE = BeforeValidator(_whole)  # for a Literal of integers, which true and 1.0 would pass for 1

HYDRAS = {  # what a part may say besides its arguments
    "_target_": Any,
    "_partial_": Annotated[Any, BeforeValidator(_true)],  # where it stands it is needed
    "_recursive_": bool,
    "_convert_": Literal["none", "partial", "object", "all"],
}

Function = TypeVar("Function", bound=Callable)
Settings = TypeVar("Settings")


def checked(function: Function) -> Function:
    """Hold a function to its annotations: ValueError, one line, for the first that does not fit."""
    validated = pydantic.validate_call(config=STRICT)(function)
    names = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return validated(*args, **kwargs)
        except ValidationError as error:
            given = dict(zip(names, args, strict=False)) | kwargs
            raise ValueError(_line(error, given, names=names)) from error

    return typing.cast(Function, call)


@dataclass_transform(frozen_default=True)
def settings(cls: type) -> Any:
    """A frozen dataclass whose fields are held to their annotations; see `make`."""
    return pydantic.dataclasses.dataclass(cls, frozen=True, config=STRICT | {"extra": "forbid"})


def make(cls: Callable[..., Settings], values: Mapping[str, Any]) -> Settings:
    """`cls(**values)` of a class of `settings`.  Raises ValueError, one line, for bad values."""
    try:
        return cls(**values)
    except ValidationError as error:
        raise ValueError(_line(error, values)) from error


def check_config(cfg: DictConfig, schema: type) -> None:
    """Check all of a composed configuration; nothing is built.

    `schema`, a class of `settings`, says what its own keys may be.  A part with a `_target_` is
    held to the annotations of that function or class (of its `Settings`, if it has them).  Raises
    ValueError, one line with key and value, for the first that does not fit.
    """
    types = typing.get_type_hints(schema, include_extras=True)
    items = cfg.items_ex(resolve=False)
    # plain values first, for parts refer to them
    for name, _ in sorted(items, key=lambda item: isinstance(item[1], DictConfig)):
        try:
            value: Any = cfg[name]
            if OmegaConf.is_config(value):
                value = OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
        except MissingMandatoryValue as error:
            raise ValueError(f"{error.full_key}: missing: give {error.full_key}=") from error
        except OmegaConfBaseException as error:
            what = str(error).splitlines()[0]
            raise ValueError(f"{error.full_key}: {what[0].lower()}{what[1:]}") from error
        _check({name: value}, types, "")
    for field in dataclasses.fields(schema):
        if field.default is dataclasses.MISSING and field.name not in cfg:
            raise ValueError(f"{field.name}: missing: choose one")


def _check(tree: dict, types: dict[str, Any] | None, prefix: str) -> None:
    """Check the keys of one part, of known `types` or, None, of a group of parts."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if types is not None and name not in types and "**" not in types:
            raise ValueError(f"{key}={show(value)}: there is no such option")
        hint = (types or {}).get(name, Any)
        if _holds_parts(value) and not hasattr(hint, "__pydantic_config__"):
            inner = _types(value["_target_"], f"{key}._target_") if "_target_" in value else None
            _check(value, inner, f"{key}.")
        elif types is None:
            raise ValueError(f"{key}={show(value)}: should have a _target_")
        else:
            try:
                _adapter(hint).validate_python(value)
            except ValidationError as error:
                raise ValueError(_line(error, value, key)) from error


def _holds_parts(part: Any) -> bool:
    """Is it built, or are there things in it that are?"""
    return isinstance(part, dict) and ("_target_" in part or any(map(_holds_parts, part.values())))


@functools.cache
def _adapter(annotation: Any) -> TypeAdapter:
    own = hasattr(annotation, "__pydantic_config__")  # a dataclass or TypedDict
    return TypeAdapter(annotation, config=None if own else STRICT)


def _types(target: Any, key: str) -> dict[str, Any]:
    """The annotations by name of what a `_target_` takes; "**" if it takes any name."""
    try:
        found = pkgutil.resolve_name(target)  # as Hydra finds it, without a word in the log
        parameters = inspect.signature(found).parameters.values()
    except Exception as error:
        raise ValueError(f"{key}={show(target)}: there is no such class ({error})") from error
    hints = _hints(found.__init__ if inspect.isclass(found) else found)
    names = {p.name: hints.get(p.name, Any) for p in parameters if p.kind is not p.VAR_KEYWORD}
    if hasattr(found, "Settings"):  # these are what its **settings may be
        names |= typing.get_type_hints(found.Settings, include_extras=True)
    elif len(names) < len(parameters):
        names["**"] = Any
    return names | HYDRAS


def _hints(function: Callable, **unknown: Any) -> dict[str, Any]:
    """The annotations by name; a word that only a type checker imports stands for anything."""
    try:
        return typing.get_type_hints(function, localns=unknown, include_extras=True)
    except NameError as error:
        return _hints(function, **unknown, **{str(error.name): Any})


def _line(error: ValidationError, given: Any, prefix: str = "", names: Sequence[str] = ()) -> str:
    """key=value: what is allowed.  `names` are those of arguments given by their place."""
    problems = error.errors(include_url=False)
    places = [_place(problem["loc"], given, names) for problem in problems]
    place = max(places, key=len)  # a list that could be a text has its fault in an item
    here = [problem for problem, at in zip(problems, places, strict=True) if at == place]
    missing = here[0]["loc"][-1:] if here[0]["type"].startswith("missing") else ()
    key = ".".join(str(step) for step in (prefix, *place, *missing) if step != "")
    if missing:
        return f"{key}: missing"
    allowed = (p["msg"].removeprefix("Input ").removeprefix("Value error, ") for p in here)
    what = " or ".join(dict.fromkeys(f"{each[0].lower()}{each[1:]}" for each in allowed))
    return f"{key}={show(here[0]['input'])}: {what}"


def _place(loc: Sequence[int | str], given: Any, names: Sequence[str]) -> list[int | str]:
    """The keys and indices of `loc`, which says too which type of several was tried."""
    place: list[int | str] = []
    for step in loc:
        if names and not place and isinstance(step, int):
            step = names[step]
        known = isinstance(given, Mapping) and step in given
        listed = isinstance(given, Sequence) and isinstance(step, int)
        if known or listed:
            given = given[step]
            place.append(step)
    return place
