"""Mask functions and mask images."""

import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dcgan_inpaint.composition import compose_config
from dcgan_inpaint.masks import masks
from dcgan_inpaint.masks.mask_image import MaskImages, mask_file

INDEX = torch.tensor([5, 0, 2, 77])
RANDOM = {
    "random": lambda i, s: masks.random(i, s, seed=0, missing=0.2),
    "random80": lambda i, s: masks.random(i, s, seed=0, missing=0.8),
    "half": lambda i, s: masks.half(i, s, seed=0),
    "pattern": lambda i, s: masks.pattern(i, s, seed=0, missing=0.25),
    "freeform": lambda i, s: masks.freeform(i, s, seed=0, strokes=4, width=0.1),
}
FIXED = {
    "center": lambda i, s: masks.center(i, s, scale=0.25),
    "left": masks.left,
    "grid": lambda i, s: masks.grid(i, s, step=4),
    "full": masks.full,
    "nothing": masks.nothing,
}
CHOICES = {name: RANDOM[name] for name in ("random80", "half")} | {"left": masks.left}
ALL = RANDOM | FIXED | {"mixture": lambda i, s: masks.mixture(i, s, seed=0, masks=CHOICES)}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [8, 64])
def test_masks_have_the_right_shape_and_are_0_or_1(name, size):
    mask = ALL[name](INDEX, size)
    assert mask.shape == (4, 1, size, size)
    assert mask.dtype == torch.float32
    assert ((mask == 0) | (mask == 1)).all()


@pytest.mark.parametrize("name", ALL)
def test_masks_do_not_depend_on_the_batch(name):
    together = ALL[name](INDEX, 32)
    alone = torch.cat([ALL[name](i[None], 32) for i in INDEX])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("name", RANDOM)
def test_random_masks_differ_between_images(name):
    many = RANDOM[name](torch.arange(64), 32)
    assert len({mask.numpy().tobytes() for mask in many}) >= (4 if name == "half" else 64)


def test_random_masks_differ_between_seeds():
    assert not torch.equal(masks.random(INDEX, 16, 0, 0.5), masks.random(INDEX, 16, 1, 0.5))


def test_center_removes_the_central_square():
    mask = masks.center(INDEX[:1], 64, scale=0.25)[0, 0]
    expected = torch.ones(64, 64)
    expected[16:48, 16:48] = 0
    assert torch.equal(mask, expected)


def test_left_and_grid_are_equal_to_hand_written_masks():
    assert torch.equal(masks.left(INDEX[:1], 4)[0, 0, 0], torch.tensor([0.0, 0, 1, 1]))
    grid = masks.grid(INDEX[:1], 8, step=4)[0, 0]
    assert grid.nonzero().tolist() == [[0, 0], [0, 4], [4, 0], [4, 4]]


def test_half_removes_each_side_equally_often():
    mask = masks.half(torch.arange(400), 8, seed=0)[:, 0]  # (400, 8, 8)
    halves = [mask[:, :, :4], mask[:, :, 4:], mask[:, :4], mask[:, 4:]]
    counts = torch.tensor([(part == 0).all((1, 2)).sum() for part in halves])
    assert (mask.mean((1, 2)) == 0.5).all()
    assert counts.sum() == 400
    assert counts.min() > 70


@pytest.mark.parametrize(
    ("name", "missing", "tolerance"),
    [("random", 0.2, 0.01), ("random80", 0.8, 0.01), ("pattern", 0.25, 0.01)],
)
def test_missing_is_the_share_of_removed_pixels(name, missing, tolerance):
    mask = RANDOM[name](torch.arange(64), 64)
    assert 1 - mask.mean().item() == pytest.approx(missing, abs=tolerance)


def test_pattern_removes_blobs():
    mask = RANDOM["pattern"](torch.arange(16), 64)
    equal_neighbors = (mask[..., 1:] == mask[..., :-1]).float().mean()
    assert equal_neighbors > 0.93  # 0.62 for independent pixels


