"""Against numbers computed with the original TensorFlow code (README, "The method").

golden/{blog,head}.npz, for both generator widths: weights in TensorFlow's names and layouts before
training (init/) and after 6 iterations (after6/) on the pictures x (8, S, S, 3), made up and
smooth, with train/z and the losses train/; with after6/, what the networks give (eval/), the search
under six masks from z = eval/z (complete/: 20 iterations, lam 0.1) and one HMC proposal (hmc/).
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from dcgan_inpaint.blending import paste
from dcgan_inpaint.dcgan import DCGAN
from dcgan_inpaint.import_tf import state_from_tensorflow
from dcgan_inpaint.inpainting import InpaintingModule
from dcgan_inpaint.measurements import Lowres
from dcgan_inpaint.networks import frozen
from dcgan_inpaint.objective import (
    Objective,
    context_loss,
    discriminator_losses,
    generator_loss,
    prior_loss,
)
from dcgan_inpaint.randomness import Draws
from dcgan_inpaint.solvers import HMC, Adam

GOLDEN = Path(__file__).parent / "golden"
MASKS = ["center", "left", "random", "grid", "full", "lowres"]


@pytest.fixture(scope="module", params=[("blog", "blog"), ("head", "amos_head")])
def golden(request):
    name, widths = request.param
    return dict(np.load(GOLDEN / f"{name}.npz")) | {"widths": widths}


def pictures(array):
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
def test_networks(golden):
    model = load(golden, "after6")
    z, x = torch.from_numpy(golden["eval/z"]), pictures(golden["x"])
    fake = model.generator(z)
    torch.testing.assert_close(fake, pictures(golden["eval/G"]), rtol=0, atol=1e-6)
    real_logits, fake_logits = model.discriminator(x), model.discriminator(fake)
    for ours, name in ((real_logits, "eval/real_logits"), (fake_logits, "eval/fake_logits")):
        torch.testing.assert_close(ours, torch.from_numpy(golden[name])[:, 0], rtol=0, atol=1e-5)
    d_loss = sum(discriminator_losses(real_logits, fake_logits))
    assert d_loss.item() == pytest.approx(float(golden["eval/d_loss"]), rel=1e-5)
    assert generator_loss(fake_logits).item() == pytest.approx(golden["eval/g_loss"], rel=1e-5)


def complete(model, golden, name, ema):
    """The golden search under one mask, by our code: the module and its Completion."""
    mask = torch.from_numpy(np.float32(golden[f"complete/{name}/mask"]))
    search = InpaintingModule(
        model,
        mask=lambda index, _: mask.expand(len(index), 1, *mask.shape),
        objective=Objective(lam=0.1),
        solver=Adam(iterations=20, lr=0.01),
        blend=paste,
        measure=Lowres(8) if name == "lowres" else None,
        ema=ema,
        progress=False,
    )
    search.latents = lambda index, seed: torch.from_numpy(golden["eval/z"]).clone()
    return search, search.predict_step({"image": pictures(golden["x"]), "index": torch.arange(8)})


@pytest.mark.parametrize("name", MASKS)
def test_completion(golden, name):
    """Start, first gradient, the losses of 20 iterations and the z they end at."""
    model = load(golden, "after6")
    get = lambda key: torch.from_numpy(np.float32(golden[f"complete/{name}/{key}"]))  # noqa: E731
    search, done = complete(model, golden, name, ema=False)
    torch.testing.assert_close(done.trace[0, :, 0], get("context0"), rtol=1e-5, atol=0)
    # the original adds the batch mean of the prior to each image's loss, ours its own prior
    total = done.trace[:20, :, 0] + 0.1 * done.trace[:20, :, 1].mean(1, keepdim=True)
    torch.testing.assert_close(total, get("loss"), rtol=1e-5, atol=0)
    torch.testing.assert_close(done.z, get("z20"), rtol=0, atol=1e-4)

    z = torch.from_numpy(golden["eval/z"]).clone().requires_grad_()
    _, target, weights = search._known(done.images, done.index)
    losses = search.losses(frozen(model.generator)(z), target, weights)
    (gradient,) = torch.autograd.grad(losses[2].sum(), z)
    scale = get("grad0").abs().max().item()
    torch.testing.assert_close(gradient, get("grad0"), rtol=0, atol=1e-4 * scale)


def test_hmc(golden):
    """One proposal of 100 leapfrog steps from the same momentum, before it is accepted or not."""
    model = load(golden, "after6")
    generator, discriminator = frozen(model.generator), frozen(model.discriminator)
    images = pictures(golden["x"])
    mask = torch.from_numpy(np.float32(golden["complete/center/mask"]))[None, None]
    mask = mask.expand(8, 1, *mask.shape[2:])

    def evaluate(z):
        fake = generator(z)
        context = context_loss(fake, images, mask)
        prior = prior_loss(discriminator(fake))
        # the original adds the batch mean of the prior, whose gradient it sees once per image
        return context, prior, context + 0.1 * prior

    class FirstMomentum(Draws):
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
