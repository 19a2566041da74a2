"""Orientation of photos and masks, beside other EXIF tags of any type."""

import struct
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageOps

from dcgan_inpaint.data.decoding import apply_orientation, to_rgb_or_gray
from dcgan_inpaint.masks.mask_image import mask_file
from dcgan_inpaint.photos.reading import open_photo

TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
# XResolution, Software, DateTime, ExifIFD, GPS IFD, a maker note, and tags that do not exist
OTHER_TAGS = [0x011A, 0x0131, 0x0132, 0x8769, 0x8825, 0x927C, 0xA005, 0x0001, 0xC4A5, 0xFFFF]


def exif(entries):
    """Return an EXIF block; entries are (tag, type, count, four bytes)."""
    ifd = struct.pack("<H", len(entries))
    for tag, kind, count, value in sorted(entries):
        ifd += struct.pack("<HHI4s", tag, kind, count, value)
    return b"Exif\0\0" + b"II*\0" + struct.pack("<I", 8) + ifd + bytes(68)


def pixels(width=6, height=4):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def reopened(block, suffix="PNG"):
    buffer = BytesIO()
    Image.fromarray(pixels()).save(buffer, suffix, exif=block)
    return Image.open(buffer)


def orientation(value, kind=3):
    return (0x0112, kind, 1, struct.pack("<I", value))


@pytest.mark.parametrize("value", range(10))
def test_orientation_equals_that_of_pillow_and_is_applied_once(value):
    image = reopened(exif([orientation(value)]))
    expected = np.asarray(ImageOps.exif_transpose(image))
    upright = apply_orientation(image)
    for _ in range(2):
        assert np.array_equal(np.asarray(upright), expected)
        upright = apply_orientation(upright)
    assert image.size == (6, 4)  # that of the user is not changed


@pytest.mark.parametrize(("kind", "size"), TYPE_SIZES.items())
def test_other_tags_of_any_type_are_tolerated(kind, size):
    for tag in OTHER_TAGS:
        for count in (1, 4):
            # More than four bytes are elsewhere in the block, here at 8.
            value = b"\xff\xfe\x80\x01" if count * size <= 4 else struct.pack("<I", 8)
            block = exif([orientation(6), (tag, kind, count, value)])
            upright = to_rgb_or_gray(reopened(block), 3)
            assert np.array_equal(np.asarray(upright), np.rot90(pixels(), -1)), (tag, count)


def test_damaged_exif_block_counts_as_upright():
    for block in (b"Exif\0\0", b"Exif\0\0nonsense", exif([orientation(6)])[:20]):
        assert np.array_equal(np.asarray(to_rgb_or_gray(reopened(block), 3)), pixels())
    for kind in TYPE_SIZES:
        apply_orientation(reopened(exif([orientation(6, kind)])))


@pytest.mark.parametrize("suffix", ["JPEG", "PNG", "WEBP"])
def test_photo_and_mask_with_unexpected_tags_are_read(tmp_path, suffix):
    block = exif([orientation(6), (0x0131, 5, 1, b"\x08\0\0\0")])
    path = tmp_path / f"a.{suffix.lower()}"
    Image.new("L", (6, 4)).save(path, suffix, exif=block)
    assert open_photo(path).size == (4, 6)
    assert mask_file(str(path), 0.5, "white").levels.size == (4, 6)