def test_freeform_removes_pixels_near_a_stroke():
    holes = (1 - RANDOM["freeform"](torch.arange(64), 64)).sum((1, 2, 3))
    assert holes[:4].tolist() == [779, 663, 596, 764]  # computed from the distance of each pixel
    assert holes.sum() == 53230


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: masks.random(INDEX, 8, 0, missing=1.5), "missing=1.5: should be less than 1"),
        (lambda: masks.pattern(INDEX, 8, 0, missing=0), "missing=0: should be greater than 0"),
        (lambda: masks.center(INDEX, 8, scale=0.5), "scale=0.5: should be less than 0.5"),
        (lambda: masks.grid(INDEX, 8, step=0), "step=0: should be greater"),
        (lambda: masks.grid(INDEX, 8, step=1.5), "step=1.5: should be a valid integer"),
        (lambda: masks.grid(INDEX, 8, step="4"), "step=4: should be a valid integer"),
        (lambda: masks.half(INDEX, 8, seed=True), "seed=true: should be a valid integer"),
        (lambda: masks.random(INDEX, 8, 0, math.nan), "missing=nan: should be a finite number"),
        (lambda: masks.freeform(INDEX, 8, 0, 10**12, 0.1), "strokes=1000000000000: should be less"),
        (lambda: masks.freeform(INDEX, 8, 0, 4, math.inf), "width=inf: should be a finite number"),
        (lambda: masks.mixture(INDEX, 8, 0, {}), "masks={}: .* at least 1 item"),
    ],
)
def test_values_out_of_range_are_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.fixture
def half_white():
    array = np.zeros((30, 50), np.uint8)
    array[:, 25:] = 255
    return array


@pytest.mark.parametrize("kind", ["L", "1", "P", "RGB", "RGBA", "I;16"])
def test_mask_image_can_have_any_mode_and_size(tmp_path, half_white, kind):
    path = tmp_path / "mask.png"
    if kind == "I;16":
        Image.fromarray(half_white.astype(np.uint16) * 257).save(path)
    elif kind == "RGBA":  # only the right half is opaque
        rgba = np.stack([half_white * 0] * 3 + [half_white], -1)
        Image.fromarray(rgba).save(path)
    else:
        Image.fromarray(half_white).convert(kind).save(path)
    mask = mask_file(str(path), 0.5, "white")(INDEX, 16)
    assert mask.shape == (4, 1, 16, 16)
    assert torch.equal(mask, masks.left(INDEX, 16))
    flipped = mask_file(str(path), 0.5, "black")(INDEX, 16)
    assert torch.equal(flipped, 1 - mask)


@pytest.mark.parametrize("alpha", [0, 128, 255])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
def test_alpha_that_does_not_vary_is_ignored(tmp_path, half_white, mode, alpha):
    """Image editors write an alpha channel that is opaque everywhere."""
    image = Image.fromarray(half_white)
    if mode in ("RGBA", "LA"):
        image = image.convert(mode)
        image.putalpha(alpha)
        image.save(tmp_path / "mask.png")
    else:  # transparency of a color that does not occur in the image
        unused = {"P": 7, "L": 100, "RGB": (1, 2, 3)}[mode]
        image.convert(mode).save(tmp_path / "mask.png", transparency=unused)
    mask = mask_file(str(tmp_path / "mask.png"), 0.5, "white")(INDEX, 16)
    assert torch.equal(mask, masks.left(INDEX, 16))


def test_alpha_that_varies_is_the_mask(tmp_path, half_white):
    """The colors below the transparent half are arbitrary."""
    noise = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    Image.fromarray(np.dstack([noise, half_white])).save(tmp_path / "mask.png")
    mask = mask_file(str(tmp_path / "mask.png"), 0.5, "white")(INDEX, 16)
    assert torch.equal(mask, masks.left(INDEX, 16))


def test_exif_orientation_of_a_mask_image_is_applied(tmp_path, half_white):
    """The stored image has its hole at the top, the upright image at the left."""
    exif = Image.Exif()
    exif[0x0112] = 8  # rotate by 90 degrees to the left
    stored = Image.fromarray(half_white).transpose(Image.Transpose.ROTATE_270)
    stored.save(tmp_path / "mask.png", exif=exif)
    mask = mask_file(str(tmp_path / "mask.png"), 0.5, "white")(INDEX, 16)
    assert torch.equal(mask, masks.left(INDEX, 16))
    stored.save(tmp_path / "plain.png")
    top = mask_file(str(tmp_path / "plain.png"), 0.5, "white")(INDEX, 16)
    assert torch.equal(top, masks.left(INDEX, 16).transpose(2, 3))


