"""Completion of images with a search or a baseline.  See inpaint.py for the usage."""

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from pytorch_lightning.utilities import rank_zero_only

from dcgan_inpaint.composition import quote_override
from dcgan_inpaint.data.loader import ImageDataModule
from dcgan_inpaint.data.sources import build_source, node_of, resolve_source
from dcgan_inpaint.errors import exit_on_failure, format_count, one_line_errors, out_of_memory, show
from dcgan_inpaint.files import find_checkpoint, save_image
from dcgan_inpaint.inpainting.build import build, uses_source
from dcgan_inpaint.inpainting.config import resolve
from dcgan_inpaint.metrics.completions import load_lpips
from dcgan_inpaint.metrics.features import load_efflite0
from dcgan_inpaint.models.checkpoint import load_model
from dcgan_inpaint.photos.crops import draw_crops
from dcgan_inpaint.photos.far_images import FAR_IMAGE
from dcgan_inpaint.photos.photos import PORTRAITS, Photos, load_photos
from dcgan_inpaint.runs.callbacks import FarImages
from dcgan_inpaint.runs.records import CompletionWriter, read_records
from dcgan_inpaint.runs.report import format_summary
from dcgan_inpaint.runs.resuming import check_continuation
from dcgan_inpaint.runs.run_dir import choose_run_dir, start_run
from dcgan_inpaint.runs.trainer import close_loggers, complete, make_trainer, open_loggers
from dcgan_inpaint.schemas import InpaintConfig

SELECTED = {  # by `select`: what photos/ has of several samples
    "best": "the one with the lowest objective",
    "mean": "the mean of them",
    "sample": "the first of them, which are in no order",
}


def main(config: InpaintConfig) -> float | None:
    """Complete images; return the mean PSNR over the holes for a sweeper, or None if unknown."""
    with one_line_errors(), choose_run_dir("inpaint", config.output, config.name) as run_dir:
        shows_portraits = (config.ckpt, config.data, config.images) == (None, None, None)
        if shows_portraits:
            config = replace(config, images=str(PORTRAITS))
        ckpt = config.ckpt or ("faces64" if config.images is None else "celeba128")
        config = replace(config, output=str(run_dir), ckpt=ckpt)
        ckpt_file, model = find_checkpoint(ckpt), load_model(ckpt)
        source: Any = None
        if config.images is None or uses_source(config):
            chosen = build_source(config.data)
            source = resolve_source(chosen, model.data, model.image_shape, ckpt)
            config = replace(config, data=config.data or node_of(source))
        config = resolve(config, model)
        photos = load_photos(config, model)
        mask = photos.mask if photos else instantiate(config.mask)
        completing = build(config, model, mask, source)
        completing.check()
        lpips = load_lpips(config.lpips) if config.lpips else None
        features = load_efflite0(model.image_shape[1]) if config.features else None
        images = (
            photos.images
            if photos
            else ImageDataModule(source, config.cache_dir).split(config.split)
        )
        stored = next((record.settings for record in read_records(run_dir)), None)
        settings = check_continuation(run_dir, config, ckpt_file, stored)
        writer = CompletionWriter(run_dir, images, config.limit, photos, lpips, features, settings)
        loggers = open_loggers(config.logger, config.tags, run_dir)
        far_images = FarImages(model)
        callbacks = [writer, far_images] if photos else [writer]
        trainer = make_trainer(config.trainer, loggers, callbacks)
        start_run(run_dir, asdict(config), loggers, config.shard)

    if photos:
        report_missing_faces(photos, run_dir)
    remedy = f"Lower batch_size={config.batch_size} or candidates={show(config.candidates)}"
    again = quote_override("output", run_dir)
    with out_of_memory(remedy), exit_on_failure(lambda: f"{again} continues"):
        summary = complete(trainer, writer, completing, config.batch_size, config.shard)
    close_loggers(loggers)
    for name in dict.fromkeys(images.names[i] for i in far_images.found):  # of several faces one
        print(f"{name}: {FAR_IMAGE}")
    if summary is None:  # other processes or shards complete the rest
        return None
    metrics = format_summary(summary)
    print(
        ": ".join(filter(None, (f"{format_count(len(writer.names), 'image')} completed", metrics)))
    )
    if photos and config.select and config.candidates != 1:
        print(
            f"{run_dir / 'samples'} has {config.candidates} samples of each photo. "
            f"{run_dir / 'photos'} has {SELECTED[config.select]} (select={config.select})"
        )
        print(f"{again} pick=2 puts the second there")
    print(run_dir / "rows.png" if shows_portraits else writer.main_result)
    if photos and photos.failures:
        sys.exit(f"error: {describe_failures(photos)}")
    return summary.get("psnr_hole", (None,))[0]


@rank_zero_only
def report_missing_faces(photos: Photos, run_dir: Path) -> None:
    """Print a line about each photo without a face, and draw its crop in crops/."""
    for i, line in photos.missing_faces.items():
        path = run_dir / "crops" / f"{photos.images.labels[i]}.png"
        save_image(path, draw_crops(photos.photo(i), [photos.crops[i]]))
        print(f"{line}, drawn in {path}. Set crop=[x,y,w,h] to change it")


def describe_failures(photos: Photos) -> str:
    """Return one line about the photos that could not be completed, with up to ten reasons."""
    failures = photos.failures
    total = len(failures) + len(set(photos.photo_index))
    shown = "; ".join(failures[:10])
    more = f"; and {len(failures) - 10} more" if len(failures) > 10 else ""
    return f"could not complete {len(failures)} of {format_count(total, 'photo')}: {shown}{more}"
