"""The page as people use it, in Debian's chromium: with mouse and keys, its downloads read back.

DCGAN_INPAINT_SCREENSHOT=experiments/figures/web.png writes the README's image on the way.
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
from serving import served
from training import small_dcgan

from dcgan_inpaint import Completer
from dcgan_inpaint.web.server import Server

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
CENTER = ("trainer.accelerator=cpu", "detector=null")  # of a painted face that is all of it
SHORT = ("stages=none", *CENTER)
PAINTED = """
const hole = document.getElementById("hole");
const { data } = hole.getContext("2d").getImageData(0, 0, hole.width, hole.height);
return data.reduce((count, value, i) => count + (i % 4 === 3 && value > 127), 0);
"""
LOW_CONTRAST = """
const channels = (color) => color.match(/[\\d.]+/g).map(Number);
const light = (color) => channels(color).slice(0, 3).map((c) => c / 255)
  .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
function behind(element) {
  const color = getComputedStyle(element).backgroundColor;
  return channels(color)[3] === 0 ? behind(element.parentElement) : color;
}
const isText = (node) => node.nodeType === Node.TEXT_NODE && node.data.trim();
const texts = [...document.querySelectorAll("main *")].filter(
  (element) => element.checkVisibility() && [...element.childNodes].some(isText));