def test_threshold_of_a_mask_image(tmp_path, half_white):
    path = tmp_path / "mask.png"
    Image.fromarray((half_white // 255) * 100 + 20).save(path)  # 20 and 120 of 255
    mask = mask_file(str(path), 0.3, "white")(INDEX[:1], 8)
    assert torch.equal(mask, masks.left(INDEX[:1], 8))
    with pytest.raises(ValueError, match="no known pixel"):
        mask_file(str(path), 0.6, "white")(INDEX[:1], 8)


@pytest.mark.parametrize("known", ["white", "black"])
@pytest.mark.parametrize(("width", "height"), [(800, 800), (803, 601), (64, 64), (20, 20)])
def test_by_default_every_hole_pixel_is_a_hole_at_any_size(tmp_path, known, width, height):
    """A scratch of 1 px, and single pixels.  A threshold applies to the mean over an area."""
    hole = np.zeros((height, width), bool)
    hole[:, width // 3] = True
    hole[height - 1, width - 1] = hole[0, 0] = True
    Image.fromarray((hole != (known == "white")).astype(np.uint8) * 255).save(tmp_path / "mask.png")
    path = str(tmp_path / "mask.png")
    assert compose_config("inpaint", ["mask=file", f"mask.path={path}"]).mask.threshold is None
    mask = mask_file(path, None, known)(INDEX[:1], 64)[0, 0]
    rows, columns = hole.nonzero()
    assert (mask[rows * 64 // height, columns * 64 // width] == 0).all()
    assert (mask == 0).float().mean() < 0.1
    if width > 64:
        with pytest.raises(ValueError, match="no hole at 64 px. Change mask.threshold=0.5"):
            mask_file(path, 0.5, known)(INDEX, 64)
    elif width == 64:
        assert torch.equal(mask, mask_file(path, 0.5, known)(INDEX[:1], 64)[0, 0])


def test_a_mask_image_is_decoded_once(tmp_path, half_white):
    Image.fromarray(half_white).save(tmp_path / "mask.png")
    mask = mask_file(str(tmp_path / "mask.png"), 0.5, "white")
    (tmp_path / "mask.png").unlink()
    assert torch.equal(mask(INDEX, 16), masks.left(INDEX, 16))
    assert torch.equal(mask(INDEX, 8), masks.left(INDEX, 8))


def bitmap(width, height):
    """Return a 24-bit BMP file with a header for this size and 64 bytes of black pixels."""
    header = struct.pack("<2sIIIIiiHHIIiiII", b"BM", 54, 0, 54, 40, width, height, 1, 24, *[0] * 6)
    return header + bytes(64)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not an image", "cannot be read as an image"),
        (b"", "cannot be read as an image"),
        (bitmap(0, 5), "cannot be read as an image"),
        (bitmap(50, 50), "cannot be read as an image .*truncated"),
        (bitmap(40_000, 40_000), "cannot be read as an image .*bomb"),
    ],
)
def test_an_unreadable_mask_image_is_a_one_line_error(tmp_path, content, message):
    (tmp_path / "mask.bmp").write_bytes(content)
    with pytest.raises(ValueError, match=f"mask.path=.*mask.bmp: {message}") as error:
        mask_file(str(tmp_path / "mask.bmp"), 0.5, "white")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["gone.png", "a\0b", "x" * 5000, "*.png"])
def test_a_missing_mask_image_is_a_one_line_error(tmp_path, path):
    with pytest.raises(ValueError, match=r"mask.path=.*: no image found") as error:
        mask_file(str(tmp_path / path), 0.5, "white")
    assert "\n" not in str(error.value)


def test_masks_are_matched_to_photos_by_stem(tmp_path):
    """Only the masks of these photos are read."""
    folder = tmp_path / "masks"
    folder.mkdir()
    for column, stem in enumerate("abc"):
        levels = np.full((8, 8), 255, np.uint8)
        levels[:, column] = 0
        Image.fromarray(levels).save(folder / f"{stem}.png")
    (folder / "unused.png").write_bytes(b"no image")
    for path in (str(folder), [str(folder / "*.png")]):
        masks = mask_file(path, 0.5, "white").for_photos(
            [Path("x/c.jpg"), Path("a.png"), Path("c.gif")]
        )
        holes = [int((mask(torch.zeros(1), 8)[0, 0, 0] == 0).nonzero()) for mask in masks]
        assert holes == [2, 0, 2]
    masks = mask_file(str(folder), 0.5, "white")
    with pytest.raises(ValueError, match="photos/d.jpg: no mask has this name"):
        masks.for_photos([Path("a.png"), Path("photos/d.jpg")])
    with pytest.raises(ValueError, match=r"mask.path=.*unused.png: cannot be read"):
        masks.for_photos([Path("unused.jpg")])[0]
    with pytest.raises(ValueError, match="Set images="):
        masks(INDEX, 8)
    Image.new("L", (8, 8)).save(folder / "a.bmp")
    with pytest.raises(ValueError, match=r"a.bmp and .*a.png belong to the same photo"):
        mask_file(str(folder), 0.5, "white").for_photos([Path("a.jpg")])


def test_photos_of_the_same_name_have_their_masks_in_folders_of_the_same_structure(tmp_path):
    def names(masks, photos):
        for name in masks:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8)).save(tmp_path / name)
        choice = MaskImages([tmp_path / name for name in masks], 0.5, "white")
        chosen = choice.for_photos([Path("photos") / name for name in photos])
        return [path.relative_to(tmp_path).as_posix() for path in chosen.paths]

    masks = ["m/a/x.png", "m/b/x.png", "m/b/c/x.png", "m/x.png"]
    photos = ["a/x.jpg", "b/x.jpg", "b/c/x.jpg"]
    assert names(masks[:3], photos) == masks[:3]
    assert names(masks[:3], photos[::-1]) == masks[2::-1]
    assert names(masks[3:], photos) == masks[3:] * 3  # one mask for all
    assert names(["m/a/x.png"], ["x.jpg"]) == ["m/a/x.png"]
    with pytest.raises(
        ValueError, match="photos/b/x.jpg: the mask of this name, .*m/a/x.png, lies"
    ):
        names(masks[:1], photos[:2])
    with pytest.raises(ValueError, match=r"m/a/x.png and .*m/b/x.png belong to the same photo"):
        names(masks[:2], ["x.jpg"])


