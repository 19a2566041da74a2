"""Run folders: runs/<task>/<date_time>/, each with the configuration that made it."""

import warnings
from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

FALSE_ALARMS = (  # of Lightning 2.6
    ".*in eval mode at the start of training.*",  # the averaged generator is, on purpose
    ".*does not have many workers.*",  # batches are read from a memory map
    "Checkpoint directory .* exists and is not empty.*",  # config.yaml and samples are there
    ".*treespec, LeafSpec.*",  # its own use of a deprecated torch call
)


def start_run(cfg: DictConfig, task: str) -> Path:
    """Make the run's folder, write config.yaml there and set cfg.output to it.

    cfg.output null means runs/<task>/<date_time>, with a number behind it when that is taken.
    Raises ValueError for a folder that cannot be written.
    """
    for false_alarm in FALSE_ALARMS:
        warnings.filterwarnings("ignore", false_alarm)
    try:
        if cfg.output is None:
            base = Path("runs") / task / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
            folder, number = base, 1
            while folder.exists():
                folder, number = base.with_name(f"{base.name}_{number}"), number + 1
        else:
            folder = Path(cfg.output)
        folder.mkdir(parents=True, exist_ok=True)
        cfg.output = str(folder)
        OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    except OSError as error:
        raise ValueError(f"output={folder}: cannot be written ({error.strerror})") from error
    return folder
