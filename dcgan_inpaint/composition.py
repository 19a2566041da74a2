"""Composition of configurations from conf/ and overrides, as Hydra's command line does it.

This module does not import torch, so that a wrong option is reported at once.
"""

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from hydra.version import VersionBase, setbase
from omegaconf import DictConfig, OmegaConf, open_dict

from dcgan_inpaint.configs import TrainerOptions, flatten, unknown_option

RENAMED = {"answer": "select"}  # options of version 0.2
_COMPOSE_LOCK = Lock()  # Hydra finds its plugins once, for all threads


def conf_dir() -> Path:
    """Return conf/ of the repository or, in an installed package, its copy beside this file."""
    here = Path(__file__).resolve().parent
    return here / "conf" if (here / "conf").is_dir() else here.parent / "conf"


def choices_of(group: str) -> list[str]:
    """Return the names of a group's choices; empty for a group that does not exist."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml")) if group else []


def compose_config(name: str, overrides: Iterable[str] = ()) -> DictConfig:
    """Compose conf/<name>.yaml with the overrides of <name>.py.

    A program that uses Hydra itself may call this, in any thread: its GlobalHydra is not touched.

    Raises ValueError, one line, if Hydra cannot compose it.
    """
    cfg = compose_with_hydra(name, list(overrides))
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


def compose_with_hydra(name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose as `compose_config`, and keep the node `hydra`, which names the choices."""
    try:
        return _load_config(name, list(overrides))
    except HydraException as error:
        raise ValueError(explain_refusal(name, overrides, error)) from error


def _load_config(name: str, overrides: list[str]) -> DictConfig:
    """Compose as `compose_with_hydra`.  Raises HydraException."""
    with _COMPOSE_LOCK, _version_base("1.3"):
        # hydra.compose reads and replaces GlobalHydra; this is what it does with it.
        loader = ConfigLoaderImpl(create_config_search_path(str(conf_dir())))
        return loader.load_configuration(name, overrides, RunMode.RUN, from_shell=False)


@contextmanager
def _version_base(version: str) -> Iterator[None]:
    """Let Hydra behave as `version`, then as before unless another thread has set its own."""
    instance = VersionBase.instance()
    before = instance.version_base
    setbase(version)
    ours = instance.version_base
    try:
        yield
    finally:
        if instance.version_base is ours:
            instance.version_base = before


def explain_refusal(name: str, overrides: Sequence[str], error: HydraException) -> str:
    """Return one line about the overrides of conf/<name>.yaml that Hydra refused with `error`."""
    message = " ".join(str(error).split())
    if isinstance(error, OverrideParseException):
        if "=" in error.override:
            return message
        return f"{error.override}: expected option=value. --help lists the options"
    words = [o for o in overrides if not o.startswith("-") and ("=" in o or o.startswith("~"))]
    parsed = {word: parse_override(word) for word in words}
    choices = [
        word
        for word, override in parsed.items()
        if choices_of(override.key_or_group) and not override.is_sweep_override()
    ]
    for refused in (None, *choices):  # None: Hydra accepts all choices
        with suppress(HydraException):
            cfg = _load_config(name, [choice for choice in choices if choice != refused])
            break
    else:
        return message
    options = [*cfg.hydra.runtime.choices, *flatten(OmegaConf.to_container(cfg))]
    ours = [option for option in options if not option.startswith("hydra")]
    for word, override in parsed.items():
        key = override.key_or_group
        exists = any(f"{option}.".startswith(f"{key}.") for option in options)
        if word == refused or not (exists or word in choices or override.is_add()):
            plain = word.lstrip("+~")
            if _is_optional(key, cfg):
                return f"{plain}: has no default value. Add it with a plus: +{plain}"
            return unknown_option(plain, ours)
    return message


def _is_optional(key: str, cfg: DictConfig) -> bool:
    """Return whether a key is not in conf/ but may be added.

    These are arguments of Lightning's Trainer and of a class of the user's own.
    """
    group, _, name = key.partition(".")
    if group == "trainer":
        return name in TrainerOptions.__annotations__
    return cfg.hydra.runtime.choices.get(group) == "own"


def parse_override(override: str) -> Override:
    """Parse an override.  Raises HydraException if it does not have Hydra's syntax."""
    return OverridesParser.create().parse_override(override)


def overridden_key(override: str) -> str:
    """Return the option, or the package of the group, that an override sets."""
    parsed = parse_override(override)
    return parsed.package or parsed.key_or_group


def quote_override(key: str, value: object) -> str:
    """Return key=value as it is typed in a shell, for any text as the value.

    Hydra reads some characters of a path as syntax, such as = and brackets, and a shell others.
    """
    override = f"{key}={value}"
    if not _reads_text(override):
        override = f"{key}={QuotedString(str(value), Quote.single).with_quotes()}"
    return shlex.quote(override)


def _reads_text(override: str) -> bool:
    """Return whether Hydra reads the value of key=value as the text that it is."""
    try:
        parsed = parse_override(override)
        return not parsed.is_sweep_override() and parsed.value() == override.partition("=")[2]
    except HydraException:
        return False


def _with_quotes(override: str) -> str:
    """Quote the value of an override that Hydra cannot parse otherwise, such as photo[1].jpg."""
    key, equals, value = override.partition("=")
    quoted = f"{key}={QuotedString(value, Quote.single).with_quotes()}"
    if not equals or key.startswith("-"):
        return override
    try:
        parse_override(override)
    except HydraException:
        return quoted
    return override


def normalize_overrides(overrides: Sequence[str]) -> list[str]:
    """Return the overrides in Hydra's syntax.

    group=null becomes ~group, debug=true the choice of that name, and a class of the user's own
    (data._target_=...) selects the choice `own` of its group.  A value that Hydra cannot parse is
    quoted.  Raises ValueError, one line, for an option that was renamed and for a choice that does
    not exist.
    """
    normalized = [_with_quotes(override) for override in overrides]
    for group in ("data", "model", "method", "logger"):
        if any(override.startswith(f"{group}._target_=") for override in overrides):
            chosen = any(override.startswith(f"{group}=") for override in overrides)
            normalized += [] if chosen else [f"{group}=own"]
    for i, override in enumerate(overrides):
        key, equals, value = override.lstrip("+").partition("=")
        if equals and key in RENAMED:
            raise ValueError(f"{override}: the option was renamed. Use {RENAMED[key]}={value}")
        choices = choices_of(key)
        if choices and (value == "null" or value == "false" and "true" in choices):
            normalized[i] = f"~{key}"
        elif value == "true" and value in choices:
            normalized[i] = f"{key}='true'"  # without quotes Hydra reads a bool
        elif choices and re.fullmatch(r"[\w.+-]+|\[.*", value) and value not in choices:
            raise ValueError(f"{override}: no such choice. Use one of {', '.join(choices)}")
    return normalized
