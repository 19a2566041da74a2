"""The shipped portraits: their list, their balance, and faces that the detector finds."""

import cmath
import csv
import math
from collections import Counter

import pytest
import torch
from PIL import Image

from dcgan_inpaint import Completer
from dcgan_inpaint.photos.detector import find_faces
from dcgan_inpaint.photos.photos import PORTRAITS

with (PORTRAITS / "portraits.csv").open(newline="") as file:
    ROWS = list(csv.DictReader(file))


def test_portraits_are_listed_and_small():
    files = sorted(path.name for path in PORTRAITS.glob("*.webp"))
    assert [row["file"] for row in ROWS] == files
    assert len(files) == 24
    assert sum(path.stat().st_size for path in PORTRAITS.iterdir()) < 2e6


def test_readme_states_the_license_and_that_nobody_is_shown():
    text = " ".join((PORTRAITS / "README.md").read_text().split())
    assert "CC0 1.0" in text and "people who do not exist" in text


def test_portraits_are_balanced():
    counts = Counter((row["tone"], row["sex"]) for row in ROWS)
    assert set(counts.values()) == {4} and len(counts) == 6
    ages = [int(row["age"]) for row in ROWS]
    assert min(sum(low <= age < high for age in ages) for low, high in ((18, 36), (36, 56))) >= 7
    assert sum(age >= 56 for age in ages) >= 7


@pytest.mark.slow
def test_a_large_face_is_detected_in_every_portrait():
    for row in ROWS:
        with Image.open(PORTRAITS / row["file"]) as image:
            assert image.size == (448, 448)
            face = find_faces(image)[0]
        assert abs(face.right_eye - face.left_eye) > 40  # px; the models have 35 at 128 px


@pytest.mark.slow
def test_first_face_of_a_turned_portrait_is_the_face():
    """On a plain background; in a turned portrait, other details can look like small faces."""
    for i, row in enumerate(ROWS):
        with Image.open(PORTRAITS / row["file"]) as image:
            upright = image.convert("RGB").resize((266, 266), Image.Resampling.LANCZOS)
        angle, gray = (10, -10)[i % 2], (255, 128)[i // 2 % 2]
        turned = upright.rotate(
            -angle, Image.Resampling.BICUBIC, expand=True, fillcolor=(gray,) * 3
        )
        face, expected = (find_faces(photo, count=1)[0] for photo in (turned, upright))
        turn = cmath.rect(1, math.radians(angle))
        for name in ("left_eye", "right_eye"):
            eye = getattr(expected, name) - complex(*upright.size) / 2
            position = complex(*turned.size) / 2 + eye * turn
            assert abs(getattr(face, name) - position) < 0.2 * abs(
                expected.right_eye - expected.left_eye
            )


@pytest.mark.slow
def test_half_of_a_portrait_is_completed_without_a_visible_edge():
    """Gradients across the border of the hole are like those of the columns (rows) beside it."""
    photos = [Image.open(PORTRAITS / row["file"]) for row in ROWS]
    ratios = []
    for result in Completer.load("celeba128", "batch_size=24")(photos, mask="half"):
        row, batch = result.row, result.batch
        image, mask = batch.completion[row], batch.mask[row, 0]  # (3, S, S), (S, S)
        if mask.mean(0).std() < mask.mean(1).std():  # the upper or the lower half is missing
            image, mask = image.transpose(1, 2), mask.T
        middle = mask.shape[1] // 2
        assert mask[:, middle - 1].sum() == 0 or mask[:, middle].sum() == 0
        gradients = (image[:, :, 1:] - image[:, :, :-1]).abs().mean((0, 1))  # (S - 1,)
        border = middle - 1
        beside = torch.cat([gradients[border - 4 : border], gradients[border + 1 : border + 5]])
        ratios.append(float(gradients[border] / beside.mean()))
    assert max(ratios) < 1.5
