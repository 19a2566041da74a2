"""Full-size photos: crops, their masks, and pasting completions back."""

import cmath
import math
from functools import partial

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image, ImageDraw
from scipy.sparse import coo_array
from scipy.sparse.linalg import spsolve

from dcgan_inpaint.blending import harmonic
from dcgan_inpaint.configs import CropBox, EyePositions, checked
from dcgan_inpaint.data.decoding import to_array
from dcgan_inpaint.masks import masks
from dcgan_inpaint.masks.mask_image import mask_file
from dcgan_inpaint.photos.crops import (
    EYES,
    Crop,
    crop_hole,
    crop_image,
    draw_crops,
    eye_positions,
    paste_back,
    pixel_centers,
)
from dcgan_inpaint.photos.photos import Photos, crop_finder

SIZE = 16
center = partial(masks.center, scale=0.25)


def noise(width=80, height=50, mode="RGB", seed=0):
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


def smooth(width=120, height=90):
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 19 + k) + np.cos(y / 13 - k) for k in range(3)]
    return Image.fromarray((np.stack(waves, 2) * 55 + 127).astype(np.uint8))


def from_file(path, threshold=0.5, known="white"):
    return mask_file(str(path), threshold, known)


def hole_image(path, size, hole):
    """Save a white image with a black box (left, top, right, bottom)."""
    image = Image.new("L", size, 255)
    image.paste(0, hole)
    image.save(path)
    return path


def photos_of(tmp_path, photo, mask, find_crops, channels=3):
    photo.save(tmp_path / "photo.png")
    return photos_from([tmp_path / "photo.png"], mask, find_crops, channels)


def photos_from(paths, mask, find_crops, channels=3):
    return Photos.from_files(paths, mask, find_crops, (channels, SIZE, SIZE))


def bounds_of_change(completed, photo):
    """Return the bounding box of the pixels that differ."""
    return Image.fromarray((np.asarray(completed) != np.asarray(photo)).any(2)).getbbox()


# crops


def test_crop_from_a_box_that_is_square_to_one_pixel():
    photo = noise()
    for box in ([10, 20, 30, 30], [10, 20, 31, 30]):
        assert Crop.from_box(box, photo) == Crop(10 + 20j, 30 + 0j)


def test_unit_points_are_pixel_centers():
    points = Crop(10 + 20j, 30 + 0j).unit_points((10, 20, 40, 50))
    assert points.shape == (30, 30)
    torch.testing.assert_close(points[0, 0], torch.tensor((0.5 + 0.5j) / 30))
    torch.testing.assert_close(points[0, 29], torch.tensor((29.5 + 0.5j) / 30))


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([10, 20, 30, 25], r"crop=\[10,20,25,25\]"),
        ([0, 0, 0, 0], r"not square"),
        ([60, 10, 30, 30], "outside the upright photo, which has 80 x 50 px"),
        ([-1, 0, 20, 20], "outside the upright photo"),
    ],
)
def test_invalid_boxes_are_errors(box, message):
    with pytest.raises(ValueError, match=message):
        Crop.from_box(box, noise())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": [1, 2, 3]}, r"crop=\[1, 2, 3\]: value should have at least 4 items"),
        ({"crop": "face"}, "crop=face: "),
        ({"crop": "1,2,3,3"}, "crop=1,2,3,3: "),
        ({"crop": 7}, "crop=7: "),
        ({"crop": [0, 0, 50.5, 50.5]}, "crop.*=50.5: should be a valid integer"),
        ({"crop": [0, 0, math.inf, math.inf]}, "crop.*=inf: should be a valid integer"),
        ({"crop": [0, 0, math.nan, 9]}, "crop.*=nan: should be a valid integer"),
        ({"crop": [0, 0, "a", 9]}, "crop.*=a: should be a valid integer"),
        ({"crop": [0, 0, None, 9]}, "crop.*=null: should be a valid integer"),
        ({"eyes": [0.3, math.nan, 0.5]}, "eyes.*=nan: should be a finite number"),
        ({"eyes": [0.3, 1.5, 0.5]}, "eyes.*=1.5: should be less than or equal to 1"),
        ({"eyes": [0.3, 0.6]}, r"eyes=\[0.3, 0.6\]: value should have at least 3 items"),
    ],
)
def test_invalid_options_raise_a_one_line_error(options, message):
    @checked
    def take(crop: CropBox | None = None, eyes: EyePositions | None = None): ...

    with pytest.raises(ValueError, match=message) as error:
        take(**options)
    assert "\n" not in str(error.value)


