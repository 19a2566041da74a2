"""Samples, interpolation and vector arithmetic of a trained GAN.  See sample.py for the usage."""

from dataclasses import asdict, replace

import torch

from dcgan_inpaint.composition import quote_override
from dcgan_inpaint.data.loader import ImageDataModule
from dcgan_inpaint.data.sources import build_source, node_of, resolve_source
from dcgan_inpaint.errors import exit_on_failure, format_count, one_line_errors, show
from dcgan_inpaint.files import atomic_write, save_image, write_csv
from dcgan_inpaint.images import make_grid, save_gif
from dcgan_inpaint.metrics.samples import load_network_metrics, sample_metrics
from dcgan_inpaint.models.checkpoint import load_gan
from dcgan_inpaint.runs.latent_space import check_rows, interpolate, load_z, vector_arithmetic
from dcgan_inpaint.runs.run_dir import choose_run_dir, start_run
from dcgan_inpaint.schemas import SampleConfig


@torch.no_grad()
def main(config: SampleConfig) -> None:
    """Write samples.png, interpolation.png and .gif, arithmetic.png and quality.csv."""
    with one_line_errors(), choose_run_dir("sample", config.output) as run_dir:
        config = replace(config, output=str(run_dir))
        gan = load_gan(config.ckpt)
        gan.check_ema(config.ema)
        if config.z:
            z = load_z(config.z, config.count, gan)  # (N, z_dim)
        else:
            z = gan.latents(torch.arange(config.count), config.seed)
        rows = {name: getattr(config, name) for name in ("plus", "minus", "base")}
        has_arithmetic = check_rows(len(z), rows)
        for name in ("fid", "features"):
            if (value := getattr(config, name)) and not config.metrics:
                raise ValueError(f"{name}={show(value)}: belongs to the metrics. Set metrics=true")
        if config.metrics:
            more = load_network_metrics(
                config.fid, config.features, gan.image_shape[1], config.seed
            )
            source = resolve_source(
                build_source(config.data), gan.data, gan.image_shape, config.ckpt
            )
            config = replace(config, data=config.data or node_of(source))
            data = ImageDataModule(source, config.cache_dir)
            real = data.split(config.split, least=2).images  # (N, C, S, S) uint8
        start_run(run_dir, asdict(config))

    again = quote_override("output", run_dir)
    with exit_on_failure(lambda: f"the same command with {again} starts again"):
        save_image(run_dir / "samples.png", make_grid(gan(z, config.ema)))
        if len(z) > 1:
            lines = interpolate(z, config.steps)  # (W, steps, z_dim)
            images = gan(lines.flatten(0, 1), config.ema).unflatten(0, lines.shape[:2])
            save_image(run_dir / "interpolation.png", make_grid(images.flatten(0, 1), config.steps))
            frames = [make_grid(images[:, step], columns=4) for step in range(config.steps)]
            with atomic_write(run_dir / "interpolation.gif") as file:
                save_gif([*frames, *frames[-2:0:-1]], file)  # forward and back
        if has_arithmetic:
            operands = [z[list(numbers)] for numbers in rows.values()]
            results = vector_arithmetic(operands, gan.settings.prior, config.seed)  # (8, z_dim)
            save_image(run_dir / "arithmetic.png", make_grid(gan(results, config.ema)))
        print(run_dir / ("arithmetic.png" if has_arithmetic else "samples.png"))
        if config.metrics:
            metrics = sample_metrics(
                gan, real, config.metrics_count, config.seed, config.ema, more, bar=True
            )
            table = [(name, *interval) for name, interval in metrics.items()]
            write_csv(run_dir / "quality.csv", [("metric", "value", "low", "high"), *table])
            values = ", ".join(f"{name} {value:.4g}" for name, (value, *_) in metrics.items())
            count = config.metrics_count
            against = format_count(len(real), f"{config.split} image")
            print(f"{format_count(count, 'sample')} against {against}: {values}")
