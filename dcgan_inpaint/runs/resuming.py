"""A training that is continued: with the settings that it began with, and so exactly."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback, Trainer

from dcgan_inpaint.configs import choices_of
from dcgan_inpaint.data.sources import PLACES
from dcgan_inpaint.errors import show
from dcgan_inpaint.files import load_weights
from dcgan_inpaint.models.base import Model
from dcgan_inpaint.runs.run_dir import flat, read_config

# what Lightning reads of a last.ckpt to continue a training
TRAINING = {"state_dict", "optimizer_states", "lr_schedulers", "loops", "epoch", "global_step"}

# what may be another: where things are, what is watched, how long and on what it is trained
FREE = {
    *("output", "resume", "cache_dir", "data.download", "gan", "model.gan.path"),
    *(f"data.{place}" for place in PLACES),
    *("logger", "name", "tags", "sample_every", "preview", "validate", "sample_metrics"),
    *("trainer.max_epochs", "trainer.max_steps", "trainer.max_time", "trainer.accelerator"),
    *("trainer.log_every_n_steps", "trainer.enable_progress_bar", "trainer.profiler"),
    *("trainer.enable_model_summary", "trainer.benchmark", "trainer.detect_anomaly"),
}


def resumed(cfg: DictConfig) -> DictConfig:
    """What cfg.resume began with, by the config.yaml beside it, with what was typed of FREE.

    It goes on in its own folder unless output= names another.  Without a resume, or a config.yaml,
    it is `cfg`.  Raises ValueError, one line, for another value than it began with.
    """
    if not isinstance(cfg.resume, str):
        return cfg
    folder = Path(cfg.resume).parent
    begun = read_config(folder)
    if begun is None or "model" not in begun:
        return cfg
    old, new = flat(begun), flat(OmegaConf.to_container(cfg, resolve=True))
    typed = _typed(new)
    for key in sorted(typed):
        if not _is_free(key) and old.get(key) != new.get(key):
            raise ValueError(
                f"resume={cfg.resume} was begun with {key}={show(old.get(key))}, not "
                f"{show(new.get(key))}: leave it out to continue"
            )
    result = OmegaConf.create(begun)
    for key in typed | {"resume"}:
        if key in new and _is_free(key):
            OmegaConf.update(result, key, new[key], force_add=True)
    if any(key.startswith("logger") for key in typed):
        result.logger = cfg.logger
    if "output" not in typed:
        result.output = str(folder)
    for part in (result.logger or {}).values():
        if part.get("save_dir") == begun.get("output"):
            part.save_dir = result.output
    return result


def _typed(keys: Collection[str]) -> set[str]:
    """Those of the keys that the command line sets; all of them without one.

    Of a choice of a group it is what is built.
    """
    if not HydraConfig.initialized():
        return set(keys)
    typed = set()
    for override in OverridesParser.create().parse_overrides(HydraConfig.get().overrides.task):
        name = override.package or override.key_or_group
        if choices_of(override.key_or_group):
            typed |= {key for key in keys if key in (name, f"{name}._target_")}
            typed |= {key for key in keys if name == "logger" and key.startswith("logger")}
        else:
            typed |= {key for key in keys if f"{key}.".startswith(f"{name}.")}
    return typed


def _is_free(key: str) -> bool:
    return any(f"{key}.".startswith(f"{free}.") for free in FREE)


def how_to_continue(folder: Path) -> str:
    """What to type after a training that was stopped, by what is in its folder."""
    last = folder / "last.ckpt"
    return f"resume={last} goes on" if last.exists() else f"output={folder} begins again"


class BegunWith(Callback):
    """Writes the settings of a training into its checkpoints: plain values, to compare with."""

    def __init__(self, cfg: DictConfig):
        self.settings = flat(OmegaConf.to_container(cfg, resolve=True))

    def on_save_checkpoint(
        self, trainer: Trainer, module: Model, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["settings"] = self.settings


def check_resume(cfg: DictConfig, model: Model) -> None:
    """Raise ValueError (FileNotFoundError) if cfg.resume, where there is one, is no last.ckpt of
    such a training: of its model and with its settings, whatever config.yaml beside it says."""
    if (path := cfg.resume) is None:
        return
    saved = load_weights("resume", path, "the last.ckpt of a training run")
    missing = TRAINING - saved.keys()
    if missing:
        raise ValueError(f"resume={path}: no last.ckpt of train.py: it has no {min(missing)}")
    kind = saved.get("kind", "DCGAN")  # before there were others, it was not said
    if kind != model.kind:
        raise ValueError(f"resume={path} holds a {kind}, model= is a {model.kind}")
    _check_settings(cfg, model, saved)
    shapes, held = (
        {name: getattr(value, "shape", None) for name, value in dict(state).items()}
        for state in (model.state_dict(), saved["state_dict"])
    )
    for name in sorted(shapes.keys() ^ held.keys()) or shapes:
        if shapes.get(name) != held.get(name):
            raise ValueError(
                f"resume={path}: {name} does not fit: use the model= and data= that it began with"
            )


def _check_settings(cfg: DictConfig, model: Model, saved: dict[str, Any]) -> None:
    ours = flat(OmegaConf.to_container(cfg, resolve=True))
    theirs = saved.get("settings")
    if not isinstance(theirs, dict):  # of earlier versions: it says its model and its data
        parts = {
            "model": (dict(model.hparams), saved.get("hyper_parameters")),
            "data": (model.data or {}, saved.get("data")),
        }
        ours, theirs = {}, {}
        for part, (own, stored) in parts.items():
            known = stored if isinstance(stored, dict) else {}
            for name in own.keys() & known.keys():
                ours[f"{part}.{name}"], theirs[f"{part}.{name}"] = own[name], known[name]
    for key in sorted(ours.keys() | theirs.keys()):
        if not _is_free(key) and ours.get(key) != theirs.get(key):
            raise ValueError(
                f"resume={cfg.resume} was begun with {key}={show(theirs.get(key))}, not "
                f"{show(ours.get(key))}"
            )
