"""Wrong values of every option: one error line that names it, or a run with finite results."""

import pickle
import shutil
import signal
from pathlib import Path

import pytest
import torch
from bad_values import BAD, CONF, HYDRA_BAD, aliases, choices, compose_small, keys, make_files
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file

from dcgan_inpaint.cli import inpaint, sample
from dcgan_inpaint.cli.entry_point import run_config
from dcgan_inpaint.configs import TrainerOptions

TIME_LIMIT = 20  # seconds


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("files")
    make_files(root)
    return root


def assert_finite(*values):
    for value in values:
        tensor = isinstance(value, torch.Tensor) and value.is_floating_point()
        assert not tensor or value.isfinite().all(), "not finite"


class FiniteWriter(inpaint.CompletionWriter):
    def write_on_batch_end(self, trainer, module, prediction, *rest):
        assert_finite(*vars(prediction).values())
        super().write_on_batch_end(trainer, module, prediction, *rest)


GRID = sample.make_grid


def finite_grid(images, *columns, **settings):
    assert_finite(images)
    return GRID(images, *columns, **settings)


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """An empty working directory, in which infinite results and runs that time out fail."""
    monkeypatch.setattr(inpaint, "CompletionWriter", FiniteWriter)
    monkeypatch.setattr(sample, "make_grid", finite_grid)
    monkeypatch.chdir(tmp_path)

    def stop(*_):
        raise AssertionError(f"not finished in {TIME_LIMIT} s")

    handler = signal.signal(signal.SIGALRM, stop)
    yield tmp_path
    signal.signal(signal.SIGALRM, handler)


def error_of(command: str, cfg: DictConfig) -> str | None:
    """Return the error line of a command, or None if it succeeds."""
    signal.alarm(TIME_LIMIT)
    try:
        run_config(command, cfg)
    except SystemExit as stop:
        return str(stop.code)
    finally:
        signal.alarm(0)
    for weights in Path().rglob("weights.safetensors"):
        assert_finite(*load_file(weights).values())
    return None


def fault(command, cfg, names, value_text):
    """Return what is wrong with a command's reaction to a bad value, or None."""
    try:
        line = error_of(command, cfg)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if line is None:
        return None
    if not line.startswith("error: ") or "\n" in line:
        return f"not one line: {line}"
    inside = value_text[0] in "[{" if value_text else False  # then the line may name an item
    if not any(f"{name}={value_text}" in line or (inside and f"{name}." in line) for name in names):
        return f"not named: {line}"
    written = list(Path().iterdir())  # where the run directory would be
    return f"{written} was written: {line}" if written else None


def clear(directory):
    for path in directory.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize(("command", "group", "choice"), list(choices()))
def test_bad_value_is_refused_in_one_line(directory, files, command, group, choice):
    if choice == "huggingface":
        pytest.importorskip("datasets")
    if choice == "mlflow":
        pytest.importorskip("mlflow")
    cfg = compose_small(command, group, choice, files)
    stored = pickle.dumps(cfg)  # copied much faster than by deepcopy
    assert error_of(command, pickle.loads(stored)) is None  # unchanged
    faults = []
    for key in keys(cfg, group, choice):
        for value_text in HYDRA_BAD if key.split(".")[-1].startswith("_") else BAD:
            clear(directory)
            changed = pickle.loads(stored)
            OmegaConf.update(changed, key, BAD[value_text], merge=False)
            if problem := fault(command, changed, aliases(cfg, key), value_text):
                faults.append(f"{key}={value_text}: {problem}")
    assert not faults, "\n".join(faults)


ADDED_BY_PLUS = set(TrainerOptions.__annotations__) - set(
    OmegaConf.load(CONF / "trainer/default.yaml")
)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*sorted(ADDED_BY_PLUS), "gradient_clip_val", "num_nodes"])
@pytest.mark.parametrize("command", ["train", "inpaint"])
def test_bad_trainer_argument_is_refused_in_one_line(directory, files, command, name):
    """Arguments that a plus adds; one that no command supports is an unknown option."""
    stored = pickle.dumps(compose_small(command, "trainer", "default", files))
    faults = []
    for value_text in BAD:
        clear(directory)
        changed = pickle.loads(stored)
        OmegaConf.update(changed, f"trainer.{name}", BAD[value_text], force_add=True)
        if problem := fault(command, changed, [f"trainer.{name}"], value_text):
            faults.append(f"{name}={value_text}: {problem}")
    assert not faults, "\n".join(faults)


