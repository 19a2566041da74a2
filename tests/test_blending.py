"""Poisson blending, compared with a sparse least-squares solution of its definition."""

import numpy as np
import pytest
import torch
from scipy.sparse import coo_array
from scipy.sparse.linalg import spsolve

from dcgan_inpaint.blending import harmonic, paste, poisson
from dcgan_inpaint.masks import masks

SIZE = 32


def make_masks(name, count=3, size=SIZE):
    """Return masks (count, 1, size, size), 1 = known."""
    index = torch.arange(count)
    mask = torch.ones(count, 1, size, size)
    if name == "several":
        mask[:, :, 3:9, 4:20] = 0
        mask[:, :, 20:, :7] = 0
        mask[:, :, 15:31, 14:18] = 0
        mask[:, :, 18:28, 25] = 0
    elif name == "pixel":
        mask[:, :, 11, 17] = 0
    elif name == "corner":
        mask[:, :, -1, -1] = 0
    elif name == "all but a pixel":  # the hardest case: almost singular
        mask[:] = 0
        mask[:, :, 3, 29] = 1
    else:
        draw = {
            "center": lambda: masks.center(index, size, scale=0.25),
            "left": lambda: masks.left(index, size),
            "half": lambda: masks.half(index, size, seed=0),
            "random": lambda: masks.random(index, size, seed=0, missing=0.2),
            "random80": lambda: masks.random(index, size, seed=0, missing=0.8),
            "pattern": lambda: masks.pattern(index, size, seed=0, missing=0.25),
            "grid": lambda: masks.grid(index, size, step=4),
        }
        mask = draw[name]()
    return mask


MASKS = ["center", "left", "half", "random", "random80", "pattern", "grid"]
MASKS += ["several", "pixel", "corner", "all but a pixel"]


