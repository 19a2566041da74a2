import torch

from dcgan_inpaint.data.augmentation import LIGHT, changed

INDEX = torch.arange(40)


def pictures(size=32):
    """A bright disc at the center of a dark image, 40 times."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    inside = (y - size / 2 + 0.5).square() + (x - size / 2 + 0.5).square() < (size / 4) ** 2
    return (inside.float() - 0.5).expand(len(INDEX), 3, size, size).contiguous()


def test_a_share_is_changed_and_the_rest_is_as_it_was():
    images = pictures()
    assert torch.equal(changed(images, INDEX, 0, 0.0), images)
    for share, low, high in ((0.5, 10, 30), (1.0, 40, 40)):
        made = changed(images, INDEX, 0, share)
        different = (made != images).flatten(1).any(1).sum()
        assert low <= different <= high
        assert made.abs().max() <= 1


def test_a_image_and_its_number_decide():
    images = pictures()
    made = changed(images, INDEX, 0, 1.0)
    assert torch.equal(changed(images[7:9], INDEX[7:9], 0, 1.0), made[7:9])
    assert not torch.equal(changed(images, INDEX, 1, 1.0), made)


def test_places_are_as_exact_in_bf16():
    images = pictures()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = changed(images, INDEX, 0, 1.0)
    assert torch.equal(made, changed(images, INDEX, 0, 1.0))


def test_light_and_place_are_changed_within_bounds():
    """Of a flat image only the light; a disc's center stays within the shift."""
    flat = torch.full((len(INDEX), 1, 16, 16), 0.4)
    light = changed(flat, INDEX, 0, 1.0)
    assert (light.amax((1, 2, 3)) - light.amin((1, 2, 3))).max() < 1e-5
    assert (light - 0.4).abs().max() <= LIGHT + 0.4 * LIGHT
    assert light[:, 0, 0, 0].std() > 0.1
    made = changed(pictures(), INDEX, 0, 1.0)[:, 0]
    bright = made > made.flatten(1).mean(1)[:, None, None]  # (B, S, S)
    middle = torch.arange(32) - 15.5
    x = (bright.sum(1) * middle).sum(1) / bright.sum((1, 2))  # (B,) px
    assert x.abs().max() < 0.08 * 32 + 1
    assert x.std() > 0.5
    areas = bright.sum((1, 2)) / bright.sum((1, 2)).float().mean()
    assert 0.7 < areas.min() < 0.95 and 1.05 < areas.max() < 1.4