COMMANDS = [  # script, overrides, message; each once had no such error line
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
    ("inpaint.py", "detector=true", "detector=true: should be 'auto'"),
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
    (
        "inpaint.py",
        "solver=[adam,null]",
        "solver=[adam,null]: no such choice. Use one of adam, hmc, momentum",
    ),
    ("inpaint.py", "solver=5", "solver=5: no such choice. Use one of adam, hmc, momentum"),
    ("inpaint.py", "objective._target_=text", "objective._target_=text: no such class or function"),
    ("inpaint.py", "mask._partial_=false", "mask._partial_=false: should be true"),
    ("inpaint.py", "maks=center", "maks=center: unknown option. Did you mean mask=center?"),
    (
        "inpaint.py",
        "objektive=amos",
        "objektive=amos: unknown option. Did you mean objective=amos?",
    ),
    ("inpaint.py", "lam=0.1", "lam=0.1: unknown option. Did you mean objective.lam=0.1?"),
    ("inpaint.py", "+lam=0.1", "lam=0.1: unknown option. Did you mean objective.lam=0.1?"),
    ("inpaint.py", "~lam", "lam: unknown option. Did you mean objective.lam?"),
    ("inpaint.py", "scale=1 mask=half", "scale=1: unknown option. conf/README.md has all options"),
    ("inpaint.py", "scale=1", "scale=1: unknown option. Did you mean mask.scale=1?"),
    ("inpaint.py", "iteration=5", "iteration=5: unknown option. Did you mean solver.iterations=5?"),
    ("inpaint.py", "mask.scal=1", "mask.scal=1: unknown option. Did you mean mask.scale=1?"),
    ("inpaint.py", "+mask.scal=1", "mask.scal=1: unknown option. Did you mean mask.scale=1?"),
    ("inpaint.py", "debug=true", "debug='true': unknown option. conf/README.md has all options"),
    ("inpaint.py", "photo.jpg", "photo.jpg: expected option=value. --help lists the options"),
    ("train.py", "seed=null", "seed=null: should be a valid integer"),
    ("train.py", "epochs=3", "epochs=3: unknown option. Did you mean trainer.max_epochs=3?"),
    (
        "train.py",
        "model=one_pass mask=center lam=1",
        "mask=center: unknown option. Did you mean mask@model.mask=center?",
    ),
    (
        "train.py",
        "trainer.max_steps=5",
        "trainer.max_steps=5: has no default value. Add it with a plus: +trainer.max_steps=5",
    ),
    (
        "train.py",
        "data._target_=mydata.Discs data.count=5",
        "data.count=5: has no default value. Add it with a plus: +data.count=5",
    ),
    ("train.py", "batch_size=0", "batch_size=0: should be greater than or equal to 1"),
    ("train.py", "data=folder", "data.root: missing. Give data.root="),
    ("train.py", "debug=yes", "debug=yes: no such choice. Use one of true"),
    ("train.py", "name=a/b", "name=a/b: string should match"),
    ("train.py", "tags=a", "tags=a: should be a valid list"),
    ("train.py", "data=null", "data: missing. Give data="),
    ("train.py", "model.lr=inf", "model.lr=inf: should be a finite number"),
    ("train.py", "model=latent_encoder gan=text", "gan=text: no such file"),
    ("sample.py", "count=true", "count=true: should be a valid integer"),
    ("sample.py", "count=10000000", "count=10000000: should be less than or equal to 10000"),
]


@pytest.mark.parametrize(("script", "overrides", "message"), COMMANDS)
def test_command_line_error_is_one_line_and_writes_nothing(
    run, tmp_path, monkeypatch, script, overrides, message
):
    monkeypatch.chdir(tmp_path)
    result = run(script, *overrides.split(), fails=True)
    (line,) = (result.stdout + result.stderr).splitlines()
    assert line.startswith(f"error: {message}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("function", ["load_model", "complete"])
def test_internal_error_keeps_its_traceback(run, tmp_path, monkeypatch, function):
    """Both before a run, where errors of the user are caught, and during it."""

    def bug(*_, **__):
        raise TypeError("a bug")

    monkeypatch.setattr(inpaint, function, bug)
    with pytest.raises(TypeError, match="a bug") as raised:
        run("inpaint.py", "ckpt=faces64", "trainer.accelerator=cpu", f"output={tmp_path}")
    assert "bug" in [entry.name for entry in raised.traceback]
