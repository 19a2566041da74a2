r"""Check the intervals of the metrics of two sets against the spread over other images.

python experiments/set_metrics.py ckpt=celeba64 data=celeba data.root=path/to/celeba split=train \
    limit=5000 --size 250

Accepts the overrides of inpaint.py.  The script compares `limit` samples of the GAN, and
completions of `limit` images, with these images (metrics/sets.py).  It cuts both sets into disjoint
groups of `--size` images and prints the mean of each metric over the groups, its standard deviation
over the groups, the mean of the deviations that the intervals state, and how many intervals contain
the mean over all groups.
"""

import argparse
from collections.abc import Iterator

import torch
from common import CompletionRun, markdown_row
from torch import Tensor

from dcgan_inpaint.metrics.features import compare, load_efflite0
from dcgan_inpaint.metrics.sets import SET_METRICS, compare_sets

BATCH = 64
HEADER = ("sets", "metric", "mean", "deviation", "stated deviation", "intervals with the mean")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", help="overrides of inpaint.py")
    parser.add_argument("--size", type=int, default=250, help="images in a group")
    arguments = parser.parse_args()
    run = CompletionRun(["limit=6000", *arguments.overrides])
    network = load_efflite0(run.model.image_shape[1])
    pooled = torch.cat(
        [compare(batch.completion, batch.images, network)[1] for batch in run.completions()]
    )  # (N, 2, 1280): completions, images
    completions, images = pooled.unbind(1)
    chunks = torch.arange(len(images)).split(BATCH)
    gan = run.model.gan
    assert gan is not None
    samples = torch.cat([network(gan(gan.latents(chunk, 0))).pooled for chunk in chunks])
    print(markdown_row(HEADER) + "\n" + markdown_row(["---"] * len(HEADER)))
    for name, fake in (("samples", samples), ("completions", completions)):
        for row in rows(fake, images, name == "completions", arguments.size):
            print(markdown_row([name, *row]), flush=True)


def rows(fake: Tensor, real: Tensor, paired: bool, size: int) -> Iterator[list[str]]:
    """Yield a row of the table per metric, for features fake and real (N, D)."""
    pairs = zip(fake.split(size), real.split(size), strict=True)
    groups = [compare_sets(*pair, paired=paired) for pair in pairs if len(pair[0]) == size]
    for metric in SET_METRICS:
        values = torch.tensor([group[metric] for group in groups]).double()  # (G, 3)
        mean = values[:, 0].mean()
        # The wider side: an interval of precision or recall ends at 0 and 1.
        stated = (values[:, 1:] - values[:, :1]).abs().amax(1) / 1.96  # (G,)
        covering = ((values[:, 1] <= mean) & (mean <= values[:, 2])).sum()
        numbers = (mean, values[:, 0].std(), stated.mean())
        yield [metric, *(f"{x:.4g}" for x in numbers), f"{covering} of {len(groups)}"]


if __name__ == "__main__":
    main()
