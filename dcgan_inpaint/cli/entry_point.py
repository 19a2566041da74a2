"""Compose and check the configuration of a command, then run it.

Importing this module does not import torch, so that a wrong option is reported at once.
"""

import logging
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig

from dcgan_inpaint.cli.help import help_text
from dcgan_inpaint.composition import (
    conf_dir,
    explain_refusal,
    normalize_overrides,
    overridden_key,
    parse_override,
)
from dcgan_inpaint.configs import check_config, check_config_source, flatten
from dcgan_inpaint.data.directories import find_images
from dcgan_inpaint.errors import exit_on_signal, one_line_errors, tolerate_closed_pipes
from dcgan_inpaint.files import LAST_CKPT, Z_FILE, check_file, find_checkpoint
from dcgan_inpaint.runs.resuming import resumed_config, split_resumed
from dcgan_inpaint.schemas import NO_GAN, ExportConfig, InpaintConfig, SampleConfig, TrainConfig

MASK_FILE = "dcgan_inpaint.masks.mask_image.mask_file"
SCHEMAS: dict[str, type] = {
    "train": TrainConfig,
    "inpaint": InpaintConfig,
    "sample": SampleConfig,
    "export": ExportConfig,
}


def run_command_line(command: str) -> None:
    """Compose conf/<command>.yaml with the overrides in sys.argv and run the command."""
    tolerate_closed_pipes()
    _set_up_lightning_log()
    with one_line_errors():
        arguments = normalize_overrides(sys.argv[1:])
        if {"--help", "-h"} & set(arguments):
            overrides = [word for word in arguments if re.match(r"[^-].*=|~", word)]
            return print(help_text(command, overrides))
        composed, others = split_resumed(arguments) if command == "train" else (arguments, [])
    sys.argv[1:] = composed
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors arrive here unchanged

    @hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=command)
    def start(cfg: DictConfig) -> float | None:
        sys.argv[1:] = arguments  # with which Lightning starts more processes
        return run_config(command, cfg, [*HydraConfig.get().overrides.task, *others])

    try:
        with exit_on_signal(lambda: "nothing was written. Run the same command again"):
            start()
    except HydraException as error:
        sys.exit(f"error: {explain_refusal(command, composed, error)}")


def run_config(
    command: str, cfg: DictConfig, overrides: Sequence[str] | None = None
) -> float | None:
    """Check a composed configuration and run the command with it.

    `overrides` are those of the command line.  None means that the user set all of `cfg`.
    Returns the value of the command's `main`, which a sweeper can maximize.
    """
    if overrides is None:
        HydraConfig.instance().cfg = None  # an earlier command line in this process set it
    with one_line_errors():
        if command == "train":
            cfg = resumed_config(cfg, overrides)
        if command == "inpaint" and cfg.pick is not None:
            check_pick(overrides or ())
        check_files_exist(check_config_source(cfg, SCHEMAS[command]))  # at once
        config: Any = check_config(cfg, SCHEMAS[command])  # imports torch, which takes seconds
        if command == "train" and config.init is not None and config.resume is None:
            everything = list(flatten(config.model, "model."))
            keys = everything if overrides is None else [overridden_key(o) for o in overrides]
            fine_tuning = import_module("dcgan_inpaint.models.fine_tuning")  # with torch
            config = replace(config, model=fine_tuning.leave_open(config.model, keys))
    picks = command == "inpaint" and config.pick is not None
    return import_module(f"dcgan_inpaint.cli.{'pick' if picks else command}").main(config)


def check_files_exist(config: Any) -> None:
    """Raise ValueError or FileNotFoundError for a file of a configuration that does not exist.

    Data sources check their own files, when they are built.
    """
    if isinstance(config, TrainConfig):
        if config.resume is not None:
            check_file("resume", config.resume, LAST_CKPT)
        if config.gan != NO_GAN:
            find_checkpoint(config.gan, "gan")
        if config.init is not None and config.resume is None:  # a resumed training needs it no more
            find_checkpoint(config.init, "init")
        return
    if config.ckpt is not None:
        find_checkpoint(config.ckpt)
    if isinstance(config, SampleConfig) and config.z is not None:
        check_file("z", config.z, Z_FILE)
    if isinstance(config, InpaintConfig):
        if config.images is not None:
            find_images(config.images)
        if config.mask["_target_"] == MASK_FILE:
            find_images(config.mask["path"], "mask.path")


def check_pick(overrides: Sequence[str]) -> None:
    """Raise ValueError for overrides besides pick= and output=, which would have no effect."""
    others = [o for o in overrides if parse_override(o).key_or_group not in ("output", "pick")]
    if others:
        given = " ".join(others)
        raise ValueError(f"{given}: pick= copies samples of a finished run only. Remove {given}")


train = partial(run_command_line, "train")
inpaint = partial(run_command_line, "inpaint")
sample = partial(run_command_line, "sample")
export = partial(run_command_line, "export")


def _set_up_lightning_log() -> None:
    """Send Lightning's log lines to standard error, without prefixes and advertisements.

    Lightning does so when it is imported, but not after Hydra has configured the root logger.
    """
    for package in ("pytorch_lightning", "lightning_fabric"):
        logger = logging.getLogger(package)
        logger.propagate = False
        logger.handlers = [logging.StreamHandler()]
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: not record.getMessage().startswith(("\N{ELECTRIC LIGHT BULB} Tip", "TPU"))
    )
