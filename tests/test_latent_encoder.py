import math
from functools import partial

import pytest
import torch
from pytorch_lightning import Callback
from torch.utils.data import DataLoader
from training import quiet_trainer, small_dcgan, without_update

from dcgan_inpaint.data.augmentation import augment
from dcgan_inpaint.masks import masks
from dcgan_inpaint.models.base import Model
from dcgan_inpaint.models.checkpoint import load_gan, load_model, save_weights
from dcgan_inpaint.models.dcgan import DCGAN
from dcgan_inpaint.models.latent_encoder import LatentEncoder
from dcgan_inpaint.models.networks import freeze
from dcgan_inpaint.randomness import normal

SMALL = {"image_size": 16, "code_dim": 16, "df_dim": 4}


@pytest.fixture(scope="module")
def dcgan():
    return small_dcgan(z_dim=6).eval()


def small_encoder(dcgan, **settings):
    torch.manual_seed(1)
    mask = partial(masks.center, scale=0.25)
    return LatentEncoder(**{"gan": dcgan, "mask": mask} | SMALL | settings)


def generated(dcgan, count):
    """Images that G can generate."""
    with torch.no_grad():
        return dcgan(dcgan.latents(torch.arange(count), seed=7))


def fit(model, images, **settings):
    loader = DataLoader([{"image": images, "index": torch.arange(len(images))}], batch_size=None)
    quiet_trainer(**settings).fit(model, loader)


def one_step(model, images):
    """The loss of a training step without an update."""
    model.trainer = quiet_trainer()
    model.log = lambda *_, **__: None
    model.update_network = without_update
    model.on_fit_start()
    return model.training_step({"image": images}, 0)


def test_loss_matches_a_hand_calculation(dcgan):
    model, images = small_encoder(dcgan, whole=2.0, context=3.0, lam=0.5), generated(dcgan, 4)
    model.encoder.offset.bias.data.fill_(0.5)
    mask = masks.center(torch.arange(4), 16, 0.25)
    with torch.no_grad():
        loss = one_step(model, images)
        generator = freeze(dcgan.ema_generator)
        z, offset, _ = model.encoder.train().encode(images * mask, mask)
        fake = generator(generator.lift(z, 0, 1) + offset, level=1)
        distance = (fake - images).abs()
        logits = dcgan.discriminator(fake)
    context = (distance * mask).sum() / distance.numel()
    prior = torch.log1p(torch.exp(-logits)).mean()
    torch.testing.assert_close(loss, 2 * distance.mean() + 3 * context + 0.5 * prior)


def test_training_halves_the_error_and_leaves_the_gan_unchanged(dcgan):
    before = {name: value.clone() for name, value in dcgan.state_dict().items()}
    model, images = small_encoder(dcgan, lr=3e-3, ema_decay=0.0), generated(dcgan, 16)
    mask = masks.center(torch.arange(16), 16, 0.25)

    def error():
        with torch.no_grad():
            z, offset, _ = model.latent_encoder().encode(images * mask, mask)
            return (freeze(dcgan.ema_generator)(z, offset=offset) - images).abs().mean()

    start = error()
    fit(model, images, max_epochs=90)
    assert error() < 0.5 * start
    for name, value in dcgan.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_z_is_bounded_for_the_uniform_prior_only(dcgan):
    images, mask = generated(dcgan, 3), masks.center(torch.arange(3), 16, 0.25)
    network = small_encoder(dcgan).latent_encoder()
    z, offset, _ = network.encode(images * mask, mask)
    assert z.shape == (3, 6)
    assert z.abs().max() <= 1
    assert (offset == 0).all()  # before training
    torch.testing.assert_close(z[:1], network.encode((images * mask)[:1], mask[:1]).z)
    normal_prior = DCGAN(image_size=16, z_dim=6, gf_dim=4, df_dim=4, prior="normal")
    unbounded = small_encoder(normal_prior).encoder
    unbounded.head.bias.data.fill_(5.0)
    assert unbounded.eval().encode(images * mask, mask).z.max() > 1


