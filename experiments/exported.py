"""Compare the exported forms of the shipped models with PyTorch: size, error, metrics and run time.

python experiments/exported.py data=celeba data.root=path/to/celeba split=val limit=64 mask=center

Accepts the overrides of inpaint.py.  Every form completes the same images.  The run time is the
median of completing each image on its own.  Requires pip install -e ".[onnx,features]".
"""

import argparse
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from common import CompletionRun, format_interval, markdown_row
from torch import Tensor

from dcgan_inpaint.blending import poisson
from dcgan_inpaint.errors import import_extra
from dcgan_inpaint.metrics.completions import psnr
from dcgan_inpaint.metrics.features import compare, load_efflite0

Completion = Callable[[Tensor, Tensor], Tensor]  # images, mask -> completions
FORMS = {  # file name and options of dcgan-export
    "torch.export": ("model.pt2", []),
    "ONNX, half": ("half.onnx", []),
    "ONNX, int8": ("int8.onnx", ["weights=int8"]),
}
SIZES = {"celeba64": [], "celeba128": ["data.image_size=128", "data.crop=0.79775281"]}
HEADER = ("model", "form", "MB", "largest difference", "PSNR, dB", "feature distance", "ms")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", help="overrides of inpaint.py")
    overrides = parser.parse_args().overrides
    print(markdown_row(HEADER) + "\n" + markdown_row(["---"] * len(HEADER)))
    for name, size in SIZES.items():
        run = CompletionRun(["limit=64", *overrides, f"ckpt={name}", *size])
        batches = list(run.completions())
        images = torch.cat([batch.images for batch in batches])
        mask = torch.cat([batch.mask for batch in batches])
        network = run.model.fill()
        assert network is not None
        expected = None
        with tempfile.TemporaryDirectory() as directory:
            for form, (file, options) in {"PyTorch": ("", []), **FORMS}.items():
                path = Path(directory) / file
                if file:
                    command = ["dcgan-export", f"ckpt={name}", f"out={path}", *options]
                    subprocess.run(command, check=True, capture_output=True)
                completing = load(path) if file else partial(blended, network)
                completions, seconds = complete(completing, images, mask)
                expected = completions if expected is None else expected
                size_mb = f"{path.stat().st_size / 1e6:.1f}" if file else ""
                difference = f"{(completions - expected).abs().max():.1e}" if file else ""
                distance, _ = compare(completions, images, load_efflite0(images.shape[-1]))
                cells = [
                    format_interval(psnr(completions, images, 1 - mask)),
                    format_interval(distance, 3),
                    f"{1000 * seconds.median():.0f}",
                ]
                print(markdown_row([name, form, size_mb, difference, *cells]), flush=True)


def blended(network: Completion, images: Tensor, mask: Tensor) -> Tensor:
    """Return completions (B, C, S, S) with the exact Poisson blending."""
    return poisson(network(images * mask, mask), images, mask)


def load(path: Path) -> Completion:
    """Return the function that an exported file computes."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()
    runtime = import_extra("onnxruntime", "exported.py", "onnxruntime", "onnx")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def completing(images: Tensor, mask: Tensor) -> Tensor:
        feed = {"image": images.numpy(), "mask": mask.numpy()}
        return torch.from_numpy(session.run(None, feed)[0])

    return completing


def complete(completing: Completion, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Complete images (N, C, S, S) one by one; return the completions and the seconds (N,)."""
    completions, seconds = [], []
    for pair in zip(images.split(1), mask.split(1), strict=True):
        start = time.perf_counter()
        completions.append(completing(*pair))
        seconds.append(time.perf_counter() - start)
    return torch.cat(completions), torch.tensor(seconds)


if __name__ == "__main__":
    main()
