"""Bad values for every key of every choice in conf/, for test_bad_values.py and the campaign.

Keys and choices are read from conf/, so new ones are included.  All sizes are small.
"""

import copy
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from small_sets import noise, png, write_cars, write_fashion_mnist, write_parquet, write_tar

from dcgan_inpaint.data.image_files import Folder
from dcgan_inpaint.models.checkpoint import save_weights
from dcgan_inpaint.models.dcgan import DCGAN
from dcgan_inpaint.models.one_pass import OnePass

CONF = Path(__file__).parents[2] / "conf"
CUSTOM = {"data": "Few", "model": "Little", "method": "Brightest"}  # in small_sets.py
OWN_LOGGER = "pytorch_lightning.loggers.CSVLogger"
GROUPS = {path.name for path in CONF.iterdir() if path.is_dir()}
BAD = {  # as typed on the command line -> value
    "null": None,
    "": "",
    "-1": -1,
    "0": 0,
    "1.5": 1.5,
    "nan": float("nan"),
    "inf": float("inf"),
    "1000000000000.0": 1e12,
    "1000000000000": 10**12,
    "1e+38": 1e38,
    "text": "text",
    "['a', None]": ["a", None],
    "{'a': 1}": {"a": 1},
    "true": True,
}
# Keys of Hydra, such as _target_, occur in every group and need fewer values.
HYDRA_BAD = ["null", "1.5", "text", "{'a': 1}"]
SMALL = {  # last part of a key -> value
    "accelerator": "cpu",
    "base": [0],
    "batch_size": 4,
    "code_dim": 3,
    "count": 2,
    "df_dim": 1,
    "enable_progress_bar": False,
    "gf_dim": 1,
    "iterations": 2,
    "limit": 1,
    "max_epochs": 1,
    "metrics_count": 2,
    "minus": [1],
    "offline": True,
    "plus": [0],
    "preview": 0,
    "sample_metrics": 0,
    "steps": 2,
    "test_size": 2,
    "train_size": 4,
    "val_size": 2,
    "validate": 0,
    "z_dim": 5,
}
# For the keys of a script itself: overrides that make it use all of them.
OWN: dict[str, dict[str, list[str]]] = {
    "train": {"plain": []},
    "inpaint": {"plain": [], "photos": ["images={files}/img_align_celeba/000000.png"]},
    "sample": {"plain": [], "metrics": ["metrics=true"]},
}
NESTED = {"balanced"}  # its options are those of other choices; tests/test_mixture.py tests it
SEARCH_OPTIONS = ("objective", "solver", "stages", "candidates", "out_interval")
MULTIPROCESS = {"ddp", "ddp_cpu", "slurm"}  # choices that start more processes


def choices() -> Iterator[tuple[str, str, str]]:
    """Yield each (script, group, choice); group "" stands for the keys of the script itself."""
    for script, own in OWN.items():
        yield from ((script, "", name) for name in own)
        for group in sorted(groups_of(script)):
            for path in sorted((CONF / group).glob("*.yaml")):
                if path.stem not in MULTIPROCESS | NESTED:
                    yield script, group, path.stem


def groups_of(script: str) -> set[str]:
    """Return the config groups in the defaults of a script, and in the defaults of these."""
    groups, files = set(), [CONF / f"{script}.yaml"]
    for file in files:
        loaded: Any = OmegaConf.load(file)
        for item in loaded.get("defaults", []):
            for name, choice in item.items() if OmegaConf.is_dict(item) else ():
                if (group := name.strip("/")) in GROUPS:
                    groups.add(group)
                    files += [CONF / group / f"{choice}.yaml"] if choice else []
    return groups


def make_files(root: Path) -> None:
    """Write the files that options refer to: data sets, a mask image, and checkpoints."""
    (root / "img_align_celeba").mkdir()
    splits = []
    for i in range(100):
        name = f"{i:06d}.png"
        Image.new("RGB", (20, 24), (2 * i, 100, 255 - i)).save(root / "img_align_celeba" / name)
        splits.append(f"{name} {min(i // 8, 2)}\n")
    (root / "list_eval_partition.txt").write_text("".join(splits))
    levels = noise(10, 28, 28)
    write_fashion_mnist(root, levels[:8], levels[8:])
    write_cars(root, train=8, test=2)
    write_tar(root / "few.tar", {f"{i}.png": png(noise(20, 24, 3)) for i in range(40)})
    if find_spec("datasets"):  # the extra [huggingface] is installed
        write_parquet(root / "parquet" / "train.parquet", [png(noise(20, 24, 3))] * 40)
    assert all(Folder(str(root)).items(split) for split in ("train", "val", "test"))
    mask = Image.new("L", (16, 16), 255)
    mask.paste(0, (4, 4, 12, 12))
    mask.save(root / "hole.png")
    small: dict[str, Any] = {"image_size": 16, "gf_dim": 1, "df_dim": 1}
    for model in (
        DCGAN(**small, z_dim=5),
        OnePass(network="context_encoder", hole_l2=1.0, **small, code_dim=3),
    ):
        model.data = {"source": "faces", "image_size": 16, "train_size": 4, "test_size": 2}
        save_weights(model, root / f"{type(model).__name__}.safetensors")


