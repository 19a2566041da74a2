"""The instructions of the Dockerfile, without Docker: files, the installation and the command."""

import json
import re
import subprocess
import sys
import tomllib
import urllib.request

import pytest
from conftest import PROJECT
from test_wheel import PARTS

LINES = (PROJECT / "Dockerfile").read_text().splitlines()
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())


def instructions(name):
    return [line.removeprefix(f"{name} ") for line in LINES if line.startswith(f"{name} ")]


def test_image_has_the_files_of_the_wheel():
    """tests/test_wheel.py builds and installs a wheel from the same files."""
    assert len(LINES) <= 20
    copied = [source for line in instructions("COPY") for source in line.split()[:-1]]
    assert sorted(copied) == sorted(PARTS)
    assert all((PROJECT / source).exists() for source in copied)


def test_installation_has_the_extra_of_the_web_page_and_a_supported_python():
    (install, _) = instructions("RUN")
    extra = re.fullmatch(r'pip install --no-cache-dir "\.\[(\w+)\]"', install)[1]
    assert extra in PYPROJECT["project"]["optional-dependencies"]
    (image,) = instructions("FROM")
    version = tuple(map(int, re.fullmatch(r"python:([\d.]+)-slim", image)[1].split(".")))
    assert version >= (3, 11) and PYPROJECT["project"]["requires-python"] == ">=3.11"


@pytest.mark.slow
def test_command_serves_the_page_with_the_shipped_models(tmp_path):
    """With a free port, in an empty directory."""
    program, *arguments = json.loads(instructions("CMD")[0])
    (port,) = instructions("EXPOSE")
    module, function = PYPROJECT["project"]["scripts"][program].split(":")
    code = f"import sys; from {module} import {function}; sys.argv[0] = 'page'; {function}()"
    arguments[arguments.index(port)] = "0"
    command = [sys.executable, "-c", code, *arguments]
    environment = {"PYTHONPATH": str(PROJECT), "HOME": str(tmp_path), "PATH": ""}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            address = process.stdout.readline().strip()
            assert address.startswith("http://0.0.0.0:")
            with urllib.request.urlopen(address.replace("0.0.0.0", "localhost") + "/about") as page:
                names = [model["name"] for model in json.load(page)["models"]]
            assert "celeba128" in names
        finally:
            process.terminate()
