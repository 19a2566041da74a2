"""Complete pictures with a trained DCGAN, or with what one would use instead.

python inpaint.py                                       procedural faces, the shipped checkpoint
python inpaint.py ckpt=runs/train/<run>/last.ckpt data=celeba data.root=path/to/celeba mask=random
python inpaint.py ckpt=... images=photo.jpg mask=file mask.path=hole.png 'crop=[x,y,w,h]'
python inpaint.py method=tv                             no search; ckpt says the size and the data
"""

import re
from collections.abc import Callable

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer
from torch.utils.data import Subset

from dcgan_inpaint.completion.fills import FillingModule
from dcgan_inpaint.completion.inpainting import InpaintingModule
from dcgan_inpaint.data.folder import find_pictures
from dcgan_inpaint.data.loader import ImageData, Pictures, batches
from dcgan_inpaint.errors import one_line_errors, out_of_memory
from dcgan_inpaint.models.base import LatentGAN, Model
from dcgan_inpaint.models.checkpoint import data_of, load_model
from dcgan_inpaint.models.context_encoder import ContextEncoder
from dcgan_inpaint.models.latent_encoder import GANS, LatentEncoder
from dcgan_inpaint.models.networks import frozen
from dcgan_inpaint.photos.photos import Photos
from dcgan_inpaint.photos.regions import region_finder
from dcgan_inpaint.quality.completions import load_lpips
from dcgan_inpaint.runs.folder import check_same, finish, start_run
from dcgan_inpaint.runs.writer import CompletionWriter


@hydra.main(version_base="1.3", config_path="conf", config_name="inpaint")
def main(cfg: DictConfig) -> None:
    with one_line_errors():
        model = load_model(cfg.ckpt, *GANS.values(), LatentEncoder, ContextEncoder)
        if cfg.images is None or "source" in (cfg.method or {}):
            cfg.data = data_of(model, cfg.data, cfg.ckpt)  # and so it stands in config.yaml
        photos = load_photos(cfg, model)
        mask = photos.mask if photos else instantiate(cfg.mask)
        inpainting: InpaintingModule | FillingModule
        if cfg.method is None and not isinstance(model, ContextEncoder):
            inpainting = search(cfg, model, mask)
        else:
            inpainting = filling(cfg, model, mask)
        inpainting.check()
        lpips_network = load_lpips(cfg.lpips) if cfg.lpips else None
        check_same(cfg)
        folder = start_run(cfg, "inpaint")
        pictures, names = (photos.pictures, photos.names) if photos else load_pictures(cfg)
        writer = CompletionWriter(folder, names, photos, lpips_network)
        unfinished = [i for i, name in enumerate(names) if name not in writer.finished]
        loggers = [instantiate(logger) for logger in (cfg.logger or {}).values()]
        for logger in loggers:
            logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
        trainer = Trainer(**cfg.trainer, logger=loggers, callbacks=[writer], inference_mode=False)
        if trainer.world_size > 1:
            raise ValueError(f"trainer.devices={cfg.trainer.devices}: completion runs on one")

    if unfinished:
        todo = batches(Subset(pictures, unfinished), cfg.batch_size)
        with out_of_memory(f"lower batch_size={cfg.batch_size} or candidates={cfg.candidates}"):
            trainer.predict(inpainting, todo, return_predictions=False)
    finish(loggers)
    print(f"{len(writer.rows)} pictures completed: {writer}\n{folder / 'completed.png'}")


def search(cfg: DictConfig, model: LatentGAN | LatentEncoder, mask: Callable) -> InpaintingModule:
    """Complete by a search for z; it starts from an encoder's z where there is one."""
    if cfg.start not in (None, "encoder", "random"):
        raise ValueError(f"start={cfg.start}: choose encoder, random or null")
    encoder = None
    if isinstance(model, LatentEncoder):
        if cfg.start == "encoder" or (cfg.start is None and cfg.measure is None):
            encoder = frozen(model.ema_encoder)
    elif cfg.start == "encoder":
        raise ValueError(
            f"start=encoder: ckpt={cfg.ckpt} holds none: python train.py model=latent_encoder "
            f"gan={cfg.ckpt} trains one"
        )
    if cfg.candidates is None:
        cfg.candidates = 1 if encoder is None else 2
    encoded = encoder is not None and cfg.candidates <= 2  # all of them start from its z
    if cfg.solver.iterations is None:
        # from there a search for z meets the known pixels better and the hidden ones worse
        cfg.solver.iterations = 0 if encoded else 100
    if cfg.answer is None:
        cfg.answer = "mean" if encoded else "best"
    return InpaintingModule(
        model.gan if isinstance(model, LatentEncoder) else model,
        mask,
        objective=instantiate(cfg.objective),
        solver=instantiate(cfg.solver),
        blend=instantiate(cfg.blend),
        measure=instantiate(cfg.measure),
        ema=cfg.ema,
        candidates=cfg.candidates,
        answer=cfg.answer,
        encoder=encoder,
        stages=list(instantiate(cfg.stages).values()),
        seed=cfg.seed,
        out_interval=cfg.out_interval,
        progress=cfg.trainer.enable_progress_bar,
    )


def filling(cfg: DictConfig, model: Model, mask: Callable) -> FillingModule:
    """Complete by `method`, or by the context encoder that `ckpt` holds.

    Raises ValueError for what was given that only a search could follow.
    """
    run = HydraConfig.get()
    unused = {"objective", "solver", "stages", "experiment", "candidates", "seed"}
    unused |= {"start", "answer", "out_interval"}
    chosen = f"ckpt={cfg.ckpt}, a context encoder,"
    if cfg.method is not None:
        unused.add("ema")
        chosen = f"method={run.runtime.choices['method']}"
    for override in run.overrides.task:
        name = re.split("[.=@]", override.lstrip("+~"))[0]
        if name in unused:
            raise ValueError(f"{name}= is for the search for z, and {chosen} does not search")
    if cfg.measure is not None:
        raise ValueError(f"mask={run.runtime.choices['mask']}: {chosen} needs known pixels")
    fill = instantiate(cfg.method)
    if isinstance(model, ContextEncoder) and cfg.method is None:
        fill = frozen(model.ema_generator if cfg.ema else model.generator)
    return FillingModule(fill, mask, instantiate(cfg.blend), model.picture_shape)


def load_photos(cfg: DictConfig, model: Model) -> Photos | None:
    """One's own pictures at full size, if `images` names some."""
    if cfg.limit is not None and cfg.limit < 1:
        raise ValueError(f"limit={cfg.limit}: use 1 or more, or null for all")
    if cfg.images is None:
        if cfg.crop is not None or cfg.detector is not None:
            raise ValueError("crop= and detector= are for photos: give images=")
        return None
    find_region = region_finder(model.hparams["crop"], cfg.crop, cfg.detector, cfg.eyes)
    channels, size, _ = model.picture_shape
    paths = find_pictures(cfg.images)[: cfg.limit]
    return Photos(paths, size, channels, instantiate(cfg.mask), find_region)


def load_pictures(cfg: DictConfig) -> tuple[Pictures, list[str]]:
    """A split of `data`, and the names of the pictures to complete: its first `limit`."""
    pictures = ImageData(instantiate(cfg.data), cfg.cache_dir).split(cfg.split)
    return pictures, pictures.labels[: cfg.limit]


if __name__ == "__main__":
    main()
