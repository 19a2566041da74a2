"""trainer.accumulate_grad_batches and trainer.gradient_clip_val (models/base.py, cli/train.py)."""

import copy
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import nn
from torch.utils.data import DataLoader
from training import quiet_trainer, small_dcgan

from dcgan_inpaint.cli.train import share_options
from dcgan_inpaint.masks import masks
from dcgan_inpaint.models.base import Model, ModelSettings
from dcgan_inpaint.models.dcgan import DCGAN
from dcgan_inpaint.models.latent_encoder import LatentEncoder
from dcgan_inpaint.models.one_pass import OnePass

MASK = partial(masks.random, seed=0, missing=0.5)
GAN = {"image_size": 16, "z_dim": 6, "gf_dim": 2, "df_dim": 2, "layers": 2}
D_TERMS = {
    "known": 1.0,
    "adversarial": 0.1,
    "feature_matching": 1.0,
    "conditional": True,
    "r1": 1.0,
}
ENCODER = {"image_size": 16, "code_dim": 6, "df_dim": 2, "layers": 2}


def one_pass(**settings):
    return OnePass(mask=MASK, **{"gf_dim": 2, "image_size": 16} | settings)


MODELS = {
    "dcgan": lambda: DCGAN(**GAN, r1=1.0),
    "encoder_generator": lambda: OnePass(DCGAN(**GAN), MASK, **ENCODER, **D_TERMS, skips=True),
    "context_encoder": partial(
        one_pass, network="context_encoder", hole_l2=1.0, adversarial=0.1, code_dim=6, df_dim=2
    ),
    "unet": partial(one_pass, network="unet", known=1.0, hole=1.0),
    "latent_encoder": lambda: LatentEncoder(small_dcgan(z_dim=6), MASK, **ENCODER),
}


def remove_norms(model):
    """Replace the BatchNorms by identities, except in a GAN that is not trained."""
    networks = [child for name, child in model.named_children() if name != "gan"]
    for module in [module for network in networks for module in network.modules()]:
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                setattr(module, name, nn.Identity())


def train(model, parts=1, iterations=2, **settings):
    """Train on batches of 64; return the metrics and the sizes of the batches of its network."""
    generator, sizes = torch.Generator().manual_seed(0), set()
    model.accumulate_grad_batches = parts
    for name in ("network", "encoder", "generator"):
        network = getattr(model, name, None)
        if network is not None:
            first = next(m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear))
            first.register_forward_pre_hook(lambda _, inputs: sizes.add(len(inputs[0])))
    images = torch.rand(iterations, 64, 3, 16, 16, generator=generator) * 2 - 1
    data = DataLoader([{"image": batch} for batch in images], batch_size=None)
    trainer = quiet_trainer(**settings)
    trainer.fit(model, data)
    return trainer.callback_metrics, sizes


@pytest.mark.parametrize("name", MODELS)
def test_two_parts_of_32_equal_a_batch_of_64(name, monkeypatch):
    """Without BatchNorm: weights and logged values are equal up to rounding in float64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    results = []
    for parts in (1, 2):
        torch.manual_seed(0)
        model = MODELS[name]()
        remove_norms(model)
        if isinstance(model, DCGAN):
            model.latents = lambda index, model=model: DCGAN.latents(model, index).double()
        metrics, sizes = train(model, parts, precision="64-true")
        assert sizes == {64 // parts}
        assert model.iteration == 2
        results.append(model.state_dict() | metrics)
    assert results[0].keys() == results[1].keys()
    for key, value in results[0].items():
        torch.testing.assert_close(results[1][key], value, rtol=1e-6, atol=1e-9, msg=key)


def test_d_takes_its_step_on_all_parts_before_g_with_the_same_z():
    steps = []

    class Recorder(DCGAN):
        def _update(self, network, loss_of, parts, count):
            steps.append((network, [z for _, z in parts]))
            return super()._update(network, loss_of, parts, count)

    train(Recorder(**GAN), parts=4, iterations=1)
    assert [network for network, _ in steps] == [0, 1, 1]
    assert [len(z) for z in steps[0][1]] == [16] * 4
    for _, z in steps[1:]:
        assert all(map(torch.equal, z, steps[0][1]))


def scaled():
    """The precision plugin of a GPU in 16-mixed, which multiplies the loss by 65,536."""
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))


@pytest.mark.parametrize(
    ("clip", "parts", "plugins"),
    [(1e-3, 1, []), (1e-3, 2, []), (1e-3, 2, [scaled()]), (1e6, 1, []), (None, 1, [])],
)
def test_gradient_of_each_network_is_clipped(clip, parts, plugins, monkeypatch):
    """Plain SGD with a step size of 1 moves the weights of a network by its gradient."""
    monkeypatch.setattr(torch.optim, "Adam", lambda groups, *_, **__: torch.optim.SGD(groups, 1.0))
    torch.manual_seed(0)
    model = MODELS["context_encoder"](lr=1.0, schedule="constant")
    before = copy.deepcopy(model)
    model.gradient_clip_val = clip
    train(model, parts, iterations=1, plugins=plugins)
    for name in ("network", "discriminator"):
        pairs = zip(model.get_submodule(name).parameters(),
                    before.get_submodule(name).parameters(), strict=True)  # fmt: skip
        moved = sum((after - start).square().sum().item() for after, start in pairs) ** 0.5
        assert moved == pytest.approx(1e-3, rel=0.01) if clip == 1e-3 else moved > 2e-3


def config_of(**options):
    return SimpleNamespace(batch_size=8, trainer={"max_epochs": 1} | options)


def test_model_with_manual_optimization_takes_both_options_itself():
    model = MODELS["dcgan"]()
    config = config_of(accumulate_grad_batches=4, gradient_clip_val=0.5)
    assert share_options(config, model) == ({"max_epochs": 1}, 32)
    assert (model.accumulate_grad_batches, model.gradient_clip_val) == (4, 0.5)
    assert share_options(config_of(), MODELS["unet"]()) == ({"max_epochs": 1}, 8)


class Automatic(Model):
    """Records the indices of its training images."""

    Settings = ModelSettings
    gan = mask = None

    def __init__(self):
        super().__init__(ModelSettings(image_size=16))
        self.weight, self.indices = nn.Parameter(torch.zeros(())), []

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def training_step(self, batch, batch_idx):
        self.indices += self.sample_indices(len(batch)).tolist()
        return self.weight * batch.mean()


def test_model_with_automatic_optimization_leaves_both_options_to_lightning():
    model = Automatic()
    options, batch_size = share_options(
        config_of(accumulate_grad_batches=2, gradient_clip_val=0.5), model
    )
    assert batch_size == 8
    trainer = quiet_trainer(**options)
    trainer.fit(model, DataLoader(torch.ones(12, 4), batch_size=2))
    assert model.iteration == 3
    assert model.indices == list(range(12))  # each part has its own random numbers
    assert model.weight.item() == pytest.approx(-3 * 0.1 * 0.5)
