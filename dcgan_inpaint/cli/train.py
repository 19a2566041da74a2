"""Training of a model, and its evaluation on completions.  See train.py for the usage."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from pytorch_lightning import Trainer, seed_everything

from dcgan_inpaint.composition import quote_override
from dcgan_inpaint.configs import flatten
from dcgan_inpaint.data.cache import Source, select_items
from dcgan_inpaint.data.loader import ImageDataModule
from dcgan_inpaint.data.mixture import Mixture
from dcgan_inpaint.data.sources import build_source, describe
from dcgan_inpaint.errors import exit_on_failure, format_count, one_line_errors
from dcgan_inpaint.files import LAST_CKPT, load_weights
from dcgan_inpaint.inpainting.build import build_preview
from dcgan_inpaint.metrics.samples import sample_metrics
from dcgan_inpaint.models.base import Model
from dcgan_inpaint.models.checkpoint import save_weights
from dcgan_inpaint.models.fine_tuning import fill_settings, load_start, start_from
from dcgan_inpaint.runs.callbacks import StoreSettings, training_callbacks
from dcgan_inpaint.runs.monitoring import monitoring_callbacks
from dcgan_inpaint.runs.records import CompletionWriter
from dcgan_inpaint.runs.report import MONITOR_FILE, format_summary
from dcgan_inpaint.runs.resuming import check_checkpoint, how_to_resume
from dcgan_inpaint.runs.run_dir import choose_run_dir, start_run
from dcgan_inpaint.runs.trainer import close_loggers, complete, make_trainer, open_loggers
from dcgan_inpaint.schemas import TrainConfig

FINAL_ITERATIONS = 100  # of the search that completes the `validate` images at the end


def main(config: TrainConfig) -> float | None:
    """Train a model; return the mean PSNR over the holes of `validate` images for a sweeper."""
    with (
        one_line_errors(),
        choose_run_dir("train", config.output, config.name, config.resume) as run_dir,
    ):
        config = replace(config, output=str(run_dir))
        seed_everything(
            config.seed, verbose=False
        )  # for the initialization; z, order and flips use the seed too
        source = build_source(config.data)
        start = None
        if config.init is not None and config.resume is None:
            start = load_start(config.init, config.model)
            config = with_architecture(config, start, source)
        settings = asdict(config)
        model = build_model(config, source)
        if start is not None:
            start_from(model, start, str(config.init))
        if config.resume is not None:
            saved = load_weights("resume", config.resume, LAST_CKPT)
            check_checkpoint(config.resume, saved, flatten(settings), model)
        options, batch_size = share_options(config, model)
        data = ImageDataModule(
            source, config.cache_dir, batch_size, config.flip, config.seed, config.limit
        )
        loggers = open_loggers(config.logger, config.tags, run_dir)
        monitoring = monitoring_callbacks(
            model,
            data,
            run_dir,
            config.monitor,
            config.monitor_every,
            config.monitor_images,
            config.patience,
        )
        callbacks = [
            StoreSettings(flatten(settings)),
            *training_callbacks(
                model, data, run_dir, config.sample_every, config.preview, monitoring
            ),
        ]
        trainer = make_trainer(options, loggers, callbacks, batch_size)
        data.trainer = trainer  # as `fit` does: its processes need more than one batch
        splits = check_image_counts(config, data, model, trainer.world_size)
        data.prepare_data()
        for split in splits:
            data.split(split)  # decoded now, so that an unreadable image is reported at once
        start_run(run_dir, settings, loggers)

    with exit_on_failure(lambda: how_to_resume(run_dir)):
        trainer.fit(model, data, ckpt_path=config.resume, weights_only=True)
        if not trainer.is_global_zero:
            return None  # only the first process evaluates
        # for completing and sharing; last.ckpt is for resuming
        save_weights(model, run_dir / "weights.safetensors")
        psnr = evaluate_completions(config, model, data, trainer) if config.validate else None
        if samples_are_evaluated(config, model):
            evaluate_samples(config, model, data, trainer)
        (run_dir / "last-1.ckpt").unlink(missing_ok=True)  # a fallback during the training only
    close_loggers(loggers)
    print(f"trained {format_count(model.iteration, 'iteration')}")
    if config.monitor is not None and (run_dir / "best.safetensors").exists():
        print(quote_override("ckpt", run_dir / "best.safetensors"))
    print(quote_override("ckpt", run_dir / "weights.safetensors"))
    return psnr


def with_architecture(config: TrainConfig, start: Model, source: Source) -> TrainConfig:
    """Return the options with the architecture, and the GAN, of the checkpoint of init=."""
    init, shape = str(config.init), (source.channels, source.image_size, source.image_size)
    node = fill_settings(config.model, start, init, shape)
    return replace(config, model=node, gan=init if "gan" in node else config.gan)


def build_model(config: TrainConfig, source: Source) -> Model:
    """Build the untrained model for the images of `source`."""
    shape = {name: getattr(source, name) for name in ("image_size", "channels", "crop")}
    model = instantiate(config.model, **shape)
    model.check()
    check_unknown_pixels(model, source)
    model.data = describe(source)
    return model


def share_options(config: TrainConfig, model: Model) -> tuple[dict[str, Any], int]:
    """Return the options of the Trainer, and the number of images per batch of the loader.

    Lightning accumulates and clips gradients with automatic optimization only.  A model with manual
    optimization does both itself, and splits the batches of the loader.
    """
    options: dict[str, Any] = dict(config.trainer)
    if model.automatic_optimization:
        return options, config.batch_size
    model.accumulate_grad_batches = options.pop("accumulate_grad_batches", 1)
    model.gradient_clip_val = options.pop("gradient_clip_val", None)
    return options, config.batch_size * model.accumulate_grad_batches


def check_unknown_pixels(model: Model, source: Source) -> None:
    """Raise ValueError if the model would learn the unknown pixels of a mixture's sources."""
    if isinstance(source, Mixture) and not model.respects_valid:
        for name, part in source.sources.items():
            if getattr(part, "valid_box", None):
                raise ValueError(
                    f"data.sources.{name}: parts of its images are unknown, and a {model.kind} "
                    f"would learn them. Leave it out (data.weights.{name}=0), or complete its "
                    "images first and read them with data=folder"
                )


