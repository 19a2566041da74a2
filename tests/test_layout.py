"""Imports go down the layers only: read from the source with ast, nothing is imported."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PACKAGE = "dcgan_inpaint"
LAYERS = (  # lowest first; a module imports from its own layer or a lower one
    {
        "composition",
        "configs",
        "schemas",
        "images",
        "randomness",
        "losses",
        "blending",
        "errors",
        "files",
    }
    | {"annotations", "checksums"},
    {"data", "masks", "models"},
    {"inpainting", "photos", "metrics", "tf_import"},
    {"runs"},
    {"api", "cli", "web"},
)
SCRIPTS = ("train", "inpaint", "sample")


class Sources:
    """The modules of a project by dotted name, and the project's modules that each imports."""

    def __init__(self, root: Path) -> None:
        patterns = ("*.py", "experiments/*.py", f"{PACKAGE}/**/*.py")
        files = [path for pattern in patterns for path in sorted(root.glob(pattern))]
        self.paths = {self.dotted(path.relative_to(root)): path for path in files}
        self.imports = {name: set(self.imported(name)) for name in self.paths}

    @staticmethod
    def dotted(path: Path) -> str:
        return ".".join(path.with_suffix("").parts).removesuffix(".__init__")

    def imported(self, name: str) -> Iterator[str]:
        """The project's modules that a module imports, also inside functions."""
        for node in ast.walk(ast.parse(self.paths[name].read_text())):
            if isinstance(node, ast.Import):
                candidates = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                start = node.module or ""
                if node.level:  # a relative import, resolved from the file's package
                    up = node.level - (self.paths[name].name == "__init__.py")
                    package = name.split(".")[: -up or None]
                    start = ".".join([*package, *([start] if start else [])])
                candidates = [
                    inner if (inner := f"{start}.{alias.name}") in self.paths else start
                    for alias in node.names
                ]
            else:
                continue
            for candidate in candidates:
                # experiments import each other by their bare names
                for known in (candidate, f"experiments.{candidate}"):
                    if known in self.paths and known != name:
                        yield known


def part_of(module: str) -> str:
    """The package or top-level module inside dcgan_inpaint; outside of it the first name."""
    top, *rest = module.split(".")
    return rest[0] if top == PACKAGE and rest else top


def layer(module: str) -> int:
    """0 is the lowest; scripts and experiments are above all.  -1: no layer lists the module."""
    if not module.startswith(f"{PACKAGE}."):
        return len(LAYERS)
    return next((i for i, parts in enumerate(LAYERS) if part_of(module) in parts), -1)


def modules_without_layer(sources: Sources) -> list[str]:
    return [name for name in sources.paths if layer(name) < 0]


def upward_imports(sources: Sources) -> list[str]:
    return [
        f"{name} imports {other}"
        for name, imports in sources.imports.items()
        for other in imports
        if layer(other) > layer(name)
    ]


