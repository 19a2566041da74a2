"""Samples, interpolation and vector arithmetic of a trained GAN.  Usage: see sample.py."""

import torch
from omegaconf import DictConfig

from dcgan_inpaint.cli.entry_point import door
from dcgan_inpaint.configs import check_config
from dcgan_inpaint.data.loader import ImageData
from dcgan_inpaint.data.sources import describe, open_source
from dcgan_inpaint.errors import exit_on_failure, one_line_errors, show
from dcgan_inpaint.files import atomic_write, save_image, write_csv
from dcgan_inpaint.images import grid, save_gif
from dcgan_inpaint.metrics.samples import judge_samples
from dcgan_inpaint.models.checkpoint import load_gan, source_of
from dcgan_inpaint.runs.latent_space import arithmetic, check_rows, load_z, walks
from dcgan_inpaint.runs.options import SampleOptions
from dcgan_inpaint.runs.run_dir import start_run
from dcgan_inpaint.runs.trainer import load_distances


@door("sample")
@torch.no_grad()
def main(cfg: DictConfig) -> None:
    with one_line_errors():
        check_config(cfg, SampleOptions)
        gan = load_gan(cfg.ckpt)
        gan.check_raw(cfg.ema)
        z = load_z(cfg.z, cfg.count, gan) if cfg.z else None
        z = gan.latents(torch.arange(cfg.count), cfg.seed) if z is None else z  # (N, z_dim)
        rows = {name: cfg[name] for name in ("plus", "minus", "base")}
        adds = check_rows(len(z), rows)
        for name in ("fid", "features"):
            if cfg[name] and not cfg.metrics:
                raise ValueError(
                    f"{name}={show(cfg[name])} is one of the metrics: give metrics=true"
                )
        if cfg.metrics:
            more = load_distances(cfg.fid, cfg.features, gan.image_shape[1])
            source = source_of(gan, open_source(cfg.data), cfg.ckpt)
            cfg.data = describe(source)  # and so it stands in config.yaml
            data = ImageData(source, cfg.cache_dir)
            real = data.split(cfg.split, least=2).images  # (N, C, S, S) uint8
        folder = start_run(cfg, "sample")

    with exit_on_failure(lambda: f"the same with output={folder} makes all again"):
        save_image(folder / "samples.png", grid(gan(z, cfg.ema)))
        if len(z) > 1:
            lines = walks(z, cfg.steps)  # (W, steps, z_dim)
            images = gan(lines.flatten(0, 1), cfg.ema).unflatten(0, lines.shape[:2])
            save_image(folder / "interpolation.png", grid(images.flatten(0, 1), cfg.steps))
            there = [grid(images[:, step], columns=4) for step in range(cfg.steps)]
            with atomic_write(folder / "interpolation.gif") as file:
                save_gif([*there, *there[-2:0:-1]], file)
        if adds:
            chosen = [z[list(numbers)] for numbers in rows.values()]
            shown = arithmetic(chosen, gan.settings.prior, cfg.seed)  # (8, z_dim)
            save_image(folder / "arithmetic.png", grid(gan(shown, cfg.ema)))
        print(folder / ("arithmetic.png" if adds else "samples.png"))
        if cfg.metrics:
            quality = judge_samples(gan, real, cfg.metrics_count, cfg.seed, cfg.ema, more, bar=True)
            write_csv(folder / "quality.csv", [("metric", "value"), *quality.items()])
            values = ", ".join(f"{name} {value:.4g}" for name, value in quality.items())
            print(f"{cfg.metrics_count} samples against {len(real)} {cfg.split} images: {values}")
