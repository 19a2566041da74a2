"""The examples of CONTRIBUTING.md, a data source and a model, run as written."""

import importlib
import re
import shlex
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from dcgan_inpaint.api import Completer
from dcgan_inpaint.data.cache import load_split
from dcgan_inpaint.data.sources import check_description, source_from_description
from dcgan_inpaint.models.base import Model
from dcgan_inpaint.models.checkpoint import load_model

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
BLOCKS = dict(re.findall(r"```\w+\n# (\S+)\n(.*?)```", TEXT, re.DOTALL))  # by the file's name
COMMANDS = [line for line in TEXT.splitlines() if "_target_=my" in line or "ckpt=<run>" in line]
SMALL = ["data.image_size=16", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false"]
FAST = [
    *SMALL,
    "trainer.max_epochs=1",
    "batch_size=8",
    "preview=0",
    "validate=2",
    "sample_metrics=0",
]
FACES = ["data.train_size=16", "data.val_size=2", "data.test_size=2"]
GAN = ["model.gf_dim=1", "model.df_dim=1", "model.z_dim=5"]


@pytest.fixture
def examples(tmp_path, monkeypatch):
    """A directory with the files of the examples, on Python's path."""
    for name in ("mydata.py", "mymodel.py", "myfill.py"):
        (tmp_path / name).write_text(BLOCKS[name])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(Model, "kinds", dict(Model.kinds))
    yield tmp_path
    undo_imports()


def undo_imports():
    """Undo the imports of the examples."""
    for name in ("mydata", "mymodel", "myfill"):
        sys.modules.pop(name, None)
    Model.kinds.pop("shallow", None)
    importlib.invalidate_caches()


def install(directory):
    """Write the metadata that pip installs for mymodel's pyproject.toml."""
    project = tomllib.loads(BLOCKS["pyproject.toml"])["project"]
    metadata_dir = directory / f"{project['name']}-{project['version']}.dist-info"
    metadata_dir.mkdir()
    (metadata_dir / "METADATA").write_text(
        f"Name: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
    (metadata_dir / "entry_points.txt").write_text("\n".join(lines))
    importlib.invalidate_caches()


def overrides_of(command, run=""):
    """Return the overrides of a command in CONTRIBUTING.md, with <run> filled in."""
    return shlex.split(command.replace("<run>", str(run)))[2:]


def test_examples_have_five_commands_and_four_files():
    scripts = [*["train.py", "inpaint.py"] * 2, "inpaint.py"]
    assert [command.split()[1] for command in COMMANDS] == scripts
    assert set(BLOCKS) == {"mydata.py", "mymodel.py", "pyproject.toml", "myfill.py"}


def test_own_data_trains_and_completes_if_the_command_names_its_class(run, examples, tmp_path):
    train, complete = COMMANDS[:2]
    train = [override.replace("=4000", "=40") for override in overrides_of(train)]
    run("train.py", *train, *FAST, *GAN, f"output={tmp_path / 'run'}")
    weights = tmp_path / "run" / "weights.safetensors"
    assert load_model(weights).data["target"] == "mydata.Discs"
    small = [*SMALL, "limit=2", "stages=none", "solver.iterations=2"]
    output = f"output={tmp_path / 'out'}"
    overrides = [
        override.replace("=4000", "=40")
        for override in overrides_of(complete, run=tmp_path / "run")
    ]
    for _ in range(2):  # the second continues the first
        result = run("inpaint.py", *overrides, *small, output)
        assert "2 images completed: psnr_hole" in result.stdout
    result = run("inpaint.py", *overrides, *small[1:], "data.image_size=32", output, fails=True)
    assert "data.image_size=16" in result.stderr
    # a class that only the checkpoint names is not imported
    undo_imports()
    result = run(
        "inpaint.py", f"ckpt={weights}", *small[1:], f"output={tmp_path / 'no'}", fails=True
    )
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "trained with the custom class 'mydata.Discs'" in line
    assert "mydata" not in sys.modules
    assert not (tmp_path / "no").exists()


def test_own_data_needs_only_its_target(run, examples, tmp_path):
    overrides = ["data._target_=mydata.Discs", "+data.count=40", *FAST, *GAN]
    run("train.py", *overrides, f"output={tmp_path / 'run'}")
    overrides = ["data._target_=mydata.Discs", "+data.count=40", *SMALL, "limit=2", "method=mean"]
    ckpt = f"ckpt={tmp_path / 'run' / 'weights.safetensors'}"
    result = run("inpaint.py", ckpt, *overrides, f"output={tmp_path / 'out'}")
    assert "2 images completed" in result.stdout


def test_installed_own_model_is_loaded_by_its_entry_point(run, examples, tmp_path):
    train, complete = COMMANDS[2:4]
    run("train.py", *overrides_of(train), *FAST, *FACES, f"output={tmp_path / 'run'}")
    overrides = [
        *overrides_of(complete, run=tmp_path / "run"),
        *SMALL[1:],
        f"output={tmp_path / 'out'}",
    ]
    with safe_open(tmp_path / "run" / "weights.safetensors", "pt") as stored:
        assert '"kind": "shallow"' in stored.metadata()["dcgan_inpaint"]
    undo_imports()
    result = run("inpaint.py", *overrides, fails=True)  # the model is not installed
    assert "holds a shallow. Use a checkpoint of a DCGAN, " in result.stderr
    assert "mymodel" not in sys.modules
    install(examples)
    result = run("inpaint.py", *overrides)
    assert "2 images completed: psnr_hole" in result.stdout
    completer = Completer.load(tmp_path / "run" / "weights.safetensors", "method=network")
    assert completer.model.settings.width == 32


def test_own_method_completes_with_its_arguments(run, examples, tmp_path):
    data = ["ckpt=faces64", "data=faces", *FACES, "blend=paste", f"output={tmp_path / 'out'}"]
    run("inpaint.py", *overrides_of(COMMANDS[4]), *data)
    first = min((tmp_path / "out" / "completed").iterdir())
    grid = np.asarray(Image.open(first))
    assert (grid[20:44, 20:44] == round(1.2 * 127.5)).all()


def test_checkpoint_cannot_import_a_module(run, examples, tmp_path):
    """A kind is looked up among entry points only."""
    for kind in ("mymodel", "mymodel:Shallow", "mydata.Discs"):
        assert Model.class_for_kind(kind) is None
    assert not {"mymodel", "mydata"} & set(sys.modules)
    for target in ("os.system", "mydata.Discs"):
        description = {"source": "own", "target": target, "image_size": 16, "channels": 3}
        assert check_description(description) == description
        with pytest.raises(ValueError, match="are not imported"):
            source_from_description(description)
    with pytest.raises(ValueError, match="data.count: unknown option of data=own"):
        check_description(description | {"count": 3})
    assert "mydata" not in sys.modules


def test_kind_can_be_redefined_by_its_own_class_only(examples):
    importlib.import_module("mymodel")
    first = Model.kinds["shallow"]
    sys.modules.pop("mymodel")
    importlib.import_module("mymodel")  # again, as a notebook cell does
    assert Model.kinds["shallow"] is not first
    with pytest.raises(
        TypeError, match="kind='DCGAN': dcgan_inpaint.models.dcgan.DCGAN has this kind"
    ):
        type("Other", (Model,), {"kind": "DCGAN"})


DATA_ERRORS = {
    "no such module": ("gone.Discs", "", "no such class or function (No module named"),
    "no such class": ("mydata.Disks", "", "no such class or function (module 'mydata' has no"),
    "broken": ("broken.Discs", "def", "no such class or function (invalid syntax"),
    "no source": ("broken.Discs", "class Discs:\n    def __init__(self, **_): pass",
                  "should have channels, crop, decode, image_size, items, settings. See"),
    "other shape": ("broken.Discs",
                    "from mydata import Discs as D\nclass Discs(D):\n"
                    "    def decode(self, items): return [p[0] for p in super().decode(items)]",
                    "train_0: decoded to (16, 16) of uint8, but expected (3, 16, 16) of uint8"),
    "other type": ("broken.Discs",
                   "from mydata import Discs as D\nclass Discs(D):\n"
                   "    def decode(self, items): return [p / 255 for p in super().decode(items)]",
                   "train_0: decoded to (3, 16, 16) of float64"),
}  # fmt: skip


@pytest.mark.parametrize("case", DATA_ERRORS)
def test_wrong_data_class_is_one_error_line(run, examples, tmp_path, case):
    target, code, message = DATA_ERRORS[case]
    (examples / "broken.py").write_text(code)
    sys.modules.pop("broken", None)
    importlib.invalidate_caches()
    overrides = ["data=own", f"data._target_={target}", *FAST, *GAN, f"output={tmp_path / 'run'}"]
    result = run("train.py", *overrides, fails=True)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not (tmp_path / "run").exists()


def test_settings_of_own_data_select_the_cache(examples, tmp_path):
    discs = importlib.import_module("mydata").Discs
    small = load_split(discs(40, 16), "val", str(tmp_path))[0]
    assert load_split(discs(40, 8), "val", str(tmp_path))[0].shape == (4, 3, 8, 8)
    assert small.shape == (4, 3, 16, 16)


def test_settings_of_own_data_may_hold_paths(examples, tmp_path):
    discs = importlib.import_module("mydata").Discs

    class Plain(discs):
        def settings(self):
            return {"where": Path("here")}

    assert len(load_split(Plain(40, 8), "val", str(tmp_path))[0]) == 4
    (folder,) = (path for path in tmp_path.iterdir() if path.name.startswith("Plain8_"))
    assert (folder / "images.bin").stat().st_size == 4 * 3 * 8 * 8
