"""index.html of a completion run (runs/page.py)."""

import base64
import io
import math
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from dcgan_inpaint.runs.page import write_page


class Found(HTMLParser):
    """The elements of a page and its text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data.strip())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def kept(seed, candidates=3):
    levels = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, 8, 8), np.uint8))
    record = {"before": levels, "masked": levels // 2, "completed": levels}
    if candidates:
        record |= {"candidates": levels.expand(candidates, -1, -1, -1), "spread": levels}
    return record


def page(tmp_path, names, first, psnr, trace=None, summary=None):
    write_page(tmp_path / "index.html", "a run", names, first, psnr, trace, summary or {})
    return Found((tmp_path / "index.html").read_text())


def test_it_holds_all_that_it_shows(tmp_path):
    names = ["a.png", "<script>alert(1)</script>", "c.png"]
    summary = {"psnr_hole": (20.5, 19.0, 22.0), "fd_efflite0": (7.25, math.nan, math.nan)}
    trace = torch.tensor([8.0, 4.0, 2.0])
    found = page(tmp_path, names, [kept(0), kept(1)], [20.0, 21.0, 20.5], trace, summary)
    assert not found.all("script") and not found.all("link")
    assert names[1] in " ".join(found.words)
    images = found.all("img")
    assert len(images) == 2 * 5  # original, masked, completed, candidates, spread
    assert all(image["src"].startswith("data:image/png;base64,") for image in images)
    with Image.open(io.BytesIO(base64.b64decode(images[0]["src"].partition(",")[2]))) as picture:
        assert np.array_equal(np.asarray(picture), kept(0)["before"].permute(1, 2, 0).numpy())
    assert "20.500" in found.words and "19.000 to 22.000" in found.words
    assert "7.250" in found.words and "nan" not in " ".join(found.words)
    (line,) = found.all("polyline")
    assert [[float(x) for x in point.split(",")] for point in line["points"].split()] == [
        [10, 20],  # the highest of three
        [200, pytest.approx(160 - 140 / 3)],
        [390, 160],  # the lowest
    ]
    heights = [float(bar["height"]) for bar in found.all("rect")]
    assert [i for i, height in enumerate(heights) if height] == [0, 10, 19]  # of 20
    assert set(heights) == {0.0, 140.0}


def test_what_nobody_knows_is_not_shown(tmp_path):
    found = page(tmp_path, ["a.png"], [kept(0, candidates=0)], [math.nan])
    assert len(found.all("img")) == 3
    assert not found.all("svg")
    assert not any("dB" in words for words in found.words)
