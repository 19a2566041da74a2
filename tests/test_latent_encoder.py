from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader
from training import quiet_trainer

from dcgan_inpaint.models.base import LatentGAN
from dcgan_inpaint.models.checkpoint import load_gan, load_model, save_weights
from dcgan_inpaint.models.dcgan import DCGAN
from dcgan_inpaint.models.latent_encoder import LatentEncoder
from dcgan_inpaint.models.networks import frozen
from dcgan_inpaint.observation import masks

SMALL = {"image_size": 16, "code_dim": 16, "df_dim": 4}


@pytest.fixture(scope="module")
def dcgan():
    """A small DCGAN with weights wide enough that z matters."""
    torch.manual_seed(0)
    model = DCGAN(image_size=16, z_dim=6, gf_dim=4, df_dim=4).eval()
    for network in (model.ema_generator, model.discriminator):
        for parameter in network.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.15)
    return model


def encoder(dcgan, **settings):
    torch.manual_seed(1)
    mask = partial(masks.center, scale=0.25)
    return LatentEncoder(**{"gan": dcgan, "mask": mask} | SMALL | settings)


def pictures(dcgan, n):
    """Pictures that G can draw."""
    with torch.no_grad():
        return dcgan(dcgan.latents(torch.arange(n), seed=7))


def fit(model, images, epochs):
    loader = DataLoader([{"image": images, "index": torch.arange(len(images))}], batch_size=None)
    quiet_trainer(max_epochs=epochs).fit(model, loader)


def test_the_loss_by_hand(dcgan):
    model, images = encoder(dcgan, whole=2.0, context=3.0, lam=0.5), pictures(dcgan, 4)
    model.encoder.offset.bias.data.fill_(0.5)
    model.trainer = quiet_trainer()
    model.log_dict = model.log = lambda *_: None
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
    monkeypatch.setattr(LatentGAN, "kinds", dict(LatentGAN.kinds))

    class Another(DCGAN):
        kind = "another GAN"

    model = encoder(Another(image_size=16, z_dim=6, gf_dim=2, df_dim=2))
    save_weights(model, tmp_path / "weights.safetensors")
    loaded = load_model(tmp_path / "weights.safetensors", LatentEncoder)
    assert type(loaded.gan) is Another
