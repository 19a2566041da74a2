"""Play with the latent space of a trained DCGAN: samples, interpolation, vector arithmetic.

python sample.py                                        the shipped checkpoint
python sample.py ckpt=runs/train/<run>/last.ckpt count=256

samples.png shows G(z) of the first `count` rows of the seed, numbered from 0, left to right.
interpolation.png and .gif walk from row 0 to 1, 2 to 3, ...  The arithmetic of the DCGAN paper,
"smiling woman - neutral woman + neutral man" (Radford 2016, fig. 7), averages z over the rows you
pick from samples.png, or over the z.npy of completed pictures:

python sample.py plus=[3,17,40] minus=[5,9,22] base=[8,30,31]
python sample.py z=runs/inpaint/<run>/z.npy plus=[0,2] minus=[1] base=[3]

How good are the samples?  quality.csv compares them with held-out pictures:

python sample.py metrics=true
"""

import csv
from pathlib import Path

import hydra
import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from dcgan_inpaint.data.loader import ImageData
from dcgan_inpaint.errors import one_line_errors
from dcgan_inpaint.models.base import LatentGAN
from dcgan_inpaint.models.checkpoint import data_of, load_gan
from dcgan_inpaint.pictures import grid, save_gif
from dcgan_inpaint.quality.samples import judge_samples, load_inception
from dcgan_inpaint.randomness import uniform
from dcgan_inpaint.runs.folder import start_run


@hydra.main(version_base="1.3", config_path="conf", config_name="sample")
@torch.no_grad()
def main(cfg: DictConfig) -> None:
    with one_line_errors():
        for name, least in (("count", 1), ("steps", 2), ("metrics_count", 2)):
            if cfg[name] < least:
                raise ValueError(f"{name}={cfg[name]}: use {least} or more")
        gan = load_gan(cfg.ckpt)
        z = load_z(cfg, gan)  # (N, z_dim)
        arithmetic = rows_of(cfg, z)
        if cfg.fid and not cfg.metrics:
            raise ValueError(f"fid={cfg.fid} is one of the metrics: give metrics=true")
        if cfg.metrics:
            cfg.data = data_of(gan, cfg.data, cfg.ckpt)  # and so it stands in config.yaml
            fid = load_inception(cfg.fid) if cfg.fid else None
        folder = start_run(cfg, "sample")
        real = load_pictures(cfg) if cfg.metrics else None  # (N, C, S, S) uint8

    grid(gan(z, cfg.ema)).save(folder / "samples.png")
    if len(z) > 1:
        walks = interpolate(z[0::2][: len(z) // 2][:8], z[1::2][:8], cfg.steps)  # (W, steps, z_dim)
        pictures = gan(walks.flatten(0, 1), cfg.ema).unflatten(0, walks.shape[:2])
        grid(pictures.flatten(0, 1), columns=cfg.steps).save(folder / "interpolation.png")
        there = [grid(pictures[:, step], columns=4) for step in range(cfg.steps)]
        save_gif([*there, *there[-2:0:-1]], folder / "interpolation.gif")
    if arithmetic:
        plus, minus, base = (z[rows].mean(0) for rows in arithmetic)  # (z_dim,) each
        around = uniform("arithmetic", cfg.seed, torch.arange(4), z.shape[1]) - 0.5
        result = plus - minus + base + 0.5 * torch.cat([torch.zeros_like(around[:1]), around])
        if gan.hparams["prior"] == "uniform":
            result = result.clamp(-1, 1)
        # plus, minus, base, their sum, and the sum with noise of ±0.25 as in the paper
        shown = torch.cat([torch.stack([plus, minus, base]), result])
        grid(gan(shown, cfg.ema)).save(folder / "arithmetic.png")
    print(folder / "samples.png")
    if real is not None:
        quality = judge_samples(gan, real, cfg.metrics_count, cfg.seed, cfg.ema, fid)
        with (folder / "quality.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("metric", "value"), *quality.items()])
        values = ", ".join(f"{name} {value:.4g}" for name, value in quality.items())
        print(f"{cfg.metrics_count} samples against {len(real)} {cfg.split} pictures: {values}")


def load_pictures(cfg: DictConfig) -> Tensor:
    """A split of cfg.data, (N, C, S, S) uint8.  Raises ValueError for less than two pictures."""
    pictures = ImageData(instantiate(cfg.data), cfg.cache_dir).split(cfg.split).pictures
    if len(pictures) < 2:
        raise ValueError(f"split={cfg.split} has {len(pictures)} picture: metrics need 2 or more")
    return torch.from_numpy(np.array(pictures))


def load_z(cfg: DictConfig, gan: LatentGAN) -> Tensor:
    """z (N, z_dim): the rows of cfg.z, or `count` draws.  Raises for a file that does not fit."""
    if cfg.z is None:
        return gan.latents(torch.arange(cfg.count), seed=cfg.seed)
    if not Path(cfg.z).is_file():
        raise FileNotFoundError(f"z={cfg.z}: no such file; inpaint.py writes <its run>/z.npy")
    z = torch.from_numpy(np.load(cfg.z)).float()
    if z.ndim != 2 or z.shape[1] != gan.hparams["z_dim"]:
        raise ValueError(
            f"z={cfg.z} has shape {tuple(z.shape)}; ckpt={cfg.ckpt} takes "
            f"(N, {gan.hparams['z_dim']})"
        )
    return z[: cfg.count]


def rows_of(cfg: DictConfig, z: Tensor) -> list[list[int]]:
    """The row numbers of plus, minus and base, or nothing when no arithmetic is asked for."""
    names = ("plus", "minus", "base")
    if all(cfg[name] is None for name in names):
        return []
    for name in names:
        if not cfg[name]:
            raise ValueError(f"{name}={cfg[name]}: arithmetic needs rows for plus, minus and base")
        for row in cfg[name]:
            if not 0 <= row < len(z):
                raise ValueError(f"{name}={list(cfg[name])}: rows go from 0 to {len(z) - 1}")
    return [list(cfg[name]) for name in names]


def interpolate(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Straight lines between start and end (W, z_dim): (W, steps, z_dim), both ends included."""
    weights = torch.linspace(0, 1, steps)[None, :, None]
    return torch.lerp(start[:, None], end[:, None], weights)


if __name__ == "__main__":
    main()
