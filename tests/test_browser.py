"""Browser tests of the web page in Chromium: mouse, touch, keyboard, and downloaded files.

DCGAN_INPAINT_SCREENSHOT=experiments/figures/web.png pytest -m slow tests/test_browser.py -k shipped
also writes the screenshot of the README.
"""

import os
import re
import threading
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait
from serving import group_photo, run_server
from training import small_dcgan

from dcgan_inpaint import Completer
from dcgan_inpaint.photos.photos import PORTRAITS
from dcgan_inpaint.web.__main__ import FACE_MODELS
from dcgan_inpaint.web.completions import StoredCompletion
from dcgan_inpaint.web.server import DESCRIPTIONS, Server

pytestmark = pytest.mark.slow

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
DETECTOR_OFF = ("trainer.accelerator=cpu", "detector=null")  # a procedural face fills its image
SMALL = ("stages=none", *DETECTOR_OFF)
PAINTED = """
const hole = document.getElementById("hole");
const { data } = hole.getContext("2d").getImageData(0, 0, hole.width, hole.height);
return data.reduce((count, value, i) => count + (i % 4 === 3 && value > 127), 0);
"""
CONTRAST_RATIOS = """
const channels = (color) => color.match(/[\\d.]+/g).map(Number);
const luminance = (color) => channels(color).slice(0, 3).map((c) => c / 255)
  .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
function background(element) {
  const color = getComputedStyle(element).backgroundColor;
  return channels(color)[3] === 0 ? background(element.parentElement) : color;
}
const isText = (node) => node.nodeType === Node.TEXT_NODE && node.data.trim();
const texts = [...document.querySelectorAll("main *")].filter(
  (element) => element.checkVisibility() && [...element.childNodes].some(isText));
return texts.map((element) => {
  const [a, b] = [luminance(getComputedStyle(element).color), luminance(background(element))];
  return [element.textContent.trim(), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
});
"""


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def driver(downloads, tmp_path_factory):
    for program in (CHROMIUM, DRIVER):
        if not program.is_file():
            pytest.skip(f"{program} not found: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))
    driver.set_window_size(1240, 1300)
    yield driver
    driver.quit()


def small_completer(*overrides):
    """Return a completer with a small untrained model of faces: the page offers the portraits."""
    model = small_dcgan(z_dim=8)
    model.data = {"source": "celeba"}
    return Completer.load(model, *SMALL, *overrides)


@pytest.fixture(scope="module")
def small_server():
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


class Page:
    """The page in the current window of the driver."""

    def __init__(self, driver, url=None):
        self.driver = driver
        if url:
            driver.get(url)

    def __getitem__(self, name):
        return self.driver.find_element(By.ID, name)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def wait_for(self, condition, seconds=30):
        return WebDriverWait(self.driver, seconds, 0.02).until(lambda _: condition())

    def load_example(self, number=0):
        self.wait_for(lambda: self.all("#examples button"))[number].click()
        self.wait_for(self["stage"].is_displayed)

    def load_file(self, path):
        self.wait_for(lambda: self.all("#model option"))  # the script has run
        self["photo-file"].send_keys(str(path))

    def open_details(self):
        self.driver.execute_script(
            "for (const details of document.querySelectorAll('details')) details.open = true"
        )

    def drag(self, *points):
        """Drag the mouse between points, given as shares of the stage's size from its center."""
        stage = self["stage"]
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", stage)
        size = stage.size
        mouse = ActionChains(self.driver, duration=20)
        for i, (x, y) in enumerate(points):
            at = round(x * size["width"]), round(y * size["height"])
            mouse.move_to_element_with_offset(stage, *at)
            if i == 0:
                mouse.click_and_hold()
        mouse.release().perform()

    def hole_area(self):
        """Return the number of pixels of the view in the hole."""
        return self.driver.execute_script(PAINTED)

    def has_status(self, start):
        return self["status"].text.startswith(start)

    def complete(self, seconds=60):
        self["complete"].click()
        self.wait_for(lambda: self.has_status("Done") or self["error"].text, seconds)
        assert self["error"].text == ""

    def download(self, link, folder, name):
        file = folder / name
        file.unlink(missing_ok=True)  # may be left by a failed test
        self[link].click()
        # Chromium creates an empty file of that name and replaces it by the complete file.
        self.wait_for(lambda: file.is_file() and file.stat().st_size)
        with Image.open(file.rename(folder / f"read-{name}")) as image:
            return np.asarray(image)


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


def pressed(page):
    """Return the indices of the chosen samples."""
    buttons = page.all("#candidates button")
    return [k for k, each in enumerate(buttons) if each.get_attribute("aria-pressed") == "true"]


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


def test_hole_is_painted_by_mouse_and_loaded_from_masks(driver, small_url, tmp_path):
    page = Page(driver, small_url)
    page.load_example()
    side = 448  # px of the photo
    page.drag((0, 0))
    dot = page.hole_area()
    assert dot == pytest.approx(np.pi * (0.1 * side) ** 2, rel=0.03)  # diameter: 20% of the crop
    page.drag((-0.3, 0.2), (0.3, 0.2))
    stroke = page.hole_area()
    assert stroke == pytest.approx(2 * dot + 0.6 * side * 0.2 * side, rel=0.03)
    page["undo"].click()
    assert page.hole_area() == dot
    page.all("[value=eraser]")[0].click()
    page.drag((0, 0))
    assert page.hole_area() < 0.02 * dot
    page["undo"].click()
    page["clear"].click()
    assert page.hole_area() == 0
    page["undo"].click()
    assert page.hole_area() == dot

    Select(page["masks"]).select_by_value("center")
    page.wait_for(lambda: page.hole_area() == (side // 2) ** 2)
    page["clear"].click()
    page["complete"].click()
    message = "Nothing is marked inside the square. Paint over the part to fill in."
    page.wait_for(lambda: page["error"].text == message)


def test_steps_are_undone_and_done_again(driver, small_url):
    page = Page(driver, small_url)
    page.load_example()
    assert not page["undo"].is_enabled()
    areas = [0]
    for x in (-0.3, 0, 0.3):
        page.drag((x, 0))
        areas.append(page.hole_area())
    assert not page["redo"].is_enabled()
    for area in areas[2::-1]:
        page["undo"].click()
        assert page.hole_area() == area
    assert not page["undo"].is_enabled()
    page["redo"].click()
    assert page.hole_area() == areas[1]
    keys = ActionChains(driver).key_down(Keys.CONTROL).send_keys("y").key_down(Keys.SHIFT)
    keys.send_keys("z").key_up(Keys.SHIFT).key_up(Keys.CONTROL).perform()
    assert page.hole_area() == areas[3]
    page["undo"].click()
    page.drag((0, 0.4))  # a new step ends redo
    assert not page["redo"].is_enabled()


def test_white_part_of_a_mask_image_is_the_hole_whenever_this_is_set(driver, small_url, tmp_path):
    side = 448  # px of the photo
    white = Image.new("L", (2 * side, 2 * side))
    white.paste(255, (0, 0, 100, 80))  # 50 x 40 px of the photo
    transparent = Image.new("LA", white.size)
    transparent.putalpha(white)  # varies, so it is the mask
    opaque = white.convert("RGBA")
    opaque.putalpha(200)  # does not vary, so it is ignored
    page = Page(driver, small_url)
    page.load_example()
    page.open_details()
    for k, image in enumerate((white, transparent, opaque)):
        image.save(tmp_path / f"{k}.png")
        page["mask-file"].send_keys(str(tmp_path / f"{k}.png"))
        page.wait_for(lambda: page.hole_area() == side * side - 50 * 40)
        page["white-is-hole"].click()  # after loading
        assert page.hole_area() == 50 * 40
        page["clear"].click()
        page["mask-file"].send_keys(str(tmp_path / f"{k}.png"))  # before loading
        page.wait_for(lambda: page.hole_area() == 50 * 40)
        page["white-is-hole"].click()
        assert page.hole_area() == side * side - 50 * 40
        page["clear"].click()
    Select(page["masks"]).select_by_value("center")  # its polarity is known
    page.wait_for(lambda: page.hole_area() == (side // 2) ** 2)
    page["white-is-hole"].click()
    assert page.hole_area() == (side // 2) ** 2


@pytest.mark.parametrize("slow", ["photo", "example"])
def test_last_of_two_photos_wins(driver, small_server, monkeypatch, tmp_path, slow):
    """The response to the first one arrives after the second one is shown."""
    inspect, is_delayed = small_server._inspect, threading.Event()

    def inspect_slowly(file, completer):
        response = inspect(file, completer)
        if response["width"] != 300:
            time.sleep(1)
            is_delayed.set()
        return response

    monkeypatch.setattr(small_server, "_inspect", inspect_slowly)
    Image.effect_noise((200, 200), 50).save(tmp_path / "first.png")
    Image.effect_noise((300, 200), 50).save(tmp_path / "second.png")
    page = Page(driver, small_server.url)
    if slow == "photo":
        page.load_file(tmp_path / "first.png")
    else:
        page.wait_for(lambda: page.all("#examples button"))[0].click()
    time.sleep(0.3)
    page.load_file(tmp_path / "second.png")
    page.wait_for(page["stage"].is_displayed)
    assert is_delayed.wait(10)
    time.sleep(0.3)
    assert driver.execute_script("return document.getElementById('photo').naturalWidth") == 300
    assert page["loading"].text == page["error"].text == ""
    page.drag((0, 0))
    page.complete()
    assert crop_of(page) == (50, 0, 200)


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


def test_missing_face_is_reported(driver, small_server, monkeypatch, tmp_path):
    inspect = small_server._inspect

    def inspect_without_face(*arguments):
        return inspect(*arguments) | {"without_face": True}

    monkeypatch.setattr(small_server, "_inspect", inspect_without_face)
    Image.effect_noise((300, 200), 50).save(tmp_path / "noise.png")
    page = Page(driver, small_server.url)
    page.load_file(tmp_path / "noise.png")
    page.wait_for(page["stage"].is_displayed)
    assert page["loading"].text.startswith("No face found: the square is in the center.")
    monkeypatch.undo()
    page.load_file(tmp_path / "noise.png")
    page.wait_for(lambda: page["loading"].text == "")


def test_crop_is_moved_and_hole_outside_is_ignored(driver, small_url, downloads, tmp_path):
    Image.effect_noise((300, 200), 50).save(tmp_path / "wide.png")
    page = Page(driver, small_url)
    page.load_file(tmp_path / "wide.png")
    page.wait_for(page["stage"].is_displayed)
    assert crop_of(page) == (50, 0, 200)
    page.all("[value=crop]")[0].click()
    page.drag((0, 0), (0.1, 0))  # 30 px
    assert crop_of(page) == (80, 0, 200)
    page.drag((0.5 - 20 / 300 - 0.01, 0.48), (0.1, 0))  # from its corner to the photo's middle
    x, y, side = crop_of(page)
    assert (x, y) == (80, 0)
    assert 95 < side < 115
    page.all("[value=brush]")[0].click()
    page.drag((-0.45, 0.4))
    page["complete"].click()
    message = "Nothing is marked inside the square. Paint over the part to fill in."
    page.wait_for(lambda: page["error"].text == message)
    page.drag((x / 300 - 0.5 - 0.1, -0.25), (x / 300 - 0.5 + 0.15, -0.25))  # across its edge
    page.complete()
    hole = page.download("download-mask", downloads, "mask.png") == 0
    assert hole[50, x + 5]
    assert not hole[:, :x].any()
    page.all("[value=crop]")[0].click()
    page.drag((x / 300 - 0.5 + 0.15, 0), (x / 300 - 0.5 - 0.05, 0))  # 60 px to the left
    page.complete()
    hole = page.download("download-mask", downloads, "mask.png") == 0
    assert hole[50, x - 5]  # what was painted there has returned


def crop_of(page, width=300, height=200):
    """Return x, y and side in px of the crop shown on a photo of width x height px."""
    style = page["crop"].get_attribute("style")
    parts = dict(each.split(": ") for each in style.strip("; ").split("; "))
    share = {name: float(value.rstrip("%")) / 100 for name, value in parts.items()}
    return round(share["left"] * width), round(share["top"] * height), round(share["width"] * width)


def visible_part(driver):
    """Return left, top, width and height of the visible part, as shares of the photo's size."""
    return driver.execute_script("""
        const [stage, sheet] = ["stage", "sheet"].map(
          (id) => document.getElementById(id).getBoundingClientRect());
        return [(stage.left - sheet.left) / sheet.width, (stage.top - sheet.top) / sheet.height,
          stage.width / sheet.width, stage.height / sheet.height];
    """)


def test_wheel_and_keys_zoom_and_what_is_painted_stays_in_place(driver, small_url):
    page = Page(driver, small_url)
    page.load_example()
    page.drag((0.25, 0.25))
    area = page.hole_area()
    page["undo"].click()
    stage = page["stage"]
    point = round(0.25 * stage.size["width"]), round(0.25 * stage.size["height"])
    scrolled = driver.execute_script("return scrollY")
    origin = ScrollOrigin.from_element(stage, *point)
    ActionChains(driver).scroll_from_origin(origin, 0, -400).perform()
    page.wait_for(lambda: visible_part(driver)[2] < 0.6)
    assert driver.execute_script("return scrollY") == scrolled
    left, top, width, height = visible_part(driver)
    assert width == height == pytest.approx(0.5)
    assert (left, top) == pytest.approx((0.375, 0.375), abs=0.01)  # the point stays where it is
    page.drag((0.25, 0.25))
    assert page.hole_area() == pytest.approx(area, rel=0.03)  # the brush is enlarged as well
    drag_to = ActionChains(driver, duration=20).key_down(Keys.SHIFT)
    drag_to.move_to_element(stage).click_and_hold().move_by_offset(*point).release()
    drag_to.key_up(Keys.SHIFT).perform()
    assert visible_part(driver)[:2] == pytest.approx([0.25, 0.25], abs=0.01)  # moved by 0.25 / 2
    stage.send_keys("0")
    assert visible_part(driver) == pytest.approx([0, 0, 1, 1])
    stage.send_keys("+")
    assert visible_part(driver)[2] == pytest.approx(1 / 1.5)
    stage.send_keys("-")
    assert visible_part(driver) == pytest.approx([0, 0, 1, 1])
    assert page.hole_area() == pytest.approx(area, rel=0.03)  # nothing else was painted


def test_two_fingers_zoom_and_one_finger_paints(driver, small_url, phone):
    page = Page(driver, small_url)
    page.load_example()
    stage = page["stage"]
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", stage)
    box = driver.execute_script("return arguments[0].getBoundingClientRect()", stage)

    def touch(kind, *points):
        places = [
            {"x": box["x"] + u * box["width"], "y": box["y"] + v * box["height"], "id": i}
            for i, (u, v) in enumerate(points)
        ]
        event = {"type": f"touch{kind}", "touchPoints": places}
        driver.execute_cdp_cmd("Input.dispatchTouchEvent", event)

    touch("Start", (0.4, 0.5))
    touch("Start", (0.4, 0.5), (0.6, 0.5))
    touch("Move", (0.3, 0.5), (0.7, 0.5))
    touch("Move", (0.1, 0.5), (0.5, 0.5))  # both fingers move by 0.2 to the left
    page.wait_for(lambda: visible_part(driver)[0] > 0.3)
    touch("End")
    left, top, width, _ = visible_part(driver)
    assert width == pytest.approx(0.5, abs=0.02)
    assert (left, top) == pytest.approx((0.35, 0.25), abs=0.02)
    assert page.hole_area() == 0
    touch("Start", (0.4, 0.5))
    touch("Move", (0.6, 0.5))
    touch("End")
    assert page.hole_area() == pytest.approx(
        np.pi * 44.8**2 + 0.1 * 448 * 89.6, rel=0.05
    )  # a stroke of 0.1 of the photo's width: the brush is 20% of the crop, which is 448 px wide


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


@pytest.fixture(scope="module")
def group_server():
    """A server that detects faces."""
    model = small_dcgan(z_dim=8)
    model.data = {"source": "celeba"}
    overrides = "stages=none", "trainer.accelerator=cpu", "solver.iterations=2"
    with run_server(Server([Completer.load(model, *overrides)])) as url:
        yield url


def open_group_photo(driver, url, folder, distance=448):
    """Open the page with a photo of two people, and wait until both faces are found."""
    group_photo(distance).save(folder / "group.png")
    page = Page(driver, url)
    page.load_file(folder / "group.png")
    message = "2 faces found. Paint over any of them."
    page.wait_for(lambda: page["loading"].text == message, seconds=120)
    Select(page["candidate-count"]).select_by_value("2")
    driver.execute_script("document.getElementById('brush-size').value = 10")
    return page


def completed_and_hole(page, downloads):
    completed = page.download("download-photo", downloads, "completed.png")
    return completed, page.download("download-mask", downloads, "mask.png") == 0


def square_count(page):
    return page.all("#squares path")[0].get_attribute("d").count("M")


def test_each_painted_part_is_filled_in_by_its_face(driver, group_server, downloads, tmp_path):
    page, original = open_group_photo(driver, group_server, tmp_path), np.asarray(group_photo())
    assert square_count(page) == 2
    page.drag((-0.27, 0), (-0.23, 0))
    page.drag((0.23, 0), (0.27, 0))
    page.drag((0, 0.49))  # outside the squares
    page.complete()
    completed, hole = completed_and_hole(page, downloads)
    assert np.array_equal(completed[~hole], original[~hole])
    assert not hole[:, 400:496].any()
    for half in (slice(None, 448), slice(448, None)):
        changed = (completed != original).any(2)[:, half]
        assert hole[224, half].sum() > 60
        assert changed[hole[:, half]].mean() > 0.9
    sample = page.all("#candidates img")[0].size
    assert sample["width"] == 2 * sample["height"]  # both faces, side by side


def test_shape_and_moved_square_are_for_one_face(driver, group_server, downloads, tmp_path):
    page = open_group_photo(driver, group_server, tmp_path)
    Select(page["masks"]).select_by_value("center")
    page.wait_for(page.hole_area)
    assert square_count(page) == 1
    page.complete()
    _, hole = completed_and_hole(page, downloads)
    assert hole[:, :448].any()
    assert not hole[:, 448:].any()
    page["undo"].click()
    assert square_count(page) == 2
    page.all("[value=crop]")[0].click()
    assert square_count(page) == 1
    page.drag((-0.25, 0), (0.25, 0))
    page.all("[value=brush]")[0].click()
    assert square_count(page) == 1
    page.drag((-0.25, 0))
    page.drag((0.25, 0))
    page.complete()
    _, hole = completed_and_hole(page, downloads)
    assert not hole[:, :448].any()
    assert hole[:, 448:].any()


def test_part_on_two_faces_is_an_error(driver, group_server, tmp_path):
    page = open_group_photo(driver, group_server, tmp_path, 288)
    page.drag((-0.2, 0), (0.2, 0))
    page["complete"].click()
    page.wait_for(lambda: page["error"].text.startswith("A painted part lies on two faces."))
    page.all("[value=eraser]")[0].click()
    page.drag((0, -0.3), (0, 0.3))
    page.complete()


JARGON = (
    "candidate", "crop", "mask", "hole", "objective", "spread", "latent", "iteration", "inpaint",
    "GAN", "deviation", "gradient", "prior", "optimi",
)  # fmt: skip


def test_words_are_plain_english(driver, small_url):
    """The names of the models are the only technical terms."""
    page = Page(driver, small_url)
    page.load_example()
    page.open_details()
    page["complete"].click()  # shows an error, as nothing is marked
    page.wait_for(lambda: page["error"].text)
    text = driver.execute_script("return document.body.innerText")
    page.drag((0, 0))
    page.complete()
    text += driver.execute_script("return document.title + document.body.innerText")
    labels = [each.get_attribute("aria-label") or "" for each in page.all("[aria-label]")]
    labels += [each.get_attribute("alt") for each in page.all("[alt]")]
    words = " ".join([text, *labels])
    assert "Paint over the part to fill in" in words
    assert "Each sample is a different guess" in words
    assert [word for word in JARGON if re.search(rf"\b{word}", words, re.I)] == []


def test_photo_is_loaded_by_dropping_it(driver, small_url):
    page = Page(driver, small_url)
    page.wait_for(lambda: page.all("#examples button"))
    driver.execute_script("""
        return fetch("examples/portrait_02").then((response) => response.blob()).then((blob) => {
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([blob], "dropped.webp"));
          document.dispatchEvent(new DragEvent("drop", { dataTransfer, cancelable: true }));
        });
    """)
    page.wait_for(page["stage"].is_displayed)


def test_page_is_usable_with_the_keyboard_and_has_accessible_names(driver, small_url):
    page = Page(driver, small_url)
    page.wait_for(lambda: page.all("#examples button"))[0].send_keys(Keys.ENTER)
    page.wait_for(page["stage"].is_displayed)
    stage = page["stage"]
    stage.send_keys(" ")
    dot = page.hole_area()
    assert dot > 0
    ActionChains(driver).key_down(Keys.SHIFT).send_keys(Keys.ARROW_RIGHT * 3).key_up(
        Keys.SHIFT
    ).perform()
    assert page.hole_area() > 1.3 * dot
    ActionChains(driver).key_down(Keys.CONTROL).send_keys("zzz").key_up(Keys.CONTROL).perform()
    assert page.hole_area() == dot
    page.all("[value=brush]")[0].send_keys(
        Keys.ARROW_RIGHT, Keys.ARROW_RIGHT
    )  # selects the crop tool
    width = page["crop"].size["width"]
    stage.send_keys(Keys.SHIFT, Keys.ARROW_LEFT)
    assert page["crop"].size["width"] < width
    x = page["crop"].location["x"]
    stage.send_keys(Keys.NULL, Keys.ARROW_RIGHT)
    assert page["crop"].location["x"] > x
    page["complete"].send_keys(Keys.ENTER)
    page.wait_for(lambda: page.has_status("Done"))
    page.all("#candidates button")[1].send_keys(Keys.ENTER)
    page.wait_for(lambda: pressed(page) == [1])
    page.open_details()
    for element in page.all("input, button, select, a, [tabindex], svg, section, progress"):
        if element.is_displayed():
            assert element.accessible_name, element.get_attribute("outerHTML")
    controls = "[...document.querySelectorAll('input, button, select, a')]"
    assert driver.execute_script(f"return {controls}.every((control) => control.tabIndex === 0)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_and_page_fits_small_screens(driver, small_url, scheme):
    """WCAG 2.2 AA requires a contrast of 4.5 for text. A width of 360 px needs no scrolling."""
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    metrics = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        page = Page(driver, small_url)
        page.load_example()
        page.open_details()
        page["complete"].click()  # shows an error, as there is no hole
        page.wait_for(lambda: page["error"].text)
        texts = driver.execute_script(CONTRAST_RATIOS)
        page.drag((0, 0))
        page.complete()
        texts += driver.execute_script(CONTRAST_RATIOS)
        assert len(texts) > 30
        assert [(text, ratio) for text, ratio in texts if ratio < 4.5] == []
        assert driver.execute_script("return document.documentElement.scrollWidth") == 360
        color = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (max(map(int, color[4:-1].split(", "))) < 50) == (scheme == "dark")
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


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


def test_unreadable_and_too_large_images_are_rejected(driver, small_url, tmp_path):
    (tmp_path / "notes.png").write_text("just a text")
    Image.new("1", (7750, 7750)).save(tmp_path / "huge.png")
    page = Page(driver, small_url)
    page.load_file(tmp_path / "notes.png")
    message = "photo: not a readable image. Use JPEG, PNG, "
    page.wait_for(lambda: page["error"].text.startswith(message))
    page.load_file(tmp_path / "huge.png")
    message = "photo: image has more than 50 million pixels. Use a smaller image"
    page.wait_for(lambda: page["error"].text == message)
    assert not page["stage"].is_displayed()
    page.load_example()
    assert page["error"].text == ""
    page["mask-file"].send_keys(str(tmp_path / "notes.png"))
    page.wait_for(lambda: page["error"].text == "notes.png: not a readable image")