def test_options_may_be_omegaconf_lists():
    cfg = OmegaConf.create({"crop": [10, 20, 30, 30], "eyes": list(EYES)})
    find_crops = crop_finder(1.0, cfg.crop, None, cfg.eyes)
    assert find_crops(noise(), "photo.png") == [Crop(10 + 20j, 30 + 0j)]


def test_eyes_of_an_aligned_image_give_the_papers_crop():
    crop = Crop.from_eyes(69.65 + 112.65j, 108.35 + 112.65j, EYES)  # the mean of detected eyes
    assert crop.origin == pytest.approx(35 + 55j, abs=0.1)
    assert crop.side == pytest.approx(108, abs=0.2)
    aligned = Image.new("RGB", (178, 218))
    assert crop.origin == pytest.approx(Crop.central(aligned, 108 / 178).origin, abs=0.1)


def test_eye_positions_follow_the_crop_of_the_training_images():
    """A detected face fills the same share of the crop as in the training images."""
    celeba = {"source": "celeba"}
    assert eye_positions(celeba, 108 / 178) == pytest.approx(EYES)
    for share in (0.8, 1.0):
        crop = Crop.from_eyes(69.65 + 112.65j, 108.35 + 112.65j, eye_positions(celeba, share))
        assert crop.side == pytest.approx(178 * share, abs=0.3)
        assert crop.origin + crop.side * (0.5 + 0.5j) == pytest.approx(89 + 109j, abs=0.2)
    assert eye_positions({"source": "folder"}, 1.0) == eye_positions(None, 1.0) == EYES


@pytest.mark.parametrize("angle", [0, 30, -30, 170])
def test_eyes_of_a_rotated_face_are_at_the_requested_positions(angle):
    """Two dots in the photo are at the eye positions of the crop."""
    unit = cmath.rect(1, math.radians(angle))
    left, right = 100 + 90j - 20 * unit, 100 + 90j + 20 * unit
    photo = Image.new("RGB", (200, 180))
    draw = ImageDraw.Draw(photo)
    draw.circle((left.real, left.imag), 4, "red")
    draw.circle((right.real, right.imag), 4, "lime")
    crop = Crop.from_eyes(left, right, (0.3, 0.7, 0.4))
    cropped = np.asarray(crop_image(photo, crop, 100), float)
    y, x = np.mgrid[:100, :100] + 0.5
    for channel, u in ((0, 30), (1, 70)):
        weight = cropped[:, :, channel] / cropped[:, :, channel].sum()
        assert (weight * x).sum() == pytest.approx(u, abs=0.8)
        assert (weight * y).sum() == pytest.approx(40, abs=0.8)


def test_eyes_that_are_too_close_are_an_error():
    for points, positions in (((1 + 1j, 2 + 1j), (0.5, 0.501, 0.5)), ((1 + 1j, 1 + 1j), EYES)):
        with pytest.raises(ValueError, match="the eyes are too close"):
            Crop.from_eyes(*points, positions)


def test_a_drawn_crop_is_an_outline_on_the_photo():
    """In black and white, to be visible on any photo, and also if the crop leaves the photo."""
    photo = Image.new("RGB", (120, 90), "gray")
    drawn = np.asarray(draw_crops(photo, [Crop(20 + 10j, 60 + 0j), Crop(100 + 80j, 60j)]))
    changed = (drawn != np.asarray(photo)).any(2)
    rows, columns = changed[:, 30].nonzero()[0], changed[40].nonzero()[0]
    assert all(np.abs(rows[:, None] - [10, 70]).min(1) <= 2) and {10, 70} <= set(rows)
    assert all(np.abs(columns[:, None] - [20, 80]).min(1) <= 2) and {20, 80} <= set(columns)
    assert {tuple(pixel) for pixel in drawn[changed]} == {(0, 0, 0), (255, 255, 255)}
    assert changed[85, 100]  # of the crop that leaves the photo
    assert draw_crops(Image.new("L", (9, 9)), [Crop(0j, 9 + 0j)]).size == (9, 9)


# cropped images and masks


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 3), ("L", 1), ("RGB", 1)])
def test_central_crop_is_bitwise_equal_to_training_images(tmp_path, mode, channels):
    photos = photos_of(tmp_path, noise(mode=mode), center, crop_finder(0.6), channels)
    expected = to_array(Image.open(tmp_path / "photo.png"), SIZE, channels, 0.6)
    assert np.array_equal(photos.images.images[0], expected)


