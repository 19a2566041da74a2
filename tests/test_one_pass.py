import copy
from functools import partial

import pytest
import torch
from safetensors import safe_open
from torch.utils.data import DataLoader
from training import moved_since, quiet_trainer, without_update

from dcgan_inpaint.blending import paste
from dcgan_inpaint.inpainting.baselines import BaselineModule
from dcgan_inpaint.inpainting.module import InpaintingModule, Objective
from dcgan_inpaint.inpainting.search import SearchSettings, Stage
from dcgan_inpaint.inpainting.solvers import Adam
from dcgan_inpaint.losses import discriminator_losses, feature_matching, generator_loss
from dcgan_inpaint.masks import masks
from dcgan_inpaint.models import one_pass
from dcgan_inpaint.models.checkpoint import load_model, save_weights
from dcgan_inpaint.models.dcgan import DCGAN
from dcgan_inpaint.models.efficientnet import feature_distance, load_efficientnet
from dcgan_inpaint.models.networks import freeze
from dcgan_inpaint.models.one_pass import OnePass
from dcgan_inpaint.models.unet import UNetwork
from dcgan_inpaint.randomness import normal

SIZE = {"image_size": 16}
MASK = partial(masks.random, seed=0, missing=0.5)
CONTEXT = {"network": "context_encoder", "code_dim": 6, "gf_dim": 2, "df_dim": 2, **SIZE}
PATHAK = CONTEXT | {"hole_l2": 0.999, "adversarial": 0.001, "lr": 2e-3, "schedule": "constant"}
UNET = {"network": "unet", "gf_dim": 2, "known": 1.0, "hole": 1.0, **SIZE}
ONE_PASS = {
    "known": 1.0,
    "hole": 1.0,
    "adversarial": 0.1,
    "feature_matching": 1.0,
    "conditional": True,
    "r1": 1.0,
}


def random_batches(count, size=4):
    generator = torch.Generator().manual_seed(0)
    return [
        {"image": torch.rand(size, 3, 16, 16, generator=generator) * 2 - 1} for _ in range(count)
    ]


def small_gan():
    torch.manual_seed(1)
    gan = DCGAN(**SIZE, z_dim=5, gf_dim=4, df_dim=2, layers=2)
    with torch.no_grad():
        for _ in range(3):  # moving statistics that are not those of a new network
            gan.ema_generator.train()(torch.rand(16, 5))
        for norm in gan.ema_generator.norms:
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_()
    gan.ema_generator.eval()
    return gan


def small_model(settings, seed=0, **changes):
    torch.manual_seed(seed)
    return OnePass(**{"mask": MASK} | settings | changes)


def tuned_gan(**changes):
    """A model that starts from a GAN; its maps are 4 and 8 px, as those of two layers."""
    settings = {
        "network": "encoder_generator",
        "code_dim": 6,
        "df_dim": 2,
        "layers": 2,
        "skips": True,
    }
    return small_model(settings | SIZE | ONE_PASS, gan=small_gan(), **changes)


def train(model, data, ckpt_path=None, **settings):
    trainer = quiet_trainer(**settings)
    trainer.fit(model, DataLoader(data, batch_size=None), ckpt_path=ckpt_path)
    return trainer


def some_masks(images):
    mask = MASK(torch.arange(len(images)), 16)
    return images * mask, mask


@pytest.mark.parametrize("settings", [PATHAK, PATHAK | {"skips": True, "layers": 2}, UNET])
def test_frozen_network_computes_the_same_function(settings):
    model = small_model(settings)
    train(model, random_batches(3))
    known, mask = some_masks(random_batches(1)[0]["image"])
    expected = model.network.eval()(known, mask)
    torch.testing.assert_close(freeze(model.network)(known, mask), expected)


def test_frozen_network_that_starts_from_a_gan_computes_the_same_function():
    """Offset and skips are added before BatchNorms, whose scale is folded into both."""
    model = tuned_gan()
    for layer in [model.network.offset, *model.network.skips]:
        torch.nn.init.normal_(layer.weight)
        torch.nn.init.normal_(layer.bias)
    known, mask = some_masks(random_batches(1)[0]["image"])
    expected = model.network.eval()(known, mask)
    torch.testing.assert_close(freeze(model.network)(known, mask), expected)