def compose_small(script: str, group: str, choice: str, files: Path) -> DictConfig:
    """Compose the configuration with this choice and small sizes; `files`: see `make_files`."""
    own = [argument.format(files=files) for argument in OWN[script].get(choice, [])]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(script, [f"{group}='{choice}'"] if group else own)
    ckpt = "OnePass" if (group, choice) == ("method", "network") else "DCGAN"
    unchanged = {name: copy.deepcopy(cfg[name]) for name in SEARCH_OPTIONS if name in cfg}
    paths = {"ckpt": f"{ckpt}.safetensors", "gan": "DCGAN.safetensors"}
    paths |= {"root": "", "path": "hole.png", "urls": "few.tar"}
    shrink(cfg, SMALL | {name: str(files / path) for name, path in paths.items()})
    if script == "inpaint" and group != "method":
        cfg.method = "search"
    elif script == "inpaint" and choice != "search":
        cfg.merge_with(unchanged)  # a baseline refuses the options of the search
    cfg.cache_dir = str(files / "cache")
    if choice == "one_pass":  # at 16 px
        cfg.model.layers, cfg.model.perceptual = 2, 0.0
    if cfg.get("data") is not None:
        cfg.data.image_size = 16
        if "frame" in cfg.data:
            cfg.data.frame = "none"
        if "name" in cfg.data.keys():  # noqa: SIM118  # `in cfg.data` is false for ???
            cfg.data.name = "FashionMNIST"
        if "path" in cfg.data.keys():  # noqa: SIM118
            cfg.data.path = str(files / "parquet")
    if choice == "own":
        cfg[group]._target_ = f"small_sets.{CUSTOM[group]}" if group in CUSTOM else OWN_LOGGER
    return cfg


def shrink(cfg: Any, small: Mapping[str, Any]) -> None:
    """Set the values of a configuration, except interpolations, by the last part of their keys."""
    for name, value in cfg.items_ex(resolve=False):
        if OmegaConf.is_interpolation(cfg, name):
            continue
        if isinstance(value, DictConfig):
            shrink(value, small)
        elif name in small:
            cfg[name] = small[name]


def keys(cfg: DictConfig, group: str, choice: str) -> list[str]:
    """Return the keys that a choice adds; for the group "" those of the script and the groups."""
    if not group:
        return [key for key in nodes(cfg) if key.split(".")[0] not in GROUPS or key in cfg]
    below = [key for key in nodes(cfg) if key.split(".")[0] == group]
    file = CONF / group / f"{choice}.yaml"
    loaded: Any = OmegaConf.load(file)
    for base in loaded.pop("defaults", []):  # a choice of the same group, tested as such
        if isinstance(base, str) and base != "_self_" and "@" not in base:
            others = OmegaConf.load(CONF / group / f"{base}.yaml")
            below = [key for key in below if key.split(".")[1:2] not in [[name] for name in others]]
    if file.read_text().startswith("# @package _global_"):
        below += [key for key in nodes(loaded) if key.split(".")[0] in cfg and key not in below]
    return below


def nodes(cfg: Any, prefix: str = "") -> Iterator[str]:
    """Yield the key of each node of a configuration, including the items of lists."""
    items = enumerate(cfg) if OmegaConf.is_list(cfg) else cfg.items_ex(resolve=False)
    for name, value in items:
        yield f"{prefix}{name}"
        if OmegaConf.is_config(value) and not OmegaConf.is_missing(cfg, name):
            yield from nodes(value, f"{prefix}{name}.")


def aliases(cfg: DictConfig, key: str) -> tuple[str, ...]:
    """Return the key of a value and, for an interpolation such as ${gan}, the key it refers to."""
    parent, _, name = key.rpartition(".")
    node: Any = OmegaConf.select(cfg, parent) if parent else cfg
    if OmegaConf.is_dict(node) and OmegaConf.is_interpolation(node, name):
        written: Any = OmegaConf.to_container(node)
        return key, written[name].removeprefix("${").removesuffix("}")
    return (key,)
