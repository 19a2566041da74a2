"""Complete images: check, search or fill, and write what came out.  Usage: see inpaint.py."""

from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from dcgan_inpaint.cli.entry_point import door
from dcgan_inpaint.configs import check_config
from dcgan_inpaint.data.folder import find_images
from dcgan_inpaint.data.loader import ImageData
from dcgan_inpaint.data.sources import describe, open_source
from dcgan_inpaint.errors import exit_on_failure, one_line_errors, out_of_memory
from dcgan_inpaint.inpainting.build import build, wants_source
from dcgan_inpaint.models.base import Model
from dcgan_inpaint.models.checkpoint import load_model, source_of
from dcgan_inpaint.photos.crops import region_finder
from dcgan_inpaint.photos.photos import Photos
from dcgan_inpaint.photos.reading import photos_of_files
from dcgan_inpaint.runs.options import CompleteOptions
from dcgan_inpaint.runs.run_dir import check_same, name_folder, start_run
from dcgan_inpaint.runs.trainer import close_loggers, complete, make_trainer, open_loggers
from dcgan_inpaint.runs.writer import CompletionWriter, load_networks


@door("inpaint")
def main(cfg: DictConfig) -> float | None:
    """Gives the mean PSNR over the holes, by which a sweep can choose, where it is known."""
    with one_line_errors():
        folder = name_folder(cfg, "inpaint")  # where the loggers write, which the check looks at
        check_config(cfg, CompleteOptions)
        cfg.ckpt = cfg.ckpt or ("faces64" if cfg.images is None else "celeba128")
        model = load_model(cfg.ckpt)
        source: Any = None
        if cfg.images is None or wants_source(cfg):
            source = source_of(model, open_source(cfg.data), cfg.ckpt)
            cfg.data = describe(source)  # and so it stands in config.yaml
        photos = load_photos(cfg, model)
        mask = photos.mask if photos else instantiate(cfg.mask)
        completing = build(cfg, model, mask, source)
        completing.check()
        networks = load_networks(cfg.lpips, cfg.features, model.image_shape[1])
        images = photos.images if photos else ImageData(source, cfg.cache_dir).split(cfg.split)
        writer = CompletionWriter(folder, images, cfg.limit, photos, networks, check_same(cfg))
        loggers = open_loggers(cfg.logger, cfg.tags)
        trainer = make_trainer(cfg.trainer, loggers, [writer])
        start_run(cfg, "inpaint", loggers)

    less = f"lower batch_size={cfg.batch_size} or candidates="
    with out_of_memory(less), exit_on_failure(lambda: f"the same with output={folder} goes on"):
        shown = complete(trainer, writer, completing, cfg.batch_size, cfg.shard)
    close_loggers(loggers)
    if not shown:  # it is one of several processes
        return None
    line = ": ".join(filter(None, (f"{len(writer.rows)} images completed", str(writer))))
    print(line, writer.place, sep="\n")
    return writer.summary().get("psnr_hole", (None,))[0]


def load_photos(cfg: DictConfig, model: Model) -> Photos | None:
    """One's own images at full size, if `images` names some."""
    if cfg.images is None:
        for key, default in (("crop", None), ("detector", "auto"), ("face", 1)):
            if cfg[key] != default:
                raise ValueError(f"{key}={cfg[key] or 'null'}: is for photos: give images=")
        return None
    share, data = model.settings.crop, model.data
    find = region_finder(share, cfg.crop, cfg.detector, cfg.eyes, cfg.face, data)
    paths = find_images(cfg.images)[: cfg.limit]
    return photos_of_files(paths, instantiate(cfg.mask), find, model.image_shape)
