"""Browser tests of the web page in Chromium: mouse, keyboard, and downloaded files.

DCGAN_INPAINT_SCREENSHOT=experiments/figures/web.png pytest -m slow tests/test_browser.py also
writes the screenshot of the README.
"""

import os
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait
from serving import run_server
from training import small_dcgan

from dcgan_inpaint import Completer
from dcgan_inpaint.web.server import Server

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


@pytest.fixture(scope="module")
def small_url():
    """URL of a server with a small untrained model."""
    completer = Completer.load(small_dcgan(z_dim=8), *SMALL, "solver.iterations=10")
    with run_server(Server(completer)) as url:
        yield url


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
        self.wait_for(lambda: self.all("#examples button"))  # the script has run
        self["photo-file"].send_keys(str(path))

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
    server = Server(Completer.load("faces64", *DETECTOR_OFF))
    with run_server(server) as url:
        page = Page(driver, url)
        page.load_example(0)
        page.drag((-0.2, -0.05), (0, 0.02), (0.2, -0.05))
        page["complete"].click()
        frames = set()

        def is_done():
            frames.add(page["frame"].get_attribute("src"))
            return page.has_status("Done")

        page.wait_for(is_done, seconds=100)
        assert len(frames) > 2  # frames were shown during the search
        curve = page.all("#curve polyline")[0].get_attribute("points").split()
        heights = [float(point.split(",")[1]) for point in curve]
        assert len(heights) == 151  # 150 iterations and the end
        assert heights[0] < heights[-1]  # the objective decreases; the y axis points down
        names = [button.text for button in page.all("#candidates button")]
        assert names == [*(f"Candidate {k}" for k in range(1, 5)), "Mean"]
        assert page.all("#spread img")[0].is_displayed()

        page.all("#candidates button")[1].click()
        page.wait_for(page["download-photo"].is_displayed)
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
        if path := os.environ.get("DCGAN_INPAINT_SCREENSHOT"):
            screenshot(driver, path)


def screenshot(driver, path):
    """Save a small screenshot of the page: downscaled, with 128 colors."""
    driver.set_window_size(1240, 1600)
    driver.execute_script("document.activeElement.blur(); scrollTo(0, 0)")
    with Image.open(BytesIO(driver.find_element(By.TAG_NAME, "main").screenshot_as_png)) as shot:
        image = shot.convert("RGB")
    image.thumbnail((960, 1600), Image.Resampling.LANCZOS)
    image.quantize(128).save(path, optimize=True)
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

    Select(page["masks"]).select_by_visible_text("center")
    page.wait_for(lambda: page.hole_area() == (side // 2) ** 2)
    white = Image.new("L", (2 * side, 2 * side))
    white.paste(255, (0, 0, 100, 80))  # 50 x 40 px of the photo
    white.save(tmp_path / "hole.png")
    page["mask-file"].send_keys(str(tmp_path / "hole.png"))
    page.wait_for(lambda: page.hole_area() == side * side - 50 * 40)
    page["white-is-hole"].click()
    page["mask-file"].send_keys(str(tmp_path / "hole.png"))
    page.wait_for(lambda: page.hole_area() == 50 * 40)
    page["clear"].click()
    page["complete"].click()
    message = "There is no hole in the crop. Paint the missing part."
    page.wait_for(lambda: page["error"].text == message)


def test_crop_is_moved_and_resized_and_must_contain_the_hole(driver, small_url, tmp_path):
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
    message = "The hole extends beyond the crop. Move or enlarge the crop."
    page.wait_for(lambda: page["error"].text == message)
    page["undo"].click()
    page.drag((x / 300 - 0.5 + 0.15, -0.25))
    page.complete()


def crop_of(page):
    """Return x, y and side in px of the crop shown on a photo of 300 x 200 px."""
    style = page["crop"].get_attribute("style")
    parts = dict(each.split(": ") for each in style.strip("; ").split("; "))
    share = {name: float(value.rstrip("%")) / 100 for name, value in parts.items()}
    return round(share["left"] * 300), round(share["top"] * 200), round(share["width"] * 300)


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
    page.all("#candidates button")[0].send_keys(Keys.ENTER)
    page.wait_for(page["download-photo"].is_displayed)
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
        page["complete"].click()  # shows an error, as there is no hole
        page.wait_for(lambda: page["error"].text)
        texts = driver.execute_script(CONTRAST_RATIOS)
        page.drag((0, 0))
        page.complete()
        page.all("#candidates button")[0].click()
        page.wait_for(page["download-photo"].is_displayed)
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
    completer = Completer.load(small_dcgan(z_dim=8), *SMALL, "solver.iterations=1000000")
    server = Server(completer)
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
    page.complete()
    page.all("#candidates button")[0].click()
    page.wait_for(page["download-photo"].is_displayed, seconds=60)
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