def test_checkpoint_includes_the_gan(dcgan, tmp_path):
    model = small_encoder(dcgan)
    fit(model, generated(dcgan, 8), max_epochs=2)
    model.trainer.save_checkpoint(tmp_path / "encoder.ckpt")
    loaded = load_model(tmp_path / "encoder.ckpt", LatentEncoder)
    z = dcgan.latents(torch.arange(2))
    for gan in (loaded.gan, load_gan(tmp_path / "encoder.ckpt")):
        assert isinstance(gan, DCGAN)
        assert torch.equal(gan.eval()(z), dcgan(z))
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    with pytest.raises(ValueError, match="mask=null: a latent encoder needs masks"):
        fit(loaded, generated(dcgan, 8))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"whole": -1.0}, "whole=-1.0: should be greater than or equal to 0"),
        ({"ema_decay": 1.0}, "ema_decay=1.0"),
        ({"image_size": 32}, "Use data.image_size=16 data.channels=3"),
        ({"code_dim": 0}, "code_dim=0"),
        ({"gan_kind": "DCGAN"}, "gan_kind=DCGAN: unknown option"),
    ],
)
def test_invalid_settings_are_rejected(dcgan, settings, message):
    with pytest.raises(ValueError, match=message):
        small_encoder(dcgan, **settings)


def test_checkpoint_rebuilds_a_gan_of_another_registered_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(Model, "kinds", dict(Model.kinds))

    class Another(DCGAN):
        kind = "another GAN"

    model = small_encoder(Another(image_size=16, z_dim=6, gf_dim=2, df_dim=2))
    save_weights(model, tmp_path / "weights.safetensors")
    loaded = load_model(tmp_path / "weights.safetensors", LatentEncoder)
    assert type(loaded.gan) is Another


def test_samples_depend_on_their_noise_and_not_on_the_batch(dcgan):
    """The file of an encoder that samples, which is no longer trained, is completed as before."""
    encoder = small_encoder(dcgan, noise_dim=5).latent_encoder()
    images, mask = generated(dcgan, 3), masks.center(torch.arange(3), 16, 0.25)
    noise = normal("test", 0, torch.arange(3), 6 * 5).unflatten(1, (6, 5))  # (B, K, noise_dim)
    z = encoder.encode(images * mask, mask, noise.flatten(0, 1)).z.unflatten(0, (3, 6))
    first = encoder.encode((images * mask)[:1], mask[:1], noise[0]).z
    torch.testing.assert_close(first, z[0], rtol=0, atol=1e-5)
    other = encoder.encode(images * mask, mask, -noise.flatten(0, 1)).z.unflatten(0, (3, 6))
    assert (z - other).abs().mean() > 1e-3
    assert z.std(1).mean() > 1e-3


def test_training_of_an_encoder_that_samples_is_refused(dcgan):
    with pytest.raises(ValueError, match=r"noise_dim=5: .* no longer trained. Use model=one_pass"):
        small_encoder(dcgan, noise_dim=5).check()


def test_file_of_an_encoder_that_samples_stores_all_its_parts(dcgan, tmp_path):
    model = small_encoder(dcgan, noise_dim=5)
    model.reward[1], model.error_calibration[1, 1] = 1.25, 0.04
    save_weights(model, tmp_path / "weights.safetensors")
    loaded = load_model(tmp_path / "weights.safetensors", LatentEncoder)
    assert loaded.settings.noise_dim == 5
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    assert loaded.latent_encoder().error_calibration[1, 1] == torch.tensor(0.04)


def test_resumed_training_equals_an_uninterrupted_one(dcgan, tmp_path):
    images = generated(dcgan, 8)
    uninterrupted, interrupted = (small_encoder(dcgan, schedule="cosine") for _ in range(2))
    fit(uninterrupted, images, max_epochs=6)

    class Stop(Callback):
        def on_train_epoch_end(self, trainer, module):
            trainer.should_stop = trainer.current_epoch == 2

    fit(interrupted, images, max_epochs=6, callbacks=[Stop()])
    interrupted.trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = small_encoder(dcgan, schedule="cosine")
    loader = DataLoader([{"image": images, "index": torch.arange(8)}], batch_size=None)
    trainer = quiet_trainer(max_epochs=6)
    trainer.fit(resumed, loader, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    for name, value in uninterrupted.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_augmentation_applies_to_input_and_target_alike(dcgan):
    images = generated(dcgan, 4)
    augmented = one_step(small_encoder(dcgan, changed=1.0), images)
    expected = one_step(small_encoder(dcgan), augment(images, torch.arange(4), 0, 1.0)[0])
    assert torch.equal(augmented, expected)


@pytest.mark.parametrize(("limits", "steps"), [({"max_epochs": 4}, 4), ({"max_steps": 6}, 6)])
def test_cosine_schedule_ends_with_the_training(dcgan, limits, steps):
    model = small_encoder(dcgan, schedule="cosine")
    rates, update = [], model.update_network

    def record(*arguments, **options):
        rates.extend(options.values())
        return update(*arguments, **options)

    model.update_network = record
    fit(model, generated(dcgan, 4), **{"max_epochs": 100} | limits)
    expected = [1e-3 * (1 + math.cos(math.pi * t / steps)) / 2 for t in range(steps)]
    assert rates == pytest.approx(expected)
