import copy

import pytest
import torch
from torch.utils.data import DataLoader
from training import moved_since, quiet_trainer

from dcgan_inpaint.losses import discriminator_losses, generator_loss, gradient_penalty
from dcgan_inpaint.models.checkpoint import load_gan
from dcgan_inpaint.models.dcgan import DCGAN

SMALL = {"image_size": 16, "z_dim": 6, "gf_dim": 2, "df_dim": 2}


def random_batches(count, size=8, channels=3):
    generator = torch.Generator().manual_seed(0)
    return [
        {"image": torch.rand(size, channels, 16, 16, generator=generator) * 2 - 1}
        for _ in range(count)
    ]


def train(model, iterations=3, data=None, ckpt_path=None, **settings):
    trainer = quiet_trainer(**settings)
    loader = DataLoader(data or random_batches(iterations), batch_size=None)
    trainer.fit(model, loader, ckpt_path=ckpt_path)
    return trainer


def small_dcgan(seed=0, **settings):
    torch.manual_seed(seed)
    return DCGAN(**SMALL | settings)


class Recorder(DCGAN):
    """Records the inputs and effects of each update."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.updates, self.z_inputs = [], []
        self.generator.register_forward_pre_hook(lambda _, args: self.z_inputs.append(args[0]))
        self.logits = []
        self.discriminator.register_forward_hook(lambda _, i, out: self.logits.append(out))

    def _update(self, network, loss_of, parts, count):
        before, losses = copy.deepcopy(self.state_dict()), []

        def recorded(*part):
            loss, log = loss_of(*part)
            losses.append(loss.item())
            return loss, log

        log = super()._update(network, recorded, parts, count)
        moved = moved_since(before, self)
        self.updates.append((network, count, moved, *losses))
        return log


@pytest.mark.parametrize("g_steps", [1, 2, 3])
def test_iteration_is_one_update_of_d_and_g_steps_of_g(g_steps):
    """Each update changes its own network only."""
    torch.manual_seed(0)
    model = Recorder(**SMALL, g_steps=g_steps)
    train(model, iterations=2)
    expected = []
    for t in range(2):
        expected.append((0, t + 1, {"discriminator"}))
        expected += [(1, t * g_steps + k + 1, {"generator"}) for k in range(g_steps)]
    assert [update[:3] for update in model.updates] == expected
    assert model.iteration == 2


def test_all_steps_of_a_batch_share_z_and_the_first_generated_images():
    torch.manual_seed(0)
    model = Recorder(**SMALL, g_steps=2)
    train(model, iterations=2)
    assert len(model.z_inputs) == 4  # per iteration: once for D and the first G step, once more
    assert len(model.logits) == 8  # per iteration: real, fake, and one per G step
    first, again, second, _ = model.z_inputs
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert torch.equal(first, model.latents(torch.arange(8)))


def test_training_matches_a_plain_loop():
    """The loop computes G(z) for each step and always computes all gradients."""
    data = random_batches(3)
    model, plain = small_dcgan(), small_dcgan()
    train(model, data=data)
    plain.train()
    d = torch.optim.Adam(plain.discriminator.parameters(), 2e-4, betas=(0.5, 0.999))
    g = torch.optim.Adam(plain.generator.parameters(), 2e-4, betas=(0.5, 0.999))
    counts = {d: 0, g: 0}

    def step(optimizer, loss):
        plain.zero_grad()
        loss.backward()
        counts[optimizer] += 1
        optimizer.param_groups[0]["eps"] = 1e-8 / (1 - 0.999 ** counts[optimizer]) ** 0.5
        optimizer.step()

    for t, batch in enumerate(data):
        z = plain.latents(torch.arange(8) + 8 * t)
        real_logits = plain.discriminator(batch["image"])
        fake_logits = plain.discriminator(plain.generator(z))
        step(d, sum(discriminator_losses(real_logits, fake_logits)))
        for _ in range(2):
            step(g, generator_loss(plain.discriminator(plain.generator(z))))
    for name, value in model.generator.named_parameters():
        if not name.startswith("deconvs.0.bias"):  # a bias before BatchNorm: gradient is rounding
            other = plain.generator.get_parameter(name)
            torch.testing.assert_close(value, other, rtol=1e-3, atol=2e-4)


def test_gradient_penalty_flattens_d():
    """After one iteration, the gradient of D at the real images is smaller than without it."""

    def gradient_norm(**settings):
        model, batches = small_dcgan(lr=0.01, **settings), random_batches(1)
        for parameter in model.discriminator.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        train(model, data=batches)
        return gradient_penalty(model.discriminator.train(), batches[0]["image"]).item()

    assert gradient_norm(r1=100.0) < 0.5 * gradient_norm()


def test_gradient_penalty_applies_at_every_eighth_iteration():
    data, model = random_batches(2), small_dcgan(r1=2.0)
    losses = []

    def record(network, loss_of, parts, count):
        loss, log = loss_of(*parts[0])
        losses.append((network, loss.item()))
        return log

    model._update = record
    plain = small_dcgan()
    train(plain, data=data[:1])
    trainer = train(model, data=data[:1])
    penalty = gradient_penalty(small_dcgan().discriminator, data[0]["image"]).item()
    expected = trainer.callback_metrics["train/d_loss"].item() + 8 * 2.0 * penalty
    assert losses[0] == (0, pytest.approx(expected, rel=1e-4))


def test_more_layers_of_d_give_smaller_maps():
    model = DCGAN(**SMALL | {"image_size": 64, "layers": 6})
    assert [conv.out_channels for conv in model.discriminator.convs] == [2, 4, 8, 16, 16, 16]
    assert model.discriminator.features(torch.zeros(3, 3, 64, 64)).shape == (3, 16)
    with pytest.raises(ValueError, match="layers=5: 16 px cannot be halved 5 times"):
        DCGAN(**SMALL | {"layers": 5})


def test_ema_follows_the_generator_with_warm_up():
    model = small_dcgan()
    start = model.generator.project.weight.detach().clone()
    train(model, iterations=1)
    decay = 2 / 11  # (1 + t) / (10 + t) at t = 1
    expected = decay * start + (1 - decay) * model.generator.project.weight
    torch.testing.assert_close(model.ema_generator.project.weight, expected)
    mean = model.generator.norms[0].running_mean
    torch.testing.assert_close(model.ema_generator.norms[0].running_mean, (1 - decay) * mean)


def test_forward_uses_the_average_and_restores_the_training_mode():
    model = small_dcgan()
    train(model)
    model.train()
    z = model.latents(torch.arange(4))
    ema, raw = model(z), model(z, ema=False)
    assert model.generator.training
    assert not torch.equal(ema, raw)
    # moving statistics: a sample does not depend on its batch
    torch.testing.assert_close(raw[:1], model(z[:1], ema=False))


def test_equal_seeds_give_equal_weights():
    a, b = small_dcgan(), small_dcgan()
    train(a)
    train(b)
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name]), name


def test_bf16_trains_close_to_fp32():
    """The second G step uses the updated weights, not a cached bf16 copy."""
    losses = []
    for precision in ("32-true", "bf16-mixed"):
        torch.manual_seed(0)
        model = Recorder(**SMALL, lr=0.02)
        for parameter in model.discriminator.parameters():
            torch.nn.init.normal_(parameter, std=0.2)  # logits that differ from zero
        train(model, iterations=2, precision=precision)
        assert all(p.dtype == torch.float32 for p in model.parameters())
        losses.append(torch.tensor([loss for *_, loss in model.updates]))
    torch.testing.assert_close(losses[0], losses[1], rtol=0.05, atol=0)
    assert losses[1][1] != losses[1][2]  # same z, same D: only G's update tells them apart


def test_losses_and_probabilities_are_logged():
    trainer = train(small_dcgan())
    logged = trainer.callback_metrics
    assert logged["train/d_loss"] == logged["train/d_loss_real"] + logged["train/d_loss_fake"]
    assert 0 < logged["train/D(x)"] < 1
    assert 0 < logged["train/D(G(z))"] < 1
    assert logged["iteration"] == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 8}, "image_size=8: should be 16, 32, 64, 128 or 256"),
        ({"image_size": 48}, "image_size=48: should be 16"),
        ({"image_size": 512}, "image_size=512: should be 16"),
        ({"image_size": 256, "gf_dim": 6}, "gf_dim=6: expected a multiple of 4 at 256 px"),
        ({"channels": 2}, "channels=2: should be 1 or 3"),
        ({"z_dim": 0}, "z_dim=0: should be greater"),
        ({"z_dim": 8.5}, "z_dim=8.5: should be a valid integer"),
        ({"gf_dim": 10**9}, "gf_dim=1000000000: should be less"),
        ({"df_dim": "8"}, "df_dim=8: should be a valid integer"),
        ({"widths": "wide"}, "widths=wide: should be 'blog' or 'amos_head'"),
        ({"g_steps": 0}, "g_steps=0: should be greater"),
        ({"prior": "cauchy"}, "prior=cauchy: should be 'uniform' or 'normal'"),
        ({"lr": float("inf")}, "lr=inf: should be a finite number"),
        ({"beta1": 1.0}, "beta1=1.0: should be less"),
        ({"ema_decay": 1.0}, "ema_decay=1.0: should be less"),
        ({"crop": 0}, "crop=0: should be greater"),
        ({"seed": None}, "seed=null: should be a valid integer"),
        ({"width": 3}, "width=3: unknown option"),
    ],
)
def test_invalid_settings_are_rejected(settings, message):
    with pytest.raises(ValueError, match=message):
        DCGAN(**SMALL | settings)


def test_checkpoint_restores_the_model_and_resumes_exactly(tmp_path):
    data = random_batches(4)
    uninterrupted = small_dcgan()
    train(uninterrupted, data=data)

    first = small_dcgan()
    train(first, data=data[:2]).save_checkpoint(tmp_path / "half.ckpt")

    loaded = load_gan(tmp_path / "half.ckpt")
    assert loaded.hparams["gf_dim"] == 2
    z = loaded.latents(torch.arange(3))
    torch.testing.assert_close(loaded(z), first(z))

    second = small_dcgan(seed=1)
    train(second, data=data[2:], ckpt_path=tmp_path / "half.ckpt", max_epochs=2)
    assert second.iteration == 4
    for name, value in uninterrupted.state_dict().items():
        torch.testing.assert_close(value, second.state_dict()[name], msg=name)
