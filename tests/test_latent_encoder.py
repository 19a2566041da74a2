import math
from functools import partial

import pytest
import torch
from pytorch_lightning import Callback
from torch.utils.data import DataLoader
from training import quiet_trainer, small_dcgan

from dcgan_inpaint.data.augmentation import changed
from dcgan_inpaint.masks import masks
from dcgan_inpaint.models.base import Model
from dcgan_inpaint.models.checkpoint import load_gan, load_model, save_weights
from dcgan_inpaint.models.dcgan import DCGAN
from dcgan_inpaint.models.latent_encoder import LatentEncoder
from dcgan_inpaint.models.networks import frozen
from dcgan_inpaint.randomness import normal

SMALL = {"image_size": 16, "code_dim": 16, "df_dim": 4}


@pytest.fixture(scope="module")
def dcgan():
    return small_dcgan(z_dim=6).eval()


def encoder(dcgan, **settings):
    torch.manual_seed(1)
    mask = partial(masks.center, scale=0.25)
    return LatentEncoder(**{"gan": dcgan, "mask": mask} | SMALL | settings)


def pictures(dcgan, n):
    """Images that G can draw."""
    with torch.no_grad():
        return dcgan(dcgan.latents(torch.arange(n), seed=7))


def fit(model, images, epochs):
    loader = DataLoader([{"image": images, "index": torch.arange(len(images))}], batch_size=None)
    quiet_trainer(max_epochs=epochs).fit(model, loader)


def test_the_loss_by_hand(dcgan):
    model, images = encoder(dcgan, whole=2.0, context=3.0, lam=0.5), pictures(dcgan, 4)
    model.encoder.offset.bias.data.fill_(0.5)
    model.trainer = quiet_trainer()
    model.log_dict = model.log = model._update = lambda *_, **__: None
    model.on_fit_start()
    mask = masks.center(torch.arange(4), 16, 0.25)
    with torch.no_grad():
        loss = model.training_step({"image": images}, 0)
        generator = frozen(dcgan.ema_generator)
        z, offset = model.encoder.train()(images * mask, mask)
        fake = generator(generator.lift(z, 0, 1) + offset, level=1)
        distance = (fake - images).abs()
        logits = dcgan.discriminator(fake)
    context = (distance * mask).sum() / distance.numel()
    prior = torch.log1p(torch.exp(-logits)).mean()
    torch.testing.assert_close(loss, 2 * distance.mean() + 3 * context + 0.5 * prior)


def test_it_learns_and_nothing_else_moves(dcgan):
    before = {name: value.clone() for name, value in dcgan.state_dict().items()}
    model, images = encoder(dcgan, lr=3e-3, ema_decay=0.0), pictures(dcgan, 16)
    mask = masks.center(torch.arange(16), 16, 0.25)

    def error():
        with torch.no_grad():
            z, offset = model.latent_encoder()(images * mask, mask)
            return (frozen(dcgan.ema_generator)(z, offset=offset) - images).abs().mean()

    start = error()
    fit(model, images, epochs=90)
    assert error() < 0.5 * start
    for name, value in dcgan.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_z_is_within_the_prior_and_blind_to_the_hole(dcgan):
    images, mask = pictures(dcgan, 3), masks.center(torch.arange(3), 16, 0.25)
    network = encoder(dcgan).latent_encoder()
    z, offset = network(images * mask, mask)
    assert z.shape == (3, 6)
    assert z.abs().max() <= 1
    assert (offset == 0).all()  # before training
    torch.testing.assert_close(z[:1], network((images * mask)[:1], mask[:1])[0])
    normal = DCGAN(image_size=16, z_dim=6, gf_dim=4, df_dim=4, prior="normal")
    free = encoder(normal).encoder
    free.head.bias.data.fill_(5.0)
    assert free.eval()(images * mask, mask)[0].max() > 1


