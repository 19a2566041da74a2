"""The predicted error of the mean of several samples."""

import pytest
import torch

from dcgan_inpaint.masks import masks
from dcgan_inpaint.models.uncertainty import (
    HOLE_DEPTHS,
    calibrate_error,
    hole_depths,
    predict_error,
    spread_error,
)

UNCALIBRATED = torch.tensor([[1.0, 0.0]] * HOLE_DEPTHS)


def test_hole_depths_grow_from_scattered_pixels_to_half_images():
    index = torch.arange(8)
    by_depth = {
        0: masks.random(index, 64, seed=0, missing=0.8),
        1: masks.pattern(index, 64, seed=0, missing=0.25),
        2: masks.center(index, 64, scale=0.25),
        3: masks.half(index, 64, seed=0),
    }
    for depth, mask in by_depth.items():
        assert hole_depths(mask).tolist() == [depth] * 8
    assert hole_depths(masks.full(index, 64)).tolist() == [0] * 8  # no hole
    small = masks.center(torch.arange(1), 16, scale=0.25)  # 8x8, of which the inner 6x6 are far
    assert hole_depths(small).tolist() == [round(3 * 36 / 64)]


def samples_with_error(error):
    """Return samples, true images and mask with a given relation of error and spread.

    The two samples of 3 images of 16 px have spread errors from 0 to 0.3.  The true images are off
    their mean by error(spread error), with alternating sign.  The mask has a center hole, depth 2.
    """
    spread = torch.linspace(0, 0.3, 3 * 256).view(3, 1, 1, 16, 16).expand(-1, -1, 3, -1, -1)
    half = spread / 1.5**0.5 / 2**0.5  # two numbers 2 h apart have a standard deviation of h √2
    samples = torch.cat([0.1 + half, 0.1 - half], 1)  # (3, 2, 3, 16, 16)
    sign = torch.tensor([1.0, -1.0]).repeat(8)  # (16,): alternates from column to column
    mask = masks.center(torch.arange(3), 16, scale=0.25)
    return samples, 0.1 + sign * error(spread[:, 0]), mask


def test_spread_error_matches_a_hand_calculation():
    samples = torch.tensor([0.0, 0.2, 0.4]).view(1, 3, 1, 1, 1)
    expected = torch.full((1, 1, 1, 1), 0.2 * (4 / 3) ** 0.5)
    torch.testing.assert_close(spread_error(samples), expected)


def test_calibration_recovers_a_linear_relation():
    samples, images, mask = samples_with_error(lambda spread: 0.5 * spread + 0.06)
    calibration = calibrate_error(samples, images, mask, UNCALIBRATED)
    torch.testing.assert_close(calibration[2], torch.tensor([0.5, 0.06]), rtol=0.01, atol=0)
    assert torch.equal(calibration[[0, 1, 3]], UNCALIBRATED[[0, 1, 3]])  # no such holes
    error = (samples.mean(1) - images).abs().mean(1, keepdim=True)
    torch.testing.assert_close(
        predict_error(samples, mask, calibration), error * (1 - mask), rtol=0.02, atol=0
    )


@pytest.mark.parametrize(
    ("error", "is_edge"),
    [
        (lambda spread: 0.3 - spread, lambda scale, offset: scale == 0 < offset),
        (lambda spread: spread**3, lambda scale, offset: offset == 0 < scale),
    ],
)
def test_scale_and_floor_are_not_negative(error, is_edge):
    assert is_edge(*calibrate_error(*samples_with_error(error), UNCALIBRATED)[2].tolist())


def test_each_depth_uses_its_own_scale_and_floor():
    samples = samples_with_error(torch.zeros_like)[0]
    mask = torch.cat(
        [masks.center(torch.arange(1), 16, 0.25), masks.half(torch.arange(2), 16, seed=0)]
    )
    calibration = torch.tensor([[9.0, 9], [9, 9], [0, 0.25], [2, 0.5]])
    error = predict_error(samples, mask, calibration)
    assert error[0][mask[0] == 0].unique().tolist() == [0.25]
    hole = mask[1:] == 0
    torch.testing.assert_close(error[1:][hole], (2 * spread_error(samples)[1:] + 0.5)[hole])
    assert (error[mask == 1] == 0).all()


def test_calibration_handles_perfect_samples_and_masks_without_holes():
    samples, images, mask = samples_with_error(torch.zeros_like)
    perfect = images[:, None].expand(-1, 2, -1, -1, -1)
    calibration = calibrate_error(perfect, images, mask, UNCALIBRATED)
    assert calibration.isfinite().all()
    assert predict_error(perfect, mask, calibration).max() < 1e-5
    no_hole = torch.ones_like(mask)
    assert torch.equal(calibrate_error(samples, images, no_hole, UNCALIBRATED), UNCALIBRATED)