return texts.map((element) => {
  const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
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
            pytest.skip(f"{program} is missing: apt-get install chromium chromium-driver")
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
def quick():
    """A small model's server: what it completes does not matter."""
    completer = Completer.load(small_dcgan(z_dim=8), *SHORT, "solver.iterations=10")
    with served(Server(completer)) as address:
        yield address


class Page:
    """The page in the driver's present window."""

    def __init__(self, driver, address=None):
        self.driver = driver
        if address:
            driver.get(address)

    def __getitem__(self, name):
        return self.driver.find_element(By.ID, name)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def until(self, condition, seconds=30):
        return WebDriverWait(self.driver, seconds, 0.02).until(lambda _: condition())

    def take_example(self, number=0):
        self.until(lambda: self.all("#examples button"))[number].click()
        self.until(self["stage"].is_displayed)

    def choose(self, path):
        self.until(lambda: self.all("#examples button"))  # the script has begun
        self["file"].send_keys(str(path))

    def paint(self, *points):
        """A stroke of the mouse between points of the stage, in shares of it from its center."""
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

    def painted(self):
        return self.driver.execute_script(PAINTED)

    def says(self, start):
        return self["status"].text.startswith(start)

    def complete(self, seconds=60):
        self["complete"].click()
        self.until(lambda: self.says("Done") or self["fault"].text, seconds)
        assert self["fault"].text == ""

    def download(self, link, folder, name):
        file = folder / name
        file.unlink(missing_ok=True)  # of a test that failed
        self[link].click()
        # chromium makes an empty file of that name first, and puts the whole one in its place
        self.until(lambda: file.is_file() and file.stat().st_size)
        with Image.open(file.rename(folder / f"read-{name}")) as image:
            return np.asarray(image)


def test_a_face_is_painted_over_completed_and_downloaded(driver, downloads):
    """By the search that is the default; outside the hole it is the photo, to the bit."""
    server = Server(Completer.load("faces64", *CENTER))
    with served(server) as address:
        page = Page(driver, address)
        page.take_example(0)
        page.paint((-0.2, -0.05), (0, 0.02), (0.2, -0.05))
        page["complete"].click()
        frames = set()

        def done():
            frames.add(page["frame"].get_attribute("src"))
            return page.says("Done")

        page.until(done, seconds=100)
        assert len(frames) > 2  # seen live
        curve = page.all("#curve polyline")[0].get_attribute("points").split()
        heights = [float(point.split(",")[1]) for point in curve]
        assert len(heights) == 151  # all evaluations
        assert heights[0] < heights[-1]  # it falls; y goes down
        names = [button.text for button in page.all("#candidates button")]
        assert names == [*(f"Candidate {k}" for k in range(1, 5)), "Their mean"]
        assert page.all("#spread img")[0].is_displayed()

        page.all("#candidates button")[1].click()
        page.until(page["download"].is_displayed)
        after = page["compare"].screenshot_as_png
        page["split"].send_keys(Keys.END)
        assert page["compare"].screenshot_as_png != after  # it is before that is seen
        page["split"].send_keys(Keys.HOME)
        completed = page.download("download", downloads, "completed.png")
        mask = page.download("mask", downloads, "mask.png")
        with Image.open(BytesIO(server.examples["face-1"])) as image:
            given = np.asarray(image)
        hole = mask == 0
        assert hole[128, 128]  # where the mouse was
        assert 0.05 < hole.mean() < 0.25
        assert np.array_equal(completed[~hole], given[~hole])
        assert (completed[hole] != given[hole]).any(1).mean() > 0.9
        assert driver.get_log("browser") == []  # no word about the policy either
        if path := os.environ.get("DCGAN_INPAINT_SCREENSHOT"):
            screenshot(driver, path)


def screenshot(driver, path):
    """Of the whole page, smaller and with few colours: a small file."""
    driver.set_window_size(1240, 1600)
    driver.execute_script("document.activeElement.blur(); scrollTo(0, 0)")
    with Image.open(BytesIO(driver.find_element(By.TAG_NAME, "main").screenshot_as_png)) as shot:
        small = shot.convert("RGB")
    small.thumbnail((960, 1600), Image.Resampling.LANCZOS)
    small.quantize(128).save(path, optimize=True)
    driver.set_window_size(1240, 1300)


def test_the_hole_is_painted_by_mouse_and_by_masks(driver, quick, tmp_path):
    page = Page(driver, quick)
    page.take_example()  # 256 px
    page.paint((0, 0))
    dot = page.painted()
    assert dot == pytest.approx(np.pi * (0.1 * 256) ** 2, rel=0.03)  # a fifth of the square
    page.paint((-0.3, 0.2), (0.3, 0.2))
    stroke = page.painted()
    assert stroke == pytest.approx(2 * dot + 0.6 * 256 * 0.2 * 256, rel=0.03)
    page["undo"].click()
    assert page.painted() == dot
    page.all("[value=eraser]")[0].click()
    page.paint((0, 0))
    assert page.painted() < 0.02 * dot
    page["undo"].click()
    page["clear"].click()
    assert page.painted() == 0
    page["undo"].click()
    assert page.painted() == dot

    Select(page["masks"]).select_by_visible_text("center")
    page.until(lambda: page.painted() == 128 * 128)
    Image.new("L", (256, 256), "white").save(tmp_path / "white.png")
    white = Image.new("L", (512, 512))
    white.paste(255, (0, 0, 100, 80))  # 50 x 40 px of the photo
    white.save(tmp_path / "hole.png")
    page["maskfile"].send_keys(str(tmp_path / "hole.png"))
    page.until(lambda: page.painted() == 256 * 256 - 50 * 40)
    page["white"].click()
    page["maskfile"].send_keys(str(tmp_path / "hole.png"))
    page.until(lambda: page.painted() == 50 * 40)
    page["clear"].click()
    page["complete"].click()
    page.until(
        lambda: page["fault"].text == "There is no hole in the square: paint what is missing."
    )


def test_the_square_is_moved_and_resized(driver, quick, tmp_path):
    """And a hole outside it is refused before anything is sent."""
    Image.effect_noise((300, 200), 50).save(tmp_path / "wide.png")
    page = Page(driver, quick)
    page.choose(tmp_path / "wide.png")
    page.until(page["stage"].is_displayed)
    assert square(page) == (50, 0, 200)
    page.all("[value=square]")[0].click()
    page.paint((0, 0), (0.1, 0))  # 30 px
    assert square(page) == (80, 0, 200)
    page.paint((0.5 - 20 / 300 - 0.01, 0.48), (0.1, 0))  # its corner, to the middle of the photo
    x, y, side = square(page)
    assert (x, y) == (80, 0)
    assert 95 < side < 115
    page.all("[value=brush]")[0].click()
    page.paint((-0.45, 0.4))
    page["complete"].click()
    line = "The hole reaches outside the square: move or enlarge the square."
    page.until(lambda: page["fault"].text == line)
    page["undo"].click()
    page.paint((x / 300 - 0.5 + 0.15, -0.25))
    page.complete()


def square(page):
    """x, y, side in px of a photo 300 px wide, as it is shown."""
    style = page["square"].get_attribute("style")
    parts = dict(each.split(": ") for each in style.strip("; ").split("; "))
    share = {name: float(value.rstrip("%")) / 100 for name, value in parts.items()}
    return round(share["left"] * 300), round(share["top"] * 200), round(share["width"] * 300)


def test_a_image_is_dropped(driver, quick):
    page = Page(driver, quick)
    page.until(lambda: page.all("#examples button"))
    driver.execute_script("""
        return fetch("examples/face-2").then((answer) => answer.blob()).then((blob) => {
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([blob], "dropped.png"));
          document.dispatchEvent(new DragEvent("drop", { dataTransfer, cancelable: true }));
        });
    """)
    page.until(page["stage"].is_displayed)


def test_by_keyboard_alone(driver, quick):
    """Everything has a name, and can be reached."""
    page = Page(driver, quick)
    page.until(lambda: page.all("#examples button"))[0].send_keys(Keys.ENTER)
    page.until(page["stage"].is_displayed)
    stage = page["stage"]
    stage.send_keys(" ")
    dot = page.painted()
    assert dot > 0
    ActionChains(driver).key_down(Keys.SHIFT).send_keys(Keys.ARROW_RIGHT * 3).key_up(
        Keys.SHIFT
    ).perform()
    assert page.painted() > 1.3 * dot
    ActionChains(driver).key_down(Keys.CONTROL).send_keys("zzz").key_up(Keys.CONTROL).perform()
    assert page.painted() == dot
    page.all("[value=brush]")[0].send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)  # for the square
    before = page["square"].size
    stage.send_keys(Keys.SHIFT, Keys.ARROW_LEFT)
    assert page["square"].size["width"] < before["width"]
    where = page["square"].location
    stage.send_keys(Keys.NULL, Keys.ARROW_RIGHT)
    assert page["square"].location["x"] > where["x"]
    page["complete"].send_keys(Keys.ENTER)
    page.until(lambda: page.says("Done"))
    page.all("#candidates button")[0].send_keys(Keys.ENTER)
    page.until(page["download"].is_displayed)
    for element in page.all("input, button, select, a, [tabindex], svg, section, progress"):
        if element.is_displayed():
            assert element.accessible_name, element.get_attribute("outerHTML")
    reached = "return [...document.querySelectorAll('input, button, select, a')].every"
    assert driver.execute_script(f"{reached}((each) => each.tabIndex === 0)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_legible_and_narrow(driver, quick, scheme):
    """4.5 to 1, as WCAG 2.2 AA has it for text, and no scrolling sideways at 360 px."""
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    metrics = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        page = Page(driver, quick)
        page.take_example()
        page["complete"].click()  # there is no hole: a fault is shown
        page.until(lambda: page["fault"].text)
        texts = driver.execute_script(LOW_CONTRAST)
        page.paint((0, 0))
        page.complete()
        page.all("#candidates button")[0].click()
        page.until(page["download"].is_displayed)
        texts += driver.execute_script(LOW_CONTRAST)
        assert len(texts) > 30
        assert [(text, ratio) for text, ratio in texts if ratio < 4.5] == []
        assert driver.execute_script("return document.documentElement.scrollWidth") == 360
        back = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (max(map(int, back[4:-1].split(", "))) < 50) == (scheme == "dark")
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_two_pages_and_one_that_is_closed(driver):
    """The second waits; the first is stopped; the second is served, closed, and its search ends."""
    endless = Completer.load(small_dcgan(z_dim=8), *SHORT, "solver.iterations=1000000")
    server = Server(endless)
    with served(server) as address:
        first = driver.current_window_handle
        page = Page(driver, address)
        page.take_example()
        page.paint((0, 0))
        page["complete"].click()
        page.until(lambda: page.says("Searching"))
        driver.switch_to.new_window("tab")
        page = Page(driver, address)
        page.take_example()
        page.paint((0, 0))
        page["complete"].click()
        page.until(lambda: page["status"].text == "Waiting: 1 ahead of you")
        second = driver.current_window_handle
        driver.switch_to.window(first)
        Page(driver)["stop"].click()
        page.until(lambda: page["status"].text == "Stopped")
        driver.switch_to.window(second)
        page.until(lambda: page.says("Searching"))
        driver.close()
        closed = time.monotonic()
        server.line.thread.submit(lambda: None).result(timeout=10)  # when the worker is free
        assert time.monotonic() - closed < 1
        driver.switch_to.window(first)
        assert server.line.jobs == []
        assert not server.kept.all


def test_forty_megapixels(driver, quick, downloads, tmp_path):
    """They are completed at full size."""
    x, y = np.arange(8000, dtype=np.uint16), np.arange(5000, dtype=np.uint16)[:, None]
    channels = np.broadcast_arrays(x // 32, y // 20, (x + y) // 52)
    given = np.stack([channel.astype(np.uint8) for channel in channels], -1)
    Image.fromarray(given).save(tmp_path / "large.jpg", quality=90)
    with Image.open(tmp_path / "large.jpg") as image:
        given = np.asarray(image)
    page = Page(driver, quick)
    page.choose(tmp_path / "large.jpg")
    page.until(page["stage"].is_displayed)
    Select(page["count"]).select_by_value("1")
    driver.execute_script("document.getElementById('brush').value = 16")
    page.paint((0, 0))
    page.complete()
    page.all("#candidates button")[0].click()
    page.until(page["download"].is_displayed, seconds=60)
    completed = page.download("download", downloads, "completed.png")
    hole = page.download("mask", downloads, "mask.png") == 0
    assert hole.shape == (5000, 8000)
    assert hole[2500, 4000]
    assert hole.sum() == pytest.approx(np.pi * 400**2, rel=0.1)
    assert np.array_equal(completed[~hole], given[~hole])
    assert (completed[hole] != given[hole]).any(1).mean() > 0.9


def test_what_is_no_image(driver, quick, tmp_path):
    (tmp_path / "notes.png").write_text("just a text")
    Image.new("1", (7750, 7750)).save(tmp_path / "huge.png")
    page = Page(driver, quick)
    page.choose(tmp_path / "notes.png")
    line = "notes.png: cannot be read as an image: use JPEG, PNG, "
    page.until(lambda: page["fault"].text.startswith(line))
    page.choose(tmp_path / "huge.png")
    line = "huge.png: has 7750 x 7750 pixels: at most 50 million"
    page.until(lambda: page["fault"].text == line)
    assert not page["stage"].is_displayed()
    page.take_example()
    assert page["fault"].text == ""
    page["maskfile"].send_keys(str(tmp_path / "notes.png"))
    page.until(lambda: page["fault"].text == "notes.png: cannot be read as an image")
