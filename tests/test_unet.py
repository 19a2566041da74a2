import copy
from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader
from training import moved_since, quiet_trainer

from dcgan_inpaint.masks import masks
from dcgan_inpaint.models.checkpoint import load_model, save_weights
from dcgan_inpaint.models.networks import freeze
from dcgan_inpaint.models.unet import UNet, UNetwork

MASK = partial(masks.random, seed=0, missing=0.5)


def small_unet(**settings):
    torch.manual_seed(0)
    return UNet(**{"image_size": 16, "gf_dim": 4, "mask": MASK} | settings)


def random_images(count=8):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def fit(model, images, epochs):
    loader = DataLoader([{"image": images}], batch_size=None)
    trainer = quiet_trainer(max_epochs=epochs)
    trainer.fit(model, loader)
    return trainer


@pytest.mark.parametrize("size", [16, 64])
def test_width_doubles_at_each_halving_with_a_skip_at_every_resolution(size):
    network = UNetwork(size, 3, 4)
    depth = size.bit_length() - 3
    assert [block.convs[1].out_channels for block in network.down] == [
        4 << i for i in range(depth + 1)
    ]
    assert [block.convs[0].in_channels for block in network.up] == [
        (4 << i) + (8 << i) for i in reversed(range(depth))
    ]
    known, mask = torch.rand(2, 3, size, size), torch.ones(2, 1, size, size)
    images = network(known, mask)
    assert images.shape == known.shape
    assert images.abs().max() <= 1


def test_frozen_network_computes_the_same_function():
    model = small_unet()
    fit(model, random_images(), 3)
    images = random_images(2)
    mask = MASK(torch.arange(2), 16)
    expected = model.network.eval()(images * mask, mask)
    torch.testing.assert_close(freeze(model.network)(images * mask, mask), expected)


def test_loss_is_the_mean_absolute_error():
    model, images = small_unet(), random_images()
    model.log = lambda *_, **__: None
    model.trainer = quiet_trainer()
    mask = MASK(torch.arange(8), 16)
    expected = (small_unet().network(images * mask, mask) - images).abs().mean()
    torch.testing.assert_close(model.training_step({"image": images}, 0), expected)


def test_step_size_decays_to_zero_and_the_average_is_updated():
    model = small_unet()
    before = copy.deepcopy(model)
    trainer = fit(model, random_images(), 4)
    assert moved_since(before.state_dict(), model) == {"network", "ema_network"}
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


def test_training_learns_to_continue_flat_colors():
    colors = torch.rand(32, 3, 1, 1, generator=torch.Generator().manual_seed(1)) * 1.6 - 0.8
    images = colors.expand(-1, -1, 16, 16)
    model = small_unet(gf_dim=8, ema_decay=0.5, lr=0.01)
    mask = MASK(100 + torch.arange(32), 16)
    untrained = (model.fill()(images * mask, mask) - images).abs().mean()
    fit(model, images, 200)
    assert (model.fill()(images * mask, mask) - images).abs().mean() < untrained / 4


def test_checkpoint_restores_settings_and_weights(tmp_path):
    model = small_unet()
    save_weights(model, tmp_path / "weights.safetensors")
    loaded = load_model(tmp_path / "weights.safetensors")
    assert type(loaded) is UNet
    assert loaded.settings == model.settings
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    with pytest.raises(ValueError, match="U-Net needs masks"):
        loaded.check()