def test_a_mask_image_without_a_hole_or_a_known_pixel_is_an_error(tmp_path):
    for value, missing in ((255, "no hole"), (0, "no known pixel")):
        Image.new("L", (50, 30), value).save(tmp_path / "flat.png")
        with pytest.raises(ValueError, match=f"flat.png: the mask has {missing} at 16 px"):
            mask_file(str(tmp_path / "flat.png"), 0.5, "white")(INDEX, 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, 0.5, "white"), "path=null: should be a valid string"),
        (("", 0.5, "white"), "path=: string should have at least 1 character"),
        ((5, 0.5, "white"), "path=5: should be a valid string"),
        (("a.png", "abc", "white"), "threshold=abc: should be a valid number"),
        (("a.png", math.nan, "white"), "threshold=nan: should be a finite number"),
        (("a.png", 1.5, "white"), "threshold=1.5: should be less than or equal to 1"),
        (("a.png", 0.5, "gray"), "known=gray: should be 'white' or 'black'"),
    ],
)
def test_invalid_arguments_of_a_mask_image_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        mask_file(*arguments)


def test_mixture_draws_its_masks_equally_often():
    index = torch.arange(600)
    mask = masks.mixture(index, 8, seed=0, masks=CHOICES)
    other = masks.mixture(index, 8, seed=1, masks=CHOICES)
    for draw in CHOICES.values():
        same = (mask == draw(index, 8)).flatten(1).all(1)
        # half is equal to left for a quarter of the images
        assert 0.28 < same.float().mean() < 0.45
    assert not torch.equal(mask, other)


def test_scattered_removes_a_different_share_of_each_image():
    mask = masks.scattered(torch.arange(300), 32, seed=0, low=0.1, high=0.9)
    share = 1 - mask.mean((1, 2, 3))  # (B,)
    assert share.min() < 0.2 and share.max() > 0.8
    assert share.min() > 0.05 and share.max() < 0.95
    assert share.mean().item() == pytest.approx(0.5, abs=0.04)
    assert set(mask.unique().tolist()) == {0, 1}


def test_rectangle_removes_one_box_inside_the_image():
    mask = masks.rectangle(torch.arange(200), 40, seed=0, low=0.2, high=0.5)
    for hole in mask[:, 0] == 0:
        rows, columns = hole.any(1).nonzero()[:, 0], hole.any(0).nonzero()[:, 0]
        height, width = (int(x.max() - x.min()) + 1 for x in (rows, columns))
        assert int(hole.sum()) == height * width
        assert 7 <= height <= 21 and 7 <= width <= 21
    hole = (mask == 0).float().mean(0)[0]
    assert hole[20, 20] > 0.1 and hole[2, 2] > 0
