"""Browser tests of the web page: plain words, keyboard, contrast and small screens."""

import re

import pytest
from browser import Page, pressed
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.slow


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
