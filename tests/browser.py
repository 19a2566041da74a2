"""Helper functions of the browser tests, which open the web page in Chromium."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from training import small_dcgan

from dcgan_inpaint import Completer

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


def start_chromium(downloads: Path, profile: Path) -> webdriver.Chrome:
    """Start Chromium with directories for its downloads and for its profile."""
    for program in (CHROMIUM, DRIVER):
        if not program.is_file():
            pytest.skip(f"{program} not found: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))
    driver.set_window_size(1240, 1300)
    return driver


def small_completer(*overrides):
    """Return a completer with a small untrained model of faces: the page offers the portraits."""
    model = small_dcgan(z_dim=8)
    model.data = {"source": "celeba"}
    return Completer.load(model, *SMALL, *overrides)


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


def pressed(page):
    """Return the indices of the chosen samples."""
    buttons = page.all("#candidates button")
    return [k for k, each in enumerate(buttons) if each.get_attribute("aria-pressed") == "true"]


def crop_of(page, width=300, height=200):
    """Return x, y and side in px of the crop shown on a photo of width x height px."""
    style = page["crop"].get_attribute("style")
    parts = dict(each.split(": ") for each in style.strip("; ").split("; "))
    share = {name: float(value.rstrip("%")) / 100 for name, value in parts.items()}
    return round(share["left"] * width), round(share["top"] * height), round(share["width"] * width)
