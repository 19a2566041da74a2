"""Compare this project with other methods and libraries, on the same images, masks and metrics.

python experiments/peers.py data=celeba data.root=path/to/celeba split=test limit=512
python experiments/peers.py data=... --methods csgm biharmonic --onnx lama.onnx migan.onnx

Every method completes the same images through inpaint.py: the same crops, masks, blending and
metrics.  The script runs it once for each mask and method, in runs/peers/<mask>/<method>, and
prints a table per mask.  An interrupted script resumes where it stopped.  All other overrides of
inpaint.py are passed to every run.

It requires pip install -e ".[peers,baselines,features]".  ckpt= is a checkpoint with a GAN and a
network for one-pass completion; CSGM and the searches use the same generator.  --onnx adds
inpainting networks in ONNX files, such as LaMa and MI-GAN, which must be downloaded by the user.
"""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from common import format_interval, markdown_row
from gather import find_runs
from torch import Tensor, nn
from torch.nn import functional as F

from dcgan_inpaint.composition import quote_override
from dcgan_inpaint.configs import Count, NonNegative, Positive, checked
from dcgan_inpaint.errors import import_extra
from dcgan_inpaint.inpainting.baselines import mean
from dcgan_inpaint.models.base import Model
from dcgan_inpaint.models.networks import freeze

PROJECT = Path(__file__).parents[1]
MASKS = ("center", "half")
# Number of images for methods that take minutes per image.
FIRST = {"deep_image_prior": 16}
COLUMNS = {"psnr_hole": 2, "feature_distance": 3}  # metrics and their digits


class CSGM:
    """Search for the z of each image in a batch with deepinv's CSGMGenerator (Bora 2017).

    The solver stops when the error summed over the batch changes by less than `tolerance` times
    its value.

    Args:
        model: Model with a GAN.
        iterations, tolerance, lr: inf_max_iter, inf_tol and inf_lr of CSGMGenerator.
        restarts: Number of random z; that with the smallest error of the known pixels is used.
    """

    @checked
    def __init__(
        self,
        model: Any,
        iterations: Count = 2500,
        tolerance: NonNegative = 1e-4,
        lr: Positive = 1e-2,
        restarts: Count = 1,
    ):
        self.deepinv, self.restarts = import_deepinv(), restarts
        self.solver = self.deepinv.models.CSGMGenerator(
            Backbone(model), iterations, tolerance, lr
        ).eval()
        # A mean over the batch would make the gradient of each image depend on the batch size.
        self.solver.inf_loss = self.deepinv.loss.MCLoss(sum_of_errors)

    def __call__(self, known: Tensor, mask: Tensor) -> Tensor:
        """Return completions (B, C, S, S) of known (B, C, S, S) and mask (B, 1, S, S)."""
        physics = self.deepinv.physics.Inpainting(known.shape[1:], mask.expand_as(known))
        fakes = []
        for seed in range(self.restarts):
            torch.manual_seed(seed)  # the solver draws z from the global generator
            z = self.solver.random_latent(known.device, requires_grad=False)  # (1, nz, 1, 1)
            z = self.solver.optimize_z(z.repeat(len(known), 1, 1, 1), known, physics)
            fakes.append(self.solver.backbone_generator(z).detach())
        stacked = torch.stack(fakes)  # (restarts, B, C, S, S)
        errors = ((stacked - known) * mask).square().sum((2, 3, 4))  # (restarts, B)
        return stacked[errors.argmin(0), torch.arange(len(known))]


def sum_of_errors(images: Tensor, truth: Tensor) -> Tensor:
    """Compute the mean squared error of each image (B, C, S, S), and return the sum over images."""
    return (images - truth).square().mean((1, 2, 3)).sum()


class Backbone(nn.Module):
    """Averaged generator of a model, as deepinv expects it: z (B, nz, 1, 1) -> (B, C, S, S)."""

    def __init__(self, model: Model):
        super().__init__()
        assert model.gan is not None
        self.generator, self.nz = freeze(model.gan.ema_generator), model.gan.settings.z_dim

    def forward(self, z: Tensor) -> Tensor:
        return self.generator(z.flatten(1))


