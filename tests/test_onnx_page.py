"""experiments/browser/index.html in Chromium, with a local copy of onnxruntime-web.

cd experiments/browser && npm install onnxruntime-web

or DCGAN_INPAINT_NODE_MODULES=<path of node_modules>.  Without a copy the test is skipped.
"""

import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PROJECT
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from dcgan_inpaint.blending import poisson
from dcgan_inpaint.inpainting.exporting import export_program, write_onnx
from dcgan_inpaint.models.one_pass import OnePass

pytestmark = pytest.mark.slow
PAGE = PROJECT / "experiments" / "browser"
MODULES = Path(os.environ.get("DCGAN_INPAINT_NODE_MODULES", PAGE / "node_modules"))
SIDE = 16
PIXELS = """
const canvas = document.getElementById(arguments[0]);
return [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
"""


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def site(tmp_path):
    """URL of a directory with the page, the library and a small model, and the directory."""
    if not (MODULES / "onnxruntime-web").is_dir():
        pytest.skip(f"{MODULES / 'onnxruntime-web'} not found: npm install onnxruntime-web")
    pytest.importorskip("onnxscript")
    (tmp_path / "index.html").symlink_to(PAGE / "index.html")
    (tmp_path / "node_modules").symlink_to(MODULES.resolve())
    torch.manual_seed(0)
    settings = {"network": "unet", "image_size": SIDE, "channels": 3, "gf_dim": 8}
    model = OnePass(**settings, known=1.0)
    program = export_program(model.fill(), model.image_shape, poisson)
    write_onnx(program, tmp_path / "small.onnx")
    handler = partial(QuietHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/?model=small.onnx", tmp_path
        server.shutdown()


def read_canvas(browser, name):
    levels = browser.execute_script(PIXELS, name)
    return np.array(levels, np.uint8).reshape(SIDE, SIDE, 4)[..., :3]


def test_page_completes_a_photo_as_onnxruntime_does(driver, site):
    runtime = pytest.importorskip("onnxruntime")
    url, directory = site
    photo = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(photo).save(directory / "photo.png")
    driver.get(url)
    wait = WebDriverWait(driver, 120)

    def status():
        return driver.find_element(By.ID, "status").text

    wait.until(lambda _: status() != "Loading the model")
    assert status() == f"small.onnx: images of {SIDE} px"
    driver.find_element(By.ID, "photo").send_keys(str(directory / "photo.png"))
    button = driver.find_element(By.ID, "complete")
    wait.until(lambda _: button.is_enabled())
    mask = np.ones((SIDE, SIDE), np.float32)
    mask[4:12, 4:12] = 0  # until the user paints
    shown = read_canvas(driver, "input")
    assert np.array_equal(shown[mask == 1], photo[mask == 1])
    assert (shown[mask == 0] == 127).all()
    button.click()
    wait.until(lambda _: status().startswith("completed in "))
    image = photo.transpose(2, 0, 1)[None] / np.float32(127.5) - 1
    session = runtime.InferenceSession(str(directory / "small.onnx"))
    (completion,) = session.run(None, {"image": image, "mask": mask[None, None]})
    expected = ((completion[0] + 1) * 127.5).transpose(1, 2, 0)
    assert np.abs(read_canvas(driver, "output") - expected).max() <= 1
    assert np.abs(expected - photo)[mask == 0].mean() > 5


def test_page_reports_a_missing_model(driver, site):
    driver.get(site[0].replace("small", "missing"))
    status = driver.find_element(By.ID, "status")
    WebDriverWait(driver, 120).until(lambda _: status.text.startswith("error: "))
