"""Complete pictures with a trained DCGAN.

python inpaint.py                                       procedural faces, the shipped checkpoint
python inpaint.py ckpt=runs/train/<run>/last.ckpt data=celeba data.root=path/to/celeba mask=random
python inpaint.py ckpt=... images=photo.jpg mask=file mask.path=hole.png 'crop=[x,y,w,h]'
"""

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer
from torch.utils.data import Subset

from dcgan_inpaint.data.folder import find_pictures
from dcgan_inpaint.data.module import ImageData, Pictures, batches
from dcgan_inpaint.dcgan import DCGAN, load_dcgan
from dcgan_inpaint.errors import one_line_errors
from dcgan_inpaint.inpainting import InpaintingModule
from dcgan_inpaint.photos import Photos
from dcgan_inpaint.regions import region_finder
from dcgan_inpaint.results import CompletionWriter
from dcgan_inpaint.runs import check_same, finish, start_run


@hydra.main(version_base="1.3", config_path="conf", config_name="inpaint")
def main(cfg: DictConfig) -> None:
    with one_line_errors():
        dcgan = load_dcgan(cfg.ckpt)
        if cfg.images is None:
            cfg.data = cfg.data or dcgan.data  # and so it stands in the run's config.yaml
        photos = load_photos(cfg, dcgan)
        inpainting = InpaintingModule(
            dcgan,
            mask=photos.mask if photos else instantiate(cfg.mask),
            objective=instantiate(cfg.objective),
            solver=instantiate(cfg.solver),
            blend=instantiate(cfg.blend),
            measure=instantiate(cfg.measure),
            ema=cfg.ema,
            candidates=cfg.candidates,
            init_draws=cfg.init_draws,
            seed=cfg.seed,
            out_interval=cfg.out_interval,
            progress=cfg.trainer.enable_progress_bar,
        )
        inpainting.check()
        check_same(cfg)
        folder = start_run(cfg, "inpaint")
        pictures, names = (photos.pictures, photos.names) if photos else load_pictures(cfg, dcgan)
        writer = CompletionWriter(folder, names, photos)
        unfinished = [i for i, name in enumerate(names) if name not in writer.finished]
        loggers = [instantiate(logger) for logger in (cfg.logger or {}).values()]
        for logger in loggers:
            logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
        trainer = Trainer(**cfg.trainer, logger=loggers, callbacks=[writer], inference_mode=False)

    if unfinished:
        todo = batches(Subset(pictures, unfinished), cfg.batch_size)
        trainer.predict(inpainting, todo, return_predictions=False)
    finish(loggers)
    print(f"{len(writer.rows)} pictures completed: {writer}\n{folder / 'completed.png'}")


def load_photos(cfg: DictConfig, dcgan: DCGAN) -> Photos | None:
    """One's own pictures at full size, if `images` names some."""
    if cfg.limit is not None and cfg.limit < 1:
        raise ValueError(f"limit={cfg.limit}: use 1 or more, or null for all")
    if cfg.images is None:
        if cfg.crop is not None or cfg.detector is not None:
            raise ValueError("crop= and detector= are for photos: give images=")
        return None
    find_region = region_finder(dcgan.hparams["crop"], cfg.crop, cfg.detector, cfg.eyes)
    size, channels = dcgan.hparams["image_size"], dcgan.hparams["channels"]
    paths = find_pictures(cfg.images)[: cfg.limit]
    return Photos(paths, size, channels, instantiate(cfg.mask), find_region)


def load_pictures(cfg: DictConfig, dcgan: DCGAN) -> tuple[Pictures, list[str]]:
    """A split of `data`, and the names of the pictures to complete: its first `limit`."""
    size, channels = dcgan.hparams["image_size"], dcgan.hparams["channels"]
    if cfg.data is None:
        raise ValueError(f"ckpt={cfg.ckpt} does not say what it was trained on: give data=...")
    if not cfg.data["_target_"].startswith("dcgan_inpaint.data."):  # a checkpoint may be anybody's
        raise ValueError(f"ckpt={cfg.ckpt}: its data source {cfg.data['_target_']} is not ours")
    if (cfg.data["image_size"], cfg.data["channels"]) != (size, channels):
        raise ValueError(
            f"ckpt={cfg.ckpt} makes pictures of {size} px and {channels} channels, data has "
            f"{cfg.data['image_size']} and {cfg.data['channels']}: use data.image_size={size} "
            f"data.channels={channels}"
        )
    pictures = ImageData(instantiate(cfg.data), cfg.cache_dir).split(cfg.split)
    return pictures, pictures.labels[: cfg.limit]


if __name__ == "__main__":
    main()
