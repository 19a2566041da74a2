"""Comparison with numbers computed by the original TensorFlow code (tests/README.md).

golden/{blog,head}.npz hold one model for each version of the generator's widths:

- init/, after6/: weights in TensorFlow's names and layouts, before training and after 6 iterations
  on the images x (8, S, S, 3), which are smooth and artificial; train/: the z and the losses
- eval/: outputs of the networks with after6/
- complete/: a search for each of six masks from z = eval/z, 20 iterations, lam 0.1
- hmc/: one proposal of Hamiltonian Monte Carlo
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from training import quiet_trainer

from dcgan_inpaint.blending import paste
from dcgan_inpaint.inpainting.module import InpaintingModule, Objective
from dcgan_inpaint.inpainting.solvers import HMC, Adam
from dcgan_inpaint.losses import context_loss, discriminator_losses, generator_loss, prior_loss
from dcgan_inpaint.masks.measurements import Lowres
from dcgan_inpaint.models.dcgan import DCGAN
from dcgan_inpaint.models.networks import freeze
from dcgan_inpaint.randomness import CounterRNG
from dcgan_inpaint.tf_import.convert import state_from_tensorflow

GOLDEN = Path(__file__).parent / "golden"
MASKS = ["center", "left", "random", "grid", "full", "lowres"]


@pytest.fixture(scope="module", params=[("blog", "blog"), ("head", "amos_head")])
def golden(request):
    name, widths = request.param
    return dict(np.load(GOLDEN / f"{name}.npz")) | {"widths": widths}


def images_of(array):
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()


def load(golden, when):
    size = golden["x"].shape[1]
    model = DCGAN(image_size=size, z_dim=16, gf_dim=8, df_dim=8, widths=golden["widths"])
    variables = {k.removeprefix(f"{when}/"): v for k, v in golden.items() if k.startswith(when)}
    state = state_from_tensorflow(variables)
    missing = model.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert all("ema" in key or "num_batches" in key for key in missing.missing_keys)
    return model.eval()


@torch.no_grad()
def test_networks_and_losses_match_the_original(golden):
    model = load(golden, "after6")
    z, x = torch.from_numpy(golden["eval/z"]), images_of(golden["x"])
    fake = model.generator(z)
    torch.testing.assert_close(fake, images_of(golden["eval/G"]), rtol=0, atol=1e-6)
    real_logits, fake_logits = model.discriminator(x), model.discriminator(fake)
    for ours, name in ((real_logits, "eval/real_logits"), (fake_logits, "eval/fake_logits")):
        torch.testing.assert_close(ours, torch.from_numpy(golden[name])[:, 0], rtol=0, atol=1e-5)
    d_loss = sum(discriminator_losses(real_logits, fake_logits))
    assert d_loss.item() == pytest.approx(float(golden["eval/d_loss"]), rel=1e-5)
    assert generator_loss(fake_logits).item() == pytest.approx(golden["eval/g_loss"], rel=1e-5)


def complete(model, golden, name, ema):
    """Run the search of the golden file for one mask; return the module and its completion."""
    mask = torch.from_numpy(np.float32(golden[f"complete/{name}/mask"]))
    search = InpaintingModule(
        model,
        mask=lambda index, _: mask.expand(len(index), 1, *mask.shape),
        objective=Objective(lam=0.1),
        solver=Adam(iterations=20, lr=0.01),
        blend=paste,
        measure=Lowres(8) if name == "lowres" else None,
        ema=ema,
    )
    search.latents = lambda index, seed: torch.from_numpy(golden["eval/z"]).clone()
    return search, search.predict_step({"image": images_of(golden["x"]), "index": torch.arange(8)})


@pytest.mark.parametrize("name", MASKS)
def test_search_matches_the_original(golden, name):
    """Compares the first loss and gradient, the losses of 20 iterations and the last z."""
    model = load(golden, "after6")
    get = lambda key: torch.from_numpy(np.float32(golden[f"complete/{name}/{key}"]))  # noqa: E731
    search, done = complete(model, golden, name, ema=False)
    torch.testing.assert_close(done.trace[0, :, 0], get("context0"), rtol=1e-5, atol=0)
    # the original adds the batch mean of the prior to each image's loss, ours its own prior
    total = done.trace[:20, :, 0] + 0.1 * done.trace[:20, :, 1].mean(1, keepdim=True)
    torch.testing.assert_close(total, get("loss"), rtol=1e-5, atol=0)
    torch.testing.assert_close(done.z, get("z20"), rtol=0, atol=1e-4)

    z = torch.from_numpy(golden["eval/z"]).clone().requires_grad_()
    _, target, weights = search._measurement(done.images, done.index)
    losses = search.losses(freeze(model.generator)(z), target, weights)
    (gradient,) = torch.autograd.grad(losses[2].sum(), z)
    scale = get("grad0").abs().max().item()
    torch.testing.assert_close(gradient, get("grad0"), rtol=0, atol=1e-4 * scale)


def test_hmc_proposal_matches_the_original(golden):
    """Compares 100 leapfrog steps from the same momentum, before the acceptance test."""
    model = load(golden, "after6")
    generator, discriminator = freeze(model.generator), freeze(model.discriminator)
    images = images_of(golden["x"])
    mask = torch.from_numpy(np.float32(golden["complete/center/mask"]))[None, None]
    mask = mask.expand(8, 1, *mask.shape[2:])

    def evaluate(z):
        fake = generator(z)
        context = context_loss(fake, images, mask)
        prior = prior_loss(discriminator(fake))
        # the original adds the batch mean of the prior, so its gradient counts once per image
        return context, prior, context + 0.1 * prior

    class FirstMomentum(CounterRNG):
        def normal(self, stream, t, n):
            return torch.from_numpy(golden["hmc/v0"]).float()

        def uniform(self, stream, t, n):
            return torch.zeros(8, 1)  # log 0: accept

    z = torch.nn.Parameter(torch.from_numpy(golden["eval/z"]).clone())
    solver = HMC(iterations=101, leapfrog=100, eps=0.001, beta=0.2)
    losses = list(solver(z, evaluate, FirstMomentum(0, torch.arange(8))))

    def original_total(step):
        return losses[step][0] + 0.1 * losses[step][1].mean()

    def get(key):
        return torch.from_numpy(np.float32(golden[f"hmc/{key}"]))

    torch.testing.assert_close(z.data, get("z"), rtol=0, atol=1e-4)
    torch.testing.assert_close(original_total(0), get("loss0"), rtol=1e-5, atol=0)
    torch.testing.assert_close(original_total(100), get("loss"), rtol=1e-5, atol=0)
    kinetic = (get("v0").square() - get("v").square()).sum(1) / 2
    log_accept = 0.2 * (original_total(0) - original_total(100)) + kinetic
    torch.testing.assert_close(log_accept, get("log_accept"), rtol=0, atol=2e-3)


class Replay(DCGAN):
    """Trains on the z of the golden file and records the loss of each update."""

    def _update(self, network, loss_of, parts, count):
        def recorded(*part):
            loss, log = loss_of(*part)
            self.losses.append(loss.item())
            return loss, log

        return super()._update(network, recorded, parts, count)


def train(golden, iterations, nudge=0.0, seed=0):
    """Train in float64 from the original's weights, each changed by the share `nudge`."""
    size = golden["x"].shape[1]
    model = Replay(image_size=size, z_dim=16, gf_dim=8, df_dim=8, widths=golden["widths"])
    model.load_state_dict(load(golden, "init").state_dict())
    model.double()
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.data *= 1 + nudge * torch.randn_like(parameter)
    model.losses = []
    model.latents = lambda index: torch.from_numpy(golden["train/z"][model.iteration]).double()
    data = DataLoader([{"image": images_of(golden["x"])}] * iterations, batch_size=None)
    trainer = quiet_trainer(
        precision="64-true",  # the same on every machine
    )
    trainer.fit(model, data)
    ours = torch.tensor(model.losses)  # d_loss, g_loss, g_loss of each iteration
    theirs = np.concatenate([golden["train/d_loss"][:, None], golden["train/g_loss"]], 1)
    return model, (ours / torch.from_numpy(theirs[:iterations]).flatten() - 1).abs()


