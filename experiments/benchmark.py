"""Compare the speed of this project with that of a straightforward port (port.py).

python experiments/benchmark.py                       gf_dim = df_dim = 64, batches of 64
python experiments/benchmark.py --width 16 --repeats 3
python experiments/benchmark.py --ckpt <run>/weights.safetensors --images 16

The script first checks in float32 that both compute the same gradients.  It then measures:

- the time of one iteration of the search and of the training, in turn: medians and their ratio,
  next to a lower bound, the time of the multiply-adds at the speed of a large matrix product;
- the peak memory of these iterations;
- the time to load a training batch, compared with decoding JPEG files as the original does;
- with the model of --ckpt, the time to the median objective that the port reaches in Amos's 1,000
  iterations: by a search for z, by a search that continues in G's feature maps, and from a learned
  start if the checkpoint contains a latent encoder.
"""

import argparse
import multiprocessing
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from port import Port
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dcgan_inpaint.blending import paste
from dcgan_inpaint.data.batches import EpochSampler, ImageDataset, make_dataloader
from dcgan_inpaint.data.faces.painter import render
from dcgan_inpaint.data.faces.source import draw_factors
from dcgan_inpaint.data.loader import ImageDataModule
from dcgan_inpaint.data.sources import resolve_source
from dcgan_inpaint.errors import format_count
from dcgan_inpaint.images import to_float
from dcgan_inpaint.inpainting.module import InpaintingModule, Objective
from dcgan_inpaint.inpainting.search import Stage
from dcgan_inpaint.inpainting.solvers import Adam, losses_and_gradient
from dcgan_inpaint.masks.masks import center
from dcgan_inpaint.models.checkpoint import load_model
from dcgan_inpaint.models.dcgan import DCGAN
from dcgan_inpaint.models.networks import freeze

PROJECT = Path(__file__).parents[1]
MASK = partial(center, scale=0.25)
AMOS_ITERATIONS = 1000


