"""Which faces are found in a photo, and the square that follows from their eyes.

The faces are drawn (data/faces.py): their eyes in a large upright view are what smaller and turned
copies are held to, and portrait.py says where it paints them.
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from dcgan_inpaint.configs import checked
from dcgan_inpaint.data.faces.source import Faces
from dcgan_inpaint.photos.crops import EYES, Crop
from dcgan_inpaint.photos.detector import (
    BLAZEFACE_WEIGHTS,
    VIEW_SIZE,
    find_faces,
    load_blazeface,
    load_yunet,
    view_of,
)
from dcgan_inpaint.photos.photos import Photos, crop_finder

FACE = 256  # px of a drawn face
GREEN = (90, 120, 90)


@pytest.fixture(scope="module")
def faces():
    drawn = Faces(image_size=FACE)
    arrays = drawn.decode(drawn.items("test")[:4])
    return [Image.fromarray(array.transpose(1, 2, 0)) for array in arrays]


def pasted(*faces, size=(900, 675)):
    """A photo with faces, each given with its center, its side in px and its roll in degrees."""
    photo = Image.new("RGB", size, GREEN)
    for face, center, side, roll in faces:
        small = face.resize((side, side), Image.Resampling.LANCZOS).convert("RGBA")
        turned = small.rotate(-roll, Image.Resampling.BICUBIC, expand=True)
        corner = round(center[0] - turned.width / 2), round(center[1] - turned.height / 2)
        photo.paste(turned, corner, turned)
    return photo


def eyes_of(face):
    """In the frame of the drawn face, its center 0 and its side 1."""
    (found,) = find_faces(face, 1)
    return [eye / FACE - (0.5 + 0.5j) for eye in (found.left_eye, found.right_eye)]


def turned(roll):
    return complex(math.cos(math.radians(roll)), math.sin(math.radians(roll)))


def apart(found, face, center, side, roll):
    """How far the eyes are from where they were pasted, in parts of the eye distance."""
    expected = [complex(*center) + eye * side * turned(roll) for eye in eyes_of(face)]
    pairs = zip((found.left_eye, found.right_eye), expected, strict=True)
    return max(abs(a - b) for a, b in pairs) / abs(expected[1] - expected[0])


# the network


def test_the_weights_are_data_of_the_size_they_should_have():
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


def test_the_places_of_both_maps():
    """16 x 16 with two faces each, then 8 x 8 with six; sizes are seen from nothing."""
    middles = load_blazeface().anchors
    assert middles.shape == (896, 8, 2)
    assert middles[1, 0].tolist() == [0.5 / 16, 0.5 / 16]
    assert middles[2, 0].tolist() == [1.5 / 16, 0.5 / 16]
    assert middles[511, 7].tolist() == [15.5 / 16, 15.5 / 16]
    assert middles[512 + 6 * 8, 2].tolist() == [0.5 / 8, 1.5 / 8]
    assert middles[:, 1].eq(0).all()


def test_a_view_of_a_square():
    """One that is turned, and reaches over the edge of the photo, which is black there."""
    y, x = np.mgrid[:60, :80]
    photo = Image.fromarray(np.stack([x * 3, y * 4, x * 0 + 200], 2).astype(np.uint8))
    side = 40 * turned(30)
    origin = 60 + 10j
    seen = np.asarray(view_of(photo, Crop(origin, side)), float)
    v, u = (np.mgrid[:VIEW_SIZE, :VIEW_SIZE] + 0.5) / VIEW_SIZE
    point = origin + side * (u + 1j * v)
    inside = (abs(point.real - 40) < 38.5) & (abs(point.imag - 30) < 28.5)
    outside = (point.real > 81.5) | (point.imag > 61.5)
    assert inside.sum() > 2000 and outside.sum() > 1000
    assert np.abs(seen[..., 0] - (point.real - 0.5) * 3)[inside].max() < 2
    assert np.abs(seen[..., 1] - (point.imag - 0.5) * 4)[inside].max() < 2
    assert seen[outside].max() == 0


# faces


def test_a_drawn_face_has_its_eyes_where_they_are_painted(faces):
    """At y = -0.14 of the head (portrait.py), level to 20 degrees, left and right of the middle."""
    for face in faces:
        left, right = eyes_of(face)
        assert left.real < 0 < right.real
        assert 0.2 < abs(right - left) < 0.4
        assert abs((left.imag + right.imag) / 2 + 0.58 * 0.14) < 0.08
        assert abs(np.angle(right - left, deg=True)) < 20


@pytest.mark.parametrize("roll", [0, 30, -75, 90, 180])
def test_a_face_is_found_however_it_is_rolled(faces, roll):
    where = (300, 250), 300, roll
    (found,) = find_faces(pasted((faces[0], *where)), 1)
    assert apart(found, faces[0], *where) < 0.15


@pytest.mark.parametrize("side", [60, 120])
def test_a_small_face_is_found(faces, side):
    """60 px of 900: its eyes are 17 px apart."""
    where = (640, 480), side, -20
    (found,) = find_faces(pasted((faces[2], *where)))
    assert apart(found, faces[2], *where) < 0.2


def test_a_mirrored_photo_has_the_mirrored_face(faces):
    photo = pasted((faces[1], (500, 300), 200, 15))
    mirrored = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    (face,), (other,) = find_faces(photo, 1), find_faces(mirrored, 1)
    distance = abs(face.right_eye - face.left_eye)
    assert abs(other.left_eye - (900 - face.right_eye.conjugate())) < 0.03 * distance
    assert abs(other.right_eye - (900 - face.left_eye.conjugate())) < 0.03 * distance


def test_several_faces_the_largest_first(faces):
    places = [((150, 150), 120, 0), ((650, 300), 300, 10), ((250, 500), 200, -30)]
    photo = pasted(*((face, *place) for face, place in zip(faces, places, strict=False)))
    found = find_faces(photo)
    assert len(found) == 3
    for i, face in zip((1, 2, 0), found, strict=True):
        assert apart(face, faces[i], *places[i]) < 0.2
    expected = [Crop.from_eyes(face.left_eye, face.right_eye, EYES) for face in found]
    assert crop_finder(1.0, detector="auto", face=2)(photo, "a.png") == expected[1:2]
    assert crop_finder(1.0, detector="auto", face="all")(photo, "a.png") == expected


def test_no_face_is_found_where_there_is_none():
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    for photo in (Image.new("RGB", (640, 480), GREEN), Image.fromarray(noise)):
        assert find_faces(photo) == []


@pytest.mark.parametrize(("width", "height"), [(1, 1), (9, 300), (70, 64)])
def test_photos_of_odd_shapes(width, height):
    for mode in ("L", "RGB"):
        assert find_faces(Image.new(mode, (width, height), 128)) == []


# the square


def test_without_a_face_the_center_is_completed_and_a_line_says_so(capsys):
    photo = Image.new("RGB", (64, 48), GREEN)
    for face in (1, "all"):
        find = crop_finder(0.5, detector="auto", face=face)
        assert find(photo, "holiday.png") == [Crop.central(photo, 0.5)]
        out = capsys.readouterr().out
        assert out.startswith("holiday.png: no face detected") and out.count("\n") == 1
    with pytest.raises(ValueError, match="face=2: the number of detected faces is 0"):
        crop_finder(0.5, detector="auto", face=2)(photo, "holiday.png")


def test_a_face_that_is_not_there(faces):
    photo = pasted((faces[0], (300, 250), 300, 0))
    find = crop_finder(1.0, detector="auto", face=2)
    with pytest.raises(ValueError, match=r"^photo.png: face=2: .* faces is 1. Set crop=") as error:
        Photos(["photo.png"], lambda _: photo, [None], find, (3, 16, 16))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"face": 2}, "face=2: selects a detected face. Remove detector=null"),
        ({"face": 2, "crop": [0, 0, 9, 9], "detector": "auto"}, "Remove crop="),
        ({"face": 0, "detector": "auto"}, "face=0: .*should be greater than or equal to 1"),
        (
            {"face": "some", "detector": "auto"},
            "face=some: should be 'all' or should be",
        ),
        ({"face": 1.5, "detector": "auto"}, "face=1.5: .*should be a valid integer"),
    ],
)
def test_faces_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message) as error:
        checked(crop_finder)(1.0, **options)
    assert "\n" not in str(error.value)


# YuNet


@pytest.fixture
def fake_cv2(monkeypatch):
    """Stands for OpenCV: YuNet's answer is `faces`, and what it is shown is kept."""

    class Error(Exception):
        pass

    cv2 = SimpleNamespace(error=Error, faces=None, shown=None)

    def create(model, config, size):
        if "yunet" not in model:
            raise Error("Cannot determine an origin framework")
        return SimpleNamespace(setInputSize=lambda size: None, detect=detect)

    def detect(image):
        cv2.shown = image
        return 1, cv2.faces

    cv2.FaceDetectorYN = SimpleNamespace(create=create)
    monkeypatch.setitem(__import__("sys").modules, "cv2", cv2)
    return cv2