# Rounding decides on which side of LeakyReLU's kink an activation within 1e-8 of it is, and Adam's
# first steps have the size of lr for any gradient.  Runs that differ by rounding therefore diverge
# by 1e-3 within a few updates, onto one of a few discrete paths.  These changes of the initial
# weights lead to the original's path: (nudge, seed, updates compared), chosen from 40 seeds each.
PATHS = {"amos_head": (1e-6, 13, 18), "blog": (1e-7, 27, 8)}


def test_training_losses_match_the_original(golden):
    _, error = train(golden, 6)
    assert error[:2].max() < 1e-6  # before any kink
    assert error.max() < 0.02
    nudge, seed, updates = PATHS[golden["widths"]]
    _, error = train(golden, 6, nudge, seed)
    assert error[:updates].max() < 1e-4


def test_moving_statistics_match_the_original_after_one_iteration(golden):
    """The original has three forward passes of G and four of D per iteration."""
    model, _ = train(golden, 1)
    variables = {
        key.removeprefix(f"{when}/"): value
        for when in ("init", "after1")  # after1/ has moving statistics only
        for key, value in golden.items()
        if key.startswith(when)
    }
    for name, value in state_from_tensorflow(variables).items():
        if "running" in name and not name.startswith("discriminator.norms"):
            torch.testing.assert_close(
                model.state_dict()[name].float(), value, rtol=1e-4, atol=5e-5
            )
