"""Every key of every choice is given bad values, through the doors' own code.

Each value is either refused in one line that names key and value, and nothing is written, or it is
taken, and then the door runs to its end and what it makes is finite.  Keys and choices are read
from conf/, so a new one is covered as it comes; sizes are the smallest.
"""

import pickle
import shutil
import signal
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from safetensors.torch import load_file

from dcgan_inpaint.data.folder import Folder
from dcgan_inpaint.doors import inpaint, sample, train
from dcgan_inpaint.models.checkpoint import save_weights
from dcgan_inpaint.models.context_encoder import ContextEncoder
from dcgan_inpaint.models.dcgan import DCGAN
from dcgan_inpaint.runs.options import TrainerOptions

CONF = Path(__file__).parents[1] / "conf"
GROUPS = {path.name for path in CONF.iterdir() if path.is_dir()}
BAD = {  # as one would type it
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
HYDRAS = ["null", "1.5", "text", "{'a': 1}"]  # enough for _target_ and _partial_, of every part
HANGS = 20  # seconds
SMALL = {  # by the last word of a key
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
OWN = {  # the ways to use a door by its own keys alone
    "train": {"plain": []},
    "inpaint": {"plain": [], "photos": ["images={files}/img_align_celeba/000000.png"]},
    "sample": {"plain": [], "metrics": ["metrics=true"]},
}
DOORS = {"train": train, "inpaint": inpaint, "sample": sample}


def ways():
    """(door, group, choice) of all that can be chosen; group "" for a door's own keys."""
    for door, own in OWN.items():
        yield from ((door, "", way) for way in own)
        for group in sorted(GROUPS):
            for path in sorted((CONF / group).glob("*.yaml")):
                if group in brought(door):
                    yield door, group, path.stem


def brought(door):
    """The groups that a door chooses from, itself or by its default of another group."""
    found, files = set(), [CONF / f"{door}.yaml"]
    for file in files:
        for item in OmegaConf.load(file).get("defaults", []):
            for name, choice in item.items() if OmegaConf.is_dict(item) else ():
                if (group := name.strip("/")) in GROUPS:
                    found.add(group)
                    files += [CONF / group / f"{choice}.yaml"] if choice else []
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What keys point to: pictures as a folder and as CelebA, a mask, checkpoints."""
    root = tmp_path_factory.mktemp("files")
    (root / "img_align_celeba").mkdir()
    splits = []
    for i in range(100):
        name = f"{i:06d}.png"
        Image.new("RGB", (20, 24), (2 * i, 100, 255 - i)).save(root / "img_align_celeba" / name)
        splits.append(f"{name} {min(i // 8, 2)}\n")
    (root / "list_eval_partition.txt").write_text("".join(splits))
    assert all(Folder(str(root)).items(split) for split in ("train", "val", "test"))
    mask = Image.new("L", (16, 16), 255)
    mask.paste(0, (4, 4, 12, 12))
    mask.save(root / "hole.png")
    small = {"image_size": 16, "gf_dim": 1, "df_dim": 1}
    for model in (DCGAN(**small, z_dim=5), ContextEncoder(**small, code_dim=3)):
        model.data = {"source": "faces", "image_size": 16, "train_size": 4, "test_size": 2}
        save_weights(model, root / f"{type(model).__name__}.safetensors")
    return root


def composed(door, group, choice, files):
    """The configuration of the choice, in small."""
    own = [argument.format(files=files) for argument in OWN[door].get(choice, [])]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(door, [f"{group}={choice}"] if group else own)
    ckpt = "ContextEncoder" if (group, choice) == ("method", "network") else "DCGAN"
    paths = {"ckpt": f"{ckpt}.safetensors", "gan": "DCGAN.safetensors"}
    paths |= {"root": "", "path": "hole.png"}
    shrink(cfg, SMALL | {name: str(files / path) for name, path in paths.items()})
    cfg.cache_dir = str(files / "cache")
    if cfg.get("data") is not None:
        cfg.data.image_size = 16
    return cfg


def shrink(cfg, small):
    """Set what a configuration says itself by the last words of its keys."""
    for name, value in cfg.items_ex(resolve=False):
        if OmegaConf.is_interpolation(cfg, name):
            continue
        if isinstance(value, DictConfig):
            shrink(value, small)
        elif name in small:
            cfg[name] = small[name]


def keys(cfg, group, choice):
    """The keys that a choice brings; for the group "" those of the door, and the groups'."""
    if not group:
        return [key for key in nodes(cfg) if key.split(".")[0] not in GROUPS or key in cfg]
    below = [key for key in nodes(cfg) if key.split(".")[0] == group]
    file = CONF / group / f"{choice}.yaml"
    said = OmegaConf.load(file)
    for base in said.pop("defaults", []):  # of the same group, and tested there
        if isinstance(base, str) and base != "_self_" and "@" not in base:
            others = OmegaConf.load(CONF / group / f"{base}.yaml")
            below = [key for key in below if key.split(".")[1:2] not in [[name] for name in others]]
    if file.read_text().startswith("# @package _global_"):
        below += [key for key in nodes(said) if key.split(".")[0] in cfg and key not in below]
    return below


def nodes(cfg, prefix=""):
    """The names of everything in a configuration, with the items of lists."""
    items = enumerate(cfg) if OmegaConf.is_list(cfg) else cfg.items_ex(resolve=False)
    for name, value in items:
        yield f"{prefix}{name}"
        if OmegaConf.is_config(value) and not OmegaConf.is_missing(cfg, name):
            yield from nodes(value, f"{prefix}{name}.")


def aliases(cfg, key):
    """The names of a value: its key, and the one that this is taken from (${gan})."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    if OmegaConf.is_dict(node) and OmegaConf.is_interpolation(node, name):
        return key, OmegaConf.to_container(node)[name].removeprefix("${").removesuffix("}")
    return (key,)


def finite(*values):
    for value in values:
        tensor = isinstance(value, torch.Tensor) and value.is_floating_point()
        assert not tensor or value.isfinite().all(), "not finite"


class FiniteWriter(inpaint.CompletionWriter):
    def write_on_batch_end(self, trainer, module, prediction, *rest):
        finite(*vars(prediction).values())
        super().write_on_batch_end(trainer, module, prediction, *rest)


def finite_grid(pictures, **settings):
    finite(pictures)
    return GRID(pictures, **settings)


GRID = sample.grid


@pytest.fixture
def doors(tmp_path, monkeypatch):
    """The doors in an empty folder; what they make has to be finite."""
    monkeypatch.setattr(inpaint, "CompletionWriter", FiniteWriter)
    monkeypatch.setattr(sample, "grid", finite_grid)
    monkeypatch.chdir(tmp_path)

    def hangs(*_):
        raise AssertionError(f"not done in {HANGS} s")

    handler = signal.signal(signal.SIGALRM, hangs)
    yield DOORS
    signal.signal(signal.SIGALRM, handler)


def refusal(door: ModuleType, cfg: DictConfig) -> str | None:
    """What a door says against a configuration, if it does not run to its end."""
    signal.alarm(HANGS)
    try:
        door.main(cfg)
    except SystemExit as stop:
        return str(stop.code)
    finally:
        signal.alarm(0)
    if door is train:
        finite(*load_file(Path(cfg.output) / "weights.safetensors").values())
    return None


def fault(door, cfg, names, shown):
    """What is wrong with how a door takes a configuration with a bad value, if anything."""
    try:
        line = refusal(door, cfg)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if line is None:
        return None
    if not line.startswith("error: ") or "\n" in line:
        return f"not one line: {line}"
    inside = shown[0] in "[{" if shown else False  # then what is in it may be named
    if not any(f"{name}={shown}" in line or (inside and f"{name}." in line) for name in names):
        return f"not named: {line}"
    written = list(Path().iterdir())  # here, where the run folder would be
    return f"{written} was written: {line}" if written else None


@pytest.mark.parametrize(("door", "group", "choice"), list(ways()))
def test_bad_values(doors, files, tmp_path, door, group, choice):
    cfg = composed(door, group, choice, files)
    stored = pickle.dumps(cfg)  # copied so far faster than by deepcopy
    assert refusal(doors[door], pickle.loads(stored)) is None  # as it is
    faults = []
    for key in keys(cfg, group, choice):
        for shown in HYDRAS if key.split(".")[-1].startswith("_") else BAD:
            for made in tmp_path.iterdir():
                shutil.rmtree(made) if made.is_dir() else made.unlink()
            changed = pickle.loads(stored)
            OmegaConf.update(changed, key, BAD[shown], merge=False)
            if found := fault(doors[door], changed, aliases(cfg, key), shown):
                faults.append(f"{key}={shown}: {found}")
    assert not faults, "\n".join(faults)


LIGHTNINGS = set(TrainerOptions.__annotations__) - set(
    OmegaConf.load(CONF / "trainer/default.yaml")
)


@pytest.mark.parametrize("name", [*sorted(LIGHTNINGS), "gradient_clip_val", "num_nodes"])
@pytest.mark.parametrize("door", ["train", "inpaint"])
def test_bad_values_of_lightnings_own_arguments(doors, files, tmp_path, door, name):
    """Those that a user adds by a plus; what no door can take is no option."""
    stored = pickle.dumps(composed(door, "trainer", "default", files))
    faults = []
    for shown in BAD:
        for made in tmp_path.iterdir():
            shutil.rmtree(made) if made.is_dir() else made.unlink()
        changed = pickle.loads(stored)
        OmegaConf.update(changed, f"trainer.{name}", BAD[shown], force_add=True)
        if found := fault(doors[door], changed, [f"trainer.{name}"], shown):
            faults.append(f"{name}={shown}: {found}")
    assert not faults, "\n".join(faults)


COMMANDS = [  # the script, what is typed, and what the line says; all of them went wrong once
    ("sample.py", "ckpt=null", "ckpt=null: should be a valid string"),
    ("inpaint.py", "ckpt=5", "ckpt=5: should be a valid string"),
    ("inpaint.py", "ckpt=[a,b]", "ckpt=['a', 'b']: should be a valid string"),
    ("inpaint.py", "ckpt=true", "ckpt=true: should be a valid string"),
    ("inpaint.py", "images=5", "images=5: should be a valid string or should be a valid list"),
    ("inpaint.py", "images=true", "images=true: should be"),
    ("inpaint.py", "images=''", "images=: "),
    ("inpaint.py", "images=[a,null]", "images.1=null: should be a valid string"),
    ("inpaint.py", "limit=a", "limit=a: should be a valid integer"),
    ("inpaint.py", "limit=1.5", "limit=1.5: should be a valid integer"),
    ("inpaint.py", "limit=nan", "limit=nan: should be"),
    ("inpaint.py", "mask=file", "mask.path: missing"),
    ("inpaint.py", "mask=file mask.path=null", "mask.path=null: should be a valid string"),
    ("inpaint.py", "mask=file mask.path=5", "mask.path=5: should be a valid string"),
    (
        "inpaint.py",
        "mask=file mask.path=a.png mask.threshold=abc",
        "mask.threshold=abc: should be a valid number",
    ),
    ("inpaint.py", "detector=true", "detector=true: should be a valid string"),
    ("inpaint.py", "images=a.png crop=[0,0,inf,inf]", "crop.2=inf: should be"),
    ("inpaint.py", "images=a.png crop=[0,0,50.5,50.5]", "crop.2=50.5: should be"),
    ("inpaint.py", "seed=null", "seed=null: should be a valid integer"),
    ("inpaint.py", "batch_size=0", "batch_size=0: should be greater than or equal to 1"),
    ("inpaint.py", "objective.lam=1e38", "objective.lam=1e+38: should be less than"),
    ("inpaint.py", "objective.lam=nan", "objective.lam=nan: should be a finite number"),
    ("inpaint.py", "mask=noisy measure.sigma=1e38", "measure.sigma=1e+38: should be less than"),
    ("inpaint.py", "mask=noisy measure.sigma=-inf", "measure.sigma=-inf: should be"),
    ("inpaint.py", "stages.first.leash=inf", "stages.first.leash=inf: should be a finite number"),
    ("inpaint.py", "data=folder", "data.root: missing"),
    ("inpaint.py", "candidates=2000", "candidates=2000: should be less than or equal to 1024"),
    ("inpaint.py", "solver=5", "solver=5: choose one of adam, hmc, lbfgs, momentum"),
    ("inpaint.py", "objective._target_=text", "objective._target_=text: there is no such"),
    ("inpaint.py", "mask._partial_=false", "mask._partial_=false: should be true"),
    ("train.py", "seed=null", "seed=null: should be a valid integer"),
    ("train.py", "batch_size=0", "batch_size=0: should be greater than or equal to 1"),
    ("train.py", "data=folder", "data.root: missing"),
    ("train.py", "data=null", "data: missing: choose one"),
    ("train.py", "model.lr=inf", "model.lr=inf: should be a finite number"),
    ("train.py", "model=latent_encoder gan=text", "gan=text: no such file"),
    ("sample.py", "count=true", "count=true: should be a valid integer"),
    ("sample.py", "count=10000000", "count=10000000: should be less than or equal to 10000"),
]


@pytest.mark.parametrize(("script", "typed", "message"), COMMANDS)
def test_commands(run, tmp_path, monkeypatch, script, typed, message):
    """Typed as a user would; no folder is made."""
    monkeypatch.chdir(tmp_path)
    done = run(script, *typed.split(), fails=True)
    (line,) = (done.stdout + done.stderr).splitlines()
    assert line.startswith(f"error: {message}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["load_model", "complete"])
def test_a_bug_keeps_its_traceback(run, tmp_path, monkeypatch, place):
    """Before a run begins, where bad input is caught, and in its midst."""

    def bug(*_, **__):
        raise TypeError("a bug")

    monkeypatch.setattr(inpaint, place, bug)
    with pytest.raises(TypeError, match="a bug") as raised:
        run("inpaint.py", "limit=1", "trainer.accelerator=cpu", f"output={tmp_path}")
    assert "bug" in [entry.name for entry in raised.traceback]
