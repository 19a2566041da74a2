"""Measurements of images and their errors."""

import math

import pytest
import torch

from dcgan_inpaint.masks.measurements import Grayscale, Holes, Lowres, Noisy, Quantized

INDEX = torch.tensor([3, 8])


def random_images(channels=3):
    return torch.rand(2, channels, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_holes_returns_the_image_and_is_the_only_measurement_of_pixels():
    images = random_images()
    assert Holes().observe(images, INDEX) is images
    assert Holes().predict(images) is images
    others = [Lowres(), Grayscale(), Noisy(), Quantized()]
    assert [m.of_pixels for m in [Holes(), *others]] == [True, False, False, False, False]


def test_lowres_averages_blocks():
    images = torch.arange(16.0).view(1, 1, 4, 4)
    assert Lowres(2).predict(images).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert torch.equal(Lowres(2).observe(images, INDEX[:1]), Lowres(2).predict(images))


def test_grayscale_returns_the_luminance():
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    assert Grayscale().predict(red).item() == pytest.approx(0.299)
    gray = random_images(1).expand(2, 3, 8, 8)
    torch.testing.assert_close(Grayscale().observe(gray, INDEX), gray[:, :1])


def test_noise_depends_on_seed_and_image_and_is_not_predicted():
    images, measure = random_images(), Noisy(sigma=0.5)
    noise = measure.observe(images, INDEX) - images
    assert noise.std().item() == pytest.approx(0.5, rel=0.1)
    alone = measure.observe(images[1:], INDEX[1:]) - images[1:]
    torch.testing.assert_close(alone[0], noise[1])
    assert not torch.allclose(Noisy(0.5, seed=1).observe(images, INDEX), images + noise)
    assert torch.equal(measure.predict(images), images)


def test_quantized_rounds_to_equally_spaced_values():
    values = torch.tensor([-1.0, -0.7, -0.6, 0.1, 0.9]).view(1, 1, 1, 5)
    rounded = Quantized(levels=4).observe(values, INDEX[:1])  # to -1, -1/3, 1/3 or 1
    torch.testing.assert_close(rounded.flatten(), torch.tensor([-1, -1, -1 / 3, 1 / 3, 1]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: Lowres(3).predict(random_images()),
            "measure.factor=3: does not divide image_size",
        ),
        (lambda: Lowres(0), "factor=0: should be greater than or equal to 1"),
        (lambda: Grayscale().predict(random_images(1)), "mask=grayscale"),
        (lambda: Noisy(-1), "sigma=-1: should be greater than or equal to 0"),
        (lambda: Quantized(1), "levels=1: should be greater than or equal to 2"),
        (lambda: Quantized(10**12), "levels=1000000000000: should be less"),
        (lambda: Noisy(math.inf), "sigma=inf: should be a finite number"),
        (lambda: Noisy(0.1, seed=-1), "seed=-1: should be greater than or equal to 0"),
        (lambda: Lowres("8"), "factor=8: should be a valid integer"),
    ],
)
def test_invalid_values_and_images_are_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
