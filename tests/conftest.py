"""Small networks run fastest, and to the bit the same everywhere, on one thread."""

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


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs a script as `python script arguments` would, in this process, which saves the imports.

    The cache of decoded images is shared by the module.
    """

    def call(script, *arguments, fails=False):
        stdout, stderr, code = io.StringIO(), io.StringIO(), None
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            patch.setattr(sys, "argv", [script, *map(str, arguments)])
            try:
                runpy.run_path(str(PROJECT / script), run_name="__main__")
            except SystemExit as stop:
                code = stop.code
                if isinstance(code, str):  # what the interpreter does with sys.exit("message")
                    stderr.write(f"{code}\n")
        done = SimpleNamespace(stdout=stdout.getvalue(), stderr=stderr.getvalue())
        assert bool(code) == fails, done.stdout + done.stderr
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PROJECT)
        patch.setenv("DCGAN_INPAINT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield call