def test_the_checkpoint_stands_alone(dcgan, tmp_path):
    model = encoder(dcgan)
    fit(model, pictures(dcgan, 8), epochs=2)
    model.trainer.save_checkpoint(tmp_path / "encoder.ckpt")
    loaded = load_model(tmp_path / "encoder.ckpt", LatentEncoder)
    z = dcgan.latents(torch.arange(2))
    for gan in (loaded.gan, load_gan(tmp_path / "encoder.ckpt")):
        assert isinstance(gan, DCGAN)
        assert torch.equal(gan.eval()(z), dcgan(z))
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    with pytest.raises(ValueError, match="mask=null: a latent encoder needs masks"):
        fit(loaded, pictures(dcgan, 8), epochs=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"whole": -1.0}, "whole=-1.0: should be greater than or equal to 0"),
        ({"ema_decay": 1.0}, "ema_decay=1.0"),
        ({"image_size": 32}, "use data.image_size=16 data.channels=3"),
        ({"code_dim": 0}, "code_dim=0"),
        ({"gan_kind": "DCGAN"}, "gan_kind=DCGAN: unexpected"),
    ],
)
def test_errors(dcgan, settings, message):
    with pytest.raises(ValueError, match=message):
        encoder(dcgan, **settings)


def test_it_learns_from_a_gan_of_another_kind(tmp_path, monkeypatch):
    """A new GAN needs no word here: its checkpoint is rebuilt by the kind that it says."""
    monkeypatch.setattr(Model, "kinds", dict(Model.kinds))

    class Another(DCGAN):
        kind = "another GAN"

    model = encoder(Another(image_size=16, z_dim=6, gf_dim=2, df_dim=2))
    save_weights(model, tmp_path / "weights.safetensors")
    loaded = load_model(tmp_path / "weights.safetensors", LatentEncoder)
    assert type(loaded.gan) is Another


# that samples


def sampler(dcgan, **settings):
    return encoder(dcgan, **{"noise_dim": 5, "lam": 0.01, "lr": 3e-3, "ema_decay": 0.0} | settings)


def drawn(model, images, seed=0, count=6):
    """Draws (B, count, C, S, S) by the average encoder."""
    mask = masks.center(torch.arange(len(images)), 16, 0.25)
    model.on_fit_start()
    noise = normal("test", seed, torch.arange(len(images)), count * 5).unflatten(1, (count, 5))
    with torch.no_grad():
        return model.draws(frozen(model.ema_encoder), images * mask, mask, noise)


def test_draws_follow_their_noise_alone(dcgan):
    model, images = sampler(dcgan), pictures(dcgan, 3)
    model.encoder.offset.weight.data.normal_(std=0.05)
    model.ema_encoder.load_state_dict(model.encoder.state_dict())
    together, other = drawn(model, images), drawn(model, images, seed=1)
    torch.testing.assert_close(drawn(model, images[:1])[0], together[0], rtol=0, atol=1e-5)
    assert (together - other).abs().mean() > 1e-3
    assert together.std(1).mean() > 1e-3


def test_the_samplers_losses_by_hand(dcgan):
    """l1 of the mean of two draws, less the reward for their spread, and D's word of the first."""
    model, images = sampler(dcgan, whole=2.0, context=3.0, lam=0.5), pictures(dcgan, 4)
    model.trainer = quiet_trainer()
    said = {}
    model.log, model.log_dict = (lambda *_, **__: None), said.update
    model._update = lambda which, loss, lr: said.update({which: loss})
    model.on_fit_start()
    model.reward[2] = 1.5  # of a center hole
    mask = masks.center(torch.arange(4), 16, 0.25)
    loss = model.training_step({"image": images}, 0)
    noise = normal("train w", 0, torch.arange(4), 10).unflatten(1, (2, 5))
    with torch.no_grad():
        first, second = model.draws(model.encoder, images * mask, mask, noise).unbind(1)
    distance = ((first + second) / 2 - images).abs()
    l1 = 2 * distance.mean() + 3 * (distance * mask).mean()
    spread = math.sqrt(math.pi / 4) * (first - second).abs().mean()  # 2 · |d / 2|
    completed = torch.where(mask == 0, first, images)
    logits = model.discriminator(torch.cat([completed, mask], 1)).detach()
    reward = 2 * 1.5 * math.sqrt(1 / (3 * math.pi)) * spread
    expected = l1 - reward + 0.5 * torch.log1p(torch.exp(-logits)).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    assert set(said) >= {0, 1}  # E's update and D's


