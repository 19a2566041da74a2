"""Augmentation of training images."""

import torch

from dcgan_inpaint.data.augmentation import MAX_LIGHT, MAX_SHIFT, MAX_TEMPERATURE, augment

INDEX = torch.arange(40)


def disc_images(size=32):
    """A bright disc at the center of a dark image, once for each index."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    inside = (y - size / 2 + 0.5).square() + (x - size / 2 + 0.5).square() < (size / 4) ** 2
    return (inside.float() - 0.5).expand(len(INDEX), 3, size, size).contiguous()


def test_augment_changes_a_share_and_leaves_the_other_images_unchanged():
    images = disc_images()
    assert torch.equal(augment(images, INDEX, 0, 0.0)[0], images)
    for share, low, high in ((0.5, 10, 30), (1.0, 40, 40)):
        augmented = augment(images, INDEX, 0, share)[0]
        changed = (augmented != images).flatten(1).any(1).sum()
        assert low <= changed <= high
        assert augmented.abs().max() <= 1


def test_augment_depends_on_seed_and_index_only():
    images = disc_images()
    augmented = augment(images, INDEX, 0, 1.0)[0]
    assert torch.equal(augment(images[7:9], INDEX[7:9], 0, 1.0)[0], augmented[7:9])
    assert not torch.equal(augment(images, INDEX, 1, 1.0)[0], augmented)


def test_augment_is_equally_precise_under_autocast():
    images = disc_images()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        augmented = augment(images, INDEX, 0, 1.0)[0]
    assert torch.equal(augmented, augment(images, INDEX, 0, 1.0)[0])


def test_augment_changes_only_the_light_of_uniform_images():
    flat = torch.full((len(INDEX), 1, 16, 16), 0.4)
    light = augment(flat, INDEX, 0, 1.0)[0]
    assert (light.amax((1, 2, 3)) - light.amin((1, 2, 3))).max() < 1e-5
    assert (light - 0.4).abs().max() <= MAX_LIGHT + 0.4 * MAX_LIGHT
    assert light[:, 0, 0, 0].std() > 0.1


def test_augment_shifts_and_scales_within_the_limits():
    augmented = augment(disc_images(), INDEX, 0, 1.0)[0][:, 0]
    bright = augmented > augmented.flatten(1).mean(1)[:, None, None]  # (B, S, S)
    middle = torch.arange(32) - 15.5
    x = (bright.sum(1) * middle).sum(1) / bright.sum((1, 2))  # (B,) center of the disc in px
    assert x.abs().max() < MAX_SHIFT * 32 + 1
    assert x.std() > 0.5
    areas = bright.sum((1, 2)) / bright.sum((1, 2)).float().mean()
    assert 0.7 < areas.min() < 0.95 and 1.05 < areas.max() < 1.4


def test_augment_changes_the_color_temperature():
    """Red and blue change in opposite directions, as the light gets warmer or colder."""
    gray = torch.zeros(len(INDEX), 3, 4, 4)  # 0.5 of white
    color = augment(gray, INDEX, 0, 1.0)[0][:, :, 0, 0]  # (B, 3)
    warmth, coldness = color[:, 0] - color[:, 1], color[:, 2] - color[:, 1]
    torch.testing.assert_close(warmth, -coldness, rtol=0, atol=1e-6)
    assert warmth.min() < -0.05 and warmth.max() > 0.05
    assert warmth.abs().max() <= MAX_TEMPERATURE * (1 + MAX_LIGHT)


def test_augment_moves_the_known_pixels_with_the_images():
    """Known pixels of a constant image keep its color: nothing leaks in from the unknown ones."""
    valid = torch.zeros(len(INDEX), 1, 32, 32)
    valid[:, :, 8:, 4:24] = 1
    images, moved = augment(0.5 * valid.expand(-1, 3, -1, -1), INDEX, 0, 1.0, valid)
    assert set(moved.unique().tolist()) == {0, 1}
    assert not torch.equal(moved, valid)
    assert (images * (1 - moved) == 0).all()
    counts = moved.sum((1, 2, 3))
    assert (counts > 0.6 * 480).all() and (counts < 1.3 * 480).all()
    for image, known in zip(images, moved[:, 0] == 1, strict=True):
        colors = image[:, known]  # (3, known pixels)
        assert (colors.amax(1) - colors.amin(1)).max() < 5e-3


def test_augment_without_a_change_leaves_the_known_pixels():
    valid = torch.ones(len(INDEX), 1, 32, 32)
    images, moved = augment(disc_images(), INDEX, 0, 0.0, valid)
    assert torch.equal(images, disc_images())
    assert torch.equal(moved, valid)
    assert torch.equal(augment(disc_images(), INDEX, 0, 1.0)[1], valid)  # all are known
