"""Comparison of settings with those of an existing run, to resume or continue it.

Importing this module does not import torch.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dcgan_inpaint.composition import (
    choices_of,
    conf_dir,
    overridden_key,
    parse_override,
    quote_override,
)
from dcgan_inpaint.configs import LOCATION_KEYS, TrainerOptions, flatten, unknown_option
from dcgan_inpaint.errors import show
from dcgan_inpaint.schemas import InpaintConfig, TrainConfig

if TYPE_CHECKING:
    from dcgan_inpaint.models.base import Model

# keys that Lightning reads from a last.ckpt to resume a training
TRAINING_STATE = {
    *("state_dict", "optimizer_states", "lr_schedulers", "loops", "epoch", "global_step")
}
# options that may differ when a training is resumed: locations, logging, length and device
FREE_IN_TRAINING = {
    *("output", "resume", "cache_dir", "data.download", "gan", "model.gan.path"),
    *(f"data.{key}" for key in LOCATION_KEYS),
    *("logger", "name", "tags", "sample_every", "preview", "validate", "sample_metrics"),
    *("monitor", "patience"),
    *("trainer.max_epochs", "trainer.max_steps", "trainer.max_time", "trainer.accelerator"),
    *("trainer.log_every_n_steps", "trainer.enable_progress_bar", "trainer.profiler"),
    *("trainer.enable_model_summary", "trainer.benchmark", "trainer.detect_anomaly"),
}
FOLLOWERS = {  # options that are equal to another one in conf/
    "model.gan.path": "gan",
    "logger.wandb.name": "name",
    "logger.mlflow.run_name": "name",
}
# options that do not affect completions; of the trainer only precision does
FREE_IN_COMPLETION = {
    *("shard", "limit", "batch_size", "cache_dir", "output", "pick", "logger", "name", "tags"),
    *(f"trainer.{key}" for key in TrainerOptions.__annotations__ if key != "precision"),
}
OLD_TARGETS = (  # modules that were moved after version 0.2
    *("completion", "observation", "poisson", "data.faces.Faces", "data.celeba", "data.folder"),
    *("data.cars", "data.hub", "data.tars", "data.torchvision_sets"),
)
OLD_VERSION = (
    "written by an earlier version, whose runs can be shown but not continued. Use another output"
)


def read_config(run_dir: Path) -> dict[str, Any] | None:
    """Return the config.yaml of a run directory; None if it is missing or damaged."""
    try:
        cfg = OmegaConf.to_container(OmegaConf.load(run_dir / "config.yaml"))
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException):
        return None
    return cast(dict[str, Any], cfg) if isinstance(cfg, dict) else None


def check_same_settings(
    run: str,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    keys: Iterable[str],
    free: Collection[str],
) -> None:
    """Raise ValueError for the first of `keys` whose values in `old` and `new` differ.

    `run` is the name of the old run in the message; `old` and `new` are flat.  The options in
    `free`, and all below them, may differ.
    """
    for key in sorted(keys):
        if not _is_free(key, free) and old.get(key) != new.get(key):
            raise ValueError(
                f"{run}: the run was started with {key}={show(old.get(key))}, "
                f"not {show(new.get(key))}. "
                "Use the same settings to continue it, or another output"
            )


def _is_below(key: str, options: Iterable[str]) -> bool:
    """Return whether a key is one of the options or below one."""
    return any(f"{key}.".startswith(f"{option}.") for option in options)


def _is_free(key: str, free: Collection[str]) -> bool:
    """Return whether a key is one of the free options or below one.

    The options of a source are free in a mixture too, as data.sources.<name>.
    """
    return _is_below(re.sub(r"^data\.sources\.[^.]+\.", "data.", key), free)


def check_version(run: str, config: Mapping[str, Any], schema: type) -> None:
    """Raise ValueError if a run's config.yaml was written by an earlier version.

    It then has other keys than the fields of `schema`, or targets that were moved since.  A field
    with a default may be missing.
    """
    required = {f.name for f in fields(schema) if f.default is f.default_factory is MISSING}
    targets = [str(v) for k, v in flatten(config).items() if k.endswith("_target_")]
    old = tuple(f"dcgan_inpaint.{target}" for target in OLD_TARGETS)
    same_keys = required <= config.keys() <= schema.__annotations__.keys()
    if not same_keys or any(target.startswith(old) for target in targets):
        raise ValueError(f"{run}: {OLD_VERSION}")


def split_resumed(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the overrides of a resumed training into those that Hydra composes and all others.

    Hydra composes conf/train.yaml with its defaults, which lacks options of the original run, such
    as data.root or gan.  So the others are applied to the original config, by `resumed_config`.
    For a new training, Hydra composes all overrides.
    """
    if not {"-m", "--multirun"}.isdisjoint(overrides):
        return list(overrides), []
    composed = [override for override in overrides if _is_composed(override)]
    try:
        paths = [str(parse_override(o).value()) for o in composed if o.startswith("resume=")]
    except HydraException:  # Hydra reports it
        paths = []
    if not paths or _read_training(paths[-1]) is None:
        return list(overrides), []
    return composed, [override for override in overrides if override not in composed]


