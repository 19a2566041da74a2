"""Writes conf/README.md: every group, choice and key, from the comments of these YAML files.

python conf/describe.py

What stands at the top of a file says what the choice is, and what stands behind a key what that is.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

CONF = Path(__file__).parent
DOORS = ("train", "inpaint", "sample")
INTRODUCTION = """# What can be chosen

Written by `python conf/describe.py` from the comments of the files in this folder; a test holds it
to them. On the command line `group=choice` takes one of the files in a group's folder and
`key=value` sets one key: `python inpaint.py mask=random mask.missing=0.5`. `--help` shows them as
they stand with what you chose. `${...}` stands for the value of another key, `???` for one that has
to be given.
"""
LINE = re.compile(  # [- ]key: value # says
    r"(?P<indent> *)(?P<item>- )?(?P<key>(override )?[^\s:#]+)(:( +(?P<value>[^#\s].*?))?)?"
    r"( +# (?P<says>.*))?"
)


class Row(NamedTuple):
    """A key, or an entry of a defaults list, with what is said of it."""

    key: str
    value: str
    says: str


def read(path: Path, prefix: str) -> tuple[str, list[Row], list[Row]]:
    """What a file says of itself; its keys, in full; its defaults list.

    A comment on a line of its own belongs to what stands above it.  Raises ValueError for a line
    that is written in another way than these files are.
    """
    about: list[str] = []
    keys: list[Row] = []
    defaults: list[Row] = []
    parents: list[tuple[int, str]] = []  # indentation and key of the mappings around a line
    last: list[Row] | None = None
    for line in filter(str.strip, path.read_text().splitlines()):
        text = line.strip()
        if text == "# @package _global_":
            prefix = ""
        elif text.startswith("# ") and last:
            last[-1] = last[-1]._replace(says=f"{last[-1].says} {text[2:]}")
        elif text.startswith("# "):
            about.append(text[2:])
        elif found := LINE.fullmatch(line):
            indent, key = len(found["indent"]), found["key"]
            parents = [parent for parent in parents if parent[0] < indent]
            place = [name for _, name in parents] + [key]
            value, says = found["value"] or "", found["says"] or ""
            if found["item"]:
                defaults.append(Row(key, value, says))
                last = defaults
                continue
            if not value:
                parents.append((indent, key))
            named = place[0] not in ("hydra", "defaults") and not key.startswith("_")
            if named and (value or says):
                keys.append(Row(".".join([*prefix.split(), *place]), value, says))
                last = keys
        else:
            raise ValueError(f"{path}: cannot read this line: {line}")
    return " ".join(about), keys, defaults


def table(rows: Iterable[Row]) -> str:
    cells = [Row("key", "default", "meaning"), Row("---", "---", "---"), *rows]
    lines = [f"| {key} | {value} | {says} |" for key, value, says in cells]
    return "\n".join(lines) + "\n"


def shown(row: Row) -> Row:
    says = row.says.replace("|", r"\|").replace("<", r"\<")
    return Row(f"`{row.key}`", f"`{row.value}`" if row.value else "", says)


def door(name: str) -> str:
    _, keys, defaults = read(CONF / f"{name}.yaml", "")
    groups = [row for row in defaults if row.value and not row.key.startswith("override ")]
    named = {row.key for row in groups}  # a group that may be null stands among the keys as well
    rows = [shown(row)._replace(key=f"[`{row.key}=`](#{row.key})") for row in groups]
    return f"## {name}.py\n\n{table(rows + [shown(row) for row in keys if row.key not in named])}"


def group(folder: Path) -> str:
    rows: list[Row] = []
    for path in sorted(folder.glob("*.yaml")):
        about, keys, defaults = read(path, folder.name)
        brings = [
            f"`{re.sub('override |/|@.*', '', row.key)}={row.value}`"
            for row in defaults
            if row.value
        ]
        says = shown(Row("", "", about)).says
        if brings:
            says += f"; with {', '.join(brings)}"
        rows.append(Row(f"**`{folder.name}={path.stem}`**", "", says))
        rows += map(shown, keys)
    return f"## {folder.name}\n\n{table(rows)}"


def describe() -> str:
    """The whole of conf/README.md."""
    folders = sorted({path.parent for path in CONF.glob("*/*.yaml")})
    return "\n".join([INTRODUCTION, *map(door, DOORS), *map(group, folders)])


if __name__ == "__main__":
    (CONF / "README.md").write_text(describe())
