"""Face detection, and the crop that follows from the eyes.

The faces are procedural (data/faces/). Their eyes in a large upright view are the reference for
smaller and rotated copies.
"""

import cmath
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from dcgan_inpaint.configs import FaceChoice, checked
from dcgan_inpaint.data.faces.source import Faces
from dcgan_inpaint.photos import detector, photos
from dcgan_inpaint.photos.crops import EYES, Crop
from dcgan_inpaint.photos.detector import (
    BLAZEFACE_WEIGHTS,
    INPUT_SIZE,
    Face,
    find_faces,
    load_blazeface,
    view_of,
)
from dcgan_inpaint.photos.photos import Photos, crop_finder

FACE_SIZE = 256  # px
GREEN = (90, 120, 90)


@pytest.fixture(scope="module")
def faces():
    source = Faces(image_size=FACE_SIZE)
    arrays = source.decode(source.items("test")[:4])
    return [Image.fromarray(array.transpose(1, 2, 0)) for array in arrays]


def photo_with(*faces, size=(900, 675)):
    """Return a photo of faces, each with its center, its side in px and its rotation in degrees."""
    photo = Image.new("RGB", size, GREEN)
    for face, center, side, angle in faces:
        small = face.resize((side, side), Image.Resampling.LANCZOS).convert("RGBA")
        rotated = small.rotate(-angle, Image.Resampling.BICUBIC, expand=True)
        corner = round(center[0] - rotated.width / 2), round(center[1] - rotated.height / 2)
        photo.paste(rotated, corner, rotated)
    return photo


def eyes_of(face):
    """Return the eyes of a procedural face, relative to its center, as shares of its side."""
    detected = find_faces(face)[0]
    return [eye / FACE_SIZE - (0.5 + 0.5j) for eye in (detected.left_eye, detected.right_eye)]


def unit(angle):
    return cmath.rect(1, math.radians(angle))


def eye_error(detected, face, center, side, angle):
    """Return the larger distance of an eye from its true position, as a share of their distance."""
    expected = [complex(*center) + eye * side * unit(angle) for eye in eyes_of(face)]
    pairs = zip((detected.left_eye, detected.right_eye), expected, strict=True)
    return max(abs(a - b) for a, b in pairs) / abs(expected[1] - expected[0])


# the network


def test_weights_are_small_and_licensed():
    assert BLAZEFACE_WEIGHTS.stat().st_size < 250_000
    with safe_open(BLAZEFACE_WEIGHTS, "pt") as file:
        assert file.metadata()["licence"] == "Apache-2.0"
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    loaded = load_blazeface().state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weight.float()) for name, weight in weights.items())
    notice = BLAZEFACE_WEIGHTS.with_name("blazeface.LICENSE.txt").read_text()
    assert "MediaPipe" in notice and "Apache License" in notice


def test_anchors_are_the_cell_centers_of_both_maps():
    """16 x 16 cells with two anchors each, then 8 x 8 cells with six; sizes have no offset."""
    anchors = load_blazeface().anchors
    assert anchors.shape == (896, 8, 2)
    assert anchors[1, 0].tolist() == [0.5 / 16, 0.5 / 16]
    assert anchors[2, 0].tolist() == [1.5 / 16, 0.5 / 16]
    assert anchors[511, 7].tolist() == [15.5 / 16, 15.5 / 16]
    assert anchors[512 + 6 * 8, 2].tolist() == [0.5 / 8, 1.5 / 8]
    assert anchors[:, 1].eq(0).all()


