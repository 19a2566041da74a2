"""Comparison of settings with those of an existing run, to resume or continue it.

Importing this module does not import torch.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dcgan_inpaint.configs import LOCATION_KEYS, TrainerOptions, choices_of
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
    *("trainer.max_epochs", "trainer.max_steps", "trainer.max_time", "trainer.accelerator"),
    *("trainer.log_every_n_steps", "trainer.enable_progress_bar", "trainer.profiler"),
    *("trainer.enable_model_summary", "trainer.benchmark", "trainer.detect_anomaly"),
}
# options that do not affect completions; of the trainer only precision does
FREE_IN_COMPLETION = {
    *("shard", "limit", "batch_size", "cache_dir", "output", "logger", "name", "tags"),
    *(f"trainer.{key}" for key in TrainerOptions.__annotations__ if key != "precision"),
}
OLD_TARGETS = (  # modules that were moved after version 0.2
    *("completion", "observation", "poisson", "data.faces.Faces", "data.celeba", "data.folder"),
    *("data.cars", "data.hub", "data.tars", "data.torchvision_sets"),
)
OLD_VERSION = (
    "written by an earlier version, whose runs can be shown but not continued. Use another output"
)


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return {"mask.scale": 1} for {"mask": {"scale": 1}}."""
    if not isinstance(tree, Mapping):
        return {prefix[:-1]: tree}
    return {k: v for key, part in tree.items() for k, v in flatten(part, f"{prefix}{key}.").items()}


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
        if not _is_below(key, free) and old.get(key) != new.get(key):
            raise ValueError(
                f"{run}: the run was started with {key}={show(old.get(key))}, "
                f"not {show(new.get(key))}. "
                "Use the same settings to continue it, or another output"
            )


def _is_below(key: str, options: Collection[str]) -> bool:
    """Return whether a key is one of the options or below one.

    The options of a source are free in a mixture too, as data.sources.<name>.
    """
    key = re.sub(r"^data\.sources\.[^.]+\.", "data.", key)
    return any(f"{key}.".startswith(f"{option}.") for option in options)


def check_version(run: str, config: Mapping[str, Any], schema: type) -> None:
    """Raise ValueError if a run's config.yaml was written by an earlier version.

    It then has other keys than the fields of `schema`, or targets that were moved since.
    """
    targets = [str(v) for k, v in flatten(config).items() if k.endswith("_target_")]
    old = tuple(f"dcgan_inpaint.{target}" for target in OLD_TARGETS)
    if config.keys() != set(schema.__annotations__) or any(
        target.startswith(old) for target in targets
    ):
        raise ValueError(f"{run}: {OLD_VERSION}")


def resumed_config(cfg: DictConfig, overrides: Sequence[str] | None) -> DictConfig:
    """Return the original config of cfg.resume, plus the overrides that may change on resume.

    The original config is the config.yaml beside the checkpoint; without one, or without resume,
    returns `cfg`.  The run stays in its own directory unless output= names another.  Raises
    ValueError, one line, for an option that has a value that differs from that of the original run.
    """
    if not isinstance(cfg.resume, str):
        return cfg
    run_dir = Path(cfg.resume).parent
    original = read_config(run_dir)
    if original is None or "model" not in original:
        return cfg
    run = f"resume={cfg.resume}"
    check_version(run, original, TrainConfig)
    old, new = flatten(original), flatten(OmegaConf.to_container(cfg, resolve=True))
    overridden = _overridden(new, overrides)
    check_same_settings(run, old, new, overridden, FREE_IN_TRAINING)
    result = OmegaConf.create(original)
    for key in overridden | {"resume"}:
        if key in new and _is_below(key, FREE_IN_TRAINING):
            OmegaConf.update(result, key, new[key], force_add=True)
    if any(key.startswith("logger") for key in overridden):
        result.logger = cfg.logger
    if "output" not in overridden:
        result.output = str(run_dir)
    return result


def _overridden(keys: Collection[str], overrides: Sequence[str] | None) -> set[str]:
    """Return the keys that the overrides set, or all keys without a command line.

    A choice of a group sets the group's `_target_`.
    """
    if overrides is None:
        return set(keys)
    overridden = set()
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        name = override.package or override.key_or_group
        if choices_of(override.key_or_group) and name != "logger":
            overridden |= {name, f"{name}._target_"} & set(keys)
        else:
            overridden |= {key for key in keys if _is_below(key, [name])}
    return overridden


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
    check_same_settings(run, stored, settings, stored.keys() | settings.keys(), FREE_IN_TRAINING)
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
    return f"resume={last} continues" if last.exists() else f"output={run_dir} starts again"


def fingerprint(settings: Mapping[str, Any], files: Iterable[Path]) -> str:
    """Return a hash, in 16 hex digits, of all inputs that affect the results of a completion.

    These are the flat `settings` without the free ones, and the contents of `files`.
    """
    fixed = {k: value for k, value in settings.items() if not _is_below(k, FREE_IN_COMPLETION)}
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
