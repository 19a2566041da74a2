"""How wrong the mean of draws is, by how far they lie apart."""

import pytest
import torch

from dcgan_inpaint.masks import masks
from dcgan_inpaint.models.uncertainty import DEPTHS, depths, measured, own_doubt, predicted_error

AS_DRAWN = torch.tensor([[1.0, 0.0]] * DEPTHS)


def test_how_deep_holes_are():
    index = torch.arange(8)
    drawn = {
        0: masks.random(index, 64, seed=0, missing=0.8),
        1: masks.pattern(index, 64, seed=0, missing=0.25),
        2: masks.center(index, 64, scale=0.25),
        3: masks.half(index, 64, seed=0),
    }
    for depth, mask in drawn.items():
        assert depths(mask).tolist() == [depth] * 8
    assert depths(masks.full(index, 64)).tolist() == [0] * 8  # no hole at all
    one = masks.center(torch.arange(1), 16, scale=0.25)  # 8x8: the inner 6x6 are far, 56%
    assert depths(one).tolist() == [round(3 * 36 / 64)]


def made(error):
    """Two draws of 3 images of 16 px whose own doubt goes from 0 to 0.3, true images that are
    off their mean by error(own doubt), one way or the other, and the mask of a center hole."""
    own = torch.linspace(0, 0.3, 3 * 256).view(3, 1, 1, 16, 16).expand(-1, -1, 3, -1, -1)
    half = own / 1.5**0.5 / 2**0.5  # of two numbers 2 h apart the standard deviation is h √2
    draws = torch.cat([0.1 + half, 0.1 - half], 1)  # (3, 2, 3, 16, 16)
    sign = torch.tensor([1.0, -1.0]).repeat(8)  # (16,): from column to column
    mask = masks.center(torch.arange(3), 16, scale=0.25)  # of depth 2
    return draws, 0.1 + sign * error(own[:, 0]), mask


def test_own_doubt_by_hand():
    draws = torch.tensor([0.0, 0.2, 0.4]).view(1, 3, 1, 1, 1)
    torch.testing.assert_close(own_doubt(draws), torch.full((1, 1, 1, 1), 0.2 * (4 / 3) ** 0.5))


def test_a_line_is_found():
    draws, images, mask = made(lambda own: 0.5 * own + 0.06)
    doubt = measured(draws, images, mask, AS_DRAWN)
    torch.testing.assert_close(doubt[2], torch.tensor([0.5, 0.06]), rtol=0.01, atol=0)
    assert torch.equal(doubt[[0, 1, 3]], AS_DRAWN[[0, 1, 3]])  # there was no such hole
    error = (draws.mean(1) - images).abs().mean(1, keepdim=True)
    torch.testing.assert_close(
        predicted_error(draws, mask, doubt), error * (1 - mask), rtol=0.02, atol=0
    )


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (lambda own: 0.3 - own, lambda x, y: x == 0 < y),
        (lambda own: own**3, lambda x, y: y == 0 < x),
    ],
)
def test_neither_scale_nor_floor_is_negative(error, line):
    assert line(*measured(*made(error), AS_DRAWN)[2].tolist())


def test_each_depth_has_its_own_line():
    draws = made(torch.zeros_like)[0]
    mask = torch.cat(
        [masks.center(torch.arange(1), 16, 0.25), masks.half(torch.arange(2), 16, seed=0)]
    )
    doubt = torch.tensor([[9.0, 9], [9, 9], [0, 0.25], [2, 0.5]])
    error = predicted_error(draws, mask, doubt)
    assert error[0][mask[0] == 0].unique().tolist() == [0.25]
    hole = mask[1:] == 0
    torch.testing.assert_close(error[1:][hole], (2 * own_doubt(draws)[1:] + 0.5)[hole])
    assert (error[mask == 1] == 0).all()


def test_exact_draws_and_no_hole_are_no_fault():
    draws, images, mask = made(torch.zeros_like)
    same = images[:, None].expand(-1, 2, -1, -1, -1)
    doubt = measured(same, images, mask, AS_DRAWN)
    assert doubt.isfinite().all()
    assert predicted_error(same, mask, doubt).max() < 1e-5
    assert torch.equal(measured(draws, images, torch.ones_like(mask), AS_DRAWN), AS_DRAWN)