def test_view_of_a_rotated_crop_is_black_outside_the_photo():
    y, x = np.mgrid[:60, :80]
    photo = Image.fromarray(np.stack([x * 3, y * 4, x * 0 + 200], 2).astype(np.uint8))
    crop = Crop(60 + 10j, 40 * unit(30))
    view = np.asarray(view_of(photo, crop), float)
    v, u = (np.mgrid[:INPUT_SIZE, :INPUT_SIZE] + 0.5) / INPUT_SIZE
    point = crop.origin + crop.side * (u + 1j * v)
    inside = (abs(point.real - 40) < 38.5) & (abs(point.imag - 30) < 28.5)
    outside = (point.real > 81.5) | (point.imag > 61.5)
    assert inside.sum() > 2000 and outside.sum() > 1000
    assert np.abs(view[..., 0] - (point.real - 0.5) * 3)[inside].max() < 2
    assert np.abs(view[..., 1] - (point.imag - 0.5) * 4)[inside].max() < 2
    assert view[outside].max() == 0


# faces


def test_eyes_of_a_procedural_face_are_detected_where_they_are_painted(faces):
    """They are at y = -0.14 of the head, left and right of the center, level to 20 degrees."""
    for face in faces:
        left, right = eyes_of(face)
        assert left.real < 0 < right.real
        assert 0.2 < abs(right - left) < 0.4
        assert abs((left.imag + right.imag) / 2 + 0.58 * 0.14) < 0.08
        assert abs(np.angle(right - left, deg=True)) < 20


@pytest.mark.parametrize("angle", [0, 30, -75, 90, 180])
def test_a_rotated_face_is_detected(faces, angle):
    placement = (300, 250), 300, angle
    (detected,) = find_faces(photo_with((faces[0], *placement)))
    assert eye_error(detected, faces[0], *placement) < 0.15


@pytest.mark.parametrize("side", [60, 120])
def test_a_small_face_is_detected(faces, side):
    """The eyes of the smaller face are 17 px apart in a photo of 900 px."""
    placement = (640, 480), side, -20
    (detected,) = find_faces(photo_with((faces[2], *placement)))
    assert eye_error(detected, faces[2], *placement) < 0.2


def test_a_mirrored_photo_gives_the_mirrored_face(faces):
    photo = photo_with((faces[1], (500, 300), 200, 15))
    mirrored = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    (face,), (other,) = find_faces(photo), find_faces(mirrored)
    distance = abs(face.right_eye - face.left_eye)
    assert abs(other.left_eye - (900 - face.right_eye.conjugate())) < 0.03 * distance
    assert abs(other.right_eye - (900 - face.left_eye.conjugate())) < 0.03 * distance


@pytest.mark.slow
def test_several_faces_are_sorted_by_size(faces):
    placements = [((150, 150), 120, 0), ((650, 300), 300, 10), ((250, 500), 200, -30)]
    photo = photo_with(*((face, *place) for face, place in zip(faces, placements, strict=False)))
    detected = find_faces(photo)
    assert len(detected) == 3
    for i, face in zip((1, 2, 0), detected, strict=True):
        assert eye_error(face, faces[i], *placements[i]) < 0.2
    expected = [Crop.from_eyes(face.left_eye, face.right_eye, EYES) for face in detected]
    assert crop_finder(1.0, detector="auto", face=2)(photo, "a.png") == expected[1:2]
    assert crop_finder(1.0, detector="auto", face="all")(photo, "a.png") == expected


def detection(x, size, score):
    return Face(x - size / 5 + 200j, x + size / 5 + 200j, x + 220j, size, score)


def test_a_clear_face_comes_before_a_larger_badge(monkeypatch):
    """Measured in a portrait; the badge is detected first, in a larger view of the photo."""
    badge, face = detection(100, 123.0, 1.2), detection(400, 101.0, 3.17)
    by_depth = iter([[[badge]], [[face]], [[]]])
    monkeypatch.setattr(detector, "_detect", lambda photo, views: next(by_depth))
    monkeypatch.setattr(detector, "_refine", lambda photo, face: face)
    photo = Image.new("RGB", (520, 520), "white")
    assert find_faces(photo, count=1) == [face, badge]
    monkeypatch.setattr(photos, "find_faces", lambda photo, count: [face, badge])
    for number, expected in ((1, face), (2, badge)):
        (crop,) = crop_finder(1.0, detector="auto", face=number)(photo, "a.png")
        assert crop == Crop.from_eyes(expected.left_eye, expected.right_eye, EYES)


