"""The house keeps its order: imports go down only, and no file, function or door grows too long.

The rules are read from the source with ast, so that nothing has to be imported; each is also seen
to fail on a small made-up house.
"""

import ast
import io
import tokenize
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PACKAGE = "dcgan_inpaint"
FLOORS = (  # from the ground up: what a module may import lies on its own floor or below
    {"configs", "pictures", "randomness", "losses", "poisson", "errors", "checksums"},
    {"data", "observation", "models"},
    {"completion", "photos", "quality", "tf_import"},
    {"runs"},
    {"api", "doors", "web"},
)
DOORS = ("train", "inpaint", "sample")
LONG_FILES = {f"{PACKAGE}.data.portrait"}  # a painter: one part of a face after another

FILE, FUNCTION, DOOR, ARGUMENTS = 250, 60, 60, 10  # lines, lines, lines of code, number


class House:
    """The modules of a project by dotted name, parsed, and what each of them imports."""

    def __init__(self, root: Path) -> None:
        folders = ("*.py", "experiments/*.py", f"{PACKAGE}/**/*.py")
        files = [path for pattern in folders for path in sorted(root.glob(pattern))]
        self.paths = {self.dotted(path.relative_to(root)): path for path in files}
        self.texts = {name: path.read_text() for name, path in self.paths.items()}
        self.trees = {name: ast.parse(text) for name, text in self.texts.items()}
        self.imports = {name: set(self.imported(name)) for name in self.trees}

    @staticmethod
    def dotted(path: Path) -> str:
        return ".".join(path.with_suffix("").parts).removesuffix(".__init__")

    def imported(self, name: str) -> Iterator[str]:
        """The modules of the house that a module imports, wherever in it the import stands."""
        for node in ast.walk(self.trees[name]):
            if isinstance(node, ast.Import):
                candidates = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                start = node.module or ""
                if node.level:  # from . import x: seen from the folder of the file
                    up = node.level - (self.paths[name].name == "__init__.py")
                    folder = name.split(".")[: -up or None]
                    start = ".".join([*folder, *([start] if start else [])])
                candidates = [
                    inner if (inner := f"{start}.{alias.name}") in self.paths else start
                    for alias in node.names
                ]
            else:
                continue
            for candidate in candidates:
                # experiments are run from the project and import each other by their bare names
                for known in (candidate, f"experiments.{candidate}"):
                    if known in self.paths and known != name:
                        yield known

    def functions(self) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        for name, tree in self.trees.items():
            for node in ast.walk(tree):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    yield name, node


def room(module: str) -> str:
    """Of the package: its folder, or the file itself on the ground floor.  Else the top."""
    top, *rest = module.split(".")
    return rest[0] if top == PACKAGE and rest else top


def floor(module: str) -> int:
    """0 is the ground; doors and experiments are above all.  -1: no floor has such a room."""
    if not module.startswith(f"{PACKAGE}."):
        return len(FLOORS)
    return next((i for i, rooms in enumerate(FLOORS) if room(module) in rooms), -1)


def without_floor(house: House) -> list[str]:
    return [name for name in house.paths if floor(name) < 0]


def upward(house: House) -> list[str]:
    return [
        f"{name} imports {other}"
        for name, imports in house.imports.items()
        for other in imports
        if floor(other) > floor(name)
    ]


def circle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of the graph, its first node again at the end, if there is any."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def circle_of_modules(house: House) -> list[str]:
    return circle(house.imports)


def circle_of_rooms(house: House) -> list[str]:
    rooms: dict[str, set[str]] = {}
    for name, imports in house.imports.items():
        if name.startswith(f"{PACKAGE}."):
            others = {room(other) for other in imports} - {room(name)}
            rooms.setdefault(room(name), set()).update(others)
    return circle(rooms)