def test_the_faces_of_yunet(fake_cv2, tmp_path):
    (tmp_path / "yunet.onnx").touch()
    small = [0, 0, 9, 9, 1, 1, 2, 1, *[0] * 6, 0.99]
    large = [200, 100, 90, 90, 225, 130, 255, 134, *[0] * 6, 0.9]
    fake_cv2.faces = np.array([small, large], np.float32)
    photo = Image.new("RGB", (1280, 960), (255, 0, 0))
    found = load_yunet(str(tmp_path / "yunet.onnx"))(photo)
    assert [face[:2] for face in found] == [(450 + 260j, 510 + 268j), (2 + 2j, 4 + 2j)]
    assert found[0][2:] == (490 + 290j, 180, pytest.approx(0.9))
    assert fake_cv2.shown.shape == (480, 640, 3)
    assert fake_cv2.shown[0, 0].tolist() == [0, 0, 255]  # OpenCV's BGR
    for i, face in enumerate(found, 1):
        find = crop_finder(1, detector=str(tmp_path / "yunet.onnx"), face=i)
        assert find(photo, "a.png") == [Crop.from_eyes(face.left_eye, face.right_eye, EYES)]


def test_no_face_names_the_photo(fake_cv2, tmp_path):
    (tmp_path / "yunet.onnx").touch()
    finder = crop_finder(1, detector=str(tmp_path / "yunet.onnx"))
    with pytest.raises(
        ValueError,
        match=r"photo.png: face=1: .* faces is 0. Set crop=\[x,y,w,h\]",
    ):
        Photos(["photo.png"], lambda _: Image.new("L", (9, 9)), [None], finder, (3, 16, 16))


def test_detector_errors(fake_cv2, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="detector=gone.onnx: no such file"):
        load_yunet("gone.onnx")
    (tmp_path / "other.onnx").touch()
    with pytest.raises(ValueError, match="not a YuNet model"):
        load_yunet(str(tmp_path / "other.onnx"))
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install -e "\.\[detect\]"'):
        load_yunet(str(tmp_path / "other.onnx"))
