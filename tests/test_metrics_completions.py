import math

import numpy as np
import pytest
import torch
from PIL import Image

from dcgan_inpaint.blending import paste
from dcgan_inpaint.images import make_grid, save_gif, to_pil, to_uint8
from dcgan_inpaint.metrics.completions import mean_interval, psnr, ssim


def test_psnr_matches_a_manual_computation():
    truth = torch.zeros(2, 3, 4, 4)
    off = truth.clone()
    off[0] += 0.2  # mse 0.04, peak² 4
    off[1, :, 0, 0] += 2  # one of 16 pixels by the full range: mse 4 / 16
    assert psnr(off, truth).tolist() == pytest.approx([20, 10 * math.log10(16)])
    where = torch.zeros(2, 1, 4, 4)
    where[:, :, 0, :2] = 1
    assert psnr(off, truth, where).tolist() == pytest.approx([20, 10 * math.log10(2)])


def test_psnr_over_a_quarter_is_6_db_lower_than_over_the_image():
    truth = torch.rand(1, 3, 64, 64) * 2 - 1
    hole = torch.zeros(1, 1, 64, 64)
    hole[:, :, 16:48, 16:48] = 1
    completion = paste(torch.rand(1, 3, 64, 64) * 2 - 1, truth, 1 - hole)
    difference = psnr(completion, truth) - psnr(completion, truth, hole)
    assert difference.item() == pytest.approx(10 * math.log10(4), abs=1e-4)


def test_metrics_of_equal_images_and_of_empty_holes():
    x = torch.rand(1, 3, 16, 16)
    assert psnr(x, x).item() == math.inf
    assert ssim(x, x).item() == pytest.approx(1)
    assert psnr(x, x, torch.zeros(1, 1, 16, 16)).isnan()
    assert ssim(x, x, torch.zeros(1, 1, 16, 16)).isnan()


def test_ssim_of_constant_images_is_the_luminance_term():
    """Wang 2004, eq. 6.  Luminance is relative to black, not to the middle gray of [-1, 1]."""
    a, b = torch.full((1, 1, 16, 16), 0.5), torch.full((1, 1, 16, 16), -0.25)
    c1 = 0.01**2
    expected = (2 * 0.75 * 0.375 + c1) / (0.75**2 + 0.375**2 + c1)
    assert ssim(b, a).item() == pytest.approx(expected, rel=3e-4)


def test_ssim_is_averaged_over_the_hole_only():
    truth = torch.rand(1, 3, 64, 64) * 2 - 1
    hole = torch.zeros(1, 1, 64, 64)
    hole[:, :, :, :32] = 1
    worse = paste(truth.flip(0).roll(5, 3), truth, 1 - hole)
    assert ssim(worse, truth, hole) < 0.3
    assert ssim(worse, truth, hole) < ssim(worse, truth) < ssim(worse, truth, 1 - hole)


def test_paste_leaves_known_pixels_bitwise_equal():
    images, fake = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    mask = (torch.rand(2, 1, 4, 4) > 0.5).float()
    out = paste(fake, images, mask)
    assert torch.equal(out, torch.where(mask.expand_as(images) == 1, images, fake))
    fake[:] = math.nan
    assert torch.equal(paste(fake, images, torch.ones(2, 1, 4, 4)), images)


def test_images_grids_and_gifs(tmp_path):
    images = torch.tensor([-1.0, 0.0, 1.0, 2.0]).view(4, 1, 1, 1).expand(4, 3, 4, 4)
    assert to_uint8(images)[:, 0, 0, 0].tolist() == [0, 128, 255, 255]
    assert to_pil(torch.zeros(1, 4, 4)).mode == "L"
    array = np.asarray(make_grid(images, columns=2))
    assert array.shape == (2 * 4 + 3 * 2, 2 * 4 + 3 * 2, 3)
    assert (array[0] == 255).all()  # white border
    assert (array[2:6, 2:6] == 0).all()
    save_gif([to_pil(p) for p in images[:3]], tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 3


def test_an_incomplete_grid_is_filled_with_white():
    """uint8 levels are unchanged, and a single image has a border."""
    images = torch.arange(11, dtype=torch.uint8).view(11, 1, 1, 1).expand(11, 1, 4, 4)
    array = np.asarray(make_grid(images))
    assert array.shape == (2 * 6 + 2, 8 * 6 + 2, 3)
    assert (array[8:12, 2 * 6 + 2 : 2 * 6 + 6] == 10).all()
    assert (array[6 + 2 :, 3 * 6 + 2 :] == 255).all()
    assert np.asarray(make_grid(images[:1])).shape == (8, 8, 3)


def test_one_value_has_no_interval():
    mean, low, high = mean_interval(torch.tensor([3.0]))
    assert mean == 3 and math.isnan(low) and math.isnan(high)


def test_mean_interval_agrees_with_the_central_limit_theorem():
    assert mean_interval(torch.full((5,), 3.0)) == (3.0, 3.0, 3.0)
    values = torch.randn(400, generator=torch.Generator().manual_seed(1)) * 2 + 7
    mean, low, high = mean_interval(values)
    assert mean == pytest.approx(float(values.mean()), abs=1e-5)
    error = 1.96 * float(values.std()) / 20  # of the mean
    assert mean - low == pytest.approx(error, rel=0.1)
    assert high - mean == pytest.approx(error, rel=0.1)
    assert mean_interval(values) == (mean, low, high)