def test_a_sampler_learns_and_its_draws_stay_apart(dcgan):
    """And the GAN does not move."""
    images = pictures(dcgan, 16)
    before = {name: value.clone() for name, value in dcgan.state_dict().items()}
    model = sampler(dcgan)
    start = drawn(model, images).mean(1)
    fit(model, images, epochs=90)
    draws = drawn(model, images)
    assert (draws.mean(1) - images).abs().mean() < 0.6 * (start - images).abs().mean()
    assert draws.std(1).mean() > 0.01
    for name, value in dcgan.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert model.iteration == 90


def test_the_reward_grows_while_draws_spread_too_little(dcgan):
    model, images = sampler(dcgan), pictures(dcgan, 16)
    model.on_fit_start()
    with torch.no_grad():
        for parameter in (model.ema_encoder.mix.weight, model.ema_encoder.mix.bias):
            parameter.zero_()  # all draws are one
    found = model.calibrate(images)
    assert found.keys() == {"spread_ratio_2", "reward_2"}  # the center is of that depth
    assert found["spread_ratio_2"] < 1e-3
    most = math.exp(0.5)  # at once
    assert model.reward.tolist() == pytest.approx([1, 1, most, 1])
    assert found["reward_2"] == pytest.approx(most)
    assert model.calibrate(images)["reward_2"] == pytest.approx(math.sqrt(3))  # and in all
    assert model.doubt[[0, 1, 3]].tolist() == [[1, 0]] * 3
    scale, floor = model.doubt[2].tolist()
    assert (scale, floor > 0.01) == (0, True)  # no spread, so that all error is in the floor


def test_a_sampler_resumes_exactly(dcgan, tmp_path):
    data = pictures(dcgan, 8)
    whole, half = (sampler(dcgan, schedule="cosine") for _ in range(2))
    fit(whole, data, epochs=6)
    loader = DataLoader([{"image": data, "index": torch.arange(8)}], batch_size=None)
    stopped = quiet_trainer(max_epochs=6)
    stopped.fit_loop.max_epochs = 6

    class Stop(Callback):
        def on_train_epoch_end(self, trainer, module):
            trainer.should_stop = trainer.current_epoch == 2

    stopped.callbacks.append(Stop())
    stopped.fit(half, loader)
    stopped.save_checkpoint(tmp_path / "half.ckpt")
    resumed = sampler(dcgan, schedule="cosine")
    trainer = quiet_trainer(max_epochs=6)
    trainer.fit(resumed, loader, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_samplers_checkpoint_stands_alone(dcgan, tmp_path):
    model = sampler(dcgan)
    model.reward[1], model.doubt[1, 1] = 1.25, 0.04
    save_weights(model, tmp_path / "weights.safetensors")
    loaded = load_model(tmp_path / "weights.safetensors", LatentEncoder)
    assert loaded.settings.noise_dim == 5
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name


def test_changed_images_are_known_and_wanted_changed(dcgan):
    """What E sees and what it is held to are the same changed image."""
    model, images = sampler(dcgan, changed=1.0), pictures(dcgan, 4)
    wanted = changed(images, torch.arange(4), 0, 1.0)
    plain = sampler(dcgan)
    losses = []
    for module, given in ((model, images), (plain, wanted)):
        module.trainer = quiet_trainer()
        module.log = module.log_dict = module._update = lambda *_, **__: None
        module.on_fit_start()
        losses.append(module.training_step({"image": given}, 0))
    assert torch.equal(*losses)


@pytest.mark.parametrize("noise_dim", [0, 5])
@pytest.mark.parametrize(("limits", "last"), [({"max_epochs": 4}, 4), ({"max_steps": 6}, None)])
def test_the_step_falls_to_nothing_at_the_end_and_not_before(dcgan, noise_dim, limits, last):
    """Whether a training ends by epochs or by optimizer steps, of which a sampler takes two."""
    model, images = encoder(dcgan, noise_dim=noise_dim, schedule="cosine"), pictures(dcgan, 4)
    rates, update = [], model._update
    model._update = lambda which, loss, lr: (which or rates.append(lr), update(which, loss, lr))
    loader = DataLoader([{"image": images, "index": torch.arange(4)}], batch_size=None)
    quiet_trainer(**{"max_epochs": 100} | limits).fit(model, loader)
    last = last or (3 if noise_dim else 6)
    wanted = [1e-3 * (1 + math.cos(math.pi * t / last)) / 2 for t in range(last)]
    assert rates == pytest.approx(wanted)