def test_a_rotated_crop_is_equal_to_a_crop_of_the_rotated_photo():
    photo = smooth(100, 100)
    crop = Crop.from_eyes(80 + 30j, 80 + 70j, (0.25, 0.75, 0.1))
    rotated = crop_image(photo.transpose(Image.Transpose.ROTATE_90), Crop(10 + 12j, 80 + 0j), 40)
    cropped = np.asarray(crop_image(photo, crop, 40), float)
    assert crop.side == pytest.approx(80j)
    assert crop.origin == pytest.approx(88 + 10j)
    assert np.abs(cropped - np.asarray(rotated, float))[2:-2, 2:-2].max() <= 2


def test_pixels_outside_the_photo_are_unknown(tmp_path):
    """The left half of the crop is outside the photo."""
    photos = photos_of(tmp_path, noise(), partial(masks.full), lambda *_: [Crop(-20 + 5j, 40 + 0j)])
    mask = photos.mask(torch.tensor([0]), SIZE)[0, 0]
    assert mask[:, : SIZE // 2].eq(0).all()
    assert mask[:, SIZE // 2 :].eq(1).all()


def test_a_mask_of_the_size_of_the_photo_is_cropped_with_it(tmp_path):
    path = hole_image(tmp_path / "hole.png", (80, 50), (30, 20, 40, 35))
    photos = photos_of(tmp_path, noise(), from_file(path), crop_finder(1, [24, 10, 32, 32]))
    expected = torch.ones(SIZE, SIZE)  # 2 px each: the hole from 6 to 16 and from 10 to 25
    expected[5:13, 3:8] = 0  # row 12 is half known, which is not above the threshold
    assert torch.equal(photos.mask(torch.tensor([0]), SIZE)[0, 0], expected)
    completed = photos.complete({0: torch.zeros(3, SIZE, SIZE)})
    assert bounds_of_change(completed, noise()) == (30, 20, 40, 35)


def test_a_mask_of_either_polarity_and_the_same_aspect_ratio_covers_the_photo(tmp_path):
    hole_image(tmp_path / "white.png", (161, 100), (60, 40, 80, 70))
    black = Image.open(tmp_path / "white.png").point(lambda v: 255 - v)
    black.save(tmp_path / "black.png")
    for known in ("white", "black"):
        mask = from_file(tmp_path / f"{known}.png", known=known)
        photos = photos_of(tmp_path, noise(), mask, crop_finder(1, [24, 10, 32, 32]))
        completed = photos.complete({0: torch.ones(3, SIZE, SIZE)})
        assert bounds_of_change(completed, noise()) == (30, 20, 40, 35)


def test_a_mask_of_another_aspect_ratio_covers_the_crop(tmp_path):
    path = hole_image(tmp_path / "hole.png", (64, 64), (16, 16, 50, 32))
    photos = photos_of(tmp_path, noise(), from_file(path), crop_finder(1, [24, 10, 32, 32]))
    index = torch.tensor([0])
    assert torch.equal(photos.mask(index, SIZE), from_file(path)(index, SIZE))
    completed = photos.complete({0: torch.zeros(3, SIZE, SIZE)})
    # the mask has twice the resolution of the crop: [16, 50) x [16, 32) / 2 + (24, 10)
    assert bounds_of_change(completed, noise()) == (32, 18, 49, 26)


@pytest.mark.parametrize("known", ["white", "black"])
@pytest.mark.parametrize("scale", [1, 2])
def test_a_scratch_of_3_px_in_a_photo_of_800_px_is_completed(tmp_path, known, scale):
    """By default, for masks of the size of the photo and larger ones."""
    mask = Image.new("L", (800 * scale, 800 * scale), 255 if known == "white" else 0)
    mask.paste(0 if known == "white" else 255, (200 * scale, 301 * scale, 600 * scale, 302 * scale))
    mask.save(tmp_path / "mask.png")
    photo = noise(800, 800)
    mask = from_file(tmp_path / "mask.png", threshold=None, known=known)
    photos = photos_of(tmp_path, photo, mask, crop_finder(1.0))
    expected = torch.ones(SIZE, SIZE)  # 50 px each
    expected[6, 4:12] = 0
    assert torch.equal(photos.mask(torch.tensor([0]), SIZE)[0, 0], expected)
    completed = photos.complete({0: torch.zeros(3, SIZE, SIZE)})
    assert bounds_of_change(completed, photo) == (200, 301, 600, 302)


@pytest.mark.parametrize("angle", [0, 10, 90, 211])
@pytest.mark.parametrize("side", [7.3, 16.1, 30.3, 700.7])
def test_every_hole_pixel_is_in_the_hole_of_a_rotated_crop(side, angle):
    generator = torch.Generator().manual_seed(angle)
    hole = torch.rand(300, 400, generator=generator) < (0.001 if side > 100 else 0.2)
    crop = Crop(200 + 150j - cmath.rect(side / 2, math.radians(angle)) * (1 + 1j), 0j)
    crop = Crop(crop.origin, cmath.rect(side, math.radians(angle)))
    result = crop_hole(hole, crop, SIZE)
    points = crop.unit_points((0, 0, 400, 300))
    inside = (points.real > 0) & (points.real < 1) & (points.imag > 0) & (points.imag < 1)
    column, row = (
        (points[hole & inside].real * SIZE).long(),
        (points[hole & inside].imag * SIZE).long(),
    )
    assert len(row) and result[row, column].all()
    centers = crop.origin + crop.side / SIZE * pixel_centers((0, 0, SIZE, SIZE))
    x, y = centers.real.floor().long().clamp(0, 399), centers.imag.floor().long().clamp(0, 299)
    for r, c in (result & ~hole[y, x]).nonzero().tolist():  # others have a hole pixel inside
        assert ((column == c) & (row == r)).any()


@pytest.mark.parametrize(
    ("hole", "message"),
    [
        ((20, 20, 40, 35), r"outside the crop \[24,10,32,32\].*around \[20,20,20,15\]"),
        ((30, 20, 31, 21), "the mask has no hole at 16 px"),
        (
            (0, 0, 80, 50),
            "most of the photo is a hole. If white .* set mask.known=black",
        ),
        ((24, 10, 56, 42), "the mask has no known pixel"),
    ],
)
def test_a_hole_that_does_not_fit_the_crop_is_an_error(tmp_path, hole, message):
    path = hole_image(tmp_path / "hole.png", (80, 50), hole)
    with pytest.raises(ValueError, match=f"photo.png: .*{message}"):
        photos_of(tmp_path, noise(), from_file(path), crop_finder(1, [24, 10, 32, 32]))


def test_a_mask_image_is_read_once_for_all_photos(tmp_path):
    """The file may be deleted before the photos are completed."""
    path = hole_image(tmp_path / "hole.png", (80, 50), (30, 20, 40, 35))
    mask = from_file(path)
    path.unlink()
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for seed, path in enumerate(paths):
        noise(seed=seed).save(path)
    photos = photos_from(paths, mask, crop_finder(1.0, [24, 10, 32, 32]))
    for i in range(2):
        completed = photos.complete({i: torch.zeros(3, SIZE, SIZE)})
        assert bounds_of_change(completed, noise(seed=i)) == (30, 20, 40, 35)


@pytest.mark.parametrize("content", [b"", b"not an image", "folder"])
def test_an_unreadable_photo_is_a_one_line_error(tmp_path, content):
    path = tmp_path / "photo.jpg"
    path.mkdir() if content == "folder" else path.write_bytes(content)
    with pytest.raises(ValueError, match=r"photo.jpg: cannot be read as an image") as error:
        photos_from([path], center, crop_finder(1.0))
    assert "\n" not in str(error.value)


# pasting back


def sparse_harmonic(values, hole):
    """Return the solution (C, pixels of the hole) of the same equations by a sparse solver."""
    number = np.cumsum(hole).reshape(hole.shape) - 1
    y, x = np.nonzero(hole)
    entries, right, diagonal = [], np.zeros((len(y), len(values))), np.zeros(len(y))
    for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        inside = (y + dy >= 0) & (y + dy < hole.shape[0]) & (x + dx >= 0) & (x + dx < hole.shape[1])
        row = np.flatnonzero(inside)
        i, j = y[inside] + dy, x[inside] + dx
        diagonal += inside
        right[row[~hole[i, j]]] += values[:, i, j].T[~hole[i, j]]
        entries.append((row[hole[i, j]], number[i, j][hole[i, j]]))
    row, column = np.concatenate(entries, 1)
    rows = np.concatenate([row, np.arange(len(y))]), np.concatenate([column, np.arange(len(y))])
    system = coo_array((np.concatenate([-np.ones(len(row)), diagonal]), rows)).tocsc()
    return spsolve(system, right).reshape(len(y), -1).T


@pytest.mark.parametrize("name", ["box", "edge", "blocks", "all but one", "line"])
def test_harmonic_is_equal_to_a_sparse_solver_within_half_a_level(name):
    """Values have 255 levels; the box has 400 x 500 px."""
    generator = np.random.default_rng(0)
    hole = np.zeros((402, 502) if name == "box" else (90, 131), bool)
    if name == "box":
        hole[1:-1, 1:-1] = True
    elif name == "edge":
        hole[:, :70] = True
    elif name == "blocks":
        hole = np.kron(generator.random((9, 13)) < 0.8, np.ones((10, 10))) > 0
    elif name == "all but one":
        hole[:], hole[3, 100] = True, False
    else:
        hole = np.ones((1, 77), bool)
        hole[0, [5, 40]] = False
    values = generator.uniform(-255, 255, (3, *hole.shape)).astype(np.float32)
    values += np.linspace(-200, 200, hole.shape[1], dtype=np.float32)
    batch = torch.from_numpy(values)[None], torch.from_numpy(hole)[None, None]
    u = harmonic(*batch, tolerance=0.05)[0].numpy()
    assert np.abs(u[:, hole] - sparse_harmonic(values, hole)).max() < 0.5
    assert (u[:, ~hole] == 0).all()


def test_without_known_pixels_the_fake_is_returned():
    fake = torch.linspace(-1, 1, 16).view(1, 4, 4)
    out = paste_back(noise(4, 4, "L"), Crop(0j, 4 + 0j), fake, np.ones((4, 4), bool))
    assert np.array_equal(np.asarray(out), ((fake[0] + 1) * 127.5).round())


@pytest.mark.parametrize("angle", [0, 30])
@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 3), ("L", 1), ("RGB", 1)])
def test_pasting_back_leaves_known_pixels_unchanged(mode, channels, angle):
    photo = noise(301, 203, mode)
    side = cmath.rect(120, math.radians(angle))
    hole = np.random.default_rng(1).random((203, 301)) < 0.3
    fake = torch.rand(channels, SIZE, SIZE) * 2 - 1
    out = paste_back(photo, Crop(100 + 40j, side), fake, hole)
    assert (out.size, out.mode) == (photo.size, mode)
    assert np.array_equal(np.asarray(out)[~hole], np.asarray(photo)[~hole])
    assert (np.asarray(out)[hole] != np.asarray(photo)[hole]).mean() > 0.9


