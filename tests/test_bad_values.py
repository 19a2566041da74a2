"""Every key of every choice is given bad values, through the doors' own code.

Each value is either refused in one line that names key and value, and nothing is written, or it is
taken, and then the door runs to its end and what it makes is finite.
"""

import pickle
import shutil
import signal
from pathlib import Path
from types import ModuleType

import pytest
import torch
from bad_values import BAD, CONF, HYDRAS, aliases, composed, keys, make_files, ways
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file

from dcgan_inpaint.cli import inpaint, sample, train
from dcgan_inpaint.runs.options import TrainerOptions

HANGS = 20  # seconds
DOORS = {"train": train, "inpaint": inpaint, "sample": sample}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("files")
    make_files(root)
    return root


def finite(*values):
    for value in values:
        tensor = isinstance(value, torch.Tensor) and value.is_floating_point()
        assert not tensor or value.isfinite().all(), "not finite"


class FiniteWriter(inpaint.CompletionWriter):
    def write_on_batch_end(self, trainer, module, prediction, *rest):
        finite(*vars(prediction).values())
        super().write_on_batch_end(trainer, module, prediction, *rest)


def finite_grid(images, *columns, **settings):
    finite(images)
    return GRID(images, *columns, **settings)


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
    if choice == "huggingface":
        pytest.importorskip("datasets")
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
    ("inpaint.py", "solver=[adam,null]", "solver=[adam,null]: choose one of adam, hmc, lbfgs"),
    ("inpaint.py", "solver=5", "solver=5: choose one of adam, hmc, lbfgs, momentum"),
    ("inpaint.py", "objective._target_=text", "objective._target_=text: there is no such"),
    ("inpaint.py", "mask._partial_=false", "mask._partial_=false: should be true"),
    ("train.py", "seed=null", "seed=null: should be a valid integer"),
    ("train.py", "batch_size=0", "batch_size=0: should be greater than or equal to 1"),
    ("train.py", "data=folder", "data.root: missing: give data.root="),
    ("train.py", "experiment=amos2016", "experiment= is for inpaint.py"),
    ("train.py", "debug=yes", "debug=yes: choose one of true"),
    ("train.py", "name=a/b", "name=a/b: string should match"),
    ("train.py", "tags=a", "tags=a: should be a valid list"),
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