def doors_imported(house: House) -> list[str]:
    return [
        f"{name} imports {other}"
        for name, imports in house.imports.items()
        for other in imports
        if (other in DOORS or other.startswith(f"{PACKAGE}.doors"))
        and not (name in DOORS or name.startswith(f"{PACKAGE}.doors"))
    ]


def long_files(house: House) -> list[str]:
    counts = {name: len(text.splitlines()) for name, text in house.texts.items()}
    free = {name for name in counts if not name.startswith(PACKAGE)} | LONG_FILES
    return [
        f"{name}: {lines}" for name, lines in counts.items() if lines > FILE and name not in free
    ]


def long_functions(house: House) -> list[str]:
    return [
        f"{name}.{node.name}: {lines}"
        for name, node in house.functions()
        if (lines := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION
    ]


def wide_constructors(house: House) -> list[str]:
    found = []
    for name, node in house.functions():
        count = len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs) - 1  # but self
        if node.name == "__init__" and count > ARGUMENTS:
            found.append(f"{name}, line {node.lineno}: {count}")
    return found


def code_lines(text: str) -> int:
    """Lines with code on them: no blank ones, comments or docstrings."""
    nothing = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in nothing | {tokenize.ENDMARKER}:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            lines -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(lines)


def long_doors(house: House) -> list[str]:
    names = [name for name in house.texts if name in DOORS or room(name) == "doors"]
    counts = {name: code_lines(house.texts[name]) for name in names}
    return [f"{name}: {count}" for name, count in counts.items() if count > DOOR]


RULES = (
    without_floor,
    upward,
    circle_of_modules,
    circle_of_rooms,
    doors_imported,
    long_files,
    long_functions,
    wide_constructors,
    long_doors,
)


@pytest.fixture(scope="module")
def our_house():
    return House(PROJECT)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_our_house_keeps_the_rule(our_house, rule):
    assert rule(our_house) == []


def test_our_house_is_read_whole(our_house):
    assert {*DOORS, "dcgan_inpaint.data.portrait", "experiments.gather"} <= set(our_house.paths)
    assert "dcgan_inpaint.doors.train" in our_house.imports["train"]
    assert all(any(room(name) == word for name in our_house.paths) for f in FLOORS for word in f)


GOOD = {
    "train.py": "from dcgan_inpaint.doors.train import main",
    "experiments/gather.py": "from dcgan_inpaint.runs import folder",
    "experiments/table.py": "from gather import rows",
    "dcgan_inpaint/__init__.py": "",
    "dcgan_inpaint/errors.py": "import torch",
    "dcgan_inpaint/pictures.py": "from dcgan_inpaint import errors",
    "dcgan_inpaint/data/__init__.py": "",
    "dcgan_inpaint/data/loader.py": "from .cache import decode",
    "dcgan_inpaint/data/cache.py": "from ..pictures import grid",
    "dcgan_inpaint/models/base.py": "import dcgan_inpaint.data.loader",
    "dcgan_inpaint/doors/train.py": "from dcgan_inpaint.runs.folder import start",
    "dcgan_inpaint/runs/folder.py": "def start():\n    from dcgan_inpaint.models import base",
}


def lines(count: int) -> str:
    return "pass\n" * count


def wide(count: int) -> str:
    names = ", ".join(f"a{i}" for i in range(count))
    return f"class A:\n    def __init__(self, {names}): pass"


