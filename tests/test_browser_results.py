"""Browser tests of the web page: completions, their samples, the queue and downloaded files.

Also writes the screenshot of the README:
DCGAN_INPAINT_SCREENSHOT=experiments/figures/web.png pytest -m slow -k shipped_models_complete
"""

import os
import time
from io import BytesIO

import numpy as np
import pytest
from browser import DETECTOR_OFF, Page, crop_of, pressed, small_completer
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select
from serving import run_server

from dcgan_inpaint import Completer
from dcgan_inpaint.photos.photos import PORTRAITS
from dcgan_inpaint.web.__main__ import FACE_MODELS
from dcgan_inpaint.web.completions import StoredCompletion
from dcgan_inpaint.web.server import DESCRIPTIONS, Server

pytestmark = pytest.mark.slow


@pytest.mark.slow
def test_downloaded_completion_equals_the_photo_outside_the_hole(driver, downloads):
    """The search has its default options."""
    server = Server([Completer.load("faces64", *DETECTOR_OFF)])
    with run_server(server) as url:
        page = Page(driver, url)
        page.load_file(PORTRAITS / "portrait_01.webp")
        page.wait_for(page["stage"].is_displayed)
        assert not page["examples"].is_displayed()  # this model is not for photos
        page.drag((-0.2, -0.05), (0, 0.02), (0.2, -0.05))
        page["complete"].click()
        frames = set()

        def is_done():
            frames.add(page["frame"].get_attribute("src"))
            return page.has_status("Done")

        page.wait_for(is_done, seconds=300)
        assert len(frames) > 2  # frames were shown during the search
        curve = page.all("#curve polyline")[0].get_attribute("points").split()
        heights = [float(point.split(",")[1]) for point in curve]
        assert len(heights) == 151  # 150 iterations and the end
        assert heights[0] < heights[-1]  # the objective decreases; the y axis points down
        names = [button.accessible_name for button in page.all("#candidates button")]
        assert names == [*(f"Sample {k}" for k in range(1, 5)), "Average of the samples"]
        page["spread"].click()
        assert page.all("#spread img")[0].is_displayed()

        page.all("#candidates button")[1].click()
        page.wait_for(lambda: pressed(page) == [1])
        page.wait_for(lambda: page.has_status("Done"))
        completed_view = page["comparison"].screenshot_as_png
        page["split"].send_keys(Keys.END)
        assert page["comparison"].screenshot_as_png != completed_view  # shows the original
        page["split"].send_keys(Keys.HOME)
        completed = page.download("download-photo", downloads, "completed.png")
        mask = page.download("download-mask", downloads, "mask.png")
        with Image.open(BytesIO(server.examples["portrait_01"])) as image:
            original = np.asarray(image)
        hole = mask == 0
        assert hole[224, 224]  # on the painted stroke
        assert 0.05 < hole.mean() < 0.25
        assert np.array_equal(completed[~hole], original[~hole])
        assert (completed[hole] != original[hole]).any(1).mean() > 0.9
        assert driver.get_log("browser") == []  # no errors, and no violations of the policy


@pytest.mark.slow
def test_shipped_models_complete_a_portrait(driver):
    """Also writes the screenshot of the README."""
    server = Server([Completer.load(name, "trainer.accelerator=cpu") for name in FACE_MODELS])
    with run_server(server) as url:
        page = Page(driver, url)
        page.load_example(1)
        assert page["model"].get_attribute("value") == "celeba128"
        assert page["model-description"].text == DESCRIPTIONS["celeba128"]
        x, y, side = crop_of(page, 448, 448)  # around the face
        mouth = [(x + u * side, y + 0.8 * side) for u in (0.45, 0.65)]
        page.drag(*((u / 448 - 0.5, v / 448 - 0.5) for u, v in mouth))
        page.complete()
        assert not page["search-section"].is_displayed()  # one pass
        assert pressed(page) == [0]
        if path := os.environ.get("DCGAN_INPAINT_SCREENSHOT"):
            screenshot(driver, path)
        Select(page["model"]).select_by_value("celeba64")
        page.wait_for(lambda: crop_of(page, 448, 448)[2] < side)
        assert page["model-description"].text == DESCRIPTIONS["celeba64"]
        assert page.hole_area() > 0  # what is painted stays
        assert not page["result-section"].is_displayed()  # it was that of another model
        page.complete()
        assert not page["search-section"].is_displayed()
        assert driver.get_log("browser") == []


