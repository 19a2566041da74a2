import math

import pytest
import torch

from dcgan_inpaint.inpainting.module import Objective
from dcgan_inpaint.losses import (
    context_loss,
    discriminator_losses,
    generator_loss,
    gradient_penalty,
    hole_loss,
    prior_loss,
    yeh_weights,
)


def test_gan_losses_match_a_manual_computation():
    real, fake = torch.tensor([0.0, 2.0]), torch.tensor([0.0, -1.0])
    loss_real, loss_fake = discriminator_losses(real, fake)
    assert loss_real.item() == pytest.approx((math.log(2) + math.log(1 + math.exp(-2))) / 2)
    assert loss_fake.item() == pytest.approx((math.log(2) + math.log(1 + math.exp(-1))) / 2)
    assert generator_loss(fake).item() == pytest.approx((math.log(2) + math.log(1 + math.e)) / 2)


def test_hole_loss_is_the_mean_square_over_the_hole():
    fake = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]]).repeat(2, 1, 1, 1)  # (2, 2, 1, 2)
    images = torch.tensor([[[[0.0, 0.0]], [[1.0, 1.0]]]]).repeat(2, 1, 1, 1)
    mask = torch.tensor([[[[1.0, 0.0]]], [[[1.0, 1.0]]]])
    # The hole of the first image is its right pixel, (2² + 3²) / 2; the second has no hole.
    assert hole_loss(fake, images, mask).tolist() == [6.5, 0]


def test_losses_are_finite_for_extreme_logits():
    logits = torch.tensor([-1e4, 1e4])
    assert discriminator_losses(logits, logits)[0].item() == pytest.approx(5000)
    assert prior_loss(logits).tolist() == [1e4, 0]
    assert prior_loss(logits, saturating=True).tolist() == [0, -1e4]


def test_saturating_prior_is_log_one_minus_d():
    logit = torch.tensor([0.3])
    d = torch.sigmoid(logit)
    torch.testing.assert_close(prior_loss(logit, saturating=True), torch.log(1 - d))
    torch.testing.assert_close(prior_loss(logit), -torch.log(d))


def test_context_loss_is_a_weighted_sum_per_image():
    fake, images = torch.zeros(2, 3, 2, 2), torch.ones(2, 3, 2, 2)
    weights = torch.tensor([[1.0, 0.0], [0.5, 0.0]]).expand(2, 1, 2, 2).clone()
    weights[1] = 0
    assert context_loss(fake, images, weights).tolist() == [4.5, 0]  # 3 channels x (1 + 0.5)


def test_l2_context_loss_matches_a_manual_computation():
    fake, images = torch.full((1, 3, 2, 2), -0.5), torch.ones(1, 3, 2, 2)
    weights = torch.tensor([[1.0, 0.0], [0.5, 0.0]])[None, None]
    assert context_loss(fake, images, weights, "l2").item() == 3 * 1.5 * 1.5**2


def test_yeh_weights_are_the_missing_share_of_the_window():
    mask = torch.ones(1, 1, 9, 9)
    mask[0, 0, 4, 4] = 0
    weights = yeh_weights(mask)[0, 0]
    assert weights[4, 4] == 0  # the hole itself
    assert weights[0, 4] == 0  # 4 rows away: outside the 7x7 window
    assert weights[4, 3].item() == pytest.approx(1 / 49)  # the window is inside the image
    assert weights[1, 1].item() == pytest.approx(1 / 25)  # rows and columns 0..4 of the window
    assert weights[1, 4].item() == pytest.approx(1 / 35)  # rows 0..4, columns 1..7


def test_yeh_weights_increase_toward_the_hole():
    mask = torch.ones(1, 1, 32, 32)
    mask[:, :, 8:24, 8:24] = 0
    row = yeh_weights(mask)[0, 0, 16, :8]  # from the border to the hole
    assert row.tolist() == sorted(row.tolist())
    assert row[-1].item() == pytest.approx(3 / 7)  # 3 of the 7 columns are missing
    assert not row[:5].any()


def test_floor_is_the_minimum_weight_of_known_pixels():
    mask = torch.ones(1, 1, 32, 32)
    mask[:, :, 8:24, 8:24] = 0
    weights = Objective(weighting="window", floor=0.1).weights(mask)
    assert weights[0, 0, 16, 7].item() == pytest.approx(3 / 7)
    assert weights[0, 0, 0, 0].item() == pytest.approx(0.1)
    assert not weights[mask == 0].any()


def test_objective_uses_its_weighting_window_and_prior():
    mask = torch.ones(1, 1, 9, 9)
    mask[0, 0, 4, 4] = 0
    assert torch.equal(Objective(weighting="mask").weights(mask), mask)
    assert torch.equal(Objective(weighting="window", window=3).weights(mask), yeh_weights(mask, 3))
    logits, images = torch.tensor([0.7]), torch.zeros(1, 1, 9, 9)
    _, prior, _ = Objective(saturating=True).losses(images, images, mask, logits)
    assert torch.equal(prior, prior_loss(logits, True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lam": -0.1}, "lam=-0.1: should be greater than or equal to 0"),
        ({"weighting": "both"}, "weighting=both"),
        ({"window": 4}, "window=4: should be an odd number"),
        ({"floor": 1.5}, "floor=1.5"),
    ],
)
def test_objective_rejects_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        Objective(**arguments)


def test_gradient_penalty_of_a_linear_discriminator():
    """Its gradient is equal to its weights everywhere."""
    weights = torch.tensor([1.0, -2.0, 3.0, 0.5]).view(1, 1, 2, 2)
    penalty = gradient_penalty(lambda x: (weights * x).sum((1, 2, 3)), torch.rand(5, 1, 2, 2))
    assert penalty.item() == pytest.approx((1 + 4 + 9 + 0.25) / 2)