def _is_composed(override: str) -> bool:
    """Return whether Hydra composes an argument of a resumed training; also a flag, for example."""
    key = override.lstrip("+~").partition("=")[0]
    is_override = "=" in override or override.startswith("~")
    return key in ("resume", "logger") or key.startswith(("-", "hydra")) or not is_override


def _read_training(checkpoint: str) -> dict[str, Any] | None:
    """Return the config.yaml beside a last.ckpt; None if it is not that of a training."""
    config = read_config(Path(checkpoint).parent)
    return config if config and "model" in config else None


def resumed_config(cfg: DictConfig, overrides: Sequence[str] | None) -> DictConfig:
    """Return the original config of cfg.resume, plus the overrides that may change on resume.

    The original config is the config.yaml beside the checkpoint; without one, or without resume,
    returns `cfg`.  The run stays in its own directory unless output= names another.

    Args:
        cfg: The composed config.
        overrides: Both parts of `split_resumed`; None means that the user set all of `cfg`.

    Raises:
        ValueError: If the original run does not have an option, if an option that may not change
            has another value, or for init besides resume.  The message is one line.
    """
    keys = {overridden_key(override) for override in overrides or ()}
    if cfg.resume is not None and (cfg.init is not None or "init" in keys):
        raise ValueError(
            f"resume={cfg.resume}: init= starts a new training, which resume= does not. "
            "Remove one of them"
        )
    if not isinstance(cfg.resume, str) or (original := _read_training(cfg.resume)) is None:
        return cfg
    run = f"resume={cfg.resume}"
    check_version(run, original, TrainConfig)
    old, config = flatten(original), OmegaConf.create(original)
    config.output, config.resume = str(Path(cfg.resume).parent), cfg.resume
    if overrides is None or "logger" in keys:
        config.logger = cfg.logger
    if overrides is None:
        changed = flatten(OmegaConf.to_container(cfg, resolve=True))
        for key, value in changed.items():
            OmegaConf.update(config, key, value, force_add=True)
    else:
        changed = _apply(config, [o for o in overrides if not _is_composed(o)])
    for follower, key in FOLLOWERS.items():
        if key in changed and follower in old and old[follower] == old.get(key):
            OmegaConf.update(config, follower, config[key])
    new = flatten(OmegaConf.to_container(config, resolve=True))
    check_same_settings(run, old, new, changed, FREE_IN_TRAINING)
    return config


def _apply(config: DictConfig, overrides: Iterable[str]) -> dict[str, Any]:
    """Apply overrides to a complete config; return the flat options that they set.

    A choice of a group sets the group's `_target_`, and if it has none, all options in its file.
    """
    choices: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for override in overrides:
        parsed, key = parse_override(override), overridden_key(override)
        is_choice = bool(names := choices_of(parsed.key_or_group))
        if is_choice and not parsed.is_delete():
            if (choice := parsed.value()) not in names:
                raise ValueError(f"{override}: no such choice. Use one of {', '.join(names)}")
            choices |= _options_of_choice(f"{parsed.key_or_group}/{choice}", key)
        elif not is_choice:
            known = parsed.is_add() or parsed.is_force_add() or _is_free(key, FREE_IN_TRAINING)
            options = flatten(OmegaConf.to_container(config))
            if not known and not any(_is_below(name, [key]) for name in options):
                raise ValueError(unknown_option(override, options))
            values |= flatten({key: None if parsed.is_delete() else parsed.value()})
    changed = choices | values
    for key, value in changed.items():
        OmegaConf.update(config, key, value, force_add=True)
    return changed


