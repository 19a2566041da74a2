"""Shared fixtures. All tests run on one thread: fastest for small networks, and reproducible."""

import contextlib
import io
import os
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; scripts under test inherit it

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory):
    """The cache of decoded images, shared by all runs of a session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def run(cache_dir):
    """Run a script as `python script arguments` would, in this process, which saves the imports.

    `run(script, *arguments, fails=False)` returns an object with `stdout` and `stderr`; it asserts
    that the exit code is 0, or another one with `fails=True`.
    """

    def call(script, *arguments, fails=False):
        stdout, stderr, code = io.StringIO(), io.StringIO(), None
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            patch.setattr(sys, "argv", [script, *map(str, arguments)])
            try:
                runpy.run_path(str(PROJECT / script), run_name="__main__")
            except SystemExit as stop:
                code = stop.code
                if isinstance(code, str):  # sys.exit("message") writes to stderr
                    stderr.write(f"{code}\n")
        result = SimpleNamespace(stdout=stdout.getvalue(), stderr=stderr.getvalue())
        assert bool(code) == fails, result.stdout + result.stderr
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PROJECT)
        patch.setenv("DCGAN_INPAINT_CACHE", str(cache_dir))
        yield call
