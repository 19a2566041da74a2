"""Browser tests of the web page: loading of photos, and painting by mouse, touch and keyboard."""

import threading
import time

import numpy as np
import pytest
from browser import Page, crop_of
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

pytestmark = pytest.mark.slow


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


def test_far_image_is_reported(driver, small_server, monkeypatch):
    page = Page(driver, small_server.url)
    page.load_example()
    page.drag((0, 0))
    monkeypatch.setattr("dcgan_inpaint.api.find_far_images", lambda *_: [0])
    page.complete()
    assert page["far-image"].text.startswith("The photo looks unlike the faces")
    monkeypatch.undo()
    page.complete()
    page.wait_for(lambda: not page["far-image"].is_displayed())


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
