"""Text of --help: the options of a composed configuration, with the comments of conf/*.yaml."""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from omegaconf import OmegaConf

from dcgan_inpaint.composition import choices_of, compose_with_hydra, conf_dir
from dcgan_inpaint.configs import flatten
from dcgan_inpaint.errors import show

PRESETS = ("debug", "experiment")  # groups that set options of other files, which describe them
COLUMN, WIDTH = 34, 110  # first column of a description, and characters in a line
PACKAGE_LINE = "# @package "
LINE = re.compile(  # [- ]key: value # description
    r"(?P<indent> *)(?P<item>- )?(?P<key>(override )?[^\s:#]+)(:( +(?P<value>[^#\s].*?))?)?"
    r"( +# (?P<description>.*))?"
)


class Row(NamedTuple):
    """A key, or an entry of a defaults list, with its description."""

    key: str
    value: str
    description: str


def read(path: Path, prefix: str) -> tuple[str, list[Row], list[Row]]:
    """Read a YAML file of conf/: its description, its keys with their prefix, and its defaults.

    A comment on a line of its own continues the line above.  Raises ValueError for a line in
    another form than these files use.
    """
    about: list[str] = []
    keys: list[Row] = []
    defaults: list[Row] = []
    parents: list[tuple[int, str]] = []  # indentation and key of the mappings around a line
    last: list[Row] | None = None
    for line in filter(str.strip, path.read_text().splitlines()):
        text = line.strip()
        if text.startswith(PACKAGE_LINE):
            prefix = text.removeprefix(PACKAGE_LINE).replace("_global_", "")
        elif text.startswith("# ") and last:
            last[-1] = last[-1]._replace(description=f"{last[-1].description} {text[2:]}")
        elif text.startswith("# "):
            about.append(text[2:])
        elif match := LINE.fullmatch(line):
            indent, key = len(match["indent"]), match["key"]
            parents = [parent for parent in parents if parent[0] < indent]
            full_key = [name for _, name in parents] + [key]
            value, description = match["value"] or "", match["description"] or ""
            if match["item"]:
                defaults.append(Row(key, value, description))
                last = defaults
                continue
            if not value:
                parents.append((indent, key))
            is_option = full_key[0] not in ("hydra", "defaults") and not key.startswith("_")
            if is_option and (value or description):
                keys.append(Row(".".join([*prefix.split(), *full_key]), value, description))
                last = keys
        else:
            raise ValueError(f"{path}: cannot read this line: {line}")
    return " ".join(about), keys, defaults


def help_text(command: str, overrides: Sequence[str]) -> str:
    """Return the help of a command: its groups, and its options with their values.

    Args:
        command: Name of a file in conf/.
        overrides: Overrides in Hydra's syntax, which change the values and the choices.

    Raises ValueError, one line, if Hydra cannot compose it.
    """
    cfg = compose_with_hydra(command, overrides)
    _, keys, defaults = read(conf_dir() / f"{command}.yaml", "")
    groups = [row for row in defaults if row.value and not row.key.startswith("override ")]
    for choice, value in cfg.hydra.runtime.choices.items():
        group, _, package = choice.partition("@")
        if not group.startswith(("hydra", *PRESETS)):
            keys += _keys_of_choice(group, value, package or group.replace("/", "."))
    descriptions = {row.key: row.description for row in reversed(keys)}  # of the first file
    lines = [cfg.hydra.help.header, "Groups:"]
    for row in groups:
        choices = ", ".join(choices_of(row.key))
        value = show(cfg.hydra.runtime.choices.get(row.key))
        lines.append(_help_entry(f"{row.key}={value}", f"{row.description}. Choices: {choices}"))
    lines += ["", "Options:"]
    for key, value in flatten(OmegaConf.to_container(cfg)).items():
        is_option = not key.startswith("hydra.") and not key.rpartition(".")[2].startswith("_")
        if is_option and key not in {row.key for row in groups}:
            lines.append(_help_entry(f"{key}={show(value)}", descriptions.get(key, "")))
    return "\n".join([*lines, "", cfg.hydra.help.footer])


def _keys_of_choice(group: str, choice: str | None, package: str) -> list[Row]:
    """Return the keys in conf/<group>/<choice>.yaml, and in the files that it includes."""
    if choice is None:
        return []
    _, keys, defaults = read(conf_dir() / f"{group}/{choice}.yaml", package)
    for row in defaults:
        name, _, inner = row.key.partition("@")
        if not row.value and name != "_self_":  # a file of the same group, and where it is put
            keys += _keys_of_choice(group, name, ".".join(filter(None, (package, inner))))
    return keys


def _help_entry(option: str, description: str) -> str:
    """Format an option and its description in two columns; a long option has its own line."""
    indent = " " * COLUMN
    text = textwrap.fill(description, WIDTH, initial_indent=indent, subsequent_indent=indent)
    option = f"  {option}"
    return option + text[len(option) :] if len(option) < COLUMN - 1 else f"{option}\n{text}"
