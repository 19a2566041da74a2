"""Measure the cost of training at 64, 128 and 256 px.

python experiments/resolution.py

For each size the script trains a DCGAN and a network for one-pass completion that starts from it,
on random images, with the presets of conf/.  It prints the floating-point operations and the CPU
time of an iteration.  The CPU time is the median of the iterations without the first, summed over
all threads, so other programs on the machine change it little.
"""

import argparse
import statistics
import time
from typing import Any

import torch
from common import markdown_row
from hydra.utils import instantiate
from pytorch_lightning import Callback, Trainer
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from dcgan_inpaint.composition import compose_config

SIZES = (64, 128, 256)  # px
WIDTHS = ["model.df_dim=32"]
MODELS = {  # the second starts from the first
    "DCGAN": ["model=dcgan", "model.gf_dim=48", "model.r1=0.5"],
    "one-pass network": ["model=one_pass", "gan=none", "model.code_dim=256"],
}
HEADER = ("size, px", "model", "GFLOP per image", "CPU seconds per image", "GFLOP/s")


class Costs(Callback):
    """CPU time of each iteration in seconds, and floating-point operations of the last one."""

    def __init__(self, iterations: int):
        self.iterations, self.seconds = iterations, list[float]()

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.counter = FlopCounterMode(display=False)
        if batch_idx == self.iterations - 1:
            self.counter.__enter__()
        self.start = time.process_time()

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.seconds.append(time.process_time() - self.start)
        if batch_idx == self.iterations - 1:
            self.counter.__exit__(None, None, None)


def build(size: int, overrides: list[str], **arguments: Any) -> Any:
    """Build an untrained model of conf/model for images of `size` px, with a layer per size."""
    layers = f"model.layers={size.bit_length() - 3}"  # 4 at 64 px: down to 4x4
    config = compose_config("train", [*overrides, *WIDTHS, layers, f"data.image_size={size}"])
    return instantiate(config.model, image_size=size, channels=3, crop=1.0, **arguments)


def measure(model: Any, size: int, batch: int, iterations: int) -> Costs:
    """Train a model for a number of iterations on random images and return their cost."""
    images = (torch.rand(batch, 3, size, size) * 2 - 1).contiguous(
        memory_format=torch.channels_last
    )
    costs = Costs(iterations)
    trainer = Trainer(
        max_epochs=1,
        callbacks=[costs],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader: DataLoader = DataLoader([{"image": images}] * iterations, batch_size=None)  # type: ignore[arg-type]
    trainer.fit(model, loader)
    return costs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=16, help="images in a batch")
    parser.add_argument("--iterations", type=int, default=5, help="iterations of each model")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="sides in px")
    args = parser.parse_args()
    torch.manual_seed(0)
    print(markdown_row(HEADER))
    print(markdown_row(["---"] * len(HEADER)))
    for size in args.sizes:
        gan = None
        for name, overrides in MODELS.items():
            model = build(size, overrides, **({"gan": gan} if gan else {}))
            gan = model.gan
            costs = measure(model, size, args.batch, args.iterations)
            operations = costs.counter.get_total_flops() / args.batch / 1e9
            seconds = statistics.median(costs.seconds[1:-1]) / args.batch
            speed = operations / seconds
            cells = [size, name, f"{operations:.2f}", f"{seconds:.3f}", f"{speed:.0f}"]
            print(markdown_row(cells), flush=True)


if __name__ == "__main__":
    main()
