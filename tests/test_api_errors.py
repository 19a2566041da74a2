"""Errors of Completer: wrong overrides, arguments and files, each in one line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training import small_dcgan

from dcgan_inpaint import Completer
from dcgan_inpaint.models.one_pass import OnePass
from dcgan_inpaint.photos.result import Result

SHORT = ("solver.iterations=3", "stages=none", "trainer.accelerator=cpu")
CROP = [10, 5, 40, 40]
HOLE = np.zeros((50, 80), bool)
HOLE[20:30, 22:41] = True


@pytest.fixture(scope="module")
def dcgan():
    return small_dcgan(z_dim=8)


@pytest.fixture(scope="module")
def completer(dcgan):
    return Completer.load(dcgan, *SHORT)


def photo():
    return np.random.default_rng(0).integers(0, 256, (50, 80, 3), np.uint8)


def test_error_of_one_of_several_photos_names_its_file(completer, tmp_path):
    Image.fromarray(photo()).save(tmp_path / "a.png")
    Image.fromarray(photo()[:, :30]).save(tmp_path / "narrow.png")
    with pytest.raises(ValueError, match=r"narrow.png: crop=.* reaches outside"):
        completer([tmp_path / "a.png", tmp_path / "narrow.png"], "center", CROP)


OVERRIDE_ERRORS = [
    ("limit=3", "limit=3: limit applies to inpaint.py only"),
    ("~logger", "~logger: logger applies to inpaint.py only"),
    ("solver.rate=3", "solver.rate=3: unknown option. "),
    ("solver.lr=-1", "solver.lr=-1: should be greater than 0"),
    ("mask=centre", "mask=centre: no such choice. Use one of center, "),
]


@pytest.mark.parametrize(("override", "message"), OVERRIDE_ERRORS)
def test_wrong_override_is_one_error_line(dcgan, override, message):
    with pytest.raises(ValueError, match=f"^{message}") as error:
        Completer.load(dcgan, override)
    assert "\n" not in str(error.value)


CALL_ERRORS = [
    ({"image": "gone.jpg"}, "gone.jpg: cannot be read as an image .*No such file"),
    ({"image": [photo(), "gone.jpg"]}, "gone.jpg: cannot be read as an image .*No such file"),
    ({"image": [photo(), 5]}, "image 1: unsupported type int"),
    ({"mask": "centre"}, "mask=centre: no such file or mask. Give an image, its path, or one of"),
    ({"mask": "a/hole.png"}, "mask=a/hole.png: no such file or mask. Give an image, its path, or"),
    ({"mask": Path(__file__)}, "/.*/test_api_errors.py: cannot be read as an image"),
    ({"mask": "file"}, "mask.path: missing"),
    ({"mask": HOLE[:, :, None] * np.ones(3)}, r"mask: unsupported shape \(50, 80, 3\)"),
    ({"mask": HOLE}, "image: mask: most of the photo is a hole. If white marks the hole"),
    ({"mask": np.zeros((20, 20))}, "image: mask: the mask has no known pixel"),
    ({"mask": [HOLE, HOLE]}, "mask: a list of 2 masks for 1 image."),
    ({"crop": [0, 0, 60, 60]}, r"image: crop=\[0,0,60,60\]: the crop reaches outside"),
    ({"crop": [0, 0, 20.5, 20]}, "crop.2=20.5: should be a valid integer"),
    ({"crop": 7}, "crop=7: "),
    ({"candidates": 0}, "candidates=0: should be greater than or equal to 1"),
    ({"candidates": "two"}, "candidates=two: should be a valid integer"),
    ({"select": "all"}, "select=all: should be 'best', 'mean' or 'sample'"),
]


@pytest.mark.parametrize(("arguments", "message"), CALL_ERRORS)
def test_wrong_argument_is_one_error_line_before_the_search(completer, arguments, message):

    def watch(progress):
        raise AssertionError("the search has started")

    with pytest.raises(ValueError, match=f"^{message}") as error:
        completer(**{"image": photo(), "mask": ~HOLE, "crop": CROP, "watch": watch} | arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "arguments", "message"),
    [
        ("method=tv", {"candidates": 2}, "candidates=2: applies to method=search only"),
        ("method=network", {}, "method=network: ckpt= holds a DCGAN"),
        ("trainer.devices=2", {}, "trainer.devices=2: completion uses one device"),
        ("trainer.accelerator=tpu", {}, "trainer.accelerator=tpu: "),
        (
            "trainer.devices=[0]",
            {},
            r"trainer.accelerator=.* trainer.devices=\[0\]: device numbers",
        ),
    ],
)
def test_override_that_does_not_suit_the_call_is_an_error(dcgan, override, arguments, message):
    completer = Completer.load(dcgan, override)
    with pytest.raises(ValueError, match=f"^{message}"):
        completer(photo(), **arguments)


def test_search_with_a_context_encoder_is_an_error():
    model = OnePass(
        network="context_encoder", hole_l2=1.0, image_size=16, gf_dim=1, df_dim=1, code_dim=3
    )
    with pytest.raises(ValueError, match=r"holds a one-pass network, which has no z to search"):
        Completer.load(model, "method=search")(photo())


def test_missing_or_damaged_checkpoint_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="ckpt=gone: no such file"):
        Completer.load("gone")
    (tmp_path / "a.safetensors").write_text("text")
    with pytest.raises(ValueError, match="a.safetensors: truncated, or not a"):
        Completer.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize(("old", "new"), [("picture", "image"), ("answer", "select")])
def test_renamed_argument_is_refused_with_its_new_name(completer, old, new):
    with pytest.raises(TypeError, match=f"unknown argument {old}=. It was renamed: use {new}="):
        completer(**{"image": photo(), old: None})


def test_renamed_attribute_is_refused_with_its_new_name():
    result = Result(photos=None, batch=None, row=0, seconds=0.0)
    with pytest.raises(AttributeError, match="result.picture: was renamed. Use result.image"):
        result.picture  # noqa: B018
    assert not hasattr(result, "unknown")
