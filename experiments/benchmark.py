"""How fast: this project against a straightforward port, side by side in one run.

python experiments/benchmark.py                    gf_dim = df_dim = 64, batches of 64
python experiments/benchmark.py --width 16 --repeats 3

The port is what a line-by-line translation of the TensorFlow code gives: SAME padding by explicit
pads and crops, G(z) computed anew for each step, gradients for weights that nobody updates, losses
evaluated again after the updates, and a search through networks that are not frozen, with their
BatchNorm as trained.  Both compute the same: the script checks that first.  Then one iteration of
each is timed in turn, and the medians and their ratio printed, beside the time that the
multiply-adds of our layers would take at the speed of a large matrix product on this machine.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from dcgan_inpaint.dcgan import DCGAN
from dcgan_inpaint.masks import center
from dcgan_inpaint.networks import Discriminator, Generator, frozen
from dcgan_inpaint.objective import Objective, discriminator_losses, generator_loss
from dcgan_inpaint.solvers import gradient


class PortedGenerator(nn.Module):
    """Our Generator's function, upright: full transposed convolutions, cropped."""

    def __init__(self, ours: Generator):
        super().__init__()
        self.width = ours.widths[0]
        self.project = nn.Linear(ours.project.in_features, ours.project.out_features)
        for mine, theirs in zip(
            self.project.parameters(), ours.project.parameters(), strict=True
        ):  # (16·C, z_dim) and (16·C,): from (H, W, C) mirrored to (C, H, W) upright
            upright = theirs.data.view(4, 4, self.width, -1).flip(0, 1).permute(2, 0, 1, 3)
            mine.data = upright.reshape(theirs.shape).clone()
        self.norms = nn.ModuleList(nn.BatchNorm2d(norm.num_features) for norm in ours.norms)
        self.deconvs = nn.ModuleList(
            nn.ConvTranspose2d(d.in_channels, d.out_channels, 5, stride=2) for d in ours.deconvs
        )
        _turn(self.deconvs, ours.deconvs)
        self.norms.load_state_dict(ours.norms.state_dict())

    def forward(self, z: Tensor) -> Tensor:
        h = self.project(z).view(-1, self.width, 4, 4)  # (B, 8·gf, 4, 4)
        for norm, deconv in zip(self.norms, self.deconvs, strict=True):
            h = deconv(F.relu(norm(h)))[:, :, 1:-2, 1:-2]  # (B, 4·gf, 8, 8), ...
        return torch.tanh(h)


class PortedDiscriminator(nn.Module):
    """Our Discriminator's function, upright: padded convolutions."""

    def __init__(self, ours: Discriminator, size: int):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(c.in_channels, c.out_channels, 5, stride=2) for c in ours.convs
        )
        _turn(self.convs, ours.convs)
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(n.num_features) if isinstance(n, nn.BatchNorm2d) else nn.Identity()
            for n in ours.norms
        )
        self.norms.load_state_dict(ours.norms.state_dict())
        self.classify = nn.Linear(ours.classify.in_features, 1)
        side = size // 16
        upright = ours.classify.weight.data.view(side, side, -1).flip(0, 1).permute(2, 0, 1)
        self.classify.weight.data = upright.reshape(1, -1).clone()
        self.classify.bias.data = ours.classify.bias.data.clone()

    def forward(self, images: Tensor) -> Tensor:
        h = images
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h = F.leaky_relu(norm(conv(F.pad(h, (1, 2, 1, 2)))), 0.2)  # (B, df, S/2, S/2), ...
        return self.classify(h.flatten(1)).squeeze(1)  # (B,)


def _turn(ported: nn.ModuleList, ours: nn.ModuleList) -> None:
    """Kernels from mirrored to upright."""
    for mine, theirs in zip(ported, ours, strict=True):
        mine.weight.data = theirs.weight.data.flip(2, 3).clone()
        mine.bias.data = theirs.bias.data.clone()


class Port:
    """The straightforward port: its training iteration and its iteration of the search."""

    def __init__(self, model: DCGAN):
        size = model.hparams["image_size"]
        self.g = PortedGenerator(model.generator).to(model.device)
        self.d = PortedDiscriminator(model.discriminator, size).to(model.device)
        self.d_adam, self.g_adam = (
            torch.optim.Adam(network.parameters(), 2e-4, (0.5, 0.999))
            for network in (self.d, self.g)
        )

    def train(self, images: Tensor, z: Tensor) -> None:
        real, fake = discriminator_losses(self.d(images), self.d(self.g(z)))
        self.d_adam.zero_grad()
        (real + fake).backward()
        self.d_adam.step()
        for _ in range(2):
            self.g_adam.zero_grad()
            generator_loss(self.d(self.g(z))).backward()
            self.g_adam.step()
        # as the original prints them
        with torch.no_grad():
            real, fake = discriminator_losses(self.d(images), self.d(self.g(z)))
            float(real), float(fake), float(generator_loss(self.d(self.g(z))))

    def search(self, z: Tensor, images: Tensor, mask: Tensor) -> Tensor:
        fake = self.g(z)
        context = (mask * (fake - images).abs()).sum((1, 2, 3))
        total = context + 0.1 * F.softplus(-self.d(fake))
        total.sum().backward()
        slope, z.grad = z.grad, None
        return slope


