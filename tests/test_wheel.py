"""A wheel built by `pip wheel .` is complete and works without the repository."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

PROJECT = Path(__file__).parents[1]
PARTS = ("pyproject.toml", "README.md", "LICENSE", "dcgan_inpaint", "conf")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
# Start of a script that imports the installed package only; no path leads to the repository.
PRELUDE = """
import importlib.metadata, sys
from pathlib import Path
installed, repository = map(Path, sys.argv[1:])
sys.path[:] = [path for path in sys.path if Path(path).resolve() != repository]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in str(finder)]
import dcgan_inpaint
assert Path(dcgan_inpaint.__file__).is_relative_to(installed), dcgan_inpaint.__file__
entry_points = importlib.metadata.distribution("dcgan_inpaint").entry_points
"""


def pip(*arguments, cwd):
    result = subprocess.run([*PIP, *map(str, arguments)], cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel from a copy of the sources, without files of an earlier build."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    (requirement,) = project["build-system"]["requires"]
    if find_spec("pip") is None or find_spec("setuptools") is None:
        pytest.skip(f"needs pip and {requirement} in this environment")
    if int(version("setuptools").split(".")[0]) < int(requirement.removeprefix("setuptools>=")):
        pytest.skip(f"setuptools is {version('setuptools')}: the build needs {requirement}")
    directory = tmp_path_factory.mktemp("wheel")
    (directory / "source").mkdir()
    for part in PARTS:
        copy = shutil.copytree if (PROJECT / part).is_dir() else shutil.copy
        copy(PROJECT / part, directory / "source" / part)
    build = ("wheel", "./source", "--no-deps", "--no-build-isolation", "--no-index", "-w", "built")
    pip(*build, cwd=directory)
    (built,) = (directory / "built").iterdir()
    return built


@pytest.fixture(scope="module")
def run_installed(wheel, tmp_path_factory):
    """Run Python code that imports the installed wheel, in a given directory."""
    installed = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--no-index", "--target", installed, wheel, cwd=installed)

    def call(code, cwd):
        command = [sys.executable, "-c", PRELUDE + code, installed, PROJECT]
        env = os.environ | {"PYTHONPATH": str(installed)}
        result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    return call


def test_wheel_contains_every_file(wheel):
    package = [p for p in (PROJECT / "dcgan_inpaint").rglob("*") if p.suffix != ".md"]
    configs = [path for path in (PROJECT / "conf").rglob("*") if path.suffix != ".md"]
    expected = {f"{path.relative_to(PROJECT)}" for path in package}
    expected |= {f"dcgan_inpaint/{path.relative_to(PROJECT)}" for path in configs}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.startswith("dcgan_inpaint-")}
    suffixes = (".py", ".yaml", ".safetensors", ".LICENSE.txt", ".html", ".js", ".css", ".json")
    suffixes += (".webp", ".csv")  # the portraits
    # describe the weights and the portraits, with their licenses
    cards = {f"dcgan_inpaint/{name}/README.md" for name in ("checkpoints", "portraits")}
    assert names == cards | {name for name in expected if name.endswith(suffixes)}


@pytest.mark.slow
def test_installed_command_completes_a_photo(run_installed, tmp_path):
    Image.new("RGB", (90, 70), "orange").save(tmp_path / "photo.png")
    run_installed(
        """
arguments = ["images=photo.png", "output=out"]
sys.argv = ["dcgan-inpaint", *arguments, "trainer.accelerator=cpu"]
entry_points["dcgan-inpaint"].load()()
""",
        tmp_path,
    )
    with Image.open(tmp_path / "out" / "photos" / "00000_photo.png") as completed:
        assert completed.size == (90, 70)
        assert completed.getpixel((0, 0)) == (255, 165, 0)  # outside the hole


@pytest.mark.slow
def test_installed_completer_completes_a_photo(run_installed, tmp_path):
    run_installed(
        """
import numpy as np
from dcgan_inpaint import Completer
photo = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
overrides = ["solver.iterations=2", "stages=none", "trainer.accelerator=cpu"]
result = Completer.load("faces64", *overrides)(photo, "center")
completed = np.asarray(result.image)
assert completed.shape == photo.shape
assert (completed != photo).any() and (completed[:10] == photo[:10]).all()
assert dcgan_inpaint.__version__ == importlib.metadata.version("dcgan_inpaint")
""",
        tmp_path,
    )


@pytest.mark.slow
def test_every_command_loads(run_installed, tmp_path):
    code = "print(*sorted(p.name for p in entry_points if callable(p.load())))"
    names = run_installed(code, tmp_path).split()
    assert names == [f"dcgan-{name}" for name in ("export", "inpaint", "sample", "train", "web")]