def test_clear_faces_are_ordered_by_size():
    """From 2.1 to 3.8, the scores of the portraits, the size decides."""
    near, far = detection(0, 300.0, 2.1), detection(0, 250.0, 3.8)
    assert near.prominence > far.prominence
    assert detection(0, 100.0, 1.1).prominence < detection(0, 100.0, 2.1).prominence


def test_the_search_stops_once_the_requested_faces_are_clear(monkeypatch):
    large = detection(100, 200.0, 3.0)
    small, doubtful = detection(400, 60.0, 2.5), detection(300, 40.0, 1.0)
    searched = []
    views = {1: [[large], [doubtful]], 2: [[small]], 3: [[]]}

    def detect(photo, crops):
        searched.append(crops)
        return views[len(searched)]

    monkeypatch.setattr(detector, "_detect", detect)
    monkeypatch.setattr(detector, "_refine", lambda photo, face: face)
    photo = Image.new("RGB", (520, 520), "white")
    for count, depths, expected in (
        (1, 1, [large, doubtful]),
        (2, 2, [large, small, doubtful]),
        (None, 3, [large, small, doubtful]),
    ):
        searched.clear()
        assert find_faces(photo, count) == expected
        assert len(searched) == depths


def test_no_face_is_detected_in_plain_color_and_noise():
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    for photo in (Image.new("RGB", (640, 480), GREEN), Image.fromarray(noise)):
        assert find_faces(photo) == []


@pytest.mark.parametrize(("width", "height"), [(1, 1), (9, 300), (70, 64)])
def test_tiny_and_narrow_photos_are_accepted(width, height):
    for mode in ("L", "RGB"):
        assert find_faces(Image.new(mode, (width, height), 128)) == []


# the crop


def test_the_crop_of_a_photo_without_a_face_is_its_center(capsys):
    photo = Image.new("RGB", (64, 48), GREEN)
    for face in (None, 1, "all"):
        (crop,) = crop_finder(0.5, detector="auto", face=face)(photo, "holiday.png")
        assert crop.without_face and replace(crop, without_face=False) == Crop.central(photo, 0.5)
    with pytest.raises(ValueError, match="face=2: the number of detected faces is 0"):
        crop_finder(0.5, detector="auto", face=2)(photo, "holiday.png")
    (crop,) = crop_finder(0.5)(photo, "holiday.png")
    assert not crop.without_face  # the center was requested
    assert capsys.readouterr().out == ""


def test_a_missing_second_face_is_a_one_line_error(faces):
    photo = photo_with((faces[0], (300, 250), 300, 0))
    find_crops = crop_finder(1.0, detector="auto", face=2)
    with pytest.raises(ValueError, match=r"^photo.png: face=2: .* is 1. Set crop=") as error:
        Photos(["photo.png"], lambda _: photo, [None], find_crops, (3, 16, 16))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "face=2: selects a detected face. Remove detector=null"),
        ({"crop": [0, 0, 9, 9], "detector": "auto"}, "face=2: .* Remove crop="),
        ({"face": 1}, "face=1: selects a detected face. Remove detector=null"),
    ],
)
def test_face_requires_a_detector_and_excludes_crop(options, message):
    with pytest.raises(ValueError, match=message):
        crop_finder(1.0, **{"face": 2} | options)


@pytest.mark.parametrize(
    ("face", "message"),
    [
        (0, "face=0: .*should be greater than or equal to 1"),
        ("some", "face=some: should be 'all' or should be"),
        (1.5, "face=1.5: .*should be a valid integer"),
    ],
)
def test_invalid_values_of_face_raise_a_one_line_error(face, message):
    @checked
    def take(face: FaceChoice): ...

    with pytest.raises(ValueError, match=message) as error:
        take(face)
    assert "\n" not in str(error.value)
