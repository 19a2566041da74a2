"""Browser tests of the web page: photos of several faces."""

import numpy as np
import pytest
from browser import Page
from selenium.webdriver.support.ui import Select
from serving import group_photo, run_server
from training import small_dcgan

from dcgan_inpaint import Completer
from dcgan_inpaint.web.server import Server

pytestmark = pytest.mark.slow


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
