"""Images and masks as they are given: PIL images, arrays and tensors say the same."""

import numpy as np
import pytest
import torch
from PIL import Image

from dcgan_inpaint.photos.reading import mask_of, photo_of

LEVELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
HOLE = np.ones((5, 7), bool)
HOLE[1:3, 2:6] = False


@pytest.mark.parametrize(
    "given",
    [
        LEVELS,
        LEVELS / 255,
        (LEVELS / 255).astype(np.float32),
        torch.from_numpy(LEVELS).permute(2, 0, 1),
        torch.from_numpy(LEVELS).permute(2, 0, 1).float().requires_grad_() / 255,
        Image.fromarray(LEVELS),
        np.asfortranarray(LEVELS),
    ],
    ids=["uint8", "float64", "float32", "tensor", "with gradient", "PIL", "columns first"],
)
def test_the_same_image(given):
    photo = photo_of(given)
    assert photo.mode == "RGB"
    assert np.array_equal(photo, LEVELS)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1)])
def test_grey_stays_grey(shape):
    grey = LEVELS[:, :, 0]
    for given in (grey.reshape(shape), torch.from_numpy(grey)[None], Image.fromarray(grey)):
        assert photo_of(given).mode == "L"
        assert np.array_equal(photo_of(given), grey)


def test_transparency_is_on_white():
    clear = np.dstack([LEVELS, np.where(HOLE, 255, 0).astype(np.uint8)])
    photo = np.asarray(photo_of(clear))
    assert np.array_equal(photo[HOLE], LEVELS[HOLE])
    assert (photo[~HOLE] == 255).all()


def test_a_photo_is_upright():
    photo = Image.fromarray(LEVELS)
    photo.getexif()[274] = 6  # it was taken with the camera turned
    assert np.array_equal(photo_of(photo), np.rot90(LEVELS, -1))


@pytest.mark.parametrize(
    "given",
    [
        HOLE,
        HOLE[..., None],
        HOLE.astype(np.uint8),
        HOLE.astype(np.int64),
        HOLE * np.uint8(255),
        HOLE.astype(np.float32),
        torch.from_numpy(HOLE),
        torch.from_numpy(HOLE)[None].float(),
        torch.from_numpy(HOLE)[None].to(torch.bfloat16),
        Image.fromarray(HOLE * np.uint8(255)),
    ],
    ids=lambda given: f"{type(given).__name__} {getattr(given, 'dtype', '')}",
)
def test_the_same_mask(given):
    assert np.array_equal(np.asarray(mask_of(given)), HOLE * 255)


@pytest.mark.parametrize(
    ("function", "given", "message"),
    [
        (photo_of, "photo.jpg", "image is a str: give a PIL image"),
        (photo_of, None, "image is a NoneType: give"),
        (photo_of, LEVELS[None], r"image has shape \(1, 5, 7, 3\): use \(H, W\)"),
        (photo_of, torch.from_numpy(LEVELS), r"shape \(5, 7, 3\): .* tensor \(C, H, W\)"),
        (photo_of, LEVELS[:, :, :2], r"shape \(5, 7, 2\): .* with C 1 or 3 or 4"),
        (photo_of, LEVELS[:0], r"shape \(0, 7, 3\)"),
        (photo_of, LEVELS.astype(int), "image is of int64: use uint8, or floats"),
        (photo_of, LEVELS.astype(float), r"image is from 0 to 2.*: floats should be in \[0, 1\]"),
        (photo_of, LEVELS / 127.5 - 1, "image is from -1 to 0.*: floats"),
        (photo_of, np.full((5, 7), np.nan), "image is from nan to nan: floats"),
        (mask_of, LEVELS, r"mask has shape \(5, 7, 3\): .* with C 1"),
        (mask_of, HOLE.astype(int) * 255, "mask is of int64"),
        (mask_of, HOLE.astype(int) - 1, "mask is of int64"),
        (mask_of, HOLE * 2.0, "mask is from 0 to 2: floats"),
        (mask_of, [[1, 0]], "mask is a list: give a PIL image"),
    ],
)
def test_what_is_no_image(function, given, message):
    with pytest.raises(ValueError, match=message) as error:
        function(given)
    assert "\n" not in str(error.value)