def test_untrained_network_generates_images_of_its_gan():
    model = tuned_gan()
    known, mask = some_masks(random_batches(1)[0]["image"])
    network = model.network.eval()
    z = network.encode(known, mask).z
    assert z.abs().max() <= 1
    torch.testing.assert_close(network(known, mask), model.gan.ema_generator(z))


def test_discriminator_starts_as_that_of_the_gan_and_ignores_the_mask():
    model = tuned_gan()
    images = random_batches(1)[0]["image"]
    _, mask = some_masks(images)
    expected = model.gan.discriminator.eval()(images)
    torch.testing.assert_close(model.discriminator.eval()(torch.cat([images, mask], 1)), expected)


def test_training_moves_the_network_and_its_discriminator_but_not_the_gan():
    model = tuned_gan()
    before = copy.deepcopy(model.state_dict())
    train(model, random_batches(2))
    assert moved_since(before, model) == {"network", "ema_network", "discriminator"}
    for name, value in model.state_dict().items():
        if name.startswith("gan.") or ".decoder.norms." in name and "running" in name:
            assert torch.equal(value, before[name]), name
    moved = {
        name
        for name, value in model.network.named_parameters()
        if not torch.equal(value, before[f"network.{name}"])
    }
    assert {name.split(".")[0] for name in moved} >= {"encoder", "decoder", "skips", "offset"}
    assert model.iteration == 2


def test_frozen_layers_stay_those_of_the_gan_and_are_stored_once(tmp_path):
    model = tuned_gan(frozen_layers=2)
    train(model, random_batches(2))
    decoder, of_gan = model.network.decoder, model.gan.ema_generator
    for name, value in of_gan.state_dict().items():
        frozen = name.startswith(("project", "norms.0", "deconvs.0")) or "running" in name
        assert torch.equal(decoder.state_dict()[name], value) or not frozen, name
    assert not torch.equal(decoder.deconvs[1].weight, of_gan.deconvs[1].weight)
    save_weights(model, tmp_path / "weights.safetensors", averaged=True)
    with safe_open(tmp_path / "weights.safetensors", "pt") as file:
        stored = {name for name in list(file.keys()) if name.startswith("ema_network.decoder")}
    assert "ema_network.decoder.project.weight" not in stored
    assert "ema_network.decoder.deconvs.1.weight" in stored
    loaded = load_model(tmp_path / "weights.safetensors")
    half = of_gan.deconvs[0].weight.half().float()
    assert torch.equal(loaded.network.decoder.deconvs[0].weight, half)


def test_step_sizes_decay_to_zero_from_lr_and_from_its_share():
    model = tuned_gan(generator_lr=0.25, lr=0.01)
    trainer = train(model, random_batches(4))
    new, tuned = trainer.optimizers[0].param_groups
    assert new["lr"] == pytest.approx(0.01 * (2 - 2**0.5) / 4)  # (1 + cos(3/4 pi)) / 2
    assert tuned["lr"] == pytest.approx(new["lr"] / 4)


def captured_loss(model, batch):
    """The loss of a training step without updates."""
    model.trainer = quiet_trainer()
    model.log = lambda *_, **__: None
    model.update_network = without_update
    model._update_network = partial(without_update, 0)
    model.on_fit_start()
    return model.training_step(batch, 0)


def test_loss_is_the_weighted_sum_of_its_terms():
    weights = {"known": 2.0, "hole": 3.0, "adversarial": 0.5, "feature_matching": 0.7, "r1": 0.0}
    model, batch = tuned_gan(**weights), random_batches(1)[0]
    images = batch["image"]
    known, mask = some_masks(images)
    plain = copy.deepcopy(model)
    fake = plain.network(known, mask)
    difference = (fake - images).abs()
    seen = [torch.cat([x, mask], 1) for x in (torch.where(mask == 0, fake, images), images)]
    discriminator = copy.deepcopy(plain.discriminator)
    logits, maps = discriminator.with_maps(seen[0])
    _, targets = discriminator.with_maps(seen[1])
    expected = (
        2 * (difference * mask).mean()
        + 3 * (difference * (1 - mask)).mean()
        + 0.5 * generator_loss(logits)
        + 0.7 * feature_matching(maps, targets)
    )
    torch.testing.assert_close(captured_loss(model, batch), expected.detach())


