"""Reading photos and masks from PIL images, arrays and tensors."""

import numpy as np
import pytest
import torch
from PIL import Image

from dcgan_inpaint.photos.reading import to_mask, to_photo

LEVELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
HOLE = np.ones((5, 7), bool)
HOLE[1:3, 2:6] = False


@pytest.mark.parametrize(
    "image",
    [
        LEVELS,
        LEVELS / 255,
        (LEVELS / 255).astype(np.float32),
        torch.from_numpy(LEVELS).permute(2, 0, 1),
        torch.from_numpy(LEVELS).permute(2, 0, 1).float().requires_grad_() / 255,
        Image.fromarray(LEVELS),
        np.asfortranarray(LEVELS),
    ],
    ids=["uint8", "float64", "float32", "tensor", "with gradient", "PIL", "Fortran order"],
)
def test_all_image_types_give_the_same_photo(image):
    photo = to_photo(image)
    assert photo.mode == "RGB"
    assert np.array_equal(photo, LEVELS)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1)])
def test_gray_images_stay_gray(shape):
    gray = LEVELS[:, :, 0]
    for image in (gray.reshape(shape), torch.from_numpy(gray)[None], Image.fromarray(gray)):
        assert to_photo(image).mode == "L"
        assert np.array_equal(to_photo(image), gray)


def test_transparency_is_put_on_white():
    transparent = np.dstack([LEVELS, np.where(HOLE, 255, 0).astype(np.uint8)])
    photo = np.asarray(to_photo(transparent))
    assert np.array_equal(photo[HOLE], LEVELS[HOLE])
    assert (photo[~HOLE] == 255).all()


def test_exif_orientation_is_applied():
    photo = Image.fromarray(LEVELS)
    photo.getexif()[274] = 6  # rotate by 90 degrees to the right
    assert np.array_equal(to_photo(photo), np.rot90(LEVELS, -1))


@pytest.mark.parametrize(
    "mask",
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
    ids=lambda mask: f"{type(mask).__name__} {getattr(mask, 'dtype', '')}",
)
def test_all_mask_types_give_the_same_mask(mask):
    assert np.array_equal(np.asarray(to_mask(mask)), HOLE * 255)


@pytest.mark.parametrize(
    ("function", "image", "message"),
    [
        (to_photo, "photo.jpg", "image: unsupported type str. Use a PIL image"),
        (to_photo, None, "image: unsupported type NoneType"),
        (to_photo, LEVELS[None], r"image: unsupported shape \(1, 5, 7, 3\). Use \(H, W\)"),
        (to_photo, torch.from_numpy(LEVELS), r"shape \(5, 7, 3\). .* tensor \(C, H, W\)"),
        (to_photo, LEVELS[:, :, :2], r"shape \(5, 7, 2\). .* with C = 1 or 3 or 4"),
        (to_photo, LEVELS[:0], r"shape \(0, 7, 3\)"),
        (to_photo, LEVELS.astype(int), "image: unsupported dtype int64. Use uint8, or floats"),
        (
            to_photo,
            LEVELS.astype(float),
            r"values range from 0 to 2.* Use floats in \[0, 1\]",
        ),
        (to_photo, LEVELS / 127.5 - 1, "image: values range from -1 to 0.* Use floats"),
        (to_photo, np.full((5, 7), np.nan), "image: values range from nan to nan. Use floats"),
        (to_mask, LEVELS, r"mask: unsupported shape \(5, 7, 3\). .* with C = 1"),
        (to_mask, HOLE.astype(int) * 255, "mask: unsupported dtype int64"),
        (to_mask, HOLE.astype(int) - 1, "mask: unsupported dtype int64"),
        (to_mask, HOLE * 2.0, "mask: values range from 0 to 2. Use floats"),
        (to_mask, [[1, 0]], "mask: unsupported type list. Use a PIL image"),
    ],
)
def test_unsupported_images_raise_a_one_line_error(function, image, message):
    with pytest.raises(ValueError, match=message) as error:
        function(image)
    assert "\n" not in str(error.value)
