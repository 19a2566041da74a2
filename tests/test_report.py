"""The report of a run (runs/report.py): index.html, and the report of an earlier version's run."""

import base64
import io
import math
import sys
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dcgan_inpaint.runs import report
from dcgan_inpaint.runs.records import Record
from dcgan_inpaint.runs.report import write_page


class PageParser(HTMLParser):
    """The elements of a page and its text."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.text = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data.strip())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def record(name, seed, candidates=3):
    levels = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, 8, 8), np.uint8))
    tensors = {"before": levels, "masked": levels // 2, "completed": levels}
    if candidates:
        tensors |= {"candidates": levels.expand(candidates, -1, -1, -1), "spread": levels}
    return Record(name, "", "", {}, tensors)


def page(tmp_path, first, psnr, curve=None, summary=None):
    write_page(tmp_path / "index.html", "a run", first, psnr, curve, summary or {})
    return PageParser((tmp_path / "index.html").read_text())


def test_page_holds_the_summary_the_curves_and_the_images(tmp_path):
    html_name = "<script>alert(1)</script>"
    first = [record("a", 0), record(html_name, 1)]
    summary = {"psnr_hole": (20.5, 19.0, 22.0), "kid_efflite0": (0.00123456, math.nan, math.nan)}
    curve = torch.tensor([8.0, 4.0, 2.0])
    parsed = page(tmp_path, first, {"a": 20.0, html_name: 21.0, "c": 20.5}, curve, summary)
    assert not parsed.all("script") and not parsed.all("link")
    assert html_name in " ".join(parsed.text)
    images = parsed.all("img")
    assert len(images) == 2 * 5  # original, masked, completed, candidates, spread
    assert images[0]["alt"] == "original of a"
    assert all(image["src"].startswith("data:image/png;base64,") for image in images)
    with Image.open(io.BytesIO(base64.b64decode(images[0]["src"].partition(",")[2]))) as image:
        levels = first[0].tensors["before"].permute(1, 2, 0).numpy()
        assert np.array_equal(np.asarray(image), levels)
    assert "20.5" in parsed.text and "19 to 22" in parsed.text
    assert "0.001235" in parsed.text and "nan" not in " ".join(parsed.text)
    (line,) = parsed.all("polyline")
    assert [[float(x) for x in point.split(",")] for point in line["points"].split()] == [
        [10, 20],  # the highest of three
        [200, pytest.approx(160 - 140 / 3)],
        [390, 160],  # the lowest
    ]
    heights = [float(bar["height"]) for bar in parsed.all("rect")]
    assert [i for i, height in enumerate(heights) if height] == [0, 10, 19]  # of 20 bins
    assert set(heights) == {0.0, 140.0}


def test_page_omits_unknown_values(tmp_path):
    parsed = page(tmp_path, [record("a", 0, candidates=0)], {"a": math.nan})
    assert len(parsed.all("img")) == 3
    assert not parsed.all("svg")
    assert not any("dB" in text for text in parsed.text)


def test_page_of_one_image_has_no_interval(tmp_path):
    summary = {"psnr_hole": (20.5, math.nan, math.nan)}
    parsed = page(tmp_path, [record("a", 0)], {"a": 20.5}, summary=summary)
    texts = [text for text in parsed.text if text]
    first = texts.index("Metrics of 1 image")
    expected = ["metric", "value", "psnr_hole", "20.5", "The first image"]
    assert texts[first + 1 : first + 6] == expected


def test_page_shows_the_photos_that_were_completed(tmp_path):
    """At full size, by links: a file that pick= replaces is shown as well."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "00001_b 50%.png").touch()
    first = [record("00000_b 50%", 0), record("00001_b 50%", 1)]  # two faces of one photo
    parsed = page(tmp_path, first, {})
    shown = [image for image in parsed.all("img") if not image["src"].startswith("data:")]
    assert [image["src"] for image in shown] == ["photos/00001_b%2050%25.png"]
    assert shown[0]["alt"] == "completed photo 00001_b 50%"
    assert {"href": "photos/00001_b%2050%25.png"} in parsed.all("a")
    assert "Completed photo" in parsed.text
    assert not page(tmp_path, [record("a", 0)], {}).all("a")


@pytest.fixture
def old_run(tmp_path):
    """A run of commit 7f30de1 (2 procedural faces, 2 candidates, 3 frames), and its files."""
    with zipfile.ZipFile(Path(__file__).parent / "fixtures" / "old_run.zip") as archive:
        archive.extractall(tmp_path)
    files = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.suffix in (".csv", ".npy")}
    assert len(files) == 5
    images = {p.name: np.asarray(Image.open(p)) for p in tmp_path.glob("*.png")}
    assert len(images) == 3
    for name in [*files, *images]:
        (tmp_path / name).unlink()
    return tmp_path, files, images


def test_report_of_an_old_run_is_rebuilt_from_its_records(old_run, monkeypatch, capsys):
    run_dir, files, images = old_run
    monkeypatch.setattr(sys, "argv", ["report", str(run_dir)])
    report.main()
    for name, data in files.items():
        renamed = data.replace(b"pictures", b"images") if name == "summary.csv" else data
        assert (run_dir / name).read_bytes() == renamed, name
    for name, levels in images.items():
        assert np.array_equal(np.asarray(Image.open(run_dir / name)), levels), name
    assert len(list((run_dir / "candidates").iterdir())) == 2
    assert len(PageParser((run_dir / "index.html").read_text()).all("img")) == 2 * 6
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("psnr_hole 15.16 dB, ") and out[1] == str(run_dir / "index.html")


def test_old_run_cannot_be_continued(old_run, run):
    faces = ("data=faces", "data.train_size=4", "data.val_size=2", "data.test_size=2")
    stderr = run("inpaint.py", *faces, "limit=2", f"output={old_run[0]}", fails=True).stderr
    error = f"error: output={old_run[0]}: written by an earlier version"
    assert stderr.splitlines()[-1].startswith(error)
    assert "Traceback" not in stderr


def test_directory_without_records_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        report.main()
    assert stop.value.code == 2
    assert f"{tmp_path}: no complete records" in capsys.readouterr().err