class Iterations:
    """Single iterations of training and search, by this project and by the port, on the same data.

    Args:
        width: gf_dim and df_dim.
        batch: number of images in a batch.
        device: "cuda" or "cpu".
        precision: of this project, "32-true" or "bf16-mixed"; the port always uses float32.
    """

    def __init__(self, width: int, batch: int, device: str, precision: str):
        torch.manual_seed(0)
        self.device, self.precision, self.bf16 = device, precision, precision == "bf16-mixed"
        self.model = DCGAN(gf_dim=width, df_dim=width).to(device)
        self.images = (torch.rand(batch, 3, 64, 64) * 2 - 1).to(device)
        self.z = self.model.latents(torch.arange(batch)).to(device)
        self.mask = MASK(torch.arange(batch), 64).to(device)
        self.port = Port(self.model.generator, self.model.discriminator, 64)
        self.port.g.eval(), self.port.d.eval()
        self.g, self.d = freeze(self.model.generator), freeze(self.model.discriminator)
        self.objective, self.latent = Objective(), nn.Parameter(self.z.clone())

    def evaluate(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the context, prior and total loss (B,) of latents z (B, z_dim)."""
        fake = self.g(z).float()
        return self.objective.losses(fake, self.images, self.mask, self.d(fake).float())

    def our_search(self) -> Tensor:
        """Return the gradient of the objective (B, z_dim)."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            return losses_and_gradient(self.evaluate, self.latent)[1]

    def ported_search(self) -> Tensor:
        """Return the gradient of the objective (B, z_dim), computed by the port."""
        return self.port.search(self.latent, self.images, self.mask)[1]

    def our_training(self, iterations: int, *callbacks: Callback) -> None:
        """Train the model for a number of iterations."""
        trainer = Trainer(
            max_epochs=1,
            accelerator="gpu" if self.device == "cuda" else "cpu",
            precision=self.precision,  # type: ignore[arg-type]
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        images = self.images.cpu().contiguous(memory_format=torch.channels_last)
        loader: DataLoader = DataLoader([{"image": images}] * iterations, batch_size=None)  # type: ignore[arg-type]
        trainer.fit(self.model, loader)

    def ported_training(self) -> None:
        """Train the port for one iteration."""
        self.port.g.train(), self.port.d.train()
        self.port.train(self.images, self.z)


class InterleavedTimer(Callback):
    """Time each training iteration of this project and one of the port after it, in seconds."""

    def __init__(self, ported_training: Callable[[], None]):
        self.ported_training = ported_training
        self.pairs: list[tuple[float, float]] = []  # port, ours

    def on_train_batch_start(self, *_: object) -> None:
        self.start = now()

    def on_train_batch_end(self, *_: object) -> None:
        ours = now() - self.start
        self.pairs.append((timed(self.ported_training), ours))


def now() -> float:
    """Return the time in seconds, after all queued GPU work has finished."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(run: Callable[[], object]) -> float:
    """Return the run time of a function in seconds."""
    start = now()
    run()
    return now() - start


def print_row(name: str, pairs: list[tuple[float, float]], lower_bound: str = "") -> None:
    """Print the medians of pairs (port, ours) in ms, without the first pair, and their ratio."""
    port, ours = (statistics.median(column) for column in zip(*pairs[1:], strict=True))
    ratio = f"{port / ours:.2f}"
    print(f"| {name} | {1000 * port:.1f} | {1000 * ours:.1f} | {ratio} | {lower_bound} |")


def fastest_product(device: str, dtype: torch.dtype) -> float:
    """Measure a product of 4096 x 4096 (GPU) or 2048 x 2048 (CPU) matrices: best FLOP/s of ten."""
    n = 4096 if device == "cuda" else 2048
    a, b = (torch.rand(n, n, device=device, dtype=dtype) for _ in range(2))
    return 2 * n**3 / min(timed(lambda: a @ b) for _ in range(10))


def multiply_adds(g: nn.Module, d: nn.Module, z: Tensor) -> int:
    """Count the multiply-adds of one forward pass through G and D for latents z (B, z_dim)."""
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Linear):
            total += output.numel() * layer.in_features
        elif isinstance(layer, nn.Conv2d):
            total += output.numel() * layer.in_channels * 25  # 5x5 kernels
        elif isinstance(layer, nn.ConvTranspose2d):
            total += inputs[0].numel() * layer.out_channels * 25

    hooks = [m.register_forward_hook(count) for net in (g, d) for m in net.modules()]
    with torch.no_grad():
        d(g(z))
    for hook in hooks:
        hook.remove()
    return total


def peak_memory(job: str, *shape: object) -> float:
    """Return the additional peak memory of two iterations in MiB; call it in a new process."""
    it = Iterations(*shape)  # type: ignore[arg-type]
    run = {
        "ported search": it.ported_search,
        "our search": it.our_search,
        "ported training": it.ported_training,
        "our training": lambda: it.our_training(2),
    }[job]
    if it.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(), run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(), run()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10


def compare_memory(shape: tuple[object, ...]) -> None:
    """Print the peak memory of the search and of the training, each in a new process."""
    spawn = multiprocessing.get_context("spawn")
    print("\n| memory, MiB | port | ours |\n| --- | --- | --- |")
    for task in ("search", "training"):
        with spawn.Pool(1, maxtasksperchild=1) as pool:  # a new process for each job
            port, ours = (
                pool.apply(peak_memory, (f"{side} {task}", *shape)) for side in ("ported", "our")
            )
        print(f"| {task} | {port:.0f} | {ours:.0f} |")


def compare_loading(batch: int, repeats: int) -> list[tuple[float, float]]:
    """Return seconds per training batch: decoding JPEG files of CelebA's size, and the memory map.

    Returns:
        Pairs (port, ours), one per repeat and one more for warm-up.
    """
    with tempfile.TemporaryDirectory() as directory:
        files = [Path(directory) / f"{i}.jpg" for i in range(batch)]
        faces = render(draw_factors(0, torch.arange(batch)), 256)  # (B, 3, 256, 256) in [0, 1]
        for file, face in zip(files, faces[:, :, 19:237, 39:217], strict=True):
            pixels = (face.permute(1, 2, 0) * 255).byte().numpy()  # (218, 178, 3)
            Image.fromarray(pixels).save(file, quality=95)

        def decode() -> Tensor:
            images = [
                np.asarray(Image.open(file).crop((35, 55, 143, 163)).resize((64, 64)))
                for file in files
            ]
            return to_float(np.stack(images)).permute(0, 3, 1, 2)  # (B, 3, 64, 64)

        cached = np.lib.format.open_memmap(
            f"{directory}/images.npy", "w+", np.uint8, (100 * batch, 3, 64, 64)
        )
        images = ImageDataset(cached, [""] * len(cached), flip=True)
        loader = iter(
            make_dataloader(images, batch, sampler=EpochSampler(images, 0), drop_last=True)
        )
        return [(timed(decode), timed(lambda: next(loader))) for _ in range(1 + repeats)]


def searches(encoder: nn.Module | None) -> dict[str, Callable[[int], dict[str, Any]]]:
    """Return the searches to compare by name, as functions from evaluations of G to settings."""

    def steps(iterations: int, lr: float, bound: Any) -> Adam:
        return Adam(iterations, lr=lr, schedule="cosine", bound=bound)

    def maps(iterations: int) -> list[Stage]:
        half = iterations // 2
        return [
            Stage(level, steps(n, 0.05, "none")) for level, n in ((1, iterations - half), (2, half))
        ]

    settings: dict[str, Callable[[int], dict[str, Any]]] = {
        "z alone": lambda n: {"solver": steps(n, 0.1, "clip")},
        "z and maps": lambda n: {"solver": steps(n // 2, 0.1, "clip"), "stages": maps(n - n // 2)},
    }
    if encoder is not None:
        settings["learned start and maps"] = lambda n: {
            "encoder": encoder,
            "solver": steps(0, 0.1, "clip"),
            "stages": maps(n),
        }
    return settings


def compare_search(ckpt: str, count: int, device: str, bf16: bool) -> None:
    """Print the time to the objective that the port reaches with Amos's settings.

    The objective of this project's searches is computed in float32 from the final images.
    """
    model = load_model(ckpt).to(device)
    gan, encoder = model.gan, model.latent_encoder()
    if gan is None:
        raise ValueError(f"--ckpt {ckpt}: contains no GAN. Use a DCGAN or a latent encoder")
    data = ImageDataModule(
        resolve_source(None, model.data, model.image_shape, ckpt), "~/.cache/dcgan_inpaint"
    ).split("test")
    batch = {k: v.to(device) for k, v in data.__getitems__(list(range(count))).items()}
    mask = MASK(batch["index"], data.images.shape[-1])
    port = Port(gan.ema_generator, gan.discriminator, data.images.shape[-1])
    port.g.eval(), port.d.eval()
    objective, discriminator = Objective(), freeze(gan.discriminator)
    z, start = gan.latents(batch["index"], seed=0), now()
    goal = port.complete(z, batch["image"], mask, AMOS_ITERATIONS).median()
    port_seconds = now() - start
    print(
        f"\n{format_count(count, 'image')} completed with {ckpt}\n\n"
        "| search | evaluations | median objective | seconds per image | speedup |\n"
        "| --- | --- | --- | --- | --- |\n"
        f"| port | {AMOS_ITERATIONS} | {goal:.1f} | {port_seconds / count:.3f} | 1 |"
    )
    for name, settings in searches(encoder).items():
        for iterations in (0, 5, 10, 25, 50, 75, 100, 150, 200, 300, 500, 1000):
            search = InpaintingModule(gan, MASK, objective, blend=paste, **settings(iterations))
            search.to(device)
            start = now()
            # as in Lightning: a weight cache would store the first z of the search
            with torch.autocast(device, torch.bfloat16, enabled=bf16, cache_enabled=False):
                fake = search.predict_step(batch).fake.float()  # (B, C, S, S)
            seconds = now() - start
            losses = objective.losses(fake, batch["image"], mask, discriminator(fake))
            reached = losses[2].median()
            speed = f"{seconds / count:.3f} | {port_seconds / seconds:.1f}"
            print(f"| {name} | {iterations} | {reached:.1f} | {speed} |")
            if reached <= goal:
                break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=64, help="gf_dim and df_dim")
    parser.add_argument("--batch", type=int, default=64, help="images in a batch")
    parser.add_argument("--repeats", type=int, default=7, help="timed iterations of each kind")
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default_device, help="cuda or cpu")
    parser.add_argument(
        "--precision", default="32-true", help="of this project: 32-true or bf16-mixed"
    )
    shipped = PROJECT / "dcgan_inpaint" / "checkpoints" / "faces64.safetensors"
    parser.add_argument("--ckpt", default=str(shipped), help="checkpoint for the completions")
    parser.add_argument("--images", type=int, default=32, help="images to complete")
    arguments = parser.parse_args()
    device, repeats = arguments.device, arguments.repeats
    shape = (arguments.width, arguments.batch, device, arguments.precision)
    compare_memory(shape)  # first, because child processes inherit the peak memory on Linux
    it = Iterations(*shape)
    macs = multiply_adds(it.model.generator, it.model.discriminator, it.z)
    speed = fastest_product(device, torch.bfloat16 if it.bf16 else torch.float32)
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor()
    print(
        f"{device} {name}, {format_count(torch.get_num_threads(), 'thread')}, "
        f"torch {torch.__version__}; width {arguments.width}, batch {arguments.batch}, ours in "
        f"{arguments.precision}, matrix product {speed / 1e9:.0f} GFLOP/s\n\n"
        "| iteration | port, ms | ours, ms | ratio | lower bound, ms |\n"
        "| --- | --- | --- | --- | --- |"
    )

    def lower_bound(flop: float) -> str:
        return f"{1000 * flop / speed:.1f} ({flop / 1e9:.1f} GFLOP)"

    slope = losses_and_gradient(it.evaluate, it.latent)[1]  # (B, z_dim), float32
    ported = it.ported_search()  # (B, z_dim)
    # Compare norms: rounding can put single values on the other side of the kink of the l1 loss.
    if (slope - ported).norm() > 0.01 * ported.norm():
        raise RuntimeError("the port and this project compute different gradients of the search")
    pairs = [(timed(it.ported_search), timed(it.our_search)) for _ in range(1 + repeats)]
    # G and D forward, D and G backward to their inputs.
    print_row("search", pairs, lower_bound(2 * macs * 2))
    clock = InterleavedTimer(it.ported_training)
    it.our_training(1 + repeats, clock)
    # Forward: G twice, D four times.  Backward: D with weights for two batches, the inputs of G and
    # D twice, the weights of G twice.  G and D have the same number of multiply-adds, macs / 2.
    print_row("training", clock.pairs, lower_bound(macs * (2 + 4 + 4 + 2 + 4)))
    print_row("data", compare_loading(arguments.batch, repeats))
    compare_search(arguments.ckpt, arguments.images, device, it.bf16)


if __name__ == "__main__":
    main()