def test_feature_matching_is_the_mean_over_layers_of_the_mean_absolute_difference():
    maps = [torch.zeros(1, 2, 2, 2), torch.zeros(1, 1, 4, 4)]
    targets = [torch.full((1, 2, 2, 2), 3.0), torch.full((1, 1, 4, 4), -1.0)]
    assert feature_matching(maps, targets) == 2


def test_pixels_that_are_not_valid_have_no_effect():
    """Their values change neither the input of the network nor a term of the loss."""
    batch = random_batches(1)[0]
    valid = torch.ones(4, 1, 16, 16)
    valid[:, :, :5] = 0
    losses = []
    for value in (-1.0, 0.3):
        images = torch.where(valid == 0, torch.tensor(value), batch["image"])
        losses.append(captured_loss(tuned_gan(), {"image": images, "valid": valid}))
    torch.testing.assert_close(*losses)
    everything = captured_loss(tuned_gan(), batch)
    assert (everything - losses[0]).abs() > 1e-3


def test_training_of_a_context_encoder_matches_a_plain_loop():
    """The loop writes out the losses of Pathak 2016, eq. 1 to 3."""
    data = random_batches(2)
    model, plain = small_model(PATHAK), small_model(PATHAK)
    train(model, data)
    plain.train()
    d = torch.optim.Adam(plain.discriminator.parameters(), 2e-4, betas=(0.5, 0.999))
    g = torch.optim.Adam(plain.network.parameters(), 2e-3, betas=(0.5, 0.999))

    def step(optimizer, loss):
        plain.zero_grad()
        loss.backward()
        optimizer.step()

    for t, batch in enumerate(data):
        images = batch["image"]
        mask = MASK(torch.arange(4) + 4 * t, 16)
        fake = plain.network(images * mask, mask)
        logits = plain.discriminator(images), plain.discriminator(fake.detach())
        step(d, sum(discriminator_losses(*logits)))
        adversarial = generator_loss(plain.discriminator(fake))
        errors = [
            (image - completion)[(hole == 0).expand(3, -1, -1)].square().mean()
            for image, completion, hole in zip(images, fake, mask, strict=True)
        ]
        step(g, 0.999 * sum(errors) / 4 + 0.001 * adversarial)
    before_norm = ("code.bias", "project.bias", "deconvs.0.bias")  # their gradient is rounding
    for name, value in model.network.named_parameters():
        if not name.endswith((*before_norm, "convs.1.bias", "convs.2.bias", "convs.3.bias")):
            other = plain.network.get_parameter(name)
            torch.testing.assert_close(value, other, rtol=1e-3, atol=5e-4, msg=name)


def test_loss_of_a_unet_is_the_mean_absolute_error_without_a_discriminator():
    model, batch = small_model(UNET), random_batches(1)[0]
    known, mask = some_masks(batch["image"])
    expected = (small_model(UNET).network(known, mask) - batch["image"]).abs().mean()
    torch.testing.assert_close(captured_loss(model, batch), expected.detach())
    assert not hasattr(model, "discriminator")


def test_training_learns_to_continue_flat_colors():
    colors = torch.rand(32, 3, 1, 1, generator=torch.Generator().manual_seed(1)) * 1.6 - 0.8
    images = colors.expand(-1, -1, 16, 16)
    model = small_model(UNET, gf_dim=8, ema_decay=0.5, lr=0.01)
    mask = MASK(100 + torch.arange(32), 16)
    untrained = (model.fill()(images * mask, mask) - images).abs().mean()
    train(model, [{"image": images}], max_epochs=200)
    assert (model.fill()(images * mask, mask) - images).abs().mean() < untrained / 4


