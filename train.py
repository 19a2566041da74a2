"""Train a DCGAN, or a context encoder to compare with.

python train.py model=dcgan data=faces
python train.py model=dcgan data=celeba data.root=path/to/celeba model.gf_dim=32 model.df_dim=32
python train.py model=context_encoder data=faces
"""

import shutil
from pathlib import Path

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import Subset

from dcgan_inpaint.data.loader import ImageData, batches
from dcgan_inpaint.errors import one_line_errors
from dcgan_inpaint.models.base import LatentGAN
from dcgan_inpaint.pictures import to_float
from dcgan_inpaint.quality.samples import judge_samples
from dcgan_inpaint.runs.folder import finish, start_run
from dcgan_inpaint.runs.watchers import (
    CollapseWarning,
    CompletionPreview,
    SampleGrid,
    Speed,
    center_completion,
)
from dcgan_inpaint.runs.writer import CompletionWriter


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> None:
    with one_line_errors():
        if cfg.resume is not None and not Path(cfg.resume).is_file():
            raise FileNotFoundError(f"resume={cfg.resume}: no such file to resume from")
        seed_everything(cfg.seed, verbose=False)  # the init; z, order and flips follow from seed
        source = instantiate(cfg.data)
        model = instantiate(cfg.model, crop=source.crop)
        model.data = OmegaConf.to_container(cfg.data, resolve=True)
        folder = start_run(cfg, "train")
        data = ImageData(source, cfg.cache_dir, cfg.batch_size, cfg.flip, cfg.seed)
        data.prepare_data()
        callbacks = [
            Speed(),
            ModelCheckpoint(folder, "last", enable_version_counter=False),
        ]
        if isinstance(model, LatentGAN):
            callbacks += [CollapseWarning(), SampleGrid(folder, cfg.sample_every)]
        if cfg.preview:
            watched = data.split("val").__getitems__(list(range(cfg.preview)))["image"]
            callbacks.append(CompletionPreview(folder, watched))
        loggers = list(instantiate(cfg.logger).values())
        for logger in loggers:
            logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
        trainer = Trainer(**cfg.trainer, logger=loggers, callbacks=callbacks)
        if trainer.world_size > 1 and cfg.validate:  # which one process writes
            raise ValueError(
                f"trainer.devices={cfg.trainer.devices}: with more than one use output=... and "
                "validate=0"
            )

    trainer.fit(model, data, ckpt_path=cfg.resume)
    # last.ckpt can be resumed; this one is a third of its size, to keep and to complete with
    trainer.save_checkpoint(folder / "weights.ckpt", weights_only=True)
    if cfg.validate:  # the true job, and what a sweep can rank models by: completion/psnr_hole
        pictures = data.split("val")
        shutil.rmtree(folder / "validation", ignore_errors=True)  # of the model resumed from
        writer = CompletionWriter(folder / "validation", pictures.labels[: cfg.validate])
        completer = Trainer(**cfg.trainer, logger=loggers, callbacks=[writer], inference_mode=False)
        first = batches(Subset(pictures, range(len(writer.names))), cfg.batch_size)
        completer.predict(center_completion(model, 100), first, return_predictions=False)
        print(f"{len(writer.names)} validation pictures completed: {writer}")
    if cfg.sample_metrics and isinstance(model, LatentGAN):
        quality = judge_samples(model, to_float(data.split("test").pictures), cfg.sample_metrics)
        for logger in loggers:
            logger.log_metrics({f"samples/{name}": value for name, value in quality.items()})
            logger.save()
        print(", ".join(f"{name} {value:.3f}" for name, value in quality.items()))
    finish(loggers)
    print(f"trained {model.iteration} iterations\nckpt={folder / 'last.ckpt'}")


if __name__ == "__main__":
    main()
