"""Bad input ends in one line that names it, before any long work; a bug keeps its traceback.

What a config may say stands in one place: the annotations of what it builds.  `checked` holds a
function or a constructor to its annotations, `settings` a dataclass, and `check_config` a whole
composed configuration before anything is built.  All are strict: no number from a text, no 1.5
where an integer is meant, nothing infinite.
"""

import dataclasses
import functools
import inspect
import os
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar, dataclass_transform

import pydantic
import torch
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pytorch_lightning.utilities.exceptions import MisconfigurationException

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

Function = TypeVar("Function", bound=Callable)
Settings = TypeVar("Settings")


def checked(function: Function) -> Function:
    """Hold the arguments of a function to its annotations: ValueError, one line, names the first
    that does not fit."""
    validated = pydantic.validate_call(config=STRICT)(function)
    names = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return validated(*args, **kwargs)
        except ValidationError as error:
            raise ValueError(_line(error, names)) from error

    return typing.cast(Function, call)


@dataclass_transform(frozen_default=True)
def settings(cls: type) -> Any:
    """A frozen dataclass whose fields are held to their annotations; see `make`."""
    return pydantic.dataclasses.dataclass(cls, frozen=True, config=STRICT | {"extra": "forbid"})


def make(cls: Callable[..., Settings], values: Mapping[str, Any]) -> Settings:
    """`cls(**values)` of a class of `settings`.  Raises ValueError, one line, for bad or unknown
    values."""
    try:
        return cls(**values)
    except ValidationError as error:
        raise ValueError(_line(error)) from error


def check_config(cfg: DictConfig, schema: type) -> dict[str, Any]:
    """The configuration, resolved, if all of it fits; nothing is built.

    `schema`, a class of `settings`, says what its own keys may be.  A part with a `_target_` is
    held to the annotations of that function or class (of its `Settings`, if it has them).  Raises
    ValueError, one line with key and value, for the first that does not fit.
    """
    try:
        tree: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        what = str(error).splitlines()[0]
        raise ValueError(f"{error.full_key}: {what[0].lower()}{what[1:]}") from error
    types = typing.get_type_hints(schema, include_extras=True)
    _check(tree, types, "")
    for field in dataclasses.fields(schema):
        if field.default is dataclasses.MISSING and field.name not in tree:
            raise ValueError(f"{field.name}: missing: choose one")
    return tree


def _check(tree: dict, types: dict[str, Any] | None, prefix: str) -> None:
    """Check the keys of one part, of known `types` or, None, of parts alone."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if name.startswith("_"):
            continue
        if isinstance(value, dict):
            _check_part(value, key)
        if types is None or _holds_parts(value):
            continue
        if name not in types and "**" not in types:
            raise ValueError(f"{key}={_show(value)}: there is no such option")
        try:
            _adapter(types.get(name, Any)).validate_python(value)
        except ValidationError as error:
            raise ValueError(_line(error, prefix=key)) from error


def _check_part(part: dict, key: str) -> None:
    """Check a dictionary: what its `_target_` takes, or the parts in it."""
    types = _types(part["_target_"], f"{key}._target_") if "_target_" in part else None
    _check(part, types, f"{key}.")


def _holds_parts(value: Any) -> bool:
    """Is it built, or are there things in it that are?"""
    if not isinstance(value, dict):
        return False
    return "_target_" in value or any(map(_holds_parts, value.values()))


def _adapter(annotation: Any) -> TypeAdapter:
    if hasattr(annotation, "__pydantic_config__"):  # of a dataclass or TypedDict: its own
        return TypeAdapter(annotation)
    return TypeAdapter(annotation, config=STRICT)


def _types(target: Any, key: str) -> dict[str, Any]:
    """The annotations by name of what a `_target_` takes; "**" if it takes any name."""
    try:
        found = get_object(target)
    except Exception as error:
        raise ValueError(f"{key}={_show(target)}: there is no such function or class") from error
    function = found.__init__ if inspect.isclass(found) else found
    hints = _hints(function)
    parameters = inspect.signature(function).parameters.values()
    names = {p.name: hints.get(p.name, Any) for p in parameters if p.kind is not p.VAR_KEYWORD}
    if hasattr(found, "Settings"):  # these are what its **settings may be
        return names | typing.get_type_hints(found.Settings, include_extras=True)
    return names | {"**": Any} if len(names) < len(parameters) else names


def _hints(function: Callable) -> dict[str, Any]:
    """The annotations by name; a word that only a type checker imports stands for anything."""
    unknown: dict[str, Any] = {}
    while True:
        try:
            return typing.get_type_hints(function, localns=unknown, include_extras=True)
        except NameError as error:
            unknown[str(error.name)] = Any


def _line(error: ValidationError, names: list[str] | None = None, prefix: str = "") -> str:
    """key=value: what is allowed."""
    first = error.errors(include_url=False)[0]
    argument, *within = first["loc"] or ("",)
    if names and isinstance(argument, int):
        argument = names[argument]
    key = ".".join(str(part) for part in (prefix, argument, *within) if part != "")
    what = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
    if first["type"].startswith("missing"):
        return f"{key}: missing"
    return f"{key}={_show(first['input'])}: {what[0].lower()}{what[1:]}"


def _show(value: Any) -> str:
    """As one would type it, not too long."""
    text = {None: "null", True: "true", False: "false"}.get(value) if _is_word(value) else None
    text = text or str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _is_word(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def open_door(main: Callable[[], None]) -> None:
    """Run a script's main; what Hydra cannot compose ends in one line as well."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach us as they are
    try:
        main()
    except HydraException as error:
        sys.exit(f"error: {' '.join(str(error).split())}")


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the program with one line for errors that the user's input caused.

    Wraps the part of a script that reads input and builds objects.
    """
    try:
        yield
    except Exception as caught:
        error: BaseException = caught
        if type(error).__name__ == "InstantiationException" and error.__cause__ is not None:
            error = error.__cause__  # what a constructor raised, inside Hydra's wrapping
        if isinstance(error, ValidationError):
            sys.exit(f"error: {_line(error)}")
        if isinstance(error, (ValueError, OSError, ModuleNotFoundError, MisconfigurationException)):
            sys.exit(f"error: {' '.join(str(error).split())}")
        raise


@contextmanager
def out_of_memory(remedy: str) -> Iterator[None]:
    """End the program with one line, the remedy, when tensors do not fit into memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if known or "can't allocate memory" in str(error):  # what torch says on a CPU
            sys.exit(f"error: out of memory: {remedy}")
        raise
