import copy
from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader
from training import moved_since, quiet_trainer

from dcgan_inpaint.blending import paste
from dcgan_inpaint.inpainting.baselines import BaselineModule
from dcgan_inpaint.losses import discriminator_losses, generator_loss
from dcgan_inpaint.masks import masks
from dcgan_inpaint.models.checkpoint import load_model
from dcgan_inpaint.models.context_encoder import ContextEncoder

SMALL = {"image_size": 16, "code_dim": 6, "gf_dim": 2, "df_dim": 2}
MASK = partial(masks.random, seed=0, missing=0.5)


def random_batches(count, size=8):
    generator = torch.Generator().manual_seed(0)
    return [
        {"image": torch.rand(size, 3, 16, 16, generator=generator) * 2 - 1} for _ in range(count)
    ]


def small_encoder(model=ContextEncoder, seed=0, **settings):
    torch.manual_seed(seed)
    return model(**SMALL | {"mask": MASK} | settings)


def train(model, data, ckpt_path=None, **settings):
    trainer = quiet_trainer(**settings)
    trainer.fit(model, DataLoader(data, batch_size=None), ckpt_path=ckpt_path)
    return trainer


class Recorder(ContextEncoder):
    """Records the effect of each update and the indices of the masks."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.updates, self.indices, self.passes = [], [], 0
        mask = self.mask
        self.mask = lambda index, size: self.indices.append(index) or mask(index, size)
        self.generator.register_forward_hook(self._count)

    def _count(self, *_):
        self.passes += 1

    def _update(self, network, loss, count):
        before = copy.deepcopy(self.state_dict())
        super()._update(network, loss, count)
        moved = moved_since(before, self)
        self.updates.append((network, count, moved))


def test_iteration_is_one_update_of_d_and_one_of_the_network():
    """Each update changes its own network only, and each image has a new mask."""
    model = small_encoder(Recorder)
    train(model, random_batches(2))
    first = [(0, 1, {"discriminator"}), (1, 1, {"generator"})]
    assert model.updates == [*first, (0, 2, {"discriminator"}), (1, 2, {"generator"})]
    assert model.iteration == 2
    assert model.passes == 2  # one serves both updates
    assert torch.equal(torch.cat(model.indices), torch.arange(16))


def test_training_matches_a_plain_loop():
    """The loop writes out the losses of Pathak 2016, eq. 1 to 3."""
    data = random_batches(2)
    model, plain = small_encoder(), small_encoder()
    train(model, data)
    plain.train()
    d = torch.optim.Adam(plain.discriminator.parameters(), 2e-4, betas=(0.5, 0.999))
    g = torch.optim.Adam(plain.generator.parameters(), 2e-3, betas=(0.5, 0.999))

    def step(optimizer, loss, t):
        plain.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["eps"] = 1e-8 / (1 - 0.999 ** (t + 1)) ** 0.5
        optimizer.step()

    for t, batch in enumerate(data):
        images = batch["image"]
        mask = MASK(torch.arange(8) + 8 * t, 16)
        fake = plain.generator(images * mask, mask)
        logits = plain.discriminator(images), plain.discriminator(fake.detach())
        step(d, sum(discriminator_losses(*logits)), t)
        adversarial = generator_loss(plain.discriminator(fake))
        errors = [
            (image - completion)[(hole == 0).expand(3, -1, -1)].square().mean()
            for image, completion, hole in zip(images, fake, mask, strict=True)
        ]
        step(g, 0.999 * sum(errors) / 8 + 0.001 * adversarial, t)
    before_norm = ("convs.1.bias", "convs.2.bias", "convs.3.bias", "code.bias", "project.bias")
    for name, value in model.generator.named_parameters():
        if not name.endswith((*before_norm, "deconvs.0.bias")):  # their gradient is rounding
            other = plain.generator.get_parameter(name)
            torch.testing.assert_close(value, other, rtol=1e-3, atol=5e-4, msg=name)


def test_losses_are_logged():
    logged = train(small_encoder(), random_batches(3)).callback_metrics
    assert 0 < logged["train/l2"] < 4
    assert logged["train/g_loss"] > 0
    assert logged["train/d_loss"] == logged["train/d_loss_real"] + logged["train/d_loss_fake"]
    assert logged["iteration"] == 3


def test_training_learns_to_continue_flat_colors():
    images = torch.tensor([-0.6, 0.6]).repeat(4)[:, None, None, None].expand(8, 3, 16, 16)
    model = small_encoder(df_dim=4, gf_dim=4)
    trainer = train(model, [{"image": images.contiguous()}] * 80)
    assert trainer.callback_metrics["train/l2"] < 0.02


def test_bf16_trains_close_to_fp32():
    exact, rounded = (
        train(small_encoder(), random_batches(1), precision=precision).callback_metrics
        for precision in ("32-true", "bf16-mixed")
    )
    for name in ("train/l2", "train/d_loss", "train/g_loss"):
        torch.testing.assert_close(exact[name], rounded[name], rtol=0.02, atol=0)


def test_completion_depends_on_known_pixels_only():
    model = small_encoder()
    train(model, random_batches(3))
    filling = BaselineModule(model.fill(), MASK, paste, model.image_shape)
    filling.check()
    images, index = random_batches(1)[0]["image"], torch.arange(8)
    done = filling.predict_step({"image": images, "index": index})
    known = done.mask.expand_as(images) == 1
    assert torch.equal(done.completion[known], images[known])
    assert torch.equal(done.completion[~known], done.fake[~known])
    other = torch.where(known, images, -images)
    again = filling.predict_step({"image": other, "index": index})
    assert torch.equal(done.fake, again.fake)
    alone = filling.predict_step({"image": images[3:4], "index": index[3:4]})
    torch.testing.assert_close(alone.fake[0], done.fake[3])


def test_checkpoint_restores_the_model_and_resumes_exactly(tmp_path):
    data = random_batches(4)
    uninterrupted = small_encoder()
    train(uninterrupted, data)
    first = small_encoder()
    train(first, data[:2]).save_checkpoint(tmp_path / "half.ckpt")

    loaded = load_model(tmp_path / "half.ckpt", ContextEncoder)
    assert loaded.hparams["code_dim"] == 6
    assert loaded.mask is None
    for name, value in first.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    with pytest.raises(ValueError, match="mask=null: a context encoder needs masks"):
        train(loaded, data[:1])

    second = small_encoder(seed=1)
    train(second, data[2:], ckpt_path=tmp_path / "half.ckpt", max_epochs=2)
    assert second.iteration == 4
    for name, value in uninterrupted.state_dict().items():
        torch.testing.assert_close(value, second.state_dict()[name], msg=name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 8}, "image_size=8"),
        ({"channels": 2}, "channels=2"),
        ({"code_dim": 0}, "code_dim=0"),
        ({"gan": None}, "gan=null: unknown option"),
        ({"df_dim": 0}, "df_dim=0"),
        ({"l2_weight": 1.5}, "l2_weight=1.5"),
        ({"ema_decay": 1.0}, "ema_decay=1.0"),
    ],
)
def test_invalid_settings_are_rejected(settings, message):
    with pytest.raises(ValueError, match=message):
        small_encoder(**settings)