def _options_of_choice(choice: str, package: str) -> dict[str, Any]:
    """Return the targets in the file of a choice, or all its options if it has none.

    Args:
        choice: "trainer/cpu".
        package: Key that the file sets, unless its first line names another.
    """
    text = (conf_dir() / f"{choice}.yaml").read_text()
    if header := re.match(r"# @package (\S+)", text):
        package = header[1]
    options = OmegaConf.to_container(OmegaConf.create(text))
    assert isinstance(options, dict)
    options.pop("defaults", None)
    flat = flatten(options, "" if package == "_global_" else f"{package}.")
    return {key: value for key, value in flat.items() if key.endswith("_target_")} or flat


def check_checkpoint(
    path: str, saved: Mapping[str, Any], settings: Mapping[str, Any], model: "Model"
) -> None:
    """Raise ValueError if a loaded last.ckpt cannot resume this training.

    The checkpoint must contain the training state of the same model with the same flat `settings`.
    The config.yaml beside it is not trusted.
    """
    run = f"resume={path}"
    missing = TRAINING_STATE - saved.keys()
    if missing:
        raise ValueError(f"{run}: not a last.ckpt of train.py: it has no {min(missing)}")
    kind = saved.get("kind")
    if kind != model.kind:
        raise ValueError(f"{run}: holds a {kind}, but model= selects a {model.kind}")
    stored = saved.get("settings")
    if not isinstance(stored, dict):
        raise ValueError(f"{run}: {OLD_VERSION}")
    keys = (stored.keys() | settings.keys()) - {"init"}  # the checkpoint has the weights
    check_same_settings(run, stored, settings, keys, FREE_IN_TRAINING)
    expected, held = (
        {name: getattr(value, "shape", None) for name, value in dict(state).items()}
        for state in (model.state_dict(), saved["state_dict"])
    )
    for name in sorted(expected.keys() ^ held.keys()) or expected:
        if expected.get(name) != held.get(name):
            raise ValueError(
                f"{run}: {name} does not fit. Use the model= and data= that it was started with"
            )


def how_to_resume(run_dir: Path) -> str:
    """Return advice on how to resume an interrupted training from its run directory."""
    last = run_dir / "last.ckpt"
    if last.exists():
        return f"{quote_override('resume', last)} continues"
    return f"{quote_override('output', run_dir)} starts again"


def fingerprint(settings: Mapping[str, Any], files: Iterable[Path]) -> str:
    """Return a hash, in 16 hex digits, of all inputs that affect the results of a completion.

    These are the flat `settings` without the free ones, and the contents of `files`.
    """
    fixed = {k: value for k, value in settings.items() if not _is_free(k, FREE_IN_COMPLETION)}
    digest = hashlib.sha256(json.dumps(fixed, sort_keys=True, default=str).encode())
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def check_continuation(
    run_dir: Path, config: InpaintConfig, ckpt_file: Path, stored: str | None
) -> str:
    """Return the fingerprint of a completion that may continue the one in `run_dir`.

    It covers the settings, the checkpoint and the mask image; a photo's record stores its own known
    pixels.  `stored` is the fingerprint in the records of `run_dir`.  config.yaml, which may be
    damaged or deleted, only helps to name the option.  Raises ValueError if the run was started
    with other settings.
    """
    files = {f"ckpt={config.ckpt}": ckpt_file}
    if config.images is None and (path := config.mask.get("path")):
        files[f"mask.path={path}"] = Path(path).expanduser()
    settings = flatten(asdict(config))
    current = fingerprint(settings, files.values())
    if stored == current or stored is None and not (run_dir / "metrics.csv").is_file():
        return current
    run = f"output={run_dir}"
    if (old := read_config(run_dir)) is not None:
        check_version(run, old, InpaintConfig)
        before = flatten(old)
        keys = before.keys() | settings.keys()
        check_same_settings(run, before, settings, keys, FREE_IN_COMPLETION)
    if stored is not None:
        changed = " or ".join(files)
        raise ValueError(
            f"{run}: the run was started with other contents of {changed}. Use another output"
        )
    return current
