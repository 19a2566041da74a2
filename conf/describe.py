"""Write conf/README.md, the list of all options, from the comments of the YAML files.

python conf/describe.py

The comment at the top of a file describes the choice; the comment after a key describes the key.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from dcgan_inpaint.cli.help import Row, read

CONF = Path(__file__).parent
COMMANDS = ("train", "inpaint", "sample", "export")
INTRODUCTION = """# Options

`python conf/describe.py` generates this page from the comments of the files in this directory; a
test checks that it is up to date. On the command line `group=choice` selects a file in the
directory of a group, and `key=value` sets one option: `python inpaint.py mask=random80
mask.missing=0.5`. `--help` prints the composed configuration with your overrides. `${...}` refers
to the value of another option; `???` marks a required option.
"""


def table(rows: Iterable[Row]) -> str:
    cells = [Row("key", "default", "meaning"), Row("---", "---", "---"), *rows]
    lines = [f"| {key} | {value} | {description} |" for key, value, description in cells]
    return "\n".join(lines) + "\n"


def escaped(row: Row) -> Row:
    description = row.description.replace("|", r"\|").replace("<", r"\<")
    return Row(f"`{row.key}`", f"`{row.value}`" if row.value else "", description)


def command_section(name: str) -> str:
    _, keys, defaults = read(CONF / f"{name}.yaml", "")
    groups = [row for row in defaults if row.value and not row.key.startswith("override ")]
    group_keys = {row.key for row in groups}  # a group that may be null is a key as well
    rows = [escaped(row)._replace(key=f"[`{row.key}=`](#{row.key})") for row in groups]
    rows += [escaped(row) for row in keys if row.key not in group_keys]
    title = "dcgan-export" if name == "export" else f"{name}.py"
    return f"## {title}\n\n{table(rows)}"


def group_section(folder: Path) -> str:
    rows: list[Row] = []
    group = folder.relative_to(CONF).as_posix()
    for path in sorted(folder.glob("*.yaml")):
        about, keys, defaults = read(path, group.replace("/", "."))
        includes = [
            f"`{re.sub('^(override )?/|@.*', '', row.key)}={row.value}`"
            for row in defaults
            if row.value
        ]
        description = escaped(Row("", "", about)).description
        if includes:
            description += f"; includes {', '.join(includes)}"
        rows.append(Row(f"**`{group}={path.stem}`**", "", description))
        rows += map(escaped, keys)
    return f"## {group}\n\n{table(rows)}"


def describe() -> str:
    """Return the complete text of conf/README.md."""
    folders = sorted({path.parent for path in CONF.rglob("*/*.yaml")})
    sections = [*map(command_section, COMMANDS), *map(group_section, folders)]
    return "\n".join([INTRODUCTION, *sections])


if __name__ == "__main__":
    (CONF / "README.md").write_text(describe())
