"""Train a model: check, fit, and judge it by what it is for.  Usage: see train.py."""

import shutil

from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning import seed_everything

from dcgan_inpaint.cli.entry_point import door
from dcgan_inpaint.configs import check_config
from dcgan_inpaint.data.loader import ImageData
from dcgan_inpaint.data.sources import describe, open_source
from dcgan_inpaint.errors import exit_on_failure, one_line_errors
from dcgan_inpaint.inpainting.build import preview_of
from dcgan_inpaint.models.checkpoint import save_weights
from dcgan_inpaint.runs.callbacks import training_callbacks
from dcgan_inpaint.runs.options import TrainOptions, check_images
from dcgan_inpaint.runs.resuming import BegunWith, check_resume, how_to_continue, resumed
from dcgan_inpaint.runs.run_dir import name_folder, start_run
from dcgan_inpaint.runs.trainer import (
    close_loggers,
    complete,
    evaluate_samples,
    make_trainer,
    make_training_trainer,
    on_one_device,
    open_loggers,
)
from dcgan_inpaint.runs.writer import CompletionWriter


@door("train")
def main(cfg: DictConfig) -> float | None:
    """Gives the mean PSNR over the holes of `validate` images, by which a sweep can choose."""
    with one_line_errors():
        cfg = resumed(cfg)
        folder = name_folder(cfg, "train")  # where the loggers write, which the check looks at
        check_config(cfg, TrainOptions)
        seed_everything(cfg.seed, verbose=False)  # the init; z, order and flips follow from seed
        source = open_source(cfg.data)
        shape = {name: getattr(source, name) for name in ("image_size", "channels", "crop")}
        model = instantiate(cfg.model, **shape)
        model.check()
        model.data = describe(source)
        check_resume(cfg, model)
        data = ImageData(source, cfg.cache_dir, cfg.batch_size, cfg.flip, cfg.seed)
        judge_by = cfg.sample_metrics and model.gan is model
        loggers = open_loggers(cfg.logger, cfg.tags)
        callbacks = training_callbacks(model, data, folder, cfg.sample_every, cfg.preview)
        callbacks = [BegunWith(cfg), *callbacks]
        trainer = make_training_trainer(cfg.trainer, loggers, callbacks, cfg.batch_size)
        check_images(cfg, source, judge_by, model.calibrates, trainer.world_size)
        data.prepare_data()
        validation = data.split("val") if cfg.validate or cfg.preview or model.calibrates else None
        judged = data.split("test", least=2).images if judge_by else None
        start_run(cfg, "train", loggers)

    found = None
    with exit_on_failure(lambda: how_to_continue(folder)):
        trainer.fit(model, data, ckpt_path=cfg.resume, weights_only=True)
        if not trainer.is_global_zero:
            return None  # the first process judges alone
        # last.ckpt can be resumed; this is what to keep and complete with
        save_weights(model, folder / "weights.safetensors")
        if validation is not None and cfg.validate:
            # the true job, and what a sweep can rank models by: completion/psnr_hole
            shutil.rmtree(folder / "validation", ignore_errors=True)  # of the model resumed from
            writer = CompletionWriter(folder / "validation", validation, cfg.validate)
            completer = make_trainer(on_one_device(cfg.trainer), loggers, [writer])
            complete(completer, writer, preview_of(model, 100), cfg.batch_size)
            found = writer.summary()["psnr_hole"][0]
            print(f"{len(writer.names)} validation images completed: {writer}")
        if judged is not None:
            print(evaluate_samples(model, judged, cfg.sample_metrics, trainer))
    close_loggers(loggers)
    print(f"trained {model.iteration} iterations\nckpt={folder / 'weights.safetensors'}")
    return found
