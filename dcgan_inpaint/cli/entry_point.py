"""What every door does before its story begins: the words are read, and Hydra composes."""

import functools
import logging
import os
import sys
from collections.abc import Callable
from typing import TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig

from dcgan_inpaint.configs import conf_folder
from dcgan_inpaint.errors import exit_on_signal, one_line_errors
from dcgan_inpaint.runs.options import mend_words

Result = TypeVar("Result")
LIGHTNINGS = "pytorch_lightning.utilities.rank_zero"  # the log of what it says about itself


def _is_of_use(record: logging.LogRecord) -> bool:
    """Not advertisements, and of the devices the one line about GPUs."""
    return not record.getMessage().startswith(("\N{ELECTRIC LIGHT BULB} Tip", "TPU available"))


def door(name: str) -> Callable[[Callable[[DictConfig], Result]], Callable[..., Result | None]]:
    """Make a function of a configuration the main of <name>.py and of the command dcgan-<name>.

    Called without a configuration it composes conf/<name>.yaml from the command line.
    """

    def opened(main: Callable[[DictConfig], Result]) -> Callable[..., Result | None]:
        conf = str(conf_folder())
        by_hydra = hydra.main(version_base="1.3", config_path=conf, config_name=name)(main)

        @functools.wraps(main)
        def call(cfg: DictConfig | None = None) -> Result | None:
            if cfg is not None:
                HydraConfig.instance().cfg = None  # of an earlier call, whose words are not ours
                return main(cfg)
            logging.getLogger(LIGHTNINGS).addFilter(_is_of_use)
            with one_line_errors():
                sys.argv[1:] = mend_words(sys.argv[1:], name)
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach us as they are
            again = "nothing was cut off: give the same command again"
            try:
                with exit_on_signal(lambda: again):
                    by_hydra()
            except HydraException as error:
                sys.exit(f"error: {' '.join(str(error).split())}")
            return None  # what main gives went to Hydra's sweeper

        return call

    return opened