def first_cycle(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def module_cycle(sources: Sources) -> list[str]:
    return first_cycle(sources.imports)


def package_cycle(sources: Sources) -> list[str]:
    parts: dict[str, set[str]] = {}
    for name, imports in sources.imports.items():
        if name.startswith(f"{PACKAGE}."):
            others = {part_of(other) for other in imports} - {part_of(name)}
            parts.setdefault(part_of(name), set()).update(others)
    return first_cycle(parts)


def imports_of_scripts(sources: Sources) -> list[str]:
    """Imports of a script or of cli from anywhere else: experiments import the library."""
    return [
        f"{name} imports {other}"
        for name, imports in sources.imports.items()
        for other in imports
        if (other in SCRIPTS or other.startswith(f"{PACKAGE}.cli"))
        and not (name in SCRIPTS or name.startswith(f"{PACKAGE}.cli"))
    ]


RULES = (modules_without_layer, upward_imports, module_cycle, package_cycle, imports_of_scripts)


@pytest.fixture(scope="module")
def project():
    return Sources(PROJECT)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_project_follows_the_rule(project, rule):
    assert rule(project) == []


def test_all_modules_are_read(project):
    assert {*SCRIPTS, "dcgan_inpaint.data.faces.painter", "experiments.gather"} <= set(
        project.paths
    )
    assert "dcgan_inpaint.cli.entry_point" in project.imports["train"]
    assert all(any(part_of(name) == part for name in project.paths) for p in LAYERS for part in p)


GOOD = {
    "train.py": "from dcgan_inpaint.cli.train import main",
    "experiments/gather.py": "from dcgan_inpaint.runs import records",
    "experiments/table.py": "from gather import rows",
    "dcgan_inpaint/__init__.py": "",
    "dcgan_inpaint/errors.py": "import torch",
    "dcgan_inpaint/images.py": "from dcgan_inpaint import errors",
    "dcgan_inpaint/data/__init__.py": "",
    "dcgan_inpaint/data/loader.py": "from .cache import decode",
    "dcgan_inpaint/data/cache.py": "from ..images import make_grid",
    "dcgan_inpaint/models/base.py": "import dcgan_inpaint.data.loader",
    "dcgan_inpaint/cli/train.py": "from dcgan_inpaint.runs.records import read",
    "dcgan_inpaint/runs/records.py": "def read():\n    from dcgan_inpaint.models import base",
}
BAD = [
    (modules_without_layer, "dcgan_inpaint/utils.py", "", ["dcgan_inpaint.utils"]),
    (modules_without_layer, "dcgan_inpaint/misc/a.py", "", ["dcgan_inpaint.misc.a"]),
    (upward_imports, "dcgan_inpaint/errors.py", "from dcgan_inpaint.data.cache import x",
     ["dcgan_inpaint.errors imports dcgan_inpaint.data.cache"]),
    (upward_imports, "dcgan_inpaint/models/dcgan.py",
     "def f():\n    import dcgan_inpaint.runs.records",
     ["dcgan_inpaint.models.dcgan imports dcgan_inpaint.runs.records"]),
    (upward_imports, "dcgan_inpaint/data/faces.py", "from ..runs import records",
     ["dcgan_inpaint.data.faces imports dcgan_inpaint.runs.records"]),
    (upward_imports, "dcgan_inpaint/metrics/a.py", "from experiments.gather import rows",
     ["dcgan_inpaint.metrics.a imports experiments.gather"]),
    (upward_imports, "dcgan_inpaint/runs/report.py", "import gather",
     ["dcgan_inpaint.runs.report imports experiments.gather"]),
    (upward_imports, "dcgan_inpaint/runs/report.py", "from dcgan_inpaint.cli import train",
     ["dcgan_inpaint.runs.report imports dcgan_inpaint.cli.train"]),
    (upward_imports, "dcgan_inpaint/runs/report.py", "import train",
     ["dcgan_inpaint.runs.report imports train"]),
    (package_cycle, "dcgan_inpaint/data/loader.py", "from dcgan_inpaint.models import dcgan",
     ["data", "models"]),
    (module_cycle, "dcgan_inpaint/data/cache.py", "from . import loader",
     ["dcgan_inpaint.data.cache", "dcgan_inpaint.data.loader"]),
    (imports_of_scripts, "experiments/speed.py", "from train import main",
     ["experiments.speed imports train"]),
    (imports_of_scripts, "experiments/speed.py", "from dcgan_inpaint.cli import train",
     ["experiments.speed imports dcgan_inpaint.cli.train"]),
]  # fmt: skip


def write_sources(root: Path, files: dict[str, str]) -> Sources:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return Sources(root)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_allowed_imports_pass(tmp_path, rule):
    assert rule(write_sources(tmp_path, GOOD)) == []


@pytest.mark.parametrize(("rule", "file", "text", "complaints"), BAD)
def test_forbidden_import_is_reported(tmp_path, rule, file, text, complaints):
    models = {"dcgan_inpaint/models/dcgan.py": ""}
    reported = rule(write_sources(tmp_path, GOOD | models | {file: text}))
    assert sorted(set(reported)) == complaints