def screenshot(driver, path):
    """Save a screenshot of the page as a small file: downscaled, with 256 colors."""
    driver.set_window_size(1240, 1400)
    driver.execute_script("document.activeElement.blur(); scrollTo(0, 0)")
    with Image.open(BytesIO(driver.find_element(By.TAG_NAME, "main").screenshot_as_png)) as shot:
        image = shot.convert("RGB")
    image.thumbnail((960, 1600), Image.Resampling.LANCZOS)
    image.quantize(256).save(path, optimize=True)
    driver.set_window_size(1240, 1300)


def test_last_of_two_samples_wins(driver, small_server, monkeypatch):
    image = StoredCompletion.image
    monkeypatch.setattr(
        StoredCompletion, "image", lambda self, name: time.sleep(name == "1") or image(self, name)
    )
    page = Page(driver, small_server.url)
    page.load_example()
    page.drag((0, 0))
    page.complete()
    page.all("#candidates button")[1].click()
    page.all("#candidates button")[2].click()
    page.wait_for(lambda: page.has_status("Done"))
    time.sleep(1.3)
    assert pressed(page) == [2]


def test_result_is_in_view_on_a_phone(driver, small_url, phone):
    page = Page(driver, small_url)
    page.load_example()
    for _ in range(2):  # the second time after scrolling back to the editor
        page.drag((0, 0))
        page.complete()
        assert pressed(page) == [0]
        for name in ("completed", "candidates"):
            box = driver.execute_script(
                "return document.getElementById(arguments[0]).getBoundingClientRect()", name
            )
            assert box["top"] >= 0
            assert box["bottom"] <= page["actions"].rect["y"] - driver.execute_script(
                "return scrollY"
            )
        assert page["complete"].is_displayed()  # stays in view
        assert driver.execute_script("return document.documentElement.scrollWidth") == 390


def test_second_page_waits_and_closing_it_stops_its_search(driver):
    """The searches are endless: the first one is stopped by its button."""
    server = Server([small_completer("solver.iterations=1000000")])
    with run_server(server) as url:
        first = driver.current_window_handle
        page = Page(driver, url)
        page.load_example()
        page.drag((0, 0))
        page["complete"].click()
        page.wait_for(lambda: page.has_status("Searching"))
        driver.switch_to.new_window("tab")
        page = Page(driver, url)
        page.load_example()
        page.drag((0, 0))
        page["complete"].click()
        page.wait_for(lambda: page["status"].text == "Waiting: number 2 in the queue")
        second = driver.current_window_handle
        driver.switch_to.window(first)
        Page(driver)["stop"].click()
        page.wait_for(lambda: page["status"].text == "Stopped")
        driver.switch_to.window(second)
        page.wait_for(lambda: page.has_status("Searching"))
        driver.close()
        start = time.monotonic()
        server.queue.thread.submit(lambda: None).result(timeout=10)  # runs when the worker is idle
        assert time.monotonic() - start < 1
        driver.switch_to.window(first)
        assert server.queue.jobs == []
        assert not server.store


@pytest.mark.slow
def test_photo_of_40_megapixels_is_completed_at_full_size(driver, small_url, downloads, tmp_path):
    x, y = np.arange(8000, dtype=np.uint16), np.arange(5000, dtype=np.uint16)[:, None]
    channels = np.broadcast_arrays(x // 32, y // 20, (x + y) // 52)
    original = np.stack([channel.astype(np.uint8) for channel in channels], -1)
    Image.fromarray(original).save(tmp_path / "large.jpg", quality=90)
    with Image.open(tmp_path / "large.jpg") as image:
        original = np.asarray(image)
    page = Page(driver, small_url)
    page.load_file(tmp_path / "large.jpg")
    page.wait_for(page["stage"].is_displayed)
    Select(page["candidate-count"]).select_by_value("1")
    driver.execute_script("document.getElementById('brush-size').value = 16")
    page.drag((0, 0))
    page.complete(seconds=180)
    assert not page["samples-part"].is_displayed()  # there is one sample only
    completed = page.download("download-photo", downloads, "completed.png")
    hole = page.download("download-mask", downloads, "mask.png") == 0
    assert hole.shape == (5000, 8000)
    assert hole[2500, 4000]
    assert hole.sum() == pytest.approx(np.pi * 400**2, rel=0.1)
    assert np.array_equal(completed[~hole], original[~hole])
    assert (completed[hole] != original[hole]).any(1).mean() > 0.9