class PlugAndPlay:
    """Half-quadratic splitting with a denoiser as the prior (Zhang 2017), by deepinv.

    The hole starts with the mean color of the known pixels.  deepinv starts from zeros; a local
    denoiser then leaves the middle of a large hole black.

    Args:
        denoiser: "tv" (total variation) or "wavelet" (soft thresholding).
        first, last: Noise level of the denoiser in the first and the last iteration, for images in
            [0, 1]; geometric in between.
        iterations: Number of iterations.
    """

    @checked
    def __init__(
        self,
        denoiser: Literal["tv", "wavelet"],
        first: Positive = 0.1,
        last: Positive = 0.01,
        iterations: Count = 50,
    ):
        self.deepinv, self.denoiser = import_deepinv(), denoiser
        self.sigmas = np.geomspace(first, last, iterations).tolist()

    def __call__(self, known: Tensor, mask: Tensor) -> Tensor:
        """Return completions (B, C, S, S) of known (B, C, S, S) and mask (B, 1, S, S)."""
        models, optim = self.deepinv.models, self.deepinv.optim
        # Built for each batch, because TVDenoiser starts from its last image.
        denoiser = models.TVDenoiser() if self.denoiser == "tv" else models.WaveletDenoiser()
        solver = optim.HQS(
            data_fidelity=optim.L2(),
            prior=optim.PnP(denoiser),
            sigma_denoiser=self.sigmas,
            max_iter=len(self.sigmas),
        )
        start = (torch.where(mask == 0, mean(known, mask), known) + 1) / 2  # (B, C, S, S)
        physics = self.deepinv.physics.Inpainting(known.shape[1:], mask.expand_as(known))
        return solver(start * mask, physics, init=(start, start)) * 2 - 1


class ImagePrior:
    """Deep image prior (Ulyanov 2018) by deepinv, one image at a time.

    Args:
        iterations, lr: iterations and learning_rate of DeepImagePrior.
        layers, channels: of its network, ConvDecoder.
    """

    @checked
    def __init__(
        self,
        iterations: Count = 2500,
        lr: Positive = 1e-2,
        layers: Count = 5,
        channels: Count = 64,
    ):
        self.deepinv, self.iterations, self.lr = import_deepinv(), iterations, lr
        self.shape = {"layers": layers, "channels": channels}

    def __call__(self, known: Tensor, mask: Tensor) -> Tensor:
        """Return completions (B, C, S, S) of known (B, C, S, S) and mask (B, 1, S, S)."""
        with torch.enable_grad():
            fakes = [self._complete(*pair) for pair in zip(known, mask, strict=True)]
        return torch.cat(fakes).detach() * 2 - 1

    def _complete(self, known: Tensor, mask: Tensor) -> Tensor:
        torch.manual_seed(0)  # the network starts from the global generator
        channels, side = self.shape["channels"], 4
        network = self.deepinv.models.ConvDecoder(
            tuple(known.shape), in_size=(side, side), **self.shape
        )
        solver = self.deepinv.models.DeepImagePrior(
            network, (channels, side, side), self.iterations, self.lr
        )
        physics = self.deepinv.physics.Inpainting(known.shape, mask)
        return solver(((known + 1) / 2 * mask)[None], physics)  # (1, C, S, S)


class Onnx:
    """An inpainting network in an ONNX file with the inputs image and mask.

    Two conventions are known, by the type of the inputs.  Numbers (LaMa, as exported by Carve):
    image in [0, 1], mask 1 in the hole, result 0 to 255.  Bytes (the pipeline of MI-GAN): image and
    result 0 to 255, mask 255 where the image is known.  Images are resized to the size of the
    inputs if it is fixed.

    Args:
        path: The ONNX file.

    Raises:
        ValueError: If the file has other inputs.
    """

    @checked
    def __init__(self, path: str):
        runtime = import_extra("onnxruntime", "--onnx", "onnxruntime", "peers")
        self.session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
        inputs = {each.name: each for each in self.session.get_inputs()}
        if inputs.keys() != {"image", "mask"}:
            raise ValueError(f"{path}: has the inputs {', '.join(inputs)}. Expected image, mask")
        self.bytes = inputs["image"].type == "tensor(uint8)"
        *_, side = inputs["image"].shape
        self.side = side if isinstance(side, int) else None

    def __call__(self, known: Tensor, mask: Tensor) -> Tensor:
        """Return completions (B, 3, S, S) of known (B, 3, S, S) and mask (B, 1, S, S)."""
        return torch.cat([self._complete(*pair) for pair in zip(known, mask, strict=True)])

    def _complete(self, known: Tensor, mask: Tensor) -> Tensor:
        size = known.shape[-1]
        image, mask = ((known + 1) / 2 * mask)[None], mask[None]  # (1, 3, S, S), (1, 1, S, S)
        if self.side:
            image = F.interpolate(image, self.side, mode="bicubic", antialias=True).clamp(0, 1)
            mask = F.interpolate(mask, self.side, mode="nearest")
        if self.bytes:
            inputs = [(each * 255).round().to(torch.uint8) for each in (image, mask)]
        else:
            inputs = [image, 1 - mask]
        feed = {name: each.numpy() for name, each in zip(("image", "mask"), inputs, strict=True)}
        result = torch.from_numpy(self.session.run(None, feed)[0]).float() / 127.5 - 1
        if self.side:
            result = F.interpolate(result, size, mode="bicubic", antialias=True)
        return result.clamp(-1, 1)