@pytest.mark.parametrize("angle", [0, 30])
def test_pasting_back_the_true_crop_with_an_offset_restores_the_photo(angle):
    """Blending uses the gradients only, and pasting back inverts cropping."""
    photo = smooth()
    crop = Crop(40 + 12j, cmath.rect(60, math.radians(angle)))
    fake = torch.from_numpy(np.asarray(crop_image(photo, crop, 64), np.float32)) / 127.5 - 1
    hole = np.zeros((90, 120), bool)
    hole[40:60, 45:65] = True
    out = paste_back(photo, crop, fake.permute(2, 0, 1) * 0.9 + 0.2, hole)
    assert np.abs(np.asarray(out, float) - np.asarray(photo, float)).max() < 6
    assert not np.array_equal(np.asarray(out), np.asarray(photo))


def test_a_random_mask_has_the_resolution_of_the_model(tmp_path):
    photos = photos_of(tmp_path, noise(), center, crop_finder(1, [24, 10, 32, 32]))
    completed = photos.complete({0: torch.zeros(3, SIZE, SIZE)})
    assert bounds_of_change(completed, noise()) == (32, 18, 48, 34)


def test_crop_mask_and_result_refer_to_the_upright_photo(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to the right
    noise().save(tmp_path / "photo.png", exif=exif)
    upright = noise().transpose(Image.Transpose.ROTATE_270)
    path = hole_image(tmp_path / "hole.png", upright.size, (10, 30, 20, 40))
    find_crops = crop_finder(1, [5, 20, 32, 32])
    photos = photos_from([tmp_path / "photo.png"], from_file(path), find_crops)
    completed = photos.complete({0: torch.zeros(3, SIZE, SIZE)})
    assert completed.size == (50, 80)
    assert bounds_of_change(completed, upright) == (10, 30, 20, 40)
