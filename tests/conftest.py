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


# The browser tests: the imports are slow, so other tests do without them.


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    """The directory of files that Chromium downloads."""
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def driver(downloads, tmp_path_factory):
    """Chromium, controlled by Selenium."""
    from browser import start_chromium

    driver = start_chromium(downloads, tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def small_server():
    """A server with a small model, and its `url`."""
    from browser import small_completer
    from serving import run_server

    from dcgan_inpaint.web.server import Server

    server = Server([small_completer("solver.iterations=10")])
    with run_server(server) as server.url:
        yield server


@pytest.fixture(scope="module")
def small_url(small_server):
    return small_server.url


@pytest.fixture
def phone(driver):
    """A screen of 390 x 844 px that is touched."""
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    yield
    driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