def import_deepinv() -> Any:
    """Import deepinv; raise ModuleNotFoundError, one line, if it is not installed."""
    return import_extra("deepinv", "this method", "deepinv", "peers")


def run(mask: str, name: str, overrides: list[str]) -> Path:
    """Complete the images with a method, with its overrides, and return the run directory."""
    directory = Path("runs/peers") / mask / name
    limit = [f"limit={FIRST[name]}"] if name in FIRST else []
    own = [f"mask={mask}", "features=true", f"output={directory}", *limit]
    paths = os.pathsep.join([str(PROJECT / "experiments"), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, str(PROJECT / "inpaint.py"), *overrides, *own],
        env=os.environ | {"PYTHONPATH": paths},
        check=True,
    )
    return directory


def own_method(name: str, **arguments: object) -> list[str]:
    """Return the overrides of inpaint.py for a class of this file."""
    values = [_override(f"+method.{key}", value) for key, value in arguments.items()]
    return ["method=own", f"method._target_=peers.{name}", *values]


def _override(key: str, value: object) -> str:
    """Return key=value as Hydra reads it: a number as it is, and any text as text."""
    return (
        shlex.split(quote_override(key, value))[0] if isinstance(value, str) else f"{key}={value}"
    )


METHODS = {  # overrides of inpaint.py by the name of the method
    "one_pass": [],
    "search": ["method=search", "start=random"],
    "total_variation": ["method=tv"],
    "biharmonic": ["method=biharmonic"],
    "telea": ["method=telea"],
    "navier_stokes": ["method=navier_stokes"],
    "mean": ["method=mean"],
    "csgm": own_method("CSGM"),
    "csgm_tuned": own_method("CSGM", lr=0.05, tolerance=0.0, iterations=500),
    "pnp_tv": own_method("PlugAndPlay", denoiser="tv", first=0.3, last=0.05),
    "pnp_wavelet": own_method("PlugAndPlay", denoiser="wavelet"),
    "deep_image_prior": own_method("ImagePrior"),
}


def format_run(name: str, directory: Path) -> str:
    """Return the row of a method: means with 95% intervals, FD, and the median seconds."""
    (found,) = find_runs([directory], [])
    values = found.metrics
    summary = read_summary(directory)
    cells = [format_interval(values[metric], digits) for metric, digits in COLUMNS.items()]
    seconds = f"{values['seconds'].median():.3g}"
    count = len(values["seconds"])
    return markdown_row([name, count, *cells, f"{summary['fd_efflite0']:.1f}", seconds])


def read_summary(directory: Path) -> dict[str, float]:
    """Return the value of each metric in the summary.csv of a run."""
    lines = (directory / "summary.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines[1:]]
    return {name: float(value) for name, value, *_ in rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="overrides of inpaint.py")
    parser.add_argument("--masks", nargs="+", default=MASKS, help="choices of mask=")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="which to run")
    parser.add_argument("--onnx", nargs="+", default=[], type=Path, help="ONNX files")
    args = parser.parse_intermixed_args()
    for name in args.methods:
        if name not in METHODS:
            sys.exit(f"error: --methods {name}: unknown. Use {', '.join(METHODS)}")
    methods = {name: METHODS[name] for name in args.methods}
    methods |= {file.stem: own_method("Onnx", path=str(file.resolve())) for file in args.onnx}
    overrides = ["ckpt=celeba64", "batch_size=32", *args.overrides]
    header = ["method", "images", "PSNR, dB", "feature distance", "FD-EffLite0", "seconds"]
    for mask in args.masks:
        rows = [
            format_run(name, run(mask, name, [*overrides, *method]))
            for name, method in methods.items()
        ]
        lines = [f"\n{mask}\n", markdown_row(header), markdown_row(["---"] * len(header)), *rows]
        print("\n".join(lines))


if __name__ == "__main__":
    main()