def random_images(count, channels=3, height=SIZE, width=SIZE, seed=0):
    """Return fake and images: white noise in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    both = torch.rand(2, count, channels, height, width, generator=generator) * 2 - 1
    return both.unbind()


def least_squares(fake, image, mask):
    """Solve x_i - x_j = fake_i - fake_j for all pairs with a missing pixel; x (C, H, W)."""
    fake, x = fake.double().numpy(), image.double().numpy().copy()
    missing = mask[0].numpy() == 0
    number = np.cumsum(missing).reshape(missing.shape) - 1  # of the unknown
    entries, right = [], []
    height, width = missing.shape
    for i in np.ndindex(height, width):
        for j in [(i[0] + 1, i[1]), (i[0], i[1] + 1)]:
            if j[0] == height or j[1] == width or not (missing[i] or missing[j]):
                continue
            target = fake[:, *i] - fake[:, *j]
            for pixel, sign in [(i, 1), (j, -1)]:
                if missing[pixel]:
                    entries.append((sign, len(right), number[pixel]))
                else:
                    target = target - sign * x[:, *pixel]
            right.append(target)
    values, row, column = zip(*entries, strict=True)
    pairs = coo_array((values, (row, column)), (len(right), missing.sum()), dtype=float).tocsc()
    solution = spsolve((pairs.T @ pairs).tocsc(), pairs.T @ np.stack(right))
    x[:, missing] = solution.reshape(missing.sum(), -1).T.clip(-1, 1)
    return torch.from_numpy(x).float()


def assert_least_squares(fake, images, mask):
    out = poisson(fake, images, mask)
    assert out.dtype == torch.float32
    known = (mask == 1).expand_as(images)
    assert torch.equal(out[known], images[known])
    expected = torch.stack(
        [least_squares(*image) for image in zip(fake, images, mask, strict=True)]
    )
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MASKS)
def test_poisson_is_equal_to_least_squares(name):
    assert_least_squares(*random_images(3), make_masks(name))


def test_images_of_a_batch_can_have_different_masks():
    mask = torch.cat([make_masks(name, 1) for name in MASKS])
    assert_least_squares(*random_images(len(mask)), mask)


@pytest.mark.parametrize(("height", "width"), [(20, 32), (32, 20), (1, 32), (32, 1)])
def test_images_can_be_gray_and_not_square(height, width):
    mask = make_masks("random80")[:, :, :height, :width]
    assert_least_squares(*random_images(3, 1, height, width), mask)


def test_one_pixel_between_two_known_pixels():
    """The solution is the mean of x_0 + fake_1 - fake_0 and x_2 + fake_1 - fake_2."""
    fake, images = torch.tensor([0.1, 0.4, -0.1]), torch.tensor([0.2, 0.9, 0.6])
    mask = torch.tensor([1.0, 0.0, 1.0])
    expected = torch.tensor([0.2, (0.2 + 0.3 + 0.6 + 0.5) / 2, 0.6])
    for shape in [(1, 1, 1, 3), (1, 1, 3, 1)]:
        out = poisson(fake.view(shape), images.view(shape), mask.view(shape))
        torch.testing.assert_close(out.flatten(), expected)


@pytest.mark.parametrize("name", MASKS)
def test_a_constant_offset_is_removed(name):
    images = random_images(3)[0] * 0.7
    out = poisson(images + 0.3, images, make_masks(name))
    torch.testing.assert_close(out, images, rtol=0, atol=1e-5)


def test_the_hole_stays_in_range():
    """The fake rises by 2 where the image around is already white."""
    fake, images = torch.full((1, 1, 3, 3), -1.0), torch.ones(1, 1, 3, 3)
    mask = torch.ones(1, 1, 3, 3)
    fake[:, :, 1, 1], mask[:, :, 1, 1] = 1, 0
    assert torch.equal(poisson(fake, images, mask), images)


def test_images_without_known_pixels_or_without_a_hole():
    """Without a known pixel the result is G(z); without a hole it is the image."""
    fake, images = random_images(3)
    mask = make_masks("center")
    mask[0], mask[2] = 0, 1
    out = poisson(fake, images, mask)
    assert torch.equal(out[0], fake[0])
    assert torch.equal(out[2], images[2])
    torch.testing.assert_close(out[1:2], poisson(fake[1:2], images[1:2], mask[1:2]))


@pytest.mark.parametrize("name", ["center", "half", "random80"])
def test_result_does_not_depend_on_the_batch(name):
    fake, images = random_images(5)
    mask = make_masks(name, 5)
    alone = [poisson(fake[i : i + 1], images[i : i + 1], mask[i : i + 1]) for i in range(5)]
    torch.testing.assert_close(poisson(fake, images, mask), torch.cat(alone), rtol=0, atol=1e-7)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-2)])
def test_each_image_converges_on_its_own(dtype, tolerance):
    """An easy hole in a batch with hard ones has the same result as alone."""
    values = random_images(len(MASKS))[1].to(dtype)
    hole = torch.cat([make_masks(name, 1) for name in MASKS]) == 0
    hole[..., 0, 0] = hole[..., -1, -1] = True  # the same bounding box, so the same coarse grids
    together = harmonic(values, hole, tolerance)
    for i in range(len(MASKS)):
        alone = harmonic(values[i : i + 1], hole[i : i + 1], tolerance)[0]
        torch.testing.assert_close(together[i], alone, rtol=0, atol=1e-12 + tolerance * 1e-3)


def test_harmonic_terminates_for_an_empty_batch_and_for_nan():
    """The nan of one image does not change the other."""
    values, hole = random_images(2)[1].double(), make_masks("center", 2) == 0
    assert harmonic(values[:0], hole[:0], 1e-10).shape == (0, 3, SIZE, SIZE)
    good = harmonic(values, hole, 1e-10)[1]
    values[0, :, 0] = values[0, :, 7] = torch.nan
    torch.testing.assert_close(harmonic(values, hole, 1e-10)[1], good, rtol=0, atol=1e-12)


def test_autocast_does_not_change_the_result():
    fake, images = random_images(3)
    mask = make_masks("center")
    expected = poisson(fake, images, mask)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(poisson(fake, images, mask), expected)


def test_poisson_leaves_a_smaller_seam_than_paste():
    """G(z) has a different brightness and contrast than the image."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, SIZE)] * 2, indexing="ij")
    images = (0.6 * torch.sin(2 * x + y)).expand(1, 3, -1, -1)
    mask = make_masks("center", 1)

    def seam(completion):
        step = completion.diff(dim=3).abs()
        return step[:, :, mask[0, 0].diff(dim=1) != 0].mean()

    fake = 0.8 * images + 0.3
    assert seam(paste(fake, images, mask)) > 3 * seam(images)
    assert seam(poisson(fake, images, mask)) < 1.2 * seam(images)
