"""Reading photos and masks from PIL images, arrays and tensors."""

import io
import re
import struct

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

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


def icc_profile(space, tags):
    """Return a color profile (ICC.1:2001) for images of the color space `space`."""
    directory, data, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        directory += struct.pack(">4sII", name, start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    size = start + len(data)
    pcs = b"Lab " if space == b"CMYK" else b"XYZ "
    header = struct.pack(">I4sI4s4s4s12x4s28x", size, b"", 0x02400000, b"prtr", space, pcs, b"acsp")
    white = struct.pack(">3i", *(round(v * 65536) for v in (0.9642, 1, 0.8249)))  # D50
    return header + white + bytes(48) + directory + data


def srgb_profile_with_swapped_primaries():
    """Return an RGB profile in which (255, 0, 0) is the blue of sRGB."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    renamed = data.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))
    tags = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}
    return re.sub(b"rXYZ|bXYZ", lambda match: tags[match[0]], renamed)


WHITE_POINT = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
# No ink is L* = 100 and all inks together are 0; others are 50, which is the gray 119 of sRGB.
INK = (
    b"mft1"
    + bytes(4)
    + bytes([4, 3, 2, 0])
    + struct.pack(">9i", *np.eye(3, dtype=int).ravel() * 65536)
)
INK += (
    bytes(range(256)) * 4
    + bytes([255, 128, 128])
    + bytes([128, 128, 128]) * 14
    + bytes([0, 128, 128])
)
INK += bytes(range(256)) * 3
LINEAR = b"curv" + bytes(8)  # 0.5 of the light is the gray 188 of sRGB
PROFILES = {
    "RGB": (srgb_profile_with_swapped_primaries(), (255, 0, 0), (0, 0, 255)),
    "RGBA": (srgb_profile_with_swapped_primaries(), (255, 0, 0, 255), (0, 0, 255)),
    "P": (srgb_profile_with_swapped_primaries(), (255, 0, 0), (0, 0, 255)),
    "L": (icc_profile(b"GRAY", {b"wtpt": WHITE_POINT, b"kTRC": LINEAR}), 128, 188),
    "LA": (icc_profile(b"GRAY", {b"wtpt": WHITE_POINT, b"kTRC": LINEAR}), (128, 255), 188),
    "CMYK": (icc_profile(b"CMYK", {b"A2B0": INK}), (255, 0, 0, 0), (119, 119, 119)),
}


@pytest.mark.parametrize("mode", PROFILES)
def test_colors_are_converted_from_their_profile_to_srgb(mode):
    """The result has no profile: PIL would write it into the file of the completed photo."""
    profile, color, expected = PROFILES[mode]
    image = Image.new("RGB" if mode == "P" else mode, (4, 4), color)
    image = image.convert(mode)
    image.info["icc_profile"] = profile
    photo = to_photo(image)
    assert np.abs(np.asarray(photo, int)[0, 0] - expected).max() <= 1
    assert "icc_profile" not in photo.info
    file = io.BytesIO()
    photo.save(file, "PNG")
    with Image.open(file) as saved:
        assert "icc_profile" not in saved.info


@pytest.mark.parametrize("profile", [b"no profile", PROFILES["CMYK"][0], PROFILES["L"][0]])
def test_a_profile_that_does_not_fit_is_dropped(profile):
    image = Image.fromarray(LEVELS)
    image.info["icc_profile"] = profile
    photo = to_photo(image)
    assert np.array_equal(photo, LEVELS)
    assert "icc_profile" not in photo.info


def test_an_srgb_photo_keeps_its_pixels_and_lab_is_converted():
    image = Image.fromarray(LEVELS)
    image.info["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(to_photo(image), LEVELS)
    assert (
        np.abs(np.asarray(to_photo(Image.new("LAB", (2, 2), (128, 128, 128))), int) - 119).max()
        <= 1
    )


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
        (to_photo, b"photo.jpg", "image: unsupported type bytes. Use a path, PIL image"),
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
        (to_mask, [[1, 0]], "mask: unsupported type list. Use a path, PIL image"),
    ],
)
def test_unsupported_images_raise_a_one_line_error(function, image, message):
    with pytest.raises(ValueError, match=message) as error:
        function(image)
    assert "\n" not in str(error.value)