class Interleaved(Callback):
    """Times each of our training iterations, and one of the port's after it, in seconds."""

    def __init__(self, port: Port, images: Tensor, z: Tensor):
        self.port, self.images, self.z = port, images, z
        self.ours: list[float] = []
        self.ported: list[float] = []

    def on_train_batch_start(self, *_: object) -> None:
        self.since = now()

    def on_train_batch_end(self, *_: object) -> None:
        self.ours.append(now() - self.since)
        self.ported.append(timed(lambda: self.port.train(self.images, self.z)))


def now() -> float:
    """Seconds, when the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(run: Callable[[], object]) -> float:
    since = now()
    run()
    return now() - since


def report(what: str, ported: list[float], ours: list[float], flop: float, speed: float) -> None:
    """Medians, without the first iteration of each, and their ratio."""
    port, own = statistics.median(ported[1:]), statistics.median(ours[1:])
    print(
        f"| {what} | {1000 * port:.1f} | {1000 * own:.1f} | {port / own:.2f} "
        f"| {1000 * flop / speed:.1f} ({flop / 1e9:.1f} GFLOP) |"
    )


def peak(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a matrix product of 4096 x 4096 (GPU) or 2048 x 2048 (CPU): the best of ten."""
    n = 4096 if device == "cuda" else 2048
    a, b = (torch.rand(n, n, device=device, dtype=dtype) for _ in range(2))
    return 2 * n**3 / min(timed(lambda: a @ b) for _ in range(10))


def multiply_adds(g: nn.Module, d: nn.Module, z: Tensor) -> int:
    """Of one pass through the layers of G and of D, for a batch."""
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Linear):
            total += output.numel() * layer.in_features
        elif isinstance(layer, nn.Conv2d):
            total += output.numel() * layer.in_channels * 25
        elif isinstance(layer, nn.ConvTranspose2d):
            total += inputs[0].numel() * layer.out_channels * 25

    hooks = [m.register_forward_hook(count) for net in (g, d) for m in net.modules()]
    with torch.no_grad():
        d(g(z))
    for hook in hooks:
        hook.remove()
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=64, help="gf_dim and df_dim")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7, help="timed iterations of each")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="32-true", help="of ours: 32-true or bf16-mixed")
    arguments = parser.parse_args()
    device, batch, bf16 = arguments.device, arguments.batch, arguments.precision == "bf16-mixed"
    torch.manual_seed(0)
    model = DCGAN(gf_dim=arguments.width, df_dim=arguments.width).to(device)
    images = (torch.rand(batch, 3, 64, 64) * 2 - 1).to(device)
    z = model.latents(torch.arange(batch)).to(device)
    mask = center(torch.arange(batch), 64, 0.25).to(device)
    port, objective, latent = Port(model), Objective(), nn.Parameter(z.clone())
    g, d = frozen(model.generator), frozen(model.discriminator)
    macs = multiply_adds(g, d, z)
    speed = peak(device, torch.bfloat16 if bf16 else torch.float32)
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor()
    print(
        f"{device} {name}, {torch.get_num_threads()} threads, torch {torch.__version__}; width "
        f"{arguments.width}, batch {batch}, ours in {arguments.precision}, matrix product "
        f"{speed / 1e9:.0f} GFLOP/s\n\n"
        "| iteration | port, ms | ours, ms | ratio | arithmetic at that speed, ms |\n"
        "| --- | --- | --- | --- | --- |"
    )

    def evaluate(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fake = g(z).float()
        context, prior = objective.context(fake, images, mask), objective.prior(d(fake).float())
        return context, prior, context + objective.lam * prior

    def our_search() -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            return gradient(evaluate, latent)[1]

    def ported_search() -> Tensor:
        return port.search(latent, images, mask)

    port.g.eval(), port.d.eval()
    if not bf16:
        torch.testing.assert_close(our_search(), ported_search(), rtol=1e-3, atol=1e-3)
    pairs = [(timed(ported_search), timed(our_search)) for _ in range(1 + arguments.repeats)]
    # G and D forward, D and G backward to their inputs
    report("completion", *map(list, zip(*pairs, strict=True)), 2 * macs * 2, speed)

    port.g.train(), port.d.train()
    clock = Interleaved(port, images, z)
    trainer = Trainer(
        max_epochs=1,
        accelerator="gpu" if device == "cuda" else "cpu",
        precision=arguments.precision,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    channels_last = images.cpu().contiguous(memory_format=torch.channels_last)
    trainer.fit(model, DataLoader([{"image": channels_last}] * (1 + arguments.repeats), None))
    # forward: G twice, D four times; backward: D with weights for two batches, and G and D's inputs
    # twice, G's weights twice.  D and G have the same multiply-adds, half of macs each
    report("training", clock.ported, clock.ours, macs * (2 + 4 + 4 + 2 + 4), speed)


if __name__ == "__main__":
    main()
