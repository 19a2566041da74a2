"""The configurations: where they are, and one of them composed from Python."""

from collections.abc import Iterable
from pathlib import Path
from threading import Lock

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig

_ONE_AT_A_TIME = Lock()  # Hydra keeps what it composes from in one place for all threads


def conf_folder() -> Path:
    """conf/ of the repository; in an installed package its copy beside this file."""
    here = Path(__file__).resolve().parent
    return here / "conf" if (here / "conf").is_dir() else here.parent / "conf"


def choices_of(group: str) -> list[str]:
    """The choices of a group by name; none if there is no such group."""
    return sorted(path.stem for path in (conf_folder() / group).glob("*.yaml")) if group else []


def compose_config(name: str, overrides: Iterable[str] = ()) -> DictConfig:
    """conf/<name>.yaml with `overrides`, as they are typed behind <name>.py.

    Raises ValueError, one line, for what Hydra cannot compose.
    """
    with _ONE_AT_A_TIME, initialize_config_dir(str(conf_folder()), version_base="1.3"):
        try:
            return compose(name, list(overrides))
        except HydraException as error:
            raise ValueError(" ".join(str(error).split())) from error