@pytest.mark.parametrize("size", [16, 64])
def test_unet_doubles_its_width_at_each_halving_with_a_skip_at_every_resolution(size):
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


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize(
    "make", [tuned_gan, partial(small_model, PATHAK), partial(small_model, UNET)]
)
def test_checkpoint_restores_settings_and_networks(make, averaged, tmp_path):
    model = make()
    train(model, random_batches(1))
    save_weights(model, tmp_path / "weights.safetensors", averaged=averaged)
    loaded = load_model(tmp_path / "weights.safetensors")
    assert type(loaded) is OnePass
    assert loaded.settings == model.settings
    known, mask = some_masks(random_batches(1)[0]["image"])
    tolerance = {"rtol": 0.02, "atol": 0.01} if averaged else {}
    torch.testing.assert_close(loaded.fill()(known, mask), model.fill()(known, mask), **tolerance)
    with pytest.raises(ValueError, match="one-pass network needs masks"):
        loaded.check()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (UNET | {"skips": True}, "model.skips=true: model/network=unet does not have it"),
        (UNET | {"known": 0.0, "hole": 0.0}, "loss: all weights are 0"),
        (CONTEXT | ONE_PASS | {"network": "encoder_generator"}, "model.gan=null: is required by"),
        (
            PATHAK | {"skips": True, "layers": 3},
            "model.skips=true: the encoder has 3 maps and the generator",
        ),
    ],
)
def test_settings_that_do_not_fit_are_one_line(settings, message):
    settings = {name: value for name, value in settings.items() if name != "gf_dim"}
    with pytest.raises(ValueError, match=message):
        small_model(settings)


def test_completed_image_equals_the_baseline_module():
    model = small_model(PATHAK)
    images = random_batches(1)[0]["image"]
    module = BaselineModule(model.fill(), MASK, paste, model.image_shape)
    done = module.predict_step({"image": images, "index": torch.arange(4)})
    known, mask = some_masks(images)
    expected = torch.where(mask == 0, model.ema_network(known, mask), images)
    torch.testing.assert_close(done.completion, expected)


def trained_gan_network():
    """A network whose offset and skips are not zero, and whose images depend on z."""
    model = tuned_gan()
    for layer in [model.ema_network.decoder.project, *model.ema_network.decoder.deconvs]:
        torch.nn.init.normal_(layer.weight, std=0.15)
    for layer in [model.ema_network.offset, *model.ema_network.skips]:
        torch.nn.init.normal_(layer.weight, std=0.1)
        torch.nn.init.normal_(layer.bias, std=0.1)
    return model


def search_from(model, iterations=0, stages=(), **settings):
    settings = {"select": "sample"} | settings
    return InpaintingModule(
        model.gan,
        MASK,
        Objective(),
        Adam(iterations),
        paste,
        encoder=model.latent_encoder(),
        stages=stages,
        settings=SearchSettings(**settings),
    )


def test_search_of_no_iterations_equals_the_one_pass():
    model, images = trained_gan_network(), random_batches(1)[0]["image"]
    batch = {"image": images, "index": torch.arange(4)}
    one_pass = BaselineModule(model.fill(), MASK, paste, model.image_shape).predict_step(batch)
    for settings in ({}, {"candidates": 3}):
        searched = search_from(model, **settings).predict_step(batch)
        torch.testing.assert_close(searched.completion, one_pass.completion)


def test_completion_is_the_mean_for_the_image_and_its_mirror_image():
    model, images = trained_gan_network(), random_batches(1)[0]["image"]
    known, mask = some_masks(images)
    with torch.no_grad():
        single = model.ema_network(known, mask)
        mirrored = model.ema_network(known.flip(3), mask.flip(3)).flip(3)
    assert (single - mirrored).abs().mean() > 0.01
    torch.testing.assert_close(model.fill()(known, mask), (single + mirrored) / 2)
    mirror_image = model.fill()(known.flip(3), mask.flip(3)).flip(3)
    torch.testing.assert_close(model.fill()(known, mask), mirror_image)