BAD = [
    (without_floor, "dcgan_inpaint/utils.py", "", ["dcgan_inpaint.utils"]),
    (without_floor, "dcgan_inpaint/misc/a.py", "", ["dcgan_inpaint.misc.a"]),
    (upward, "dcgan_inpaint/errors.py", "from dcgan_inpaint.data.cache import x",
     ["dcgan_inpaint.errors imports dcgan_inpaint.data.cache"]),
    (upward, "dcgan_inpaint/models/dcgan.py", "def f():\n    import dcgan_inpaint.runs.folder",
     ["dcgan_inpaint.models.dcgan imports dcgan_inpaint.runs.folder"]),
    (upward, "dcgan_inpaint/data/faces.py", "from ..runs import folder",
     ["dcgan_inpaint.data.faces imports dcgan_inpaint.runs.folder"]),
    (upward, "dcgan_inpaint/quality/a.py", "from experiments.gather import rows",
     ["dcgan_inpaint.quality.a imports experiments.gather"]),
    (upward, "dcgan_inpaint/runs/writer.py", "import gather",
     ["dcgan_inpaint.runs.writer imports experiments.gather"]),
    (upward, "dcgan_inpaint/runs/writer.py", "from dcgan_inpaint.doors import train",
     ["dcgan_inpaint.runs.writer imports dcgan_inpaint.doors.train"]),
    (upward, "dcgan_inpaint/runs/writer.py", "import train",
     ["dcgan_inpaint.runs.writer imports train"]),
    (circle_of_rooms, "dcgan_inpaint/data/loader.py", "from dcgan_inpaint.models import dcgan",
     ["data", "models"]),
    (circle_of_modules, "dcgan_inpaint/data/cache.py", "from . import loader",
     ["dcgan_inpaint.data.cache", "dcgan_inpaint.data.loader"]),
    (doors_imported, "experiments/speed.py", "from train import main",
     ["experiments.speed imports train"]),
    (doors_imported, "experiments/speed.py", "from dcgan_inpaint.doors import train",
     ["experiments.speed imports dcgan_inpaint.doors.train"]),
    (long_files, "dcgan_inpaint/data/faces.py", lines(251), ["dcgan_inpaint.data.faces: 251"]),
    (long_functions, "dcgan_inpaint/losses.py", "def f():\n" + "    pass\n" * 60,
     ["dcgan_inpaint.losses.f: 61"]),
    (long_functions, "train.py", "class A:\n    def f(self):\n" + "        pass\n" * 60,
     ["train.f: 61"]),
    (wide_constructors, "dcgan_inpaint/losses.py", wide(11),
     ["dcgan_inpaint.losses, line 2: 11"]),
    (long_doors, "train.py", lines(61), ["train: 61"]),
    (long_doors, "dcgan_inpaint/doors/train.py", lines(61), ["dcgan_inpaint.doors.train: 61"]),
]  # fmt: skip
FINE = [
    (long_files, "dcgan_inpaint/data/faces.py", lines(250)),
    (long_files, "dcgan_inpaint/data/portrait.py", lines(251)),
    (long_functions, "dcgan_inpaint/losses.py", "def f():\n" + "    pass\n" * 59),
    (wide_constructors, "dcgan_inpaint/losses.py", wide(10)),
    (long_doors, "train.py", f'"""One\n\ntwo."""\n\n# three\n{lines(60)}'),
]


def build(root: Path, files: dict[str, str]) -> House:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return House(root)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_good_house_keeps_the_rule(tmp_path, rule):
    assert rule(build(tmp_path, GOOD)) == []


@pytest.mark.parametrize(("rule", "file", "text", "complaints"), BAD)
def test_a_bad_file_breaks_the_rule(tmp_path, rule, file, text, complaints):
    models = {"dcgan_inpaint/models/dcgan.py": ""}
    found = rule(build(tmp_path, GOOD | models | {file: text}))
    assert sorted(set(found)) == complaints


@pytest.mark.parametrize(("rule", "file", "text"), FINE)
def test_the_last_that_is_allowed(tmp_path, rule, file, text):
    assert rule(build(tmp_path, GOOD | {file: text})) == []


def test_code_lines_of_a_few():
    text = '''"""Doc
string."""

import a  # 1


def f(x):  # 2
    """One line."""
    # a comment
    text = """of
    three lines"""  # 3, 4
    return g(  # 5

        x,  # 6, the blank one is none
    )  # 7
'''
    assert code_lines(text) == 7
