import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from training import moved_since, quiet_trainer

from dcgan_inpaint.networks import frozen
from dcgan_inpaint.residual_gan import ResidualDiscriminator, ResidualGAN, ResidualGenerator

SMALL = {"image_size": 16, "z_dim": 5, "gf_dim": 2, "df_dim": 3}


def small(model=ResidualGAN, **settings):
    torch.manual_seed(0)
    return model(**SMALL | settings)


def train(model, batches):
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    quiet_trainer().fit(model, DataLoader([{"image": images}] * batches, batch_size=None))


@pytest.mark.parametrize("size", [8, 16, 64, 128])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes(size, channels):
    g, d = ResidualGenerator(size, channels, 5, 1), ResidualDiscriminator(size, channels, 1)
    pictures = g(torch.rand(2, 5) * 2 - 1)
    assert pictures.shape == (2, channels, size, size)
    assert pictures.abs().max() <= 1
    assert d(pictures).shape == (2,)
    assert g.levels == size.bit_length() - 2  # a map at 4, 8, ..., size
    assert g.widths == [min(8, size // side) for side in (4 << i for i in range(g.levels))]


def test_the_search_can_go_on_at_every_level():
    g, z = small().generator, torch.rand(3, 5) * 2 - 1
    for level in range(1, g.levels + 1):
        side = 2 << level
        x = g.lift(z, 0, level)
        assert x.shape == (3, side * side * g.widths[level - 1])
        torch.testing.assert_close(g(x, level), g(z))


def test_frozen_is_the_same_function_without_gradients():
    model = small()
    z = model.latents(torch.arange(3))
    g, d = frozen(model.generator), frozen(model.discriminator)
    assert torch.equal(g(z), model.generator(z))
    assert torch.equal(d(g(z)), model.discriminator(g(z)))
    assert not any(p.requires_grad for net in (g, d) for p in net.parameters())


def test_penalty_by_hand():
    """D(x) = sum a·x² / 2 has the gradient a·x: r1 / 2 · mean over pictures of sum (a·x)²."""

    class Quadratic(nn.Module):
        def forward(self, x):
            return (3 * x.square() / 2).sum((1, 2, 3))

    model = small(r1=4.0)
    model.discriminator = Quadratic()
    images = torch.stack([torch.full((3, 2, 2), 1.0), torch.full((3, 2, 2), 2.0)])
    # 12 numbers of (3·1)² and of (3·2)²
    assert model._penalty(images).item() == pytest.approx(4 / 2 * (12 * 9 + 12 * 36) / 2)


def test_the_penalty_pulls_the_gradient_of_d_down():
    images = torch.rand(4, 3, 16, 16) * 2 - 1
    model = small()
    adam = torch.optim.Adam(model.discriminator.parameters(), 1e-2)
    before = model._penalty(images).item()
    for _ in range(20):
        adam.zero_grad()
        model._penalty(images).backward()
        adam.step()
    assert model._penalty(images).item() < before / 10


class Recorder(ResidualGAN):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.updates, self.penalised = [], []

    def _update(self, which, loss, count):
        before = copy.deepcopy(self.state_dict())
        super()._update(which, loss, count)
        self.updates.append((which, count, moved_since(before, self)))

    def _penalty(self, images):
        self.penalised.append(self.iteration)
        return super()._penalty(images)


def test_schedule():
    """One update of D, one of G, each of its own network alone; the penalty every third batch."""
    model = small(Recorder, r1_every=3)
    train(model, 5)
    once = [[(0, t, {"discriminator"}), (1, t, {"generator"})] for t in range(1, 6)]
    assert model.updates == sum(once, [])
    assert model.penalised == [0, 3]
    assert model.iteration == 5


def test_no_penalty():
    model = small(Recorder, r1=0.0)
    train(model, 2)
    assert model.penalised == []


def test_one_seed_one_result():
    models = [small(), small()]
    for model in models:
        train(model, 2)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 24}, "image_size=24: use a power of two"),
        ({"gf_dim": 0}, "use 1 or more"),
        ({"z_dim": 0}, "z_dim=0: use 1 or more"),
        ({"prior": "cauchy"}, "prior='cauchy'"),
        ({"r1": -1.0}, "r1=-1.0: use 0"),
        ({"r1_every": 0}, "r1_every=0: use 1 or more"),
        ({"ema_decay": 1.0}, "ema_decay=1.0"),
    ],
)
def test_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        small(**settings)