def samples_are_evaluated(config: TrainConfig, model: Model) -> bool:
    """Return whether samples are compared with the test split, which requires a GAN."""
    return config.sample_metrics > 0 and model.gan is model


def check_image_counts(
    config: TrainConfig, data: ImageDataModule, model: Model, processes: int
) -> list[str]:
    """Return the evaluation splits that a training uses, of "val" and "test".

    No image is decoded.  Raises ValueError, with the options to lower, if a split is too small.
    """
    uses_val = bool(config.validate or config.preview or model.needs_calibration)
    val = 2 if config.monitor else int(uses_val)
    needed = {"train": data.batch_size * processes, "val": val}
    needed["test"] = 2 if samples_are_evaluated(config, model) else 0
    counts = {
        split: len(select_items(data.source, split, data.limit))
        for split, count in needed.items()
        if count
    }
    without_val = "data with val images" if model.needs_calibration else "validate=0 preview=0"
    without_val += " monitor=null" if config.monitor else ""
    remedies = {"val": without_val, "test": "sample_metrics=0"}
    each, parts = counts["train"] // processes, model.accumulate_grad_batches
    remedies["train"] = f"batch_size={each // parts} or less"
    if each < parts:
        remedies["train"] = f"trainer.accumulate_grad_batches=1 batch_size={each} or less"
    if counts["train"] < processes:
        remedies["train"] = f"trainer.devices={counts['train']} batch_size=1"
    lower = [remedies[split] for split in counts if counts[split] < needed[split]]
    if counts["train"] and lower:
        have = ", ".join(f"{count} of {split}" for split, count in counts.items())
        raise ValueError(f"data: too few images ({have}). Use {', '.join(lower)}")
    return [split for split in counts if split != "train"]


def evaluate_completions(
    config: TrainConfig, model: Model, data: ImageDataModule, trainer: Trainer
) -> float:
    """Complete validation images into validation/ and return their mean PSNR over the hole in dB.

    It is logged as completion/psnr_hole, by which a sweep ranks models.
    """
    folder = Path(str(config.output)) / "validation"
    shutil.rmtree(folder, ignore_errors=True)  # of the model that was resumed
    if config.monitor is not None and (monitored := folder.with_name(MONITOR_FILE)).exists():
        folder.mkdir()
        shutil.copy(monitored, folder)
    writer = CompletionWriter(folder, data.split("val"), config.validate)
    options = {**config.trainer, "devices": 1, "num_nodes": 1, "strategy": "auto"}
    completing = make_trainer(options, trainer.loggers, [writer])
    module = build_preview(model, FINAL_ITERATIONS)
    summary = complete(completing, writer, module, config.batch_size)
    assert summary is not None  # a single process completes all images
    completed = format_count(len(writer.names), "validation image")
    print(f"{completed} completed: {format_summary(summary)}")
    return summary["psnr_hole"][0]


def evaluate_samples(
    config: TrainConfig, model: Model, data: ImageDataModule, trainer: Trainer
) -> None:
    """Compare samples of a GAN with the test split; print the metrics and log samples/<metric>."""
    real = data.split("test", least=2).images  # (N, C, S, S) uint8
    assert model.gan is not None
    bar = trainer.progress_bar_callback is not None
    metrics = sample_metrics(model.gan, real, config.sample_metrics, bar=bar)
    for logger in trainer.loggers:
        logger.log_metrics({f"samples/{name}": value for name, (value, *_) in metrics.items()})
        logger.save()
    print(", ".join(f"{name} {value:.3f}" for name, (value, *_) in metrics.items()))
