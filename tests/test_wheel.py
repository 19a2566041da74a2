"""What `pip wheel .` builds is whole, and works without the repository."""

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
# A process of its own, which sees the installed package alone: no path leads to the repository.
ELSEWHERE = """
import importlib.metadata, sys
from pathlib import Path
bare, repository = map(Path, sys.argv[1:])
sys.path[:] = [path for path in sys.path if Path(path).resolve() != repository]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in str(finder)]
import dcgan_inpaint
assert Path(dcgan_inpaint.__file__).is_relative_to(bare), dcgan_inpaint.__file__
doors = importlib.metadata.distribution("dcgan_inpaint").entry_points
"""


def pip(*arguments, cwd):
    done = subprocess.run([*PIP, *map(str, arguments)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that nothing of an earlier build gets into it."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    (requirement,) = project["build-system"]["requires"]
    if find_spec("pip") is None or find_spec("setuptools") is None:
        pytest.skip(f"needs pip and {requirement} in this environment")
    if int(version("setuptools").split(".")[0]) < int(requirement.removeprefix("setuptools>=")):
        pytest.skip(f"setuptools is {version('setuptools')}: the build needs {requirement}")
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "source").mkdir()
    for part in PARTS:
        copy = shutil.copytree if (PROJECT / part).is_dir() else shutil.copy
        copy(PROJECT / part, folder / "source" / part)
    build = ("wheel", "./source", "--no-deps", "--no-build-isolation", "--no-index", "-w", "built")
    pip(*build, cwd=folder)
    (built,) = (folder / "built").iterdir()
    return built


@pytest.fixture(scope="module")
def elsewhere(wheel, tmp_path_factory):
    """Runs Python code with the wheel, and not the repository, from an empty folder."""
    bare = tmp_path_factory.mktemp("bare")
    pip("install", "--no-deps", "--no-index", "--target", bare, wheel, cwd=bare)

    def call(code, folder):
        command = [sys.executable, "-c", ELSEWHERE + code, bare, PROJECT]
        env = os.environ | {"PYTHONPATH": str(bare)}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return call


def test_a_wheel_holds_every_file(wheel):
    package = [p for p in (PROJECT / "dcgan_inpaint").rglob("*") if p.suffix != ".md"]
    configs = [path for path in (PROJECT / "conf").rglob("*") if path.suffix != ".md"]
    expected = {f"{path.relative_to(PROJECT)}" for path in package}
    expected |= {f"dcgan_inpaint/{path.relative_to(PROJECT)}" for path in configs}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.startswith("dcgan_inpaint-")}
    kinds = (".py", ".yaml", ".safetensors", ".LICENSE.txt", ".html", ".js", ".css")
    card = "dcgan_inpaint/checkpoints/README.md"  # goes with the weights
    assert names == {card, *(name for name in expected if name.endswith(kinds))}


def test_an_installed_command_completes_a_image(elsewhere, tmp_path):
    Image.new("RGB", (90, 70), "orange").save(tmp_path / "photo.png")
    elsewhere(
        """
arguments = ["images=photo.png", "solver.iterations=2", "stages=none", "output=out"]
sys.argv = ["dcgan-inpaint", *arguments, "trainer.accelerator=cpu"]
doors["dcgan-inpaint"].load()()
""",
        tmp_path,
    )
    with Image.open(tmp_path / "out" / "photos" / "00000_photo.png") as completed:
        assert completed.size == (90, 70)
        assert completed.getpixel((0, 0)) == (255, 165, 0)  # outside the hole


def test_an_installed_completer_completes_a_image(elsewhere, tmp_path):
    elsewhere(
        """
import numpy as np
from dcgan_inpaint import Completer
photo = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
words = ["solver.iterations=2", "stages=none", "trainer.accelerator=cpu"]
result = Completer.load("faces64", *words)(photo, "center")
completed = np.asarray(result.image)
assert completed.shape == photo.shape
assert (completed != photo).any() and (completed[:10] == photo[:10]).all()
assert dcgan_inpaint.__version__ == importlib.metadata.version("dcgan_inpaint")
""",
        tmp_path,
    )


def test_every_command_is_there(elsewhere, tmp_path):
    """Each opens the door of its name."""
    names = elsewhere("print(*sorted(f'{d.name} {d.load().__module__}' for d in doors))", tmp_path)
    assert names.split() == [
        word
        for name in ("inpaint", "sample", "train")
        for word in (f"dcgan-{name}", f"dcgan_inpaint.cli.{name}")
    ] + ["dcgan-web", "dcgan_inpaint.web.__main__"]