def test_every_sample_is_the_mean_for_the_image_and_its_mirror_image():
    model, images = trained_gan_network(), random_batches(1)[0]["image"]
    torch.nn.init.normal_(model.ema_network.directions)
    images = torch.cat([images, images.flip(3)])
    index = torch.zeros(len(images), dtype=torch.int64)  # the same noise for all
    module = search_from(model, candidates=3)
    module.mask, module.blend = lambda index, size: masks.center(index, size, 0.25), paste
    fakes = module.predict_step({"image": images, "index": index}).fakes
    original, mirrored = fakes.chunk(2)  # (4, 3, C, S, S) each
    torch.testing.assert_close(mirrored.flip(-1), original)


def test_samples_share_the_skips_and_differ_in_their_code():
    model, images = trained_gan_network(), random_batches(1)[0]["image"]
    torch.nn.init.normal_(model.ema_network.directions)
    done = search_from(model, candidates=4).predict_step(
        {"image": images, "index": torch.arange(4)}
    )
    assert done.candidates.shape == (4, 4, 3, 16, 16)
    assert done.candidates.std(1).mean() > 1e-3
    again = search_from(model, candidates=2).predict_step(
        {"image": images, "index": torch.arange(4)}
    )
    torch.testing.assert_close(again.candidates, done.candidates[:, :2])
    assert done.predicted_error.shape == (4, 1, 16, 16)


def test_codes_of_samples_differ_like_the_codes_of_images():
    """The noise has the covariance of codes of images with the same mask."""
    model, images = trained_gan_network(), random_batches(1, 64)[0]["image"]
    mask, network = masks.center(torch.arange(64), 16, 0.25), model.ema_network
    network.measure_directions(images, mask)
    with torch.no_grad():
        codes = network.encoder(images * mask, mask)  # (64, code_dim)
    difference = codes - codes.roll(1, 0)
    covariance = difference.T @ difference / (2 * 64)
    torch.testing.assert_close(network.directions.T @ network.directions, covariance)
    noise = normal("noise", 0, torch.arange(64), network.noise_dim)
    z = network.encode(images * mask, mask, noise).z
    moved = codes + noise @ network.directions
    torch.testing.assert_close(z, network.bound(network.head(moved)))


def test_search_from_the_network_lowers_the_objective():
    model, images = trained_gan_network(), random_batches(1)[0]["image"]
    stage = Stage(1, Adam(5, lr=0.05, bound="none"))
    done = search_from(model, 5, [stage]).predict_step({"image": images, "index": torch.arange(4)})
    assert (done.trace[-1, :, 2] < done.trace[0, :, 2]).all()


def test_predicted_error_is_fitted_to_validation_images():
    model = trained_gan_network()
    model.calibrate(random_batches(1, 32)[0]["image"])
    assert not torch.equal(model.error_calibration, torch.tensor([[1.0, 0.0]] * 4))
    assert model.latent_encoder().error_calibration is not None


def test_fitted_error_does_not_depend_on_the_images_that_are_sampled_at_once(monkeypatch):
    model, images = trained_gan_network(), random_batches(1, 32)[0]["image"]
    fitted = []
    for size in (32, 5):
        monkeypatch.setattr(one_pass, "CALIBRATION_BATCH", size)
        model.calibrate(images)
        fitted.append(model.error_calibration.clone())
    torch.testing.assert_close(fitted[0], fitted[1])


def test_perceptual_term_is_the_feature_distance_of_the_completion():
    settings = UNET | {"image_size": 32, "known": 0.0, "hole": 0.0, "perceptual": 2.0}
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mask = MASK(torch.arange(2), 32)
    fake = small_model(settings).network(images * mask, mask)
    network = load_efficientnet("lite1", 32, "loss", side=64)
    completed = torch.where(mask == 0, fake, images)
    expected = 2 * feature_distance(network(completed), network(images)).mean()
    model = small_model(settings)
    torch.testing.assert_close(captured_loss(model, {"image": images}), expected.detach())
    assert not any("features" in name for name in model.state_dict())


def test_perceptual_term_of_small_images_is_refused_before_training():
    with pytest.raises(ValueError, match="model.perceptual=1.0: images of 16 px are too small"):
        small_model(UNET | {"perceptual": 1.0}).check()
